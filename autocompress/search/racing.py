"""Races decodings over task items: who cannot reach the best any more reads no further.

All are judged on the same items in one order. What is compared is paired: of each item, what the
candidate made of it against what the leader made of it (cost-based pruning, as EcoOptiGen's,
arXiv:2303.04673, section 3.2, with intervals of paired differences in place of its bounds).
"""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from scipy import stats

from autocompress.errors import SpecError

FIRST: Final = 8
"""Items that each candidate is measured on before it may be dropped."""
CONFIDENCE: Final = 0.95
FEWEST_FOR_INTERVAL: Final = 4

K = TypeVar("K")


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What a decoding made of items, item by item in their order.

    Args:
        scores: (n,) in [0, 1].
        tokens: (n,) generated, those that were thrown away included.
        said: (n,) tokens of the answers alone.
        seconds: (n,) until the whole answer was there.
        first_seconds: (n,) until its first token was.
        memory_bytes: (n,) held by the weights that it ran, a draft's included, and by the KV
            cache at its end.
    """

    scores: np.ndarray
    tokens: np.ndarray
    said: np.ndarray
    seconds: np.ndarray
    first_seconds: np.ndarray
    memory_bytes: np.ndarray

    def __len__(self) -> int:
        """Return how many items were answered."""
        return len(self.scores)

    def first(self, n: int) -> "Answered":
        """Return what was made of the first n items."""
        return Answered(*(getattr(self, name)[:n] for name in COLUMNS))

    def to_json(self) -> dict[str, list[float]]:
        """Return the columns by name."""
        return {name: getattr(self, name).tolist() for name in COLUMNS}

    @classmethod
    def from_json(cls, columns: Mapping[str, Sequence[float]]) -> "Answered":
        """Read what `to_json` wrote."""
        return cls(*(np.asarray(columns[name], np.float64) for name in COLUMNS))


COLUMNS: Final = ("scores", "tokens", "said", "seconds", "first_seconds", "memory_bytes")


def joined(parts: Sequence[Answered]) -> Answered:
    """Return what was made of all parts' items, in their order."""
    return Answered(*(np.concatenate([getattr(own, name) for own in parts]) for name in COLUMNS))


class Objective(enum.StrEnum):
    """What a decoding is searched for, each a ratio of two sums over items; less is better.

    A decoding that says more is not faster for it: `seconds` counts whole answers.
    """

    QUALITY = "quality"
    SECONDS = "seconds"
    TOKENS_PER_SECOND = "tokens-per-second"
    TO_FIRST = "first-token"
    QUALITY_PER_SECOND = "quality-per-second"
    COST = "cost"
    MEMORY = "memory"

    def parts(self, answered: Answered) -> tuple[np.ndarray, np.ndarray]:
        """Return ((n,), (n,)): what is summed above and below the line."""
        one = np.ones(len(answered))
        match self:
            case Objective.QUALITY:
                return 1.0 - answered.scores, one
            case Objective.SECONDS:
                return answered.seconds, one
            case Objective.TOKENS_PER_SECOND:
                return answered.seconds, answered.said
            case Objective.TO_FIRST:
                return answered.first_seconds, one
            case Objective.QUALITY_PER_SECOND:
                return answered.seconds, answered.scores
            case Objective.COST:
                return answered.tokens, answered.scores
            case Objective.MEMORY:
                return answered.memory_bytes, one

    def ratio(self, answered: Answered) -> float:
        """Return the ratio of the sums; infinite where nothing stands below the line."""
        above, below = (float(part.sum()) for part in self.parts(answered))
        return above / below if below > 0 else math.inf

    def shown(self, value: float) -> float:
        """Return the value as people say it: quality and rates, of which more is better.

        And back: it is its own inverse.
        """
        match self:
            case Objective.QUALITY:
                return 1.0 - value
            case Objective.TOKENS_PER_SECOND | Objective.QUALITY_PER_SECOND:
                return 1.0 / value if value > 0 else math.inf
            case _:
                return value


TIMED: Final = frozenset(
    {
        Objective.SECONDS,
        Objective.TOKENS_PER_SECOND,
        Objective.TO_FIRST,
        Objective.QUALITY_PER_SECOND,
    }
)
"""What another process would measure otherwise on the same items."""

