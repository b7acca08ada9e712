"""Reads the Pareto front of a study from its store alone."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from autocompress.errors import SpecError
from autocompress.export.pareto import Axis, Hypervolume, Member, ParetoFront, Place, Timing
from autocompress.pipeline.stored_study import latency_of, read_stored, too_early
from autocompress.pipeline.targets import stored_cost
from autocompress.search.pareto import ParetoSettings
from autocompress.spaces.base import SUB_BLOCKS, Choice, SearchSpace
from autocompress.spaces.cost import AdditiveCost
from autocompress.spaces.pareto import hypervolume, pareto_front
from autocompress.spec import PARETO, SearchSpec
from autocompress.store.base import Record
from autocompress.trial import Genotype, Measurement

CHANGES: Final[Mapping[str, Callable[[Choice], bool]]] = {
    "drop": lambda choice: choice.is_dropped,
    "narrow": lambda choice: not (choice.is_dropped or choice.is_whole),
    "quantize": lambda choice: any(setting.bits or setting.block for setting in choice.weights),
    "prune": lambda choice: any(setting.is_sparse for setting in choice.weights),
    "cache": lambda choice: not (choice.is_dropped or choice.cache.is_dense),
}
"""What can be done to a site."""
# A front of fewer candidates is hardly more than a list of them.
ENOUGH = 10
REFERENCE_COST: Final = 1.0
REFERENCE_KL: Final = 2.0
"""Of the point within which a hypervolume is told: seven times the perplexity is of no use."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was measured of a candidate on the search text, each sequence of a draw once."""

    genotype: Genotype
    measurement: Measurement
    draws: tuple[int, ...]

    @property
    def sequences(self) -> int:
        """Sequences read, over all draws."""
        return len(self.measurement.kl)


def read_front(
    storage: str, study: str, by: str | None = None, least_sequences: int | None = None
) -> ParetoFront:
    """Return the measured candidates of a study that no other dominates.

    A study in any state will do once something is measured. Single changes compete too. A
    loss is the mean over all the search text that a candidate was read on: the draws of two
    candidates may differ, and then their losses do not compare exactly.

    Args:
        by: What is held against loss, an `Axis`; None is the study's first target.
        least_sequences: What a candidate must have been read on to compete; None is what a search
            for a front reads of its members, or else as many as still leave ten candidates.

    Raises:
        AutocompressError: If the study is unknown, or nothing of it can be placed.
    """
    if least_sequences is not None and least_sequences < 1:
        raise SpecError(f"`--sequences >= 1` must hold, but got {least_sequences}.")
    known = read_stored(storage, study)
    spec, space = known.spec, known.space
    axis = axis_of(spec) if by is None else Axis(by)
    timing = None
    if axis is Axis.SPEEDUP:
        latency = latency_of(known)
        cost, check = latency.cost(space), latency.check(space)
        mape = None if check is None else check.mape
        timing = Timing(latency.engine, latency.hardware, str(latency.mix), mape)
    else:
        cost = stored_cost(axis.value, spec.counted_bits, space, known.dense, spec.format)
    readings = read_all(known.records)
    if not readings:
        raise too_early(known.row, "a measured candidate")
    most = max(reading.sequences for reading in readings)
    least = least_sequences or competes_from(spec, readings)
    if least > most:
        raise SpecError(
            f"`--sequences <= {most}` must hold, the most that a candidate of study {study!r} was "
            f"read on, but got {least}."
        )
    members, dominated, too_little_read = _compete(readings, least, space, axis, cost)
    points = [(value_share(axis, cost, member.value), member.kl) for member in members]
    reference = (REFERENCE_COST, REFERENCE_KL)
    return ParetoFront(
        study=known.row.name,
        state=known.row.state.value,
        model=spec.model,
        axis=axis,
        counted_bits=spec.counted_bits if axis is Axis.BITS else None,
        timing=timing,
        least_sequences=least,
        members=members,
        dominated=dominated,
        too_little_read=too_little_read,
        hypervolume=Hypervolume(
            hypervolume(points, reference) / (REFERENCE_COST * REFERENCE_KL), *reference
        ),
    )


def axis_of(spec: SearchSpec) -> Axis:
    """Return what a study's first target is told by."""
    first = next(iter(spec.targets)).removeprefix("target_")
    # A time is met by a speedup over the dense model, memory by what is stored.
    nearest = {"latency": "speedup", "throughput": "speedup", "memory": "bytes"}
    return Axis(nearest.get(first, first))


