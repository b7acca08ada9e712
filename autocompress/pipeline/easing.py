"""Gives speed that nobody asked for back for quality, level by level.

A latency model is off by some percent, and by about as many for a candidate's neighbours as for
itself: how fast they would be measured is better told by the winner's own measurement. So of its
genes those are taken back a level whose loss is the greatest for the time that they cost, as long
as the target should still be met, and what is left is measured; where it misses, half of them.

With more time to spend, another candidate altogether may lose less than all that is near the
winner: those of the simple strategies, which the report is held against, are tried too.
"""

from collections.abc import Callable, Iterator, Sequence

from autocompress.pipeline.aiming import CLOSE, STEP, Attempt, Timed
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import Constraint, Limit
from autocompress.trial import Genotype, Trial

Losses = Callable[[Sequence[Genotype]], list[Trial]]
"""Measures candidates on selection text."""
Simple = Callable[[Constraint], list[Genotype]]
"""Returns what simple strategies find under a constraint."""
Measured = Callable[[float, Constraint, Trial], Attempt]
"""Times a candidate end to end, that was aimed at a predicted speedup under a constraint."""


def ease(
    best: Attempt, timed: Timed, few: Losses, whole: Losses, simple: Simple, measure: Measured
) -> Iterator[Attempt]:
    """Yield each candidate that was measured, until the winner is near the target.

    Args:
        best: The winner; it must meet the target.
        few: Reads enough of the text to tell which levels lose most.
        whole: Reads all that winners are picked on.
        simple: Tells what else may be tried; none twice.
    """
    measured: set[Genotype] = set()
    while best.reached.median > CLOSE * timed.target and len(measured) < timed.most_eased:
        room = within(best, timed)
        steps = [own for own in eased(room, timed, best.winner, few) if own not in measured]
        others = [own for own in dict.fromkeys(simple(room)) if own not in measured | {*steps}]
        found = None
        while (steps or others) and found is None and len(measured) < timed.most_eased:
            trial = min(whole([*steps[-1:], *others]), key=lambda own: own.loss)
            if trial.genotype in others:
                others.remove(trial.genotype)
            else:
                steps = steps[: len(steps) // 2]
            # What was the best on little text may lose more on all of it.
            if trial.loss >= best.winner.loss:
                continue
            spent = timed.cost.of(room.space.entries(trial.genotype))
            attempt = measure(timed.cost.dense / spent, room, trial)
            measured.add(trial.genotype)
            yield attempt
            if attempt.clears(timed.target) and attempt.fits:
                found = attempt
        if found is None:
            return
        best = found


def within(best: Attempt, timed: Timed) -> Constraint:
    """Return a winner's constraint, its time as long as should still be measured to be enough."""
    room = best.task.constraint
    predicted = timed.cost.of(room.space.entries(best.winner.genotype))
    most = predicted * best.reached.interval[0] / (timed.target * STEP)
    others = [own for own in room.limits if own.cost is not timed.cost]
    return Constraint(room.space, (Limit(timed.cost, most), *others))


def eased(room: Constraint, timed: Timed, winner: Trial, losses: Losses) -> list[Genotype]:
    """Return candidates of ever more levels taken back, all within a constraint."""
    space = room.space

    def time_of(genotype: Genotype) -> float:
        return timed.cost.of(space.entries(genotype))

    before = time_of(winner.genotype)
    near = [
        own
        for own in nearer_to_dense(space, winner.genotype)
        if time_of(own) > before and room.violation(own) <= 0
    ]
    if not near:
        return []
    own, *trials = losses([winner.genotype, *near])
    gains = {
        trial.genotype: (own.loss - trial.loss) / (time_of(trial.genotype) - before)
        for trial in trials
        if trial.loss < own.loss
    }
    taken: list[Genotype] = []
    for step in sorted(gains, key=lambda step: (-gains[step], step.levels)):
        together = _both(space, taken[-1] if taken else winner.genotype, step, winner.genotype)
        if room.violation(together) <= 0:
            taken.append(together)
    return taken


def nearer_to_dense(space: SearchSpace, genotype: Genotype) -> list[Genotype]:
    """Return the candidates that differ in one gene, one level nearer to dense."""
    found: dict[Genotype, None] = {}
    for gene, level in enumerate(genotype.levels):
        if level:
            found[space.canonical(genotype.with_level(gene, level - 1))] = None
    return [own for own in found if own != genotype]


def _both(space: SearchSpace, some: Genotype, step: Genotype, winner: Genotype) -> Genotype:
    """Return some steps from a winner and one more together."""
    levels = [
        after if after != before else so_far
        for so_far, after, before in zip(some.levels, step.levels, winner.levels, strict=True)
    ]
    return space.canonical(Genotype(tuple(levels)))
