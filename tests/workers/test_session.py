"""What a worker says of a model that it cannot build levels of, and what a kill leaves of them."""

import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from autocompress.errors import EvaluationError
from autocompress.models import loading
from autocompress.pipeline.prepared import prepare
from autocompress.spec import from_mapping
from autocompress.workers.base import BuildJob, Session

CACHE = "AUTOCOMPRESS_CACHE"
WRITES = 7
"""Of files, until a build is killed."""


def test_a_layer_whose_numbers_are_not_finite_is_named(
    tiny_llama: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    given = {"model": str(tiny_llama), "target_bits": 4, "space": "bits"}
    prepared = prepare(from_mapping({**given, "calibration": str(calibration), "context": 32}))
    session = prepared.session_plan(loading.fingerprint(prepared.folder))()
    with torch.no_grad():
        # As an activation that overflows float16 behind it would be.
        session._shaped.model.model.layers[1].post_attention_layernorm.weight.fill_(torch.inf)

    session.build(BuildJob((0,)))
    with pytest.raises(EvaluationError, match=r"^The levels of layer 1 mlp .*--dtype float32"):
        session.build(BuildJob((1,)))


def opened(asked: Mapping[str, object]) -> Session:
    torch.set_num_threads(1)
    prepared = prepare(from_mapping(dict(asked)))
    return prepared.session_plan(loading.fingerprint(prepared.folder))()


def build_until_killed(asked: Mapping[str, object], cache: Path) -> None:
    """Build levels in this process until one is written, but not under its name yet."""
    os.environ[CACHE] = str(cache)
    session, replace, left = opened(asked), Path.replace, iter(range(WRITES - 1))

    def replace_or_die(file: Path, target: Path) -> Path:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(file, target)

    Path.replace = replace_or_die  # type: ignore[assignment, method-assign]
    session.build(BuildJob((0, 1)))


def levels_in(cache: Path) -> dict[Path, bytes]:
    files = (cache / "levels").rglob("*.safetensors")
    return {file.relative_to(cache): file.read_bytes() for file in files}


def test_what_a_killed_build_lacks_is_built_and_nothing_else(
    tiny_llama: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {
        "model": str(tiny_llama),
        "calibration": str(calibration),
        "context": 32,
        "target_bits": 4,
        "space": "bits",
        "device": "cpu",
    }
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    monkeypatch.setenv(CACHE, str(undisturbed))
    built = opened(asked).build(BuildJob((0, 1)))
    whole = levels_in(undisturbed)

    process = multiprocessing.get_context("spawn").Process(
        target=build_until_killed, args=(asked, killed)
    )
    process.start()
    process.join()
    left = levels_in(killed)
    monkeypatch.setenv(CACHE, str(killed))
    again = opened(asked).build(BuildJob((0, 1)))

    assert process.exitcode == -signal.SIGKILL
    assert len(left) == WRITES - 1
    assert left.items() <= whole.items()
    assert 0 < again < built
    assert levels_in(killed) == whole
