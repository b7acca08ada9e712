"""The gate of GGUF files lets pass what was searched, and nothing else."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autocompress.errors import GateError
from autocompress.export.checkpoint import Artifact
from autocompress.export.gate import ANSWER_TOKENS, REFERENCE
from autocompress.export.gguf_file import read_gguf, write_gguf
from autocompress.export.gguf_gate import check
from tests.gguf_files import need_llama_cpp
from tests.tiny_models import TinyModels, logits_of, token_ids

need_llama_cpp()

PROMPT = token_ids(1, 12)


@pytest.fixture
def artifact(tiny_models: TinyModels, tmp_path: Path) -> Artifact:
    write_gguf(tiny_models.folder(), tmp_path / "model.gguf")
    stored = read_gguf(tmp_path / "model.gguf")
    return Artifact(
        tmp_path, stored.numbers, stored.bytes, stored.linear_bytes, False, "model.gguf"
    )


def reference(folder: Path, logits: torch.Tensor) -> Path:
    save_file({"prompt": PROMPT, "logits": logits.contiguous()}, folder / REFERENCE)
    return folder / REFERENCE


def test_what_was_searched_passes(tiny_models: TinyModels, artifact: Artifact) -> None:
    logits = logits_of(tiny_models.load(), PROMPT)

    report = check(artifact, reference(artifact.folder, logits))

    assert report.failures == []
    assert report.engine == "llama.cpp"
    assert len(report.findings.answer) == ANSWER_TOKENS


def test_another_model_does_not(tiny_models: TinyModels, artifact: Artifact) -> None:
    logits = logits_of(tiny_models.load("qwen2"), PROMPT)

    report = check(artifact, reference(artifact.folder, logits))

    assert [failure.split(" by ")[0] for failure in report.failures] == [
        "logits differ from the searched candidate's"
    ]


def test_bytes_that_are_not_as_built_do_not(tiny_models: TinyModels, artifact: Artifact) -> None:
    other = dataclasses.replace(artifact, tensor_bytes=artifact.tensor_bytes + 2)
    logits = logits_of(tiny_models.load(), PROMPT)

    report = check(other, reference(artifact.folder, logits))

    assert report.failures == [
        f"the files hold {artifact.tensor_bytes:,} bytes of tensors, not as built"
    ]


def test_a_broken_file_does_not_load(tiny_models: TinyModels, artifact: Artifact) -> None:
    logits = logits_of(tiny_models.load(), PROMPT)
    artifact.path.write_bytes(artifact.path.read_bytes()[:4000])

    with pytest.raises(GateError, match=r"model\.gguf does not load: llama\.cpp does not open"):
        check(artifact, reference(artifact.folder, logits))
