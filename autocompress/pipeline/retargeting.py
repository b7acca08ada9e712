"""Answers new targets from a study's store, without torch: it takes a second, not a minute."""

from collections.abc import Mapping
from dataclasses import dataclass

from autocompress.export.report import Target
from autocompress.pipeline.stored_study import StoredStudy, latency_of, read_stored
from autocompress.pipeline.targets import (
    needed_speedup,
    stored_cost,
    stored_limits,
    targets_of,
    time_limit,
)
from autocompress.search.base import Task
from autocompress.search.listed import SINGLE_SEQUENCES
from autocompress.search.memo import Memo
from autocompress.search.retarget import retarget
from autocompress.spaces.cost import Constraint, Limit, least_left
from autocompress.spec import TARGETS, TIMED, SearchSpec, from_mapping
from autocompress.spec_rules import OF_TIMES
from autocompress.trial import Genotype


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a candidate stores, reckoned from its settings.

    Args:
        bytes: Of the whole model, as parameters are.
        bits: A searched weight of the dense model, of codes alone.
        stored_bits: The same with scales, zero points and masks.
    """

    bytes: int
    parameters: int
    bits: float
    stored_bits: float


@dataclass(frozen=True, slots=True)
class Predicted:
    """A value that was not measured, and between what it is expected, where that is known."""

    value: float
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        interval = None if self.interval is None else list(self.interval)
        return {"predicted": self.value, "predicted_interval": interval}


@dataclass(frozen=True, slots=True)
class Retargeted:
    """What a study says of other targets; nothing of it was measured.

    Args:
        speedup: None for a study without a latency table.
        kl: Nats a token.
        layers: What is done to each site, in order, as words.
    """

    study: str
    targets: tuple[Target, ...]
    genotype: Genotype
    speedup: Predicted | None
    sizes: Sizes
    kl: Predicted
    layers: tuple[tuple[int, str, str], ...]

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return {
            "study": self.study,
            "targets": [{"kind": own.kind, "value": own.value} for own in self.targets],
            "measured": False,
            "genotype": list(self.genotype.levels),
            "speedup": None if self.speedup is None else self.speedup.to_json(),
            "bytes": self.sizes.bytes,
            "parameters": self.sizes.parameters,
            "bits": {"nominal": self.sizes.bits, "stored": self.sizes.stored_bits},
            "kl": self.kl.to_json(),
            "layers": [
                {"layer": layer, "kind": kind, "choice": choice}
                for layer, kind, choice in self.layers
            ],
        }


def with_targets(spec: SearchSpec, targets: Mapping[str, object]) -> SearchSpec:
    """Return a spec with other targets in place of all of its own.

    What it says of times is left out where none of the new targets is one.

    Args:
        targets: By their names in a spec; `counted_bits` may be among them.

    Raises:
        SpecError: If they are none that a spec can have.
    """
    told = {**spec.to_json(), **dict.fromkeys(TARGETS), **targets}
    if not {*TIMED} & targets.keys():
        told |= dict.fromkeys(OF_TIMES)
    return from_mapping(told)


def answer(storage: str, study: str, targets: Mapping[str, object]) -> Retargeted:
    """Return the best expected candidate for other targets.

    Args:
        targets: As `with_targets` takes them.

    Raises:
        SpecError: If the study has not measured enough, or has no latency table for a speedup.
        UnreachableTarget: If no candidate of the space meets them.
    """
    return predict(read_stored(storage, study), targets)


def predict(known: StoredStudy, targets: Mapping[str, object]) -> Retargeted:
    """Return what `answer` does, of a study that was read already."""
    spec, space, dense = with_targets(known.spec, targets), known.space, known.dense
    latency = latency_of(known) if known.latency is not None or spec.is_timed else None
    cost = None if latency is None else latency.cost(space)
    limits: tuple[Limit, ...] = ()
    needed = None if cost is None else needed_speedup(spec, cost)
    if needed is not None and cost is not None:
        fastest = cost.dense / least_left(space, cost)
        limits = (time_limit(cost, needed, fastest, spec),)
    limits += stored_limits(spec, space, dense)
    task = Task(
        Constraint(space, limits),
        spec.seed,
        spec.context,
        10**9,
        start_loses=spec.has_stored_ends,
    )
    found = retarget(task, Memo.of(known.records), SINGLE_SEQUENCES)
    entries = space.entries(found.genotype)

    def stored(kind: str, counted_bits: str = "nominal") -> float:
        return stored_cost(kind, counted_bits, space, dense, spec.format).of(entries)

    speedup = None
    if latency is not None and cost is not None:
        value, check = cost.dense / cost.of(entries), latency.check(space)
        speedup = Predicted(value, None if check is None else check.around(value))
    return Retargeted(
        known.row.name,
        targets_of(spec, dense),
        found.genotype,
        speedup,
        Sizes(
            round(stored("bytes")),
            round(stored("params")),
            stored("bits"),
            stored("bits", "stored"),
        ),
        Predicted(found.kl, found.interval),
        tuple(
            (site.layer, site.kind.value, str(choice))
            for site, choice in zip(space.sites, space.choices(found.genotype), strict=True)
        ),
    )


def to_text(found: Retargeted) -> str:
    """Return what was found in words, a line for each site that is not left dense."""
    said = f"KL {_told(found.kl, '', 4)} nats a token"
    if found.speedup is not None:
        said = f"{_told(found.speedup, 'x', 2)}, {said}"
    sizes = found.sizes
    stored = f"{sizes.stored_bits:.3f} with scales, zero points and masks"
    reckoned = (
        f"{sizes.bytes:,} bytes, {sizes.parameters:,} parameters, {sizes.bits:.3f} bits a "
        f"searched weight ({stored})"
    )
    lines = [f"PREDICTED, nothing measured: {said}", f"Reckoned from its settings: {reckoned}"]
    lines += [
        f"  layer {layer:>3} {kind:<10} {choice}"
        for layer, kind, choice in found.layers
        if choice != "dense"
    ]
    return "\n".join(lines) + "\n"


def _told(found: Predicted, unit: str, digits: int) -> str:
    told = f"{found.value:.{digits}f}{unit}"
    if found.interval is None:
        return told
    low, high = found.interval
    return f"{told} [{low:.{digits}f}, {high:.{digits}f}]"
