"""Lets a strategy be written as one flow that yields batches and goes on once they are told."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from autocompress.search.base import Batch
from autocompress.search.ledger import Ledger
from autocompress.trial import Fidelity, Genotype, Split, Trial

Steps = Generator[Batch, None, None]


@dataclass(frozen=True, slots=True)
class Rung:
    """How many candidates go on, and how far into the draw they have been read by then.

    Args:
        trained: Tokens that each is trained on before it is read.
    """

    sequences: int
    survivors: int
    trained: int = 0


class Conversation:
    """One flow between `ask` and `tell`; what is told goes into the ledger first."""

    def __init__(self, steps: Steps, ledger: Ledger) -> None:
        self._steps = steps
        self._ledger = ledger
        self._asked = next(steps, None)

    def ask(self) -> Batch | None:
        """Return the next batch, or None when the flow has ended."""
        return self._asked

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the batch just asked and go on to the next."""
        self._ledger.add(trials)
        self._asked = next(self._steps, None)


class Conversing:
    """A strategy that is one flow; it makes its conversation once all that the flow needs is."""

    _talk: Conversation

    def ask(self) -> Batch | None:
        """Return the next batch, or None when the search is over."""
        return self._talk.ask()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the batch just asked and go on to the next."""
        self._talk.tell(trials)


def read(
    genotypes: Sequence[Genotype], draw: int, end: int, ledger: Ledger, trained: int = 0
) -> Steps:
    """Ask for what is not known of the first `end` sequences of a draw of the search text.

    Args:
        trained: Tokens that each candidate is trained on before.
    """
    missing = tuple(g for g in dict.fromkeys(genotypes) if ledger.read(g, draw, trained) < end)
    if missing:
        yield Batch(missing, Fidelity(Split.SEARCH, draw, 0, end, trained))
