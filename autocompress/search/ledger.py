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
        self.last_error = ""

    def add(self, trials: Sequence[Trial]) -> None:
        """Take the trials of one batch."""
        for trial in trials:
            key = (trial.genotype, trial.fidelity.draw)
            self._known.setdefault(key, {})[trial.fidelity.first] = trial.measurement
            self._ends.setdefault(key, {})[trial.fidelity.first] = trial.fidelity.end
            self.last_error = trial.error or self.last_error
            self.tokens += trial.fidelity.sequences * self._context

    def has(self, genotype: Genotype, fidelity: Fidelity) -> bool:
        """Whether a candidate has been measured at exactly this reading."""
        ends = self._ends.get((genotype, fidelity.draw), {})
        return ends.get(fidelity.first) == fidelity.end

    def measurement(
        self, genotype: Genotype, draw: int, end: int | None = None
    ) -> Measurement | None:
        """Return what was measured of a candidate on a draw; None if nothing, or it failed.

        Args:
            end: Readings from this sequence on are left out.
        """
        parts = self._known.get((genotype, draw), {})
        found = [parts[first] for first in sorted(parts) if end is None or first < end]
        whole = [part for part in found if part is not None]
        return join(whole) if whole and len(whole) == len(found) else None

    def loss(self, genotype: Genotype, draw: int, end: int | None = None) -> float:
        """Return the loss over what was read of a draw; infinite for a failed candidate."""
        measurement = self.measurement(genotype, draw, end)
        return math.inf if measurement is None else measurement.loss

    def best(self, genotypes: Iterable[Genotype], draw: int, end: int, n: int) -> list[Genotype]:
        """Return the n candidates of least loss before a sequence, best first, ties by genotype.

        Failed candidates are left out.

        Raises:
            EvaluationError: If all of them failed.
        """
        losses = {genotype: self.loss(genotype, draw, end) for genotype in genotypes}
        ranked = sorted(losses, key=lambda g: (losses[g], g.levels))
        alive = [g for g in ranked[:n] if math.isfinite(losses[g])]
        if not alive:
            raise EvaluationError(
                f"All {len(losses)} candidates of a rung failed; the last: {self.last_error}"
            )
        return alive
