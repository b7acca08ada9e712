"""Everything measured of a study, sequence by sequence: nothing is measured twice."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from autocompress.store.base import Record
from autocompress.trial import Fidelity, Genotype, Measurement, Split


@dataclass(slots=True)
class _Text:
    """One candidate, trained so far, on one draw: losses by position in the draw."""

    losses: dict[int, tuple[float, float]] = field(default_factory=dict)
    tokens: int = 0


Text = tuple[Genotype, Split, int, int]
"""A candidate on a draw of a split, after so many tokens of training."""


class Memo:
    """Measurements by (genotype, split, draw, tokens trained, position in the draw)."""

    def __init__(self) -> None:
        self._texts: dict[Text, _Text] = {}

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Memo":
        """Return what records hold; failures are left out."""
        memo = cls()
        for record in records:
            if record.measurement is not None:
                memo.add(record.genotype, record.fidelity, record.measurement)
        return memo

    def readings(self) -> Iterator[tuple[Genotype, Fidelity]]:
        """Yield how far each candidate is known on each draw, from its first sequence on."""
        for (genotype, split, draw, trained), text in self._texts.items():
            n = next(n for n in itertools.count() if n not in text.losses)
            if n:
                yield genotype, Fidelity(split, draw, 0, n, trained)

    @property
    def n_candidates(self) -> int:
        """Different candidates of which something was measured."""
        return len({genotype for genotype, *_ in self._texts})

    @property
    def sequences(self) -> int:
        """Sequences read, summed over candidates, splits and draws."""
        return sum(len(text.losses) for text in self._texts.values())

    @property
    def trained(self) -> int:
        """Tokens trained on, summed over candidates, draws and lengths of training."""
        return sum(trained for *_, trained in self._texts)

    def add(self, genotype: Genotype, fidelity: Fidelity, measurement: Measurement) -> None:
        """Take what was measured at a reading."""
        text = self._texts.setdefault(text_of(genotype, fidelity), _Text())
        text.tokens = measurement.tokens
        pairs = zip(measurement.kl, measurement.nll, strict=True)
        text.losses.update(zip(range(fidelity.first, fidelity.end), pairs, strict=True))

    def covers(self, genotype: Genotype, fidelity: Fidelity) -> bool:
        """Whether every sequence of a reading is known."""
        text = self._texts.get(text_of(genotype, fidelity))
        return text is not None and all(
            position in text.losses for position in range(fidelity.first, fidelity.end)
        )

    def measurement(self, genotype: Genotype, fidelity: Fidelity) -> Measurement:
        """Return what is known of a reading that is covered."""
        text = self._texts[text_of(genotype, fidelity)]
        losses = [text.losses[position] for position in range(fidelity.first, fidelity.end)]
        kl, nll = zip(*losses, strict=True)
        return Measurement(kl, nll, text.tokens)


def text_of(genotype: Genotype, fidelity: Fidelity) -> Text:
    """Return what a fidelity reads, however far."""
    return genotype, fidelity.split, fidelity.draw, fidelity.trained
