"""Decides what predicted speedup a search asks for, given what its winners were measured at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.search.base import Task
from autocompress.spaces.cost import AdditiveCost
from autocompress.trial import Trial

# The first constraint asks for this much more than the target: about what the interval of an
# end-to-end measurement is wide on either side.
MARGIN: Final = 1.03
# A measured median so far above the target is given back as quality, where that can be told.
CLOSE: Final = 1.05
# Two aims that are nearer than this find the same candidates.
STEP: Final = 1.005
# A looser search must promise as much, or it is not worth its time.
WORTH: Final = 1.02
MOST_ATTEMPTS: Final = 6
# A search whose time is limited gives back speed that nobody asked for so often at most.
LOOSER_WITHIN_A_BUDGET: Final = 1
# Candidates that lose less for speed given back, that are measured end to end beside a winner.
MOST_EASED: Final = 4
MOST_EASED_WITHIN_A_BUDGET: Final = 2


@dataclass(frozen=True, slots=True)
class Timed:
    """A speedup to be met: the latency model's costs, and the fastest that they promise.

    Args:
        target: Over the measured dense model; over the predicted one if `is_absolute`, where what
            is asked is a time.
        margin: What is asked for at first is this many times the target.
        most_looser: Searches that may follow one whose winner meets the target.
        most_eased: Candidates that give back a winner's unasked speed, that may be measured.
    """

    cost: AdditiveCost
    target: float
    fastest: float
    is_absolute: bool = False
    margin: float = MARGIN
    most_looser: int = MOST_ATTEMPTS
    most_eased: int = MOST_EASED

    @property
    def first_aim(self) -> float:
        """The predicted speedup to ask for before anything is measured."""
        return min(self.target * self.margin, self.fastest)

    def reached(self, measured: MeasuredSpeedup) -> "Reached":
        """Return the speedup that a measurement is held against the target with."""
        if not self.is_absolute:
            return Reached(measured.median, measured.interval)
        low, high = measured.compressed_interval
        dense = self.cost.dense
        return Reached(dense / measured.milliseconds[1], (dense / high, dense / low))

    def is_open(self, measured: MeasuredSpeedup) -> bool:
        """Whether the median reaches the target and its interval does not."""
        reached = self.reached(measured)
        return reached.interval[0] < self.target <= reached.median


@dataclass(frozen=True, slots=True)
class Reached:
    """A measured speedup and its 95 % interval."""

    median: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One search and its winner.

    Args:
        aim: The predicted speedup that its candidates had to reach; 1 where speed is no target.
        task: What its candidates had to meet.
        winner: With its loss on the text that finalists are selected on.
        reached: What the target is held against.
        measured: The winner, end to end.
        held: What serving it holds, of the memory that it may hold; 0 where that is no target.
    """

    aim: float
    task: Task
    winner: Trial
    reached: Reached
    measured: MeasuredSpeedup
    held: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether it holds no more memory than it may."""
        return self.held <= 1

    def clears(self, target: float) -> bool:
        """Whether all of the measured interval is at the target or above."""
        return self.reached.interval[0] >= target


def next_share(share: float, attempts: Sequence[Attempt]) -> float | None:
    """Return what share of the memory to ask for next; None if the last winner needs no more.

    What a winner holds beyond what was reckoned, the next will hold about as well.

    Args:
        share: That the last winner had to do with, as reckoned.
    """
    last = attempts[-1]
    if last.fits or len(attempts) >= MOST_ATTEMPTS:
        return None
    return share / (last.held * STEP)


def next_aim(timed: Timed, attempts: Sequence[Attempt]) -> float | None:
    """Return the predicted speedup to ask for next; None if nothing better can be hoped for.

    A winner whose interval does not clear the target is followed by a tighter search, one that
    is faster than it must be by a looser one: no aim is tried beyond one that failed or within
    one that did. Where a miss, badly measured, asks for more than what met the target by much, the
    next aim lies between the two. A looser search that ends with a winner known already ends it
    all, and so does the last that may follow one that met the target.
    """
    target, last = timed.target, attempts[-1]
    if len(attempts) >= MOST_ATTEMPTS:
        return None
    if last.clears(target) and last.reached.median <= CLOSE * target:
        return None
    missed = [own.aim for own in attempts if not own.clears(target)]
    least = STEP * max(missed, default=1.0)
    # What would have cleared the target by little, had the measurement been in proportion; by a
    # little more after every miss, or noise could lead from one to the next.
    little = STEP ** max(1, len(missed))
    wanted = max(last.aim * target / last.reached.interval[0] * little, least)
    if len(missed) == len(attempts):
        return None if last.aim >= timed.fastest else min(wanted, timed.fastest)
    known = [own.winner.genotype for own in attempts[:-1]]
    first_met = next(place for place, own in enumerate(attempts) if own.clears(target))
    if last.winner.genotype in known or len(attempts) - 1 - first_met >= timed.most_looser:
        return None
    nearest = min((own for own in attempts if own.clears(target)), key=lambda own: own.aim)
    if missed and wanted * WORTH > nearest.aim and nearest.reached.median > CLOSE * target:
        wanted = math.sqrt(max(missed) * nearest.aim)
    return wanted if wanted * WORTH <= nearest.aim else None


def best_attempt(target: float | None, attempts: Sequence[Attempt]) -> Attempt:
    """Return the attempt to end with: of those that clear the target the one that loses least.

    Where none does, the one that comes nearest. One that holds too much memory is taken only where
    all do: then that which holds least.
    """
    fitting = [own for own in attempts if own.fits]
    if not fitting:
        return min(attempts, key=lambda own: own.held)
    clear = [own for own in fitting if target is None or own.clears(target)]
    if clear:
        return min(clear, key=lambda own: own.winner.loss)
    return max(fitting, key=lambda own: own.reached.interval[0])
