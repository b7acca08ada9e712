"""What a strategy knows of its candidates: joined measurements, by draw, and the tokens spent."""

import math
from collections.abc import Iterable, Sequence

from autocompress.errors import EvaluationError
from autocompress.trial import Fidelity, Genotype, Measurement, Trial, join


class Ledger:
    """Measurements of one search, joined over the consecutive readings of a draw."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._known: dict[tuple[Genotype, int], dict[int, Measurement | None]] = {}
        self._ends: dict[tuple[Genotype, int], dict[int, int]] = {}
        self.tokens = 0

    def add(self, trials: Sequence[Trial]) -> None:
        """Take the trials of one batch.

        Raises:
            EvaluationError: If every candidate of the batch failed.
        """
        if trials and all(trial.measurement is None for trial in trials):
            raise EvaluationError(
                f"All {len(trials)} candidates of a rung failed; the first: {trials[0].error}"
            )
        for trial in trials:
            key = (trial.genotype, trial.fidelity.draw)
            self._known.setdefault(key, {})[trial.fidelity.first] = trial.measurement
            self._ends.setdefault(key, {})[trial.fidelity.first] = trial.fidelity.end
            self.tokens += trial.fidelity.sequences * self._context

    def has(self, genotype: Genotype, fidelity: Fidelity) -> bool:
        """Whether a candidate has been measured at exactly this reading."""
        ends = self._ends.get((genotype, fidelity.draw), {})
        return ends.get(fidelity.first) == fidelity.end

    def measurement(self, genotype: Genotype, draw: int) -> Measurement | None:
        """Return all that was measured of a candidate on a draw; None if nothing, or it failed."""
        parts = self._known.get((genotype, draw), {})
        found = [parts[first] for first in sorted(parts)]
        whole = [part for part in found if part is not None]
        return join(whole) if whole and len(whole) == len(found) else None

    def loss(self, genotype: Genotype, draw: int) -> float:
        """Return the loss over all that was read of a draw; infinite for a failed candidate."""
        measurement = self.measurement(genotype, draw)
        return math.inf if measurement is None else measurement.loss

    def best(self, genotypes: Iterable[Genotype], draw: int, n: int) -> list[Genotype]:
        """Return the n candidates of least loss on a draw, best first; ties go by genotype."""
        ranked = sorted(genotypes, key=lambda g: (self.loss(g, draw), g.levels))
        return [g for g in ranked[:n] if math.isfinite(self.loss(g, draw))]
