"""Runs the real evolution on recorded losses, and random search beside it."""

import dataclasses
import enum
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.models.text import draw_order
from autocompress.search.base import Batch, Task
from autocompress.search.evolve import EvolveStrategy, settings_for
from autocompress.trial import Genotype, Measurement, Trial
from benchmarks.optimum_table import Table, read

SPENT = "the share of the space was evaluated"


class Outcome(enum.StrEnum):
    """What became of the optimum in one search."""

    FOUND = "found"
    MEASURED_NOT_KEPT = "measured, another kept"
    ENDED_EARLY = "not measured, the search ended by itself"
    NOT_PROPOSED = "not measured within the share"


@dataclass(frozen=True, slots=True)
class Replay:
    """One seed's search.

    Args:
        evaluations: Different candidates measured at any fidelity, single changes among them.
        measured_after: Of those, how many there were with the optimum; None if it was not.
        standing_after: How many when the optimum became the standing best for good.
        rank: Of the best at the end among all members; 0 is the optimum.
        excess: Its loss over the optimum's, less 1.
        readings: Sequences read, summed over candidates.
        readings: Sequences read, summed over candidates.
        random_found: Whether as many random members hold the optimum.
    """

    seed: int
    outcome: Outcome
    evaluations: int
    measured_after: int | None
    standing_after: int | None
    rank: int
    excess: float
    generations: int
    readings: int
    is_finalist: bool
    random_found: bool
    stopped_because: str

    def to_json(self) -> dict[str, object]:
        """Return the fields as JSON takes them."""
        return dataclasses.asdict(self)


@functools.cache
def tables_of(file: Path) -> Sequence[Table]:
    """Read the tables once in each process."""
    return read(file)


def replay(file: Path, which: int, seed: int, share: float, finalists: int) -> Replay:
    """Search one table of a file until a share of the space is evaluated or the search ends."""
    table = tables_of(file)[which]
    losses = table.losses
    optimum = int(losses.argmin())
    evaluated: dict[Genotype, None] = {}
    limit = int(share * table.n_members)
    constraint = table.space.constraint
    settings = settings_for(constraint.useful_levels())

    def stop(_generation: int) -> str | None:
        # A generation that begins is finished.
        return SPENT if len(evaluated) + settings.offspring > limit else None

    # What was recorded is all the text there is.
    task = Task(constraint, seed, context=1, available=table.kl.shape[1], stop=stop)
    strategy = EvolveStrategy(task, settings)
    wanted = next(genotype for genotype, row in table.rows.items() if row == optimum)
    measured_after = standing_after = None
    while (batch := strategy.ask()) is not None:
        strategy.tell(answer(table, batch, seed))
        evaluated |= dict.fromkeys(batch.candidates)
        if measured_after is None and wanted in evaluated:
            measured_after = list(evaluated).index(wanted) + 1
        if strategy.standing().best != wanted:
            standing_after = None
        elif standing_after is None:
            standing_after = len(evaluated)
    end = strategy.standing()
    if end.best is None or len(evaluated) > limit:
        raise SystemExit(f"seed {seed} evaluated {len(evaluated)} of {limit} candidates")
    best = losses[table.rows[end.best]] if table.rows[end.best] < table.n_members else np.inf
    if end.best == wanted:
        outcome = Outcome.FOUND
    elif measured_after is not None:
        outcome = Outcome.MEASURED_NOT_KEPT
    else:
        outcome = (
            Outcome.NOT_PROPOSED if strategy.stopped_because == SPENT else Outcome.ENDED_EARLY
        )
    drawn = np.random.default_rng(seed).choice(table.n_members, len(evaluated), replace=False)
    return Replay(
        seed=seed,
        outcome=outcome,
        evaluations=len(evaluated),
        measured_after=measured_after,
        standing_after=standing_after,
        rank=int((losses < best).sum()),
        excess=float(best / losses[optimum] - 1),
        generations=end.generation,
        readings=end.tokens,
        is_finalist=wanted in strategy.finalists(finalists),
        random_found=bool(optimum in drawn),
        stopped_because=strategy.stopped_because,
    )


def answer(table: Table, batch: Batch, seed: int) -> list[Trial]:
    """Return the trials of a batch: a draw reads the recorded sequences in its own order."""
    fidelity = batch.fidelity
    order = draw_order(table.kl.shape[1], fidelity.split, fidelity.draw, seed)
    positions = order[fidelity.first : fidelity.end]
    trials = []
    for genotype in batch.candidates:
        row = table.rows.get(genotype)
        if row is None:
            raise SystemExit(f"{genotype.levels} was not recorded")
        kl = tuple(table.kl[row, positions].astype(float).tolist())
        trials.append(Trial(genotype, fidelity, Measurement(kl, (0.0,) * len(kl), 1)))
    return trials
