"""A study builds on another's measurements only where they hold for it too."""

import contextlib
from pathlib import Path

import pytest

from autocompress.errors import SpecError
from autocompress.models.architecture import read_architecture, shape_of
from autocompress.pipeline.inheritance import inherit
from autocompress.pipeline.measured_on import MEASURED_ON
from autocompress.pipeline.shapes import space_of, to_document
from autocompress.pipeline.stored_study import ABOUT
from autocompress.pipeline.targets import DenseSize
from autocompress.spec import from_mapping
from autocompress.store.base import Record, StudyState
from autocompress.store.study_store import create_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from tests.tiny_models import make_config

DENSE = DenseSize(parameters=100_000, bytes=400_000, number_bits=32, linear_weights=50_000)
ASKED: dict[str, object] = {
    "model": "folder",
    "target_bits": 12,
    "space": "depth,bits",
    "bits": "8,4",
    "symmetric": True,
    "group_size": 0,
}
OWN = {"weights": "1a", "search text": "2b", "report text": "3c"}


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """Return where a finished study `mine` has measured the dense model."""
    url = f"sqlite:///{tmp_path}/studies.db"
    spec = from_mapping(ASKED)
    shape = shape_of(read_architecture(make_config("llama")))
    dense = Genotype((0,) * len(space_of(spec, shape).genes))
    with contextlib.closing(create_study(url, "mine", spec.to_json())) as store:
        store.save_document("shape", to_document(shape))
        store.save_document("dense", DENSE.to_document())
        store.save_document(MEASURED_ON, OWN)
        store.save_document(ABOUT, {"engine_version": "1"})
        measured = Measurement((0.0,), (0.0,), 15)
        store.record([Record(dense, Fidelity(Split.SEARCH, 0, 0, 1), measured, None, 0.1)])
        store.finish(StudyState.FINISHED, None)
    return url


def test_what_a_parents_tables_are_about_comes_with_them(storage: str) -> None:
    # Of speed it has measured nothing, so that no candidate can be predicted.
    child = {key: value for key, value in ASKED.items() if key != "target_bits"}
    spec = from_mapping(child | {"target_speedup": 2, "parent": "mine"})

    found = inherit(storage, spec, OWN)

    assert len(found.records) == 1
    assert found.about == {"engine_version": "1"}


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ({"whole_layers": True}, "whole_layers"),
        ({"format": "compressed-tensors"}, "whole_layers, format"),
        ({"format": "decilm"}, "format"),
        ({"seed": 1}, "seed"),
    ],
)
def test_what_changes_the_space_or_its_times_must_be_the_same(
    storage: str, changed: dict[str, object], other: str
) -> None:
    spec = from_mapping(ASKED | changed | {"parent": "mine"})

    with pytest.raises(SpecError, match=f", but {other} differ"):
        inherit(storage, spec, OWN)


def test_losses_of_other_weights_or_texts_are_not_taken_over(storage: str) -> None:
    spec = from_mapping(ASKED | {"parent": "mine"})
    changed = OWN | {"weights": "9f", "report text": "8e"}

    with pytest.raises(SpecError, match=r"'mine' was .*: weights, report text of folder changed"):
        inherit(storage, spec, changed)
