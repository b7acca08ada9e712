"""Reads a study from its store alone: no torch, no weights, no config, no text."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from autocompress.errors import SpecError
from autocompress.evaluators.latency_model import LatencyModel
from autocompress.evaluators.stored_latency import read_latency
from autocompress.pipeline.shapes import from_document, space_of
from autocompress.pipeline.targets import DenseSize
from autocompress.spaces.base import SearchSpace
from autocompress.spec import SearchSpec, from_mapping
from autocompress.store.base import Json, Record, StudyRow
from autocompress.store.study_store import open_study

REFITTED: Final = "latency refitted"
"""The document with a study's latency model after its winners were measured."""

ABOUT: Final = "latency about"
"""The document with all that a study's latency tables depend on, if an engine was timed for it."""


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """What the store holds of a study, read at once: enough to reckon any candidate's cost.

    Args:
        latency: The recorded latency model, fitted to the measured winners if there are any; None
            for a study without a speedup.
    """

    row: StudyRow
    spec: SearchSpec
    space: SearchSpace
    dense: DenseSize
    latency: Mapping[str, Json] | None
    records: tuple[Record, ...]


def read_stored(storage: str, study: str) -> StoredStudy:
    """Read a study in any state.

    Raises:
        SpecError: If there is none of that name, or it has not come to its model's size yet.
    """
    with contextlib.closing(open_study(storage, study)) as store:
        row = store.row()
        shape, dense = store.document("shape"), store.document("dense")
        latency = store.document(REFITTED) or store.document("latency")
        records = tuple(store.measurements().values())
    if "kind" in row.spec:
        raise SpecError(f"Study {study!r} searches for a decoding: it holds no compressed model.")
    if shape is None or dense is None:
        raise too_early(row, "its model's size")
    spec = from_mapping(row.spec)
    space = space_of(spec, from_document(shape))
    return StoredStudy(row, spec, space, DenseSize.from_document(dense), latency, records)


def too_early(row: StudyRow, lacking: str) -> SpecError:
    """Return the refusal of a study that has not come to something yet."""
    return SpecError(
        f"Study {row.name!r} is {row.state} and has not come to {lacking} yet; try again later, "
        f"or go on with `autocompress resume {row.name}`."
    )


def latency_of(known: StoredStudy) -> LatencyModel:
    """Return a study's latency model.

    Raises:
        SpecError: If it has none, yet or for good.
    """
    if known.latency is not None:
        return read_latency(known.latency, known.space)
    if known.spec.is_timed:
        raise too_early(known.row, "a latency table")
    raise SpecError(
        f"Study {known.row.name!r} has no latency table, for its target is no speed: ask for "
        "bytes, bits or parameters, or let `autocompress retarget` measure one with --refine."
    )
