"""A point of a front becomes a study of its own, whose target is what the point promises."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from autocompress.errors import SpecError
from autocompress.export.pareto import Axis
from autocompress.models.architecture import read_architecture, shape_of
from autocompress.pipeline.exporting import export_recipe, export_spec
from autocompress.pipeline.pareto import read_front
from autocompress.pipeline.shapes import space_of, to_document
from autocompress.pipeline.targets import DenseSize
from autocompress.spec import from_mapping
from autocompress.store.base import Record
from autocompress.store.study_store import create_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from tests.tiny_models import make_config

DENSE = DenseSize(parameters=100_000, bytes=400_000, number_bits=32, linear_weights=50_000)
LITTLE, MUCH = 1, 2
"""Levels that all genes take: 8 bits and 4."""


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """Return where a running study `mine` has measured two candidates."""
    url = f"sqlite:///{tmp_path}/studies.db"
    keep_study(url, {"target_bits": 5, "bits": "8,4", "group_size": 0, "seed": 7})
    return url


def keep_study(url: str, asked: Mapping[str, object]) -> None:
    """Leave a running study `mine` that has measured two candidates."""
    spec = from_mapping({"model": "folder", **asked})
    shape = shape_of(read_architecture(make_config("llama")))
    genes = space_of(spec, shape).genes
    with contextlib.closing(create_study(url, "mine", spec.to_json())) as store:
        store.save_document("shape", to_document(shape))
        store.save_document("dense", DENSE.to_document())
        for level, kl in ((LITTLE, 0.1), (MUCH, 0.3)):
            fidelity = Fidelity(Split.SEARCH, 0, 0, 1)
            measured = Measurement((kl,), (kl,), 15)
            levels = tuple(min(level, len(gene.settings) - 1) for gene in genes)
            store.record([Record(Genotype(levels), fidelity, measured, None, 0.1)])


def test_a_point_is_exported_with_what_it_promises(storage: str, tmp_path: Path) -> None:
    front = read_front(storage, "mine")
    assert front.axis is Axis.BITS
    point = front.members[0]

    spec = export_spec(storage, "mine", None, tmp_path / "out", point.genotype)

    assert point.value == pytest.approx(8)
    assert spec.target_bits == pytest.approx(point.value, abs=1e-3)
    assert spec.target_bits is not None
    assert spec.target_bits >= point.value
    assert (spec.strategy, spec.format, spec.seed) == ("given", "hf", 7)
    assert spec.start is not None
    told = yaml.safe_load(Path(spec.start).read_text("utf-8"))
    assert {kind for layer in told["layers"].values() for kind in layer} == {"attention", "mlp"}


def test_what_trained_candidates_goes_with_their_search_and_recovery_stays(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    trained = {
        "target_params": "90%",
        "space": "width",
        "strategy": "darwin",
        "darwin_rungs": "1k:8:1",
        "darwin_generations": 2,
        "darwin_rate": 1e-4,
        "darwin_optimizer": "sgd",
        "recover": "10k",
    }
    keep_study(url, trained)
    point = read_front(url, "mine").members[0].genotype

    spec = export_spec(url, "mine", None, tmp_path / "out", point)

    assert (spec.strategy, spec.darwin_optimizer, spec.recover) == ("given", "adamw", 10_000)


def test_the_winner_needs_an_end_and_a_point_does_not(storage: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has not come to a winner yet"):
        export_spec(storage, "mine", "hf", tmp_path / "out")

    point = read_front(storage, "mine").members[-1].genotype
    assert export_spec(storage, "mine", "hf", tmp_path / "out", point).target_bits == 4


def test_a_point_that_was_not_measured_is_refused(storage: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no candidate 'decade': `autocompress pareto mine` list"):
        export_spec(storage, "mine", None, tmp_path / "out", "decade")


def test_a_point_is_written_for_other_tools(storage: str, tmp_path: Path) -> None:
    point = read_front(storage, "mine").members[0].genotype

    recipe = export_recipe(storage, "mine", "gptqmodel", tmp_path, point)

    assert (tmp_path / recipe.file).read_text("utf-8") == recipe.text
