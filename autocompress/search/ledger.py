"""What a strategy knows of its candidates: the longest reading of each, by draw and training."""

import math
from collections.abc import Iterable, Sequence

from autocompress.errors import EvaluationError
from autocompress.trial import Genotype, Measurement, Trial


class Ledger:
    """Trials of one search, and the tokens that they were scored on and trained on.

    Args:
        tokens: Spent before the first trial.
    """

    def __init__(self, context: int, tokens: int = 0) -> None:
        self._context = context
        self._known: dict[tuple[Genotype, int, int], Trial] = {}
        self.tokens = tokens
        self.last_error = ""

    def add(self, trials: Sequence[Trial]) -> None:
        """Take the trials of one batch; what a longer reading repeats was read once."""
        for trial in trials:
            key = (trial.genotype, trial.fidelity.draw, trial.fidelity.trained)
            before = self._known.get(key)
            read = 0 if before is None else before.fidelity.end
            self.tokens += max(0, trial.fidelity.end - read) * self._context
            self.tokens += trial.fidelity.trained if before is None else 0
            if trial.fidelity.end > read:
                self._known[key] = trial
            self.last_error = trial.error or self.last_error

    def read(self, genotype: Genotype, draw: int, trained: int = 0) -> int:
        """Return how many sequences of a draw a candidate was asked on."""
        trial = self._known.get((genotype, draw, trained))
        return 0 if trial is None else trial.fidelity.end

    def measurement(
        self, genotype: Genotype, draw: int, end: int | None = None, trained: int = 0
    ) -> Measurement | None:
        """Return what was measured of a candidate on a draw; None if nothing, or it failed.

        Args:
            end: Sequences from this one on are left out.
            trained: Tokens that it was trained on before.
        """
        trial = self._known.get((genotype, draw, trained))
        whole = None if trial is None else trial.measurement
        if whole is None or end is None:
            return whole
        return Measurement(whole.kl[:end], whole.nll[:end], whole.tokens)

    def loss(
        self, genotype: Genotype, draw: int, end: int | None = None, trained: int = 0
    ) -> float:
        """Return the loss over what was read of a draw; infinite for a failed candidate."""
        measurement = self.measurement(genotype, draw, end, trained)
        return math.inf if measurement is None else measurement.loss

    def best(
        self, genotypes: Iterable[Genotype], draw: int, end: int, n: int, trained: int = 0
    ) -> list[Genotype]:
        """Return the n candidates of least loss before a sequence, best first, ties by genotype.

        Failed candidates are left out.

        Raises:
            EvaluationError: If all of them failed.
        """
        losses = {genotype: self.loss(genotype, draw, end, trained) for genotype in genotypes}
        ranked = sorted(losses, key=lambda g: (losses[g], g.levels))
        alive = [g for g in ranked[:n] if math.isfinite(losses[g])]
        if not alive:
            raise EvaluationError(
                f"All {len(losses)} candidates of a rung failed; the last: {self.last_error}"
            )
        return alive
