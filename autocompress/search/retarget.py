"""Answers a new constraint from what a study has measured, with no new measurement."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.errors import SpecError
from autocompress.search.base import Batch, Task
from autocompress.search.ledger import Ledger
from autocompress.search.memo import Memo
from autocompress.search.single_changes import (
    Losses,
    additive_solution,
    loss_at_start,
    measure_single_changes,
)
from autocompress.search.surrogate import Readings, Surrogate, observe
from autocompress.spaces.base import Levels
from autocompress.spaces.moves import Moves
from autocompress.trial import Genotype, Trial

ROUNDS = 12
MUTANTS = 150
ELITES = 8
FEWEST = 8
"""Combined candidates that a surrogate needs: fewer say nothing of how sites interact."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A candidate that was never measured, and what the surrogate expects of it.

    Args:
        kl: Nats a token, on the text of the deepest reading of the study.
        interval: 95 % of the surrogate's own uncertainty.
    """

    genotype: Genotype
    kl: float
    interval: tuple[float, float]


def retarget(task: Task, memo: Memo, single_sequences: int) -> Answer:
    """Return the candidate of least expected loss under a constraint.

    An evolution on the surrogate alone, from the additive solution and the measured candidates
    of least loss, repaired to the constraint.

    Args:
        single_sequences: What the study's strategy read of each single change.

    Raises:
        SpecError: If too little was measured to fit a surrogate.
    """
    losses, base = _single_losses(task, memo, single_sequences)
    readings = _combined(memo)
    if sum(map(len, readings.values())) < FEWEST:
        raise SpecError(
            f"`combined candidates >= {FEWEST}` must hold to answer a new target, but the study "
            "measured fewer. Let it go on, or search anew."
        )
    surrogate = Surrogate(task.space, losses, observe(readings, task.available), base=base)
    deepest = max(readings, key=lambda reading: (reading[1], -reading[0]))
    best = _evolve(task, surrogate, _starts(task, losses, readings))
    mean, spread = surrogate.predict(np.asarray([best]), deepest)
    kl, low, high = np.exp(mean[0] + spread[0] * np.asarray([0.0, -1.96, 1.96]))
    return Answer(Genotype(best), float(kl), (float(low), float(high)))


def _single_losses(task: Task, memo: Memo, sequences: int) -> tuple[Losses, float]:
    """Return the losses of single changes, and what every candidate loses."""
    ledger = Ledger(task.context)
    steps: Generator[Batch, None, Losses] = measure_single_changes(task, ledger, sequences)
    try:
        batch = next(steps)
        while True:
            trials = [_known(genotype, batch, memo) for genotype in batch.candidates]
            if not any(trial.measurement for trial in trials if any(trial.genotype.levels)):
                raise SpecError(
                    "The study measured no single changes, from which a new target is answered: "
                    "search with --strategy evolve and --warm-start losses."
                )
            ledger.add(trials)
            batch = next(steps)
    except StopIteration as end:
        losses: Losses = end.value
        return losses, loss_at_start(task, ledger)


def _known(genotype: Genotype, batch: Batch, memo: Memo) -> Trial:
    if memo.covers(genotype, batch.fidelity):
        return Trial(genotype, batch.fidelity, memo.measurement(genotype, batch.fidelity))
    return Trial(genotype, batch.fidelity, None, "it was not measured")


def _combined(memo: Memo) -> Readings:
    """Return the search text's readings of candidates that change more than one gene."""
    readings: Readings = {}
    for genotype, fidelity in memo.readings():
        if fidelity.is_plain and sum(map(bool, genotype.levels)) > 1:
            own = readings.setdefault((fidelity.draw, fidelity.end), {})
            own[genotype.levels] = memo.measurement(genotype, fidelity)
    return readings


def _starts(task: Task, losses: Losses, readings: Readings) -> list[Levels]:
    """Return the additive solution and the measured candidates of least loss, repaired."""
    best: dict[Levels, None] = {}
    for own in readings.values():
        ranked = sorted(own, key=lambda levels: own[levels].loss)
        best |= dict.fromkeys(ranked[:ELITES])
    moves = Moves(task.constraint, task.allowed)
    repaired = moves.repair(np.asarray(list(best)), task.rng(0))
    return [additive_solution(task, losses).levels, *_rows(repaired)]


def _evolve(task: Task, surrogate: Surrogate, starts: Sequence[Levels]) -> Levels:
    moves = Moves(task.constraint, task.allowed)
    pool = dict.fromkeys(starts)
    for number in range(1, ROUNDS + 1):
        elites = _ranked(surrogate, list(pool))[:ELITES]
        parents = np.asarray([elites[i % len(elites)] for i in range(MUTANTS)])
        pool |= dict.fromkeys(_rows(moves.mutate(parents, task.rng(number))))
    return _ranked(surrogate, list(pool))[0]


def _rows(candidates: np.ndarray) -> list[Levels]:
    return [tuple(levels) for levels in candidates.tolist()]


def _ranked(surrogate: Surrogate, pool: list[Levels]) -> list[Levels]:
    means = surrogate.mean(np.asarray(pool))
    return [pool[i] for i in sorted(range(len(pool)), key=lambda i: (means[i], pool[i]))]
