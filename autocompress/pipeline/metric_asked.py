"""What a metric is searched for: read of flags, told to the journal."""

from dataclasses import dataclass

from autocompress.errors import SpecError
from autocompress.models import loading, text
from autocompress.pipeline.prepared import Prepared
from autocompress.spaces.known_metrics import KNOWN_METRICS
from autocompress.spec import SearchSpec, from_mapping


@dataclass(frozen=True, slots=True)
class MetricAsked:
    """What a metric is searched for.

    Args:
        spec: Of the model and the text; its `sparsities` are all, searched or only tested.
        searched: Of these sparsities, those that a metric is searched for.
    """

    spec: SearchSpec
    searched: tuple[str, ...]
    evaluations: int

    @property
    def tested(self) -> tuple[str, ...]:
        """The sparsities that the winner is tested at and that no search has read."""
        return tuple(name for name in self.spec.sparsities if name not in self.searched)


def metric_asked(
    model: str,
    searched: str,
    tested: str,
    evaluations: int,
    reading: dict[str, object],
) -> MetricAsked:
    """Check what a metric is to be searched for.

    Args:
        searched: Sparsities, such as `0.5,2:4`; `tested` are others.
        reading: How the model and text are read, by the names of a spec's fields.

    Raises:
        SpecError: If something of it cannot be meant.
    """

    def spec(sparsities: str) -> SearchSpec:
        # A space of sparsity wants a target: nothing is searched for it here.
        fixed = {"model": model, "space": "sparsity", "target_bits": 16, "sparsities": sparsities}
        return from_mapping(fixed | reading)

    if evaluations <= len(KNOWN_METRICS):
        raise SpecError(
            f"`evaluations > {len(KNOWN_METRICS)}` must hold, for the known metrics are the "
            f"first, but got {evaluations}."
        )
    every = ",".join(filter(None, (searched, tested)))
    return MetricAsked(spec(every), spec(searched).sparsities, evaluations)


def journal_header(prepared: Prepared, asked: MetricAsked) -> dict[str, object]:
    """Return what figures depend on, all but how many are wanted, by the flags' names."""
    spec = asked.spec
    return {
        "model": loading.fingerprint(prepared.folder),
        "calibration": text.fingerprint(prepared.sequences),
        "sparsities": list(asked.searched),
        "context": spec.context,
        "teacher-tokens": spec.teacher_tokens,
        "dtype": spec.dtype,
        "device": prepared.device.type,
        "seed": spec.seed,
    }