def read_all(records: Iterable[Record]) -> list[Reading]:
    """Join what was measured of each candidate on the search text, ordered by genotype.

    What was read twice counts once; failures are left out.
    """
    losses: dict[Genotype, dict[tuple[int, int], tuple[float, float]]] = defaultdict(dict)
    tokens: dict[Genotype, int] = {}
    for record in records:
        fidelity, measurement = record.fidelity, record.measurement
        if not fidelity.is_plain or measurement is None:
            continue
        places = [(fidelity.draw, position) for position in range(fidelity.first, fidelity.end)]
        pairs = zip(measurement.kl, measurement.nll, strict=True)
        losses[record.genotype].update(zip(places, pairs, strict=True))
        tokens[record.genotype] = measurement.tokens
    readings = []
    for genotype in sorted(losses, key=lambda genotype: genotype.levels):
        known = sorted(losses[genotype].items())
        kl, nll = zip(*(pair for _, pair in known), strict=True)
        draws = tuple(dict.fromkeys(draw for (draw, _), _ in known))
        readings.append(Reading(genotype, Measurement(kl, nll, tokens[genotype]), draws))
    return readings


def competes_from(spec: SearchSpec, readings: Sequence[Reading]) -> int:
    """Return the sequences that a candidate of a study must have been read on to compete."""
    sequences = [reading.sequences for reading in readings]
    if spec.strategy in PARETO:
        # The baselines are read further, and ten of them are no front.
        return min(ParetoSettings().rungs[-1].sequences, max(sequences))
    return usual_least(sequences)


def usual_least(sequences: Iterable[int]) -> int:
    """Return the most sequences that ten candidates were read on; of fewer, all compete.

    Args:
        sequences: What each candidate was read on; one at least.
    """
    return sorted(sequences, reverse=True)[:ENOUGH][-1]


def _compete(
    readings: Sequence[Reading], least: int, space: SearchSpace, axis: Axis, cost: AdditiveCost
) -> tuple[tuple[Member, ...], tuple[Place, ...], tuple[Place, ...]]:
    """Return the front, least loss first, what it dominates, and what was read too little."""
    costs = {r.genotype: _summed(cost, space.entries(r.genotype)) for r in readings}
    competing = [reading for reading in readings if reading.sequences >= least]
    points = [(costs[r.genotype], r.measurement.loss) for r in competing]
    # The front goes from the least cost on; a table begins with what loses least.
    front = [competing[position] for position in reversed(pareto_front(points))]
    in_front = {reading.genotype for reading in front}

    def value(reading: Reading) -> float:
        own = costs[reading.genotype]
        return own if axis.is_reckoned else cost.dense / own

    def place(reading: Reading) -> Place:
        return Place(
            reading.genotype.key, value(reading), reading.measurement.loss, reading.sequences
        )

    return (
        tuple(_member(r, value(r), space) for r in front),
        tuple(place(r) for r in competing if r.genotype not in in_front),
        tuple(place(r) for r in readings if r.sequences < least),
    )


def value_share(axis: Axis, cost: AdditiveCost, value: float) -> float:
    """Return the share of the dense cost that a value on an axis stands for."""
    return value / cost.dense if axis.is_reckoned else 1 / value


def _member(reading: Reading, value: float, space: SearchSpace) -> Member:
    stderr = reading.measurement.loss_stderr
    choices = space.choices(reading.genotype)
    return Member(
        genotype=reading.genotype.key,
        levels=reading.genotype.levels,
        value=value,
        kl=reading.measurement.loss,
        kl_stderr=stderr if math.isfinite(stderr) else None,
        sequences=reading.sequences,
        draws=reading.draws,
        changed={
            verb: _count(space, [is_done(choice) for choice in choices])
            for verb, is_done in CHANGES.items()
        },
    )


def _summed(cost: AdditiveCost, entries: Sequence[int]) -> float:
    """Return the cost of a candidate: exactly the same for the same choices in other layers.

    Such candidates are many, and a sum's last digit must not make one of them the faster.
    """
    parts = (costs[entry] for costs, entry in zip(cost.menus, entries, strict=True))
    return math.fsum([cost.fixed, *parts])


def _count(space: SearchSpace, is_counted: Iterable[bool]) -> dict[str, int]:
    """Return how many sites of each kind are counted."""
    counts = dict.fromkeys((kind.value for kind in SUB_BLOCKS), 0)
    for site, counted in zip(space.sites, is_counted, strict=True):
        counts[site.kind.value] += counted
    return counts