UNITS: Final[Mapping[Objective, str]] = {
    Objective.QUALITY: "mean score",
    Objective.SECONDS: "seconds an answer",
    Objective.TOKENS_PER_SECOND: "tokens a second",
    Objective.TO_FIRST: "seconds to the first token",
    Objective.QUALITY_PER_SECOND: "score a second",
    Objective.COST: "tokens a score of 1",
    Objective.MEMORY: "bytes of weights and KV cache",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference and its interval."""

    mean: float
    low: float
    high: float


def paired(differences: np.ndarray, confidence: float = CONFIDENCE) -> Difference:
    """Return the mean of (n,) differences with Student's two-sided interval.

    With fewer than four items nothing is known: the interval holds everything.
    """
    n = len(differences)
    mean = float(differences.mean()) if n else 0.0
    if n < FEWEST_FOR_INTERVAL:
        return Difference(mean, -math.inf, math.inf)
    spread = float(differences.std(ddof=1))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * spread / math.sqrt(n)
    return Difference(mean, mean - half, mean + half)


def against(objective: Objective, own: Answered, other: Answered) -> Difference:
    """Return how much worse one did than another on the same items, in the objective's unit.

    Both ratios are linearised at the other's: r - r' = mean(a - r' b) / mean(b).

    Raises:
        SpecError: If they did not answer as many items.
    """
    if len(own) != len(other):
        raise SpecError(f"{len(own)} items cannot be paired with {len(other)}.")
    ratio = objective.ratio(other)
    if not math.isfinite(ratio):
        return Difference(-math.inf, -math.inf, math.inf)
    above, below = objective.parts(own)
    above_other, below_other = objective.parts(other)
    contrast = (above - ratio * below) - (above_other - ratio * below_other)
    scale = float(below.mean())
    if scale <= 0:
        return Difference(math.inf, math.inf, math.inf)
    return paired(contrast / scale)


def in_the_running(
    answers: Mapping[K, Answered], missed: Mapping[K, float], objective: Objective
) -> list[K]:
    """Return those that miss constraints least and are not surely behind the best of them.

    Args:
        answers: Of the same items.
        missed: By how much each misses; met at 0.
    """
    least = min(missed.values())
    near = [own for own, by in missed.items() if by <= least]
    best = answers[min(near, key=lambda own: objective.ratio(answers[own]))]
    return [own for own in near if not against(objective, answers[own], best).low > 0]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a decoding is searched for, and what it must hold.

    Args:
        objectives: One, or two for a front.
        drop: By how much the mean score may lie below the reference's, with 95 % confidence;
            None lets it be anything.
        limits: The most that objectives' ratios may come to, by objective.
    """

    objectives: tuple[Objective, ...]
    drop: float | None = None
    limits: Mapping[Objective, float] = field(default_factory=dict)

    def violation(self, own: Answered, reference: Answered) -> float:
        """Return by how much the constraints are missed, in shares; met at <= 0.

        Quality counts with the lower end of its paired interval: what is not proven is missed.
        """
        missed = [-math.inf]
        if self.drop is not None:
            # On few items nothing is proven: what is seen must do, until there are more.
            lost = against(Objective.QUALITY, own, reference)
            missed.append((lost.high if math.isfinite(lost.high) else lost.mean) - self.drop)
        for objective, most in self.limits.items():
            ratio = objective.ratio(own)
            missed.append(ratio / most - 1.0 if most > 0 else ratio)
        worst = max(missed)
        return 0.0 if worst == -math.inf else worst

    def is_hopeless(self, own: Answered, reference: Answered) -> bool:
        """Whether even the favourable ends of the intervals miss a constraint."""
        if self.drop is not None:
            lost = against(Objective.QUALITY, own, reference)
            if lost.low > self.drop:
                return True
        for objective, most in self.limits.items():
            above, below = objective.parts(own)
            if paired(above - most * below).low > 0:
                return True
        return False


class Race:
    """Keeps what candidates have answered, and says who goes on.

    Args:
        rules: What is searched for.
        reference: What the untuned model made of all items: the first leader.
        prunes: Whether candidates are dropped before they have answered all.
    """

    def __init__(self, rules: Rules, reference: Answered, *, prunes: bool = True) -> None:
        self.rules = rules
        self.reference = reference
        self.leaders: list[Answered] = [reference] if self._meets(reference) else []
        self._prunes = prunes

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.reference)

    def goes_on(self, own: Answered) -> bool:
        """Whether a candidate may read further; one that has read all becomes a leader if it is.

        A candidate goes on as long as no leader is surely better in every objective, and no
        constraint is surely missed.
        """
        if len(own) >= self.items:
            self._enter(own)
            return False
        if not self._prunes or len(own) < FIRST:
            return True
        reference = self.reference.first(len(own))
        if self.rules.is_hopeless(own, reference):
            return False
        return not any(self._surely_behind(own, leader) for leader in self.leaders)

    def expected(self, own: Answered) -> tuple[float, ...]:
        """Return the objectives as expected on all items."""
        return tuple(self.expected_of(objective, own) for objective in self.rules.objectives)

    def expected_of(self, objective: Objective, own: Answered) -> float:
        """Return an objective as expected on all items: the reference's there, moved as here.

        What few items were easy for all is so no merit of the one that read them alone.
        """
        value = objective.ratio(own)
        whole = objective.ratio(self.reference)
        part = objective.ratio(self.reference.first(len(own)))
        return value * whole / part if math.isfinite(whole) and part > 0 else value

    def violation(self, own: Answered) -> float:
        """Return by how much a candidate misses the constraints; met at <= 0."""
        return self.rules.violation(own, self.reference.first(len(own)))

    def _meets(self, own: Answered) -> bool:
        return self.rules.violation(own, self.reference) <= 0

    def _surely_behind(self, own: Answered, leader: Answered) -> bool:
        there = leader.first(len(own))
        return all(against(objective, own, there).low > 0 for objective in self.rules.objectives)

    def _enter(self, own: Answered) -> None:
        """Make a candidate a leader unless one is as good in all objectives; drop those behind."""
        if not self._meets(own):
            return

        def values(of: Answered) -> tuple[float, ...]:
            return tuple(objective.ratio(of) for objective in self.rules.objectives)

        mine = values(own)
        if any(
            all(a <= b for a, b in zip(values(old), mine, strict=True)) for old in self.leaders
        ):
            return
        self.leaders = [
            old
            for old in self.leaders
            if not all(a <= b for a, b in zip(mine, values(old), strict=True))
        ]
        self.leaders.append(own)


def steps(items: int, first: int = FIRST) -> tuple[int, ...]:
    """Return after how many items candidates are looked at: 8, 16, 32, ... and all."""
    found = []
    at = first
    while at < items:
        found.append(at)
        at *= 2
    return (*found, items)
