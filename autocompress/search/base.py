"""The contract of a strategy: ask for what to measure next, tell what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autocompress.spaces.base import Levels, SearchSpace
from autocompress.spaces.cost import Constraint
from autocompress.trial import Fidelity, Genotype, Trial

Stopper = Callable[[int], str | None]
"""Asked before each generation with its number; a reason ends the search."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Candidates to be measured on the same text, in an order that `tell` keeps.

    Args:
        fidelity: From the first sequence of a draw on; what is known of it is not read again.
    """

    candidates: tuple[Genotype, ...]
    fidelity: Fidelity

    def __post_init__(self) -> None:
        if self.fidelity.first:
            raise ValueError(f"a batch reads from the first sequence on, but got {self.fidelity}")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a search stands, for people.

    Args:
        generations: The most there can be; 0 where there are none.
        tokens: Summed over candidates, each read once.
        loss: Of the best candidate so far, KL in nats a token; infinite before the first.
        best: The best candidate so far.
    """

    generation: int
    generations: int
    tokens: int
    loss: float
    best: Genotype | None


def go_on(_generation: int) -> str | None:
    """Never end a search."""
    return None


@dataclass(frozen=True, slots=True)
class Task:
    """What every strategy is given.

    Args:
        context: Tokens of a sequence.
        available: Sequences of the search text.
        phase: Counts the searches of a study: 0, then one more after each correction.
        max_tokens: A generation that begins below them is finished.
        stop: Asked before each generation.
        extra: Candidates known from elsewhere, such as the winner before a correction; they may
            violate the constraint.
        start_loses: Whether the candidate that changes no gene loses something: what all store
            otherwise.
        tokens_of_rules: Spent on what rules say of the dense model, before the strategy begins.
    """

    constraint: Constraint
    seed: int
    context: int
    available: int
    phase: int = 0
    max_tokens: int | None = None
    stop: Stopper = go_on
    extra: tuple[Genotype, ...] = ()
    start_loses: bool = False
    tokens_of_rules: int = 0

    @property
    def space(self) -> SearchSpace:
        """Where candidates come from."""
        return self.constraint.space

    @property
    def allowed(self) -> tuple[Levels, ...]:
        """The levels of each gene that are worth taking."""
        return self.constraint.useful_levels()

    @property
    def is_limited(self) -> bool:
        """Whether tokens or time may end the search before its strategy does."""
        return self.max_tokens is not None or self.stop is not go_on

    def end(self, sequences: int) -> int:
        """Return where a reading of so many sequences ends: with the text at the latest."""
        return min(sequences, self.available)

    def out_of_tokens(self, spent: int) -> str:
        """Say that the tokens are spent; empty as long as they are not."""
        most = self.max_tokens
        return "" if most is None or spent < most else f"{most:,} tokens spent"

    def rng(self, generation: int) -> np.random.Generator:
        """Return the random numbers of a generation, whatever came before it."""
        return np.random.default_rng([self.seed, self.phase, generation])


class Strategy(Protocol):
    """Which candidates to measure next; never sees a model, a worker or a clock."""

    def ask(self) -> Batch | None:
        """Return the next batch, or None when the search is over."""

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the batch just asked, in its order."""

    def standing(self) -> Standing:
        """Return where the search stands."""

    def finalists(self, n: int) -> list[Genotype]:
        """Return up to n different candidates worth a closer look, the best first."""

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
