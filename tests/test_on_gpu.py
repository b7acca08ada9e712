"""What only a GPU can show; where torch sees none these are skipped, and say so."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from autocompress.cli.commands import main
from autocompress.evaluators.torch_engine import TorchEngine
from autocompress.models import loading
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.spec import from_mapping
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from autocompress.workers.base import BuildJob, Shard
from autocompress.workers.session import ModelSession
from autocompress.workload import Mix
from tests.tiny_models import LAYERS, TinyModels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
IN_BITS = {"target_bits": 6, "space": ["depth", "width", "bits"], "bits": ["8", "4"]}
FIRST = Fidelity(Split.SEARCH, 0, 0, 4)


def prepared_on(device: str, model: Path, calibration: Path, **values: object) -> Prepared:
    usual = {"model": str(model), "calibration": str(calibration), "context": 32, "device": device}
    return prepare(from_mapping(usual | (values or IN_BITS)))


def session_on(prepared: Prepared) -> ModelSession:
    """Return a session with all levels built."""
    session = prepared.session_plan(loading.fingerprint(prepared.folder))()
    session.build(BuildJob(tuple(range(LAYERS))))
    return session


def candidates(prepared: Prepared) -> tuple[Genotype, ...]:
    """Return the dense model, and one where every group is smaller than dense."""
    space = prepared.space
    return (space.dense, space.genotype([len(menu) // 2 for menu in space.menus]))


def losses(prepared: Prepared) -> list[Measurement]:
    return list(session_on(prepared).measure(Shard(candidates(prepared), FIRST)))


def test_losses_are_those_of_a_cpu_but_for_rounding(
    tiny_models: TinyModels, calibration: Path, family: str
) -> None:
    model = tiny_models.folder(family)
    here, there = (losses(prepared_on(device, model, calibration)) for device in ("cuda", "cpu"))

    for own, other in zip(here, there, strict=True):
        assert own.nll == pytest.approx(other.nll, rel=1e-3)
        # A code on the border between two is another one there.
        assert own.kl == pytest.approx(other.kl, rel=0.05, abs=1e-4)


def test_a_gpu_gives_the_same_losses_again(tiny_models: TinyModels, calibration: Path) -> None:
    prepared = prepared_on("cuda", tiny_models.folder(dtype=torch.bfloat16), calibration)
    first = losses(prepared)

    assert losses(prepared) == first
    assert first[0].loss == 0 < first[1].loss


def test_trainings_on_a_gpu_end_with_finite_losses(
    tiny_models: TinyModels, calibration: Path
) -> None:
    folder = tiny_models.folder(dtype=torch.bfloat16)
    values = {"strategy": "darwin", "recover": 1, "target_speedup": 2, "space": ["depth", "width"]}
    prepared = prepared_on("cuda", folder, calibration, **values)
    session = session_on(prepared)
    _, smaller = candidates(prepared)
    trained = dataclasses.replace(FIRST, trained=512)

    (plain,) = session.measure(Shard((smaller,), FIRST))
    (after,) = session.measure(Shard((smaller,), trained))

    assert after.loss != plain.loss
    assert all(map(math.isfinite, (*after.kl, *after.nll)))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_checkpoint_is_timed_on_a_gpu(tiny_models: TinyModels, compiled: bool) -> None:
    folder = tiny_models.folder(dtype=torch.bfloat16)
    engine = TorchEngine("cuda", "auto", 1, compiled=compiled)
    workload = Mix.parse("2x8+4").first

    first, second = engine.latency([folder, folder], workload, 3)

    assert all(own > 0 for own in (*first.prefill, *first.decode, *second.total))
    memory = engine.peak_memory(folder, workload)
    assert memory is not None
    assert memory > sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pool", ["local", "ray"])
def test_a_search_on_a_gpu_ends_with_a_checkpoint_that_loads(
    tiny_models: TinyModels, calibration: Path, tmp_path: Path, pool: str
) -> None:
    model = tiny_models.folder("qwen3", dtype=torch.bfloat16)
    output = tmp_path / "out"
    asked = ["--target-bits=6", "--space=bits", "--bits=8,4", "--device=cuda", "--context=32"]
    where = [f"--calibration={calibration}", f"--output={output}", f"--pool={pool}"]
    storage = f"--storage=sqlite:///{tmp_path}/studies.db"

    assert main(["search", str(model), *asked, *where, storage]) == 0
    assert main(["verify", str(output / "model"), "--device=cuda"]) == 0
