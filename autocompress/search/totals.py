"""What each candidate lost on the search text so far, for those who ask for the best."""

from collections.abc import Iterable

from autocompress.store.base import Record, TrialLoss
from autocompress.trial import Genotype


class Totals:
    """Losses on the search text, summed over all that was read of it."""

    def __init__(self, records: Iterable[Record]) -> None:
        """Sum up what is known."""
        # Of each candidate: sequences read, and the sum of their losses.
        self._sums: dict[Genotype, tuple[int, float]] = {}
        self.add(records)

    def add(self, records: Iterable[Record]) -> list[TrialLoss]:
        """Take shards that were not taken before; return what their candidates lose now."""
        grown = {}
        for record in records:
            if record.measurement is not None and record.fidelity.is_plain:
                n, total = self._sums.get(record.genotype, (0, 0.0))
                n, total = n + record.fidelity.sequences, total + sum(record.measurement.kl)
                self._sums[record.genotype] = n, total
                grown[record.genotype] = TrialLoss(record.genotype, n, total / n)
        return list(grown.values())
