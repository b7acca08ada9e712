"""Measures what a model loses when a symbolic metric prunes it, at several sparsities at once."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from autocompress.errors import EvaluationError
from autocompress.evaluators.population import EvaluatorLimits, PopulationEvaluator
from autocompress.models.surgery import ShapedModel
from autocompress.operators.expressions import SymbolicMetric
from autocompress.operators.masked_weights import MaskedWeights
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.settings import WeightSetting
from autocompress.trial import Fidelity, Genotype, Measurement, Split


class MetricEvaluator:
    """Prunes one model by metric after metric, and reads text with it.

    The dense model's statistics, its gradients and its predictions are computed once.

    Args:
        shaped: Whose levels come from `weights`.
        sequences: For each split, (sequences, T) token ids.
        seed: Shuffles the draws.
    """

    def __init__(
        self,
        shaped: ShapedModel,
        weights: MaskedWeights,
        sequences: Mapping[Split, np.ndarray],
        seed: int,
        limits: EvaluatorLimits,
    ) -> None:
        self._shaped = shaped
        self._weights = weights
        self._population = PopulationEvaluator(shaped, sequences, seed, limits)

    def measure(
        self, expression: str, settings: Sequence[WeightSetting], fidelity: Fidelity
    ) -> list[Measurement]:
        """Return what each setting of all layers loses on the sequences of a fidelity.

        Raises:
            SpecError: If the metric is not a number for some weight.
            EvaluationError: If a loss is not finite, or memory runs out.
        """
        self._weights.use(SymbolicMetric(expression), self._shaped)
        genotypes = [sparse(self._shaped.space, setting) for setting in settings]
        found = self._population.measure(genotypes, fidelity)
        if not all(own.is_finite for own in found):
            raise EvaluationError(f"The loss of {expression} is not finite.")
        return found

    def shared(self, first: str, second: str, setting: WeightSetting) -> float:
        """Return the share of the weights that one metric keeps which another keeps too."""
        with torch.inference_mode():
            both = [self._weights.kept(SymbolicMetric(own), setting) for own in (first, second)]
            common = sum(int((a & b).sum()) for a, b in zip(*both, strict=True))
            return common / sum(int(own.sum()) for own in both[0])


def sparse(space: SearchSpace, setting: WeightSetting) -> Genotype:
    """Return the candidate that stores all linear groups alike."""
    return Genotype(tuple(gene.settings.index(setting) for gene in space.genes))
