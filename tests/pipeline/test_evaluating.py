"""The judgement of a checkpoint: its figures agree with each other, and it says what it read."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from autocompress.errors import EngineError, ModelError, SpecError
from autocompress.evaluators.torch_engine import TorchEngine
from autocompress.export.evaluation import Evaluation, to_text
from autocompress.export.gguf_file import write_gguf
from autocompress.pipeline import comparing
from autocompress.pipeline.evaluating import Asked, evaluate
from autocompress.pipeline.on_disk import OnDisk, open_model
from autocompress.spec import from_mapping
from autocompress.workload import Mix
from tests.gguf_files import need_llama_cpp
from tests.tiny_models import TinyModels


class Silent:
    def stage(self, name: str) -> None: ...

    def advance(self, done: int, total: int) -> None: ...

    def tell(self, kind: str, values: object) -> None: ...


def asked(path: Path, against: Path | None, calibration: Path) -> Asked:
    return Asked(
        path=str(path),
        against=None if against is None else str(against),
        calibration=str(calibration),
        sequences=6,
        context=16,
        teacher_tokens=512,
        workload=Mix.parse("1x8+4"),
        device="cpu",
        dtype="auto",
        seed=0,
        trust_remote_code=False,
    )


@pytest.fixture(scope="module")
def halved(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the tiny Llama with half of its digits and its last layer gone."""
    folder = tmp_path_factory.mktemp("halved")
    model = tiny_models.load()
    model.model.layers = model.model.layers[:-1]
    model.config.num_hidden_layers -= 1
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    model.save_pretrained(folder)
    for file in tiny_models.folder().glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def judged(halved: Path, tiny_llama: Path, calibration: Path) -> Evaluation:
    """Judge it against the whole one."""
    return evaluate(asked(halved, tiny_llama, calibration), Silent())


def test_figures_agree_with_each_other(judged: Evaluation) -> None:
    model, against, comparison = judged.model, judged.against, judged.comparison

    assert against is not None
    assert comparison is not None
    ratio = comparison.perplexity_ratio
    assert ratio.value == pytest.approx(model.perplexity.value / against.perplexity.value)
    assert comparison.kl.value > 0
    assert comparison.bits == pytest.approx(32 * model.bytes / against.bytes)
    assert model.bytes < against.bytes / 2
    assert comparison.speedup is not None
    assert model.peak_memory is not None
    assert model.peak_memory > model.bytes
    seconds = model.milliseconds.workload.value / 1e3
    assert model.tokens_a_second.value == pytest.approx(4 / seconds)
    for estimate in (comparison.kl, ratio, comparison.speedup.workload, model.perplexity):
        assert estimate.interval[0] < estimate.value < estimate.interval[1]


def test_it_can_be_written_and_told(judged: Evaluation) -> None:
    written = json.dumps(judged.to_json(), allow_nan=False)

    assert json.loads(written)["sequences"] == 6
    assert "6 sequences of 16 tokens" in to_text(judged)
    assert "times as fast" in to_text(judged)


def test_a_model_alone_is_judged_without_a_comparison(
    halved: Path, calibration: Path, judged: Evaluation
) -> None:
    one_token = Mix.parse("1x8+1")
    alone = evaluate(
        dataclasses.replace(asked(halved, None, calibration), workload=one_token), Silent()
    )

    assert alone.against is None
    assert alone.comparison is None
    assert alone.model.milliseconds.token is None
    assert alone.model.perplexity == judged.model.perplexity
    assert "perplexity" in to_text(alone)


def test_models_that_read_other_tokens_are_refused(
    halved: Path, tiny_llama: Path, calibration: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(halved, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:10]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")

    with pytest.raises(SpecError, match="as different tokens"):
        evaluate(asked(other, tiny_llama, calibration), Silent())


def test_what_is_no_model_is_refused(tiny_llama: Path, calibration: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        evaluate(asked(tmp_path, tiny_llama, calibration), Silent())


def test_a_gguf_file_is_judged_by_llama_cpp(
    halved: Path, tiny_llama: Path, calibration: Path, tmp_path: Path, judged: Evaluation
) -> None:
    need_llama_cpp()
    file = tmp_path / "halved.gguf"
    write_gguf(halved, file)

    found = evaluate(asked(file, tiny_llama, calibration), Silent())

    assert found.comparison is not None
    assert judged.comparison is not None
    assert found.comparison.kl.value == pytest.approx(judged.comparison.kl.value, rel=0.02)
    assert found.comparison.speedup is None
    assert found.model.engine.startswith("llama.cpp")
    assert "timed apart" in to_text(found)


def test_gguf_files_are_held_against_each_other(
    halved: Path, tiny_llama: Path, calibration: Path, tmp_path: Path
) -> None:
    need_llama_cpp()
    files = [tmp_path / "whole.gguf", tmp_path / "halved.gguf"]
    for file, folder in zip(files, [tiny_llama, halved], strict=True):
        write_gguf(folder, file)

    found = evaluate(asked(files[1], files[0], calibration), Silent())

    assert found.comparison is not None
    assert found.comparison.speedup is not None
    assert found.comparison.kl.value > 0


def test_a_part_of_a_gguf_model_is_refused(tmp_path: Path) -> None:
    for name in ("own-00001-of-00003.gguf", "own-00001-of-00001.gguf", "own.gguf"):
        (tmp_path / name).write_bytes(b"GGUF" + bytes(64))

    def opened(name: str) -> OnDisk:
        return open_model(str(tmp_path / name), torch.device("cpu"), "auto", False)

    with pytest.raises(ModelError, match=r"is a part of a model: join the parts by"):
        opened("own-00001-of-00003.gguf")
    for name in ("own-00001-of-00001.gguf", "own.gguf"):
        with pytest.raises((ModelError, EngineError), match=r"whole GGUF file|llama-cpp"):
            opened(name)


def test_published_models_are_timed_by_the_engine_of_their_search(tiny_llama: Path) -> None:
    for engine, is_compiled in (("torch", False), ("torch-compiled", True)):
        spec = from_mapping({"model": str(tiny_llama), "target_speedup": 2, "engine": engine})

        own = comparing._opened(spec, str(tiny_llama)).engine

        assert isinstance(own, TorchEngine)
        assert own.compiled == is_compiled


def test_a_broken_gguf_file_is_refused(
    tiny_llama: Path, calibration: Path, tmp_path: Path
) -> None:
    need_llama_cpp()
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(64))

    with pytest.raises(ModelError, match="not a whole GGUF file"):
        evaluate(asked(file, tiny_llama, calibration), Silent())
