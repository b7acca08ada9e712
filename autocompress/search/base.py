"""The contract of a strategy: ask for what to measure next, tell what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autocompress.trial import Fidelity, Genotype, Trial


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
        tokens: Summed over candidates, each read once.
        loss: Of the best candidate so far, KL in nats a token; infinite before the first.
        best: The best candidate so far.
    """

    generation: int
    tokens: int
    loss: float
    best: Genotype | None


class Strategy(Protocol):
    """Which candidates to measure next; never sees a model, a worker or a clock."""

    def ask(self) -> Batch | None:
        """Return the next batch, or None when the search is over."""

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the batch just asked, in its order."""

    def standing(self) -> Standing:
        """Return where the search stands."""
