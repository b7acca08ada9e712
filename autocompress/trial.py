"""The values that travel between rooms: genotypes, fidelities, measurements and trials."""

import dataclasses
import enum
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Genotype:
    """One level per gene, in the order of the search space; level 0 is dense."""

    levels: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Return one byte per gene: the form kept in SQL."""
        return bytes(self.levels)

    @classmethod
    def from_bytes(cls, packed: bytes) -> "Genotype":
        """Read what `to_bytes` wrote."""
        return cls(tuple(packed))

    def with_level(self, gene: int, level: int) -> "Genotype":
        """Return the same but for one gene."""
        return Genotype((*self.levels[:gene], level, *self.levels[gene + 1 :]))

    @property
    def key(self) -> str:
        """A short name, equal for equal genotypes."""
        return hashlib.blake2b(self.to_bytes(), digest_size=6).hexdigest()


class Split(enum.StrEnum):
    """Which third of the calibration documents a measurement reads."""

    SEARCH = "search"
    SELECTION = "selection"
    REPORT = "report"


@dataclass(frozen=True, slots=True, order=True)
class Fidelity:
    """How much a measurement reads: sequences `[first, first + sequences)` of one draw of a split.

    A draw is a shuffled order of the split's sequences: a longer reading contains a shorter one.

    Args:
        trained: Tokens that a candidate is trained on before it is read; 0 reads it as it is.
            What was trained for longer is another text to a candidate: losses do not compare.
    """

    split: Split
    draw: int
    first: int
    sequences: int
    trained: int = 0

    @property
    def end(self) -> int:
        """The position behind the last sequence read."""
        return self.first + self.sequences

    @property
    def is_plain(self) -> bool:
        """Whether it reads a candidate as it is, on the search text: such losses are compared."""
        return self.split is Split.SEARCH and not self.trained

    def part(self, first: int, end: int) -> "Fidelity":
        """Return what reads sequences `[first, end)` of the same draw alike."""
        return dataclasses.replace(self, first=first, sequences=end - first)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The losses of one candidate on each sequence that a fidelity reads, in the draw's order.

    Args:
        kl: Mean KL divergence from the dense model's predictions, nats a token, per sequence.
        nll: Mean negative log-likelihood of the text, nats a token, per sequence.
        tokens: Scored tokens of each sequence (the same for all: sequences have one length).
    """

    kl: tuple[float, ...]
    nll: tuple[float, ...]
    tokens: int

    @property
    def loss(self) -> float:
        """The mean KL divergence in nats a token: what a search minimises."""
        return math.fsum(self.kl) / len(self.kl)

    @property
    def loss_stderr(self) -> float:
        """The standard error of `loss` over sequences; infinite for a single one."""
        if len(self.kl) < 2:
            return math.inf
        return float(np.std(self.kl, ddof=1) / math.sqrt(len(self.kl)))

    @property
    def perplexity(self) -> float:
        """Exp of the mean negative log-likelihood a token."""
        return math.exp(math.fsum(self.nll) / len(self.nll))

    @property
    def is_finite(self) -> bool:
        """Whether every loss is a finite number."""
        return all(map(math.isfinite, self.kl)) and all(map(math.isfinite, self.nll))


def join(measurements: Sequence[Measurement]) -> Measurement:
    """Return one measurement that reads what the given ones read, in their order."""
    return Measurement(
        kl=tuple(value for m in measurements for value in m.kl),
        nll=tuple(value for m in measurements for value in m.nll),
        tokens=measurements[0].tokens,
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate and what one fidelity measured of it; `error` says why if nothing was."""

    genotype: Genotype
    fidelity: Fidelity
    measurement: Measurement | None
    error: str | None = None

    @property
    def loss(self) -> float:
        """The measured loss; infinite for a failed trial, so that it never survives a rung."""
        return math.inf if self.measurement is None else self.measurement.loss
