"""The vLLM engine's command line and what it reads, held against a command that plays vLLM.

The player checks its flags as `vllm bench latency` declares them and writes what that writes: the
fields of the file are those of vllm/benchmarks/latency.py. No vLLM is run here.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from autocompress.errors import EngineError
from autocompress.evaluators.vllm_engine import ROUNDS, WARM_UPS, VllmEngine
from autocompress.workload import Workload

PLAYER = """#!{python}
import argparse, json, os, sys

if sys.argv[1:] == ["--version"]:
    print("INFO 11-22 10:00:00 [importing.py] Triton is installed")
    print("0.33.0")
    sys.exit()
assert sys.argv[1:3] == ["bench", "latency"]
parser = argparse.ArgumentParser()
for name in ("--input-len", "--output-len", "--batch-size", "--num-iters-warmup", "--num-iters",
             "--max-model-len"):
    parser.add_argument(name, type=int, required=True)
for name in ("--model", "--dtype", "--output-json"):
    parser.add_argument(name, required=True)
for name in ("--disable-detokenize", "--trust-remote-code"):
    parser.add_argument(name, action="store_true")
given = parser.parse_args(sys.argv[3:])
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(vars(given)) + "\\n")
print("Warming up...")
mode = open(os.path.join(given.model, "mode")).read()
if mode == "broken":
    print("Loading safetensors checkpoint shards", file=sys.stderr)
    print("ValueError: There is no module or parameter named 'x'", file=sys.stderr)
    sys.exit(1)
speed = float(mode) if mode not in ("silent", "short") else 1.0
seconds = (0.5 + 0.25 * (given.output_len - 1)) / speed
latencies = [seconds] * (given.num_iters - (mode == "short"))
result = {{"avg_latency": seconds, "std_latency": 0.0, "latencies": latencies,
          "percentiles": {{"50": seconds}}}}
print("Avg latency: %s seconds" % seconds)
if mode != "silent":
    json.dump(result, open(given.output_json, "w"), indent=4)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the player on the PATH; name the file that it keeps its calls in."""
    folder, file = tmp_path / "bin", tmp_path / "calls.jsonl"
    folder.mkdir()
    command = folder / "vllm"
    command.write_text(PLAYER.format(python=sys.executable, calls=str(file)), encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return file


def checkpoint(folder: Path, mode: str) -> Path:
    path = folder / f"model-{mode}"
    path.mkdir()
    (path / "mode").write_text(mode, encoding="utf-8")
    return path


def test_prefill_and_further_tokens_are_told_apart(calls: Path, tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, "1"), checkpoint(tmp_path, "2")]

    slow, fast = VllmEngine("bfloat16", True).latency(paths, Workload(4, 128, 9), 6)

    assert slow.prefill == pytest.approx((500.0,) * 6)
    assert slow.decode == pytest.approx((250.0,) * 6)
    assert slow.total == pytest.approx((2500.0,) * 6)
    assert fast.total == pytest.approx((1250.0,) * 6)
    made = [json.loads(line) for line in calls.read_text("utf-8").splitlines()]
    order = [(call["model"], call["output_len"]) for call in made]
    assert order == [(str(path), n) for path in paths for n in (1, 9)] * ROUNDS
    for call in made:
        assert (call["batch_size"], call["input_len"], call["max_model_len"]) == (4, 128, 137)
        assert (call["num_iters"], call["num_iters_warmup"]) == (6 / ROUNDS, WARM_UPS)
        assert call["dtype"] == "bfloat16"
        assert call["trust_remote_code"] is call["disable_detokenize"] is True


def test_a_single_token_has_no_further_one(calls: Path, tmp_path: Path) -> None:
    (found,) = VllmEngine("auto").latency([checkpoint(tmp_path, "1")], Workload(1, 8, 1), 4)

    assert found.total == found.prefill
    assert set(found.decode) == {0.0}
    assert len(calls.read_text("utf-8").splitlines()) == ROUNDS


def test_its_version_is_the_last_word(calls: Path) -> None:
    assert calls.parent.is_dir()
    assert VllmEngine("auto").version == "0.33.0"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("broken", "did not run .*: ValueError: There is no module or parameter named 'x'"),
        ("silent", "wrote no latencies of "),
        ("short", "timed 1 batches of .*, not 2"),
    ],
)
def test_what_does_not_run_is_told_in_its_last_words(
    calls: Path, tmp_path: Path, mode: str, words: str
) -> None:
    assert calls.parent.is_dir()
    with pytest.raises(EngineError, match=words):
        VllmEngine("auto").latency([checkpoint(tmp_path, mode)], Workload(1, 8, 2), 4)


def test_without_vllm_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(EngineError, match="vLLM is not installed"):
        VllmEngine("auto")
