"""What a study takes over from its parent, so that nothing is measured twice."""

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from autocompress.errors import SpecError
from autocompress.pipeline.measured_on import MEASURED_ON, check_measured_on
from autocompress.pipeline.retargeting import predict
from autocompress.pipeline.stored_study import ABOUT, read_stored
from autocompress.spec import SearchSpec
from autocompress.store.base import Json, Record, StudyState
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype

# Measurements of one study hold in another only if these are equal; so do milliseconds.
INHERITED_FIELDS = (
    "model",
    "space",
    "whole_layers",
    "bits",
    "group_size",
    "symmetric",
    "sparsities",
    "sparsity_step",
    "kv_bits",
    "per_linear",
    "quantizer",
    "pruner",
    "upstream",
    "embeddings",
    "engine",
    "format",
    "workload",
    "device",
    "dtype",
    "calibration",
    "context",
    "teacher_tokens",
    "darwin_rate",
    "darwin_optimizer",
    "seed",
)


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a study takes over; nothing without a parent.

    Args:
        latency: The parent's latency model, fitted to its winners.
        about: All that its tables depend on; None if no engine was timed for them.
        start: What the parent's measurements predict to be best under the new targets.
    """

    records: tuple[Record, ...] = ()
    latency: Mapping[str, Json] | None = None
    about: Mapping[str, Json] | None = None
    start: tuple[Genotype, ...] = ()


def inherit(storage: str, spec: SearchSpec, now: Mapping[str, str]) -> Inherited:
    """Return what a spec's parent has measured.

    Args:
        now: What the study measures losses on, as `measured_on` returns it.

    Raises:
        SpecError: If the parent goes on: what it measures next would change this study's course;
            or if it was measured on something else.
    """
    if spec.parent is None:
        return Inherited()
    with contextlib.closing(open_study(storage, spec.parent)) as parent:
        row, about = parent.row(), parent.document(ABOUT)
        before = parent.document(MEASURED_ON)
    if row.state is not StudyState.FINISHED:
        raise SpecError(
            f"Study {row.name!r} is {row.state}, and only a finished one can be built upon; "
            f"try `autocompress resume {row.name}`."
        )
    known = read_stored(storage, spec.parent)
    other = [
        f.name
        for f in dataclasses.fields(spec)
        if f.name in INHERITED_FIELDS and getattr(spec, f.name) != getattr(known.spec, f.name)
    ]
    if other:
        raise SpecError(
            f"A study and its parent must have the same {', '.join(INHERITED_FIELDS)}, but "
            f"{', '.join(other)} differ."
        )
    check_measured_on(row, before, now)
    lacks_memory = spec.target_memory is not None and known.dense.peak_memory is None
    if lacks_memory or (spec.is_timed and known.latency is None):
        # Nothing can be predicted of what was not measured.
        return Inherited(known.records, known.latency, about)
    found = predict(known, spec.targets)
    return Inherited(known.records, known.latency, about, (found.genotype,))
