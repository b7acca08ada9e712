"""Reads the Pareto front of a study from its store; loads no weights, tokenizer or text."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autocompress.errors import SpecError
from autocompress.evaluators.latency_model import read_table
from autocompress.export.pareto import Member, ParetoFront, Place
from autocompress.models import loading
from autocompress.models.architecture import shape_of
from autocompress.pipeline.shapes import space_of
from autocompress.spaces.base import SearchSpace, SiteKind
from autocompress.spaces.cost import AdditiveCost
from autocompress.spaces.pareto import pareto_front
from autocompress.spec import from_mapping
from autocompress.store.base import Record
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype, Measurement, Split

# A front of fewer candidates is hardly more than a list of them.
ENOUGH = 10


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


def read_front(storage: str, study: str, least_sequences: int | None = None) -> ParetoFront:
    """Return the measured candidates of a study that no other dominates.

    A study in any state will do once its latency table is recorded. Single changes compete too. A
    loss is the mean over all the search text that a candidate was read on: the draws of two
    candidates may differ, and then their losses do not compare exactly.

    Args:
        least_sequences: What a candidate must have been read on to compete; None is as many as
            still leave ten candidates.

    Raises:
        AutocompressError: If the study is unknown, nothing of it can be placed, or its model's
            config is gone.
    """
    if least_sequences is not None and least_sequences < 1:
        raise SpecError(f"`--sequences >= 1` must hold, but got {least_sequences}.")
    with contextlib.closing(open_study(storage, study)) as store:
        row = store.row()
        recorded = store.document("latency")
        readings = read_all(store.measurements().values())
    if from_mapping(row.spec).target_speedup is None:
        raise SpecError(
            f"Study {study!r} has no latency table, for its target is no speedup: there is no "
            "front of speed and loss."
        )
    lacking = "a latency table" if recorded is None else "a measured candidate"
    if recorded is None or not readings:
        raise SpecError(
            f"Study {study!r} is {row.state} and has not come to {lacking} yet; try again later, "
            f"or go on with `autocompress resume {study}`."
        )
    most = max(reading.sequences for reading in readings)
    least = least_sequences or usual_least(reading.sequences for reading in readings)
    if least > most:
        raise SpecError(
            f"`--sequences <= {most}` must hold, the most that a candidate of study {study!r} was "
            f"read on, but got {least}."
        )

    spec = from_mapping(row.spec)
    folder = loading.resolve_config(spec.model)
    architecture = loading.load_architecture(folder, spec.trust_remote_code)
    space = space_of(spec, shape_of(architecture, fused=not spec.per_linear))
    table = read_table(recorded, space)
    members, dominated, too_little_read = _compete(readings, least, space, table.cost(space))
    return ParetoFront(
        study=row.name,
        state=row.state.value,
        model=spec.model,
        engine=f"{table.engine} {table.engine_version}",
        hardware=table.hardware,
        workload=str(table.workload),
        mape=table.check(space).mape,
        least_sequences=least,
        members=members,
        dominated=dominated,
        too_little_read=too_little_read,
    )


def read_all(records: Iterable[Record]) -> list[Reading]:
    """Join what was measured of each candidate on the search text, ordered by genotype.

    What was read twice counts once; failures are left out.
    """
    losses: dict[Genotype, dict[tuple[int, int], tuple[float, float]]] = defaultdict(dict)
    tokens: dict[Genotype, int] = {}
    for record in records:
        fidelity, measurement = record.fidelity, record.measurement
        if fidelity.split is not Split.SEARCH or measurement is None:
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


def usual_least(sequences: Iterable[int]) -> int:
    """Return the most sequences that ten candidates were read on; of fewer, all compete.

    Args:
        sequences: What each candidate was read on; one at least.
    """
    return sorted(sequences, reverse=True)[:ENOUGH][-1]


def _compete(
    readings: Sequence[Reading], least: int, space: SearchSpace, cost: AdditiveCost
) -> tuple[tuple[Member, ...], tuple[Place, ...], tuple[Place, ...]]:
    """Return the front, least loss first, what it dominates, and what was read too little."""
    milliseconds = {r.genotype: _predict(cost, space.entries(r.genotype)) for r in readings}
    competing = [reading for reading in readings if reading.sequences >= least]
    points = [(milliseconds[r.genotype], r.measurement.loss) for r in competing]
    # The front goes from the fastest on; a table begins with what loses least.
    front = [competing[position] for position in reversed(pareto_front(points))]
    in_front = {reading.genotype for reading in front}

    def place(reading: Reading) -> Place:
        speedup = cost.dense / milliseconds[reading.genotype]
        return Place(reading.genotype.key, speedup, reading.measurement.loss, reading.sequences)

    return (
        tuple(_member(r, milliseconds[r.genotype], space, cost) for r in front),
        tuple(place(r) for r in competing if r.genotype not in in_front),
        tuple(place(r) for r in readings if r.sequences < least),
    )


def _member(
    reading: Reading, milliseconds: float, space: SearchSpace, cost: AdditiveCost
) -> Member:
    stderr = reading.measurement.loss_stderr
    choices = space.choices(reading.genotype)
    return Member(
        genotype=reading.genotype.key,
        levels=reading.genotype.levels,
        predicted_speedup=cost.dense / milliseconds,
        milliseconds=milliseconds,
        kl=reading.measurement.loss,
        kl_stderr=stderr if math.isfinite(stderr) else None,
        sequences=reading.sequences,
        draws=reading.draws,
        dropped=_count(space, [choice.is_dropped for choice in choices]),
        narrowed=_count(space, [not (c.is_dropped or c.is_dense) for c in choices]),
    )


def _predict(cost: AdditiveCost, entries: Sequence[int]) -> float:
    """Return the cost of a candidate: exactly the same for the same choices in other layers.

    Such candidates are many, and a sum's last digit must not make one of them the faster.
    """
    parts = (costs[entry] for costs, entry in zip(cost.sites, entries, strict=True))
    return math.fsum([cost.fixed, *parts])


def _count(space: SearchSpace, is_counted: Iterable[bool]) -> dict[str, int]:
    """Return how many sites of each kind are counted."""
    counts = dict.fromkeys((kind.value for kind in SiteKind), 0)
    for site, counted in zip(space.sites, is_counted, strict=True):
        counts[site.kind.value] += counted
    return counts
