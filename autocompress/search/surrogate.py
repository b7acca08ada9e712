"""A cheap model of the loss, fitted to every measured trial, that ranks what is not measured.

log loss = log of the summed losses of single changes + a weight for each level of each gene +
a weight for each pair of genes in reach of each other, times how far both compress + one constant
for each reading. The weight of a width's level counts whole: dropping a block may change a loss
however little the block lost alone. What is stored otherwise makes small errors, that add up: its
level's weight counts by its share of the summed losses, its part of a pair by the root of that.
Where losses span a wide range, a level's weight may drift along it: what a site adds to a model
that is hardly touched says little of what it adds to one that is half gone.

Bayesian linear regression (Bishop, PRML, section 3.3) with the widths of the priors chosen by the
evidence (equation 3.86) from a small grid.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from autocompress.search.single_changes import Losses, entry_losses
from autocompress.spaces.base import Board, Levels, SearchSpace
from autocompress.trial import Measurement

LEVEL_WIDTHS = (0.05, 0.2, 0.6)
PAIR_WIDTHS = (0.03, 0.15, 0.6)
MISFITS = (0.003, 0.01, 0.04, 0.16)
ALL_PAIRS = 32
"""Spaces of up to so many genes have a weight for every pair; larger ones for neighbours."""
REACH = 6
"""Sites."""
READING_WIDTH = 10.0
LEAST_KL = 1e-9
LEAST_VARIANCE = 1e-8
USUAL_VARIANCE = 0.04
"""Of the log loss on one sequence, taken as long as there is nothing to estimate it from."""

Reading = tuple[int, ...]
"""Draw, sequences read, and where candidates are trained before, on how many tokens."""
Readings = dict[Reading, dict[Levels, Measurement]]
"""Measurements by reading and levels."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was measured of a candidate at one reading.

    Args:
        reading: Equal for what was read alike: its losses compare.
        log_loss: Natural logarithm of the mean KL.
        noise: Variance of that from the choice of sequences.
    """

    levels: Levels
    reading: Reading
    log_loss: float
    noise: float


def observe(readings: Readings, available: int) -> list[Observation]:
    """Return what a surrogate is fitted to; the noise is estimated from all readings together.

    A reading is a draw without replacement of the search text: where it is all of the text, there
    is no noise left (the finite population correction; Cochran, Sampling Techniques, section 2.6).

    Args:
        available: Sequences of the search text.
    """
    variance = _sequence_variance([list(own.values()) for own in readings.values()])
    return [
        Observation(
            levels,
            reading,
            math.log(max(measured.loss, LEAST_KL)),
            variance / len(measured.kl) * max(0.0, 1 - len(measured.kl) / available),
        )
        for reading, own in readings.items()
        for levels, measured in own.items()
    ]


class Surrogate:
    """The fitted model.

    Args:
        losses: Of single changes; a candidate's summed ones are its prior mean. What lost
            infinitely much is taken to lose ten times the most that did not.
        drift: How much a level's weight changes for each e times that the summed losses grow, as
            a share of the weight's width; 0 where all candidates lose about as much.
        base: What every candidate loses beside that.

    Raises:
        ValueError: If there is no observation.
    """

    def __init__(
        self,
        space: SearchSpace,
        losses: Losses,
        observations: Sequence[Observation],
        drift: float = 0.0,
        base: float = 0.0,
    ) -> None:
        if not observations:
            raise ValueError("a surrogate needs an observation")
        self._board = Board(space)
        finite = [_finite(row) for row in losses]
        self._losses = entry_losses(space, finite)
        self._alone = finite
        # Of a width's levels the share of the units that goes; empty for other genes.
        self._gone = [
            1 - np.asarray(gene.units) / max(gene.units, default=1) for gene in space.genes
        ]
        self._is_stored = np.asarray([not gene.units for gene in space.genes])
        self._pairs = _pairs(space.gene_bundles)
        self._offsets = np.cumsum([0, *(len(gene.settings) - 1 for gene in space.genes)])
        readings = {o.reading: None for o in observations}
        self._readings = {reading: index for index, reading in enumerate(readings)}
        self._drift = drift
        self._base = base
        observed = self._summed(np.asarray([o.levels for o in observations]))
        self._centre = float(np.log(observed).mean())
        self._fit(observations)

    @property
    def misfit(self) -> float:
        """Standard deviation of a candidate's own part of the log loss, which no weight holds."""
        return self._misfit

    def mean(self, candidates: np.ndarray) -> np.ndarray:
        """Return the expected log loss, up to one constant.

        Args:
            candidates: (n, genes) levels.
        """
        features, prior = self._features(candidates)
        return np.asarray(prior + features @ self._weights[: features.shape[1]])

    def constant(self, reading: Reading) -> float:
        """Return what a reading adds to every candidate's expected log loss."""
        return float(self._weights[-len(self._readings) :][self._readings[reading]])

    def sample(self, candidates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return (n, candidates) log losses, each row under weights drawn from the posterior."""
        features, prior = self._features(candidates)
        noise = rng.standard_normal((len(self._weights), n))
        weights = self._weights[:, None] + solve_triangular(
            self._factor, noise, lower=True, trans="T"
        )
        return np.asarray((prior[:, None] + features @ weights[: features.shape[1]]).T)

    def predict(self, candidates: np.ndarray, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
        """Return the expected log losses at a reading and their standard deviations, each (n).

        The deviation holds what the weights leave open and what the model misses.
        """
        features, prior = self._features(candidates)
        constants = np.zeros((len(candidates), len(self._readings)))
        constants[:, self._readings[reading]] = 1.0
        design = np.hstack([features, constants])
        spread = solve_triangular(self._factor, design.T, lower=True)  # (weights, n)
        variance = (spread**2).sum(axis=0) + self._misfit**2
        return np.asarray(prior + design @ self._weights), np.sqrt(variance)

    def estimate(self, candidates: np.ndarray) -> np.ndarray:
        """Return the expected log loss, where it was measured including what the model misses."""
        means = self.mean(candidates)
        corrections = [self._own.get(tuple(map(int, row)), 0.0) for row in candidates]
        return np.asarray(means + np.asarray(corrections))

    def _fit(self, observations: Sequence[Observation]) -> None:
        candidates = np.asarray([o.levels for o in observations])
        features, prior = self._features(candidates)
        constants = np.zeros((len(observations), len(self._readings)))
        for row, observation in enumerate(observations):
            constants[row, self._readings[observation.reading]] = 1.0
        design = np.hstack([features, constants])
        target = np.asarray([o.log_loss for o in observations]) - prior
        noise = np.asarray([o.noise for o in observations])
        best = -math.inf
        for misfit in MISFITS:
            precision = 1.0 / (noise + misfit**2)
            gram = (design.T * precision) @ design
            against = design.T @ (precision * target)
            fixed = float((precision * target**2).sum() - np.log(precision).sum())
            for widths in itertools.product(LEVEL_WIDTHS, PAIR_WIDTHS):
                variances = self._variances(*widths)
                factor = cholesky(gram + np.diag(1.0 / variances), lower=True)
                weights = cho_solve((factor, True), against)
                evidence = -0.5 * (
                    fixed
                    - against @ weights
                    + 2 * np.log(np.diag(factor)).sum()
                    + np.log(variances).sum()
                )
                if evidence > best:
                    best = evidence
                    self._weights, self._factor, self._misfit = weights, factor, misfit
        self._own = _own_parts(observations, target - design @ self._weights, self._misfit)

    def _features(self, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the features (n, weights of levels and pairs) and the prior means (n)."""
        n = len(candidates)
        summed = self._summed(candidates)
        prior = np.log(summed)
        parts = np.zeros(candidates.shape)  # how much of a level counts
        amounts = np.zeros(candidates.shape)  # how far a level compresses
        for gene, levels in enumerate(candidates.T):
            if self._is_stored[gene]:
                parts[:, gene] = np.minimum(self._alone[gene][levels] / summed, 1.0)
                amounts[:, gene] = np.sqrt(parts[:, gene])
            else:
                parts[:, gene] = 1.0
                amounts[:, gene] = self._gone[gene][levels]
        by_level = np.zeros((n, self._offsets[-1]))
        rows, genes = np.nonzero(candidates)
        by_level[rows, self._offsets[genes] + candidates[rows, genes] - 1] = parts[rows, genes]
        first, second = self._pairs
        products = amounts[:, first] * amounts[:, second]
        along = [by_level * (prior - self._centre)[:, None]] if self._drift else []
        return np.hstack([by_level, products, *along]), prior

    def _summed(self, candidates: np.ndarray) -> np.ndarray:
        """Return the summed losses of single changes and what all lose beside, (n)."""
        entries = self._board.entries(candidates)
        summed = np.sum([own[entries[:, menu]] for menu, own in enumerate(self._losses)], axis=0)
        return np.asarray(np.maximum(self._base + summed, 1e-12))

    def _variances(self, level_width: float, pair_width: float) -> np.ndarray:
        first, second = self._pairs
        pairs = pair_width**2 / (second - first)
        n_along = self._offsets[-1] if self._drift else 0
        return np.concatenate(
            [
                np.full(self._offsets[-1], level_width**2),
                pairs,
                np.full(n_along, (self._drift * level_width) ** 2),
                np.full(len(self._readings), READING_WIDTH**2),
            ]
        )


def _own_parts(
    observations: Sequence[Observation], residuals: np.ndarray, misfit: float
) -> dict[Levels, float]:
    """Return each candidate's own part of what the model misses: residuals shrunk by noise."""
    sums: dict[Levels, tuple[float, float]] = {}
    for observation, residual in zip(observations, residuals, strict=True):
        weight, total = sums.get(observation.levels, (0.0, 0.0))
        precision = 1.0 / max(observation.noise, 1e-12)
        sums[observation.levels] = (weight + precision, total + precision * float(residual))
    return {levels: total / (weight + 1.0 / misfit**2) for levels, (weight, total) in sums.items()}


def _sequence_variance(readings: Sequence[Sequence[Measurement]]) -> float:
    """Return how much the log loss on one sequence varies, beside candidate and sequence.

    The interaction variance of a two-way layout, pooled over readings of several candidates.
    """
    squares, freedom = 0.0, 0
    for reading in readings:
        table = np.log(np.maximum([measured.kl for measured in reading], LEAST_KL))
        rows, columns = table.shape
        if rows > 1 and columns > 1:
            table = table - table.mean(axis=1, keepdims=True)
            table = table - table.mean(axis=0, keepdims=True)
            squares += float((table**2).sum())
            freedom += (rows - 1) * (columns - 1)
    return max(squares / freedom, LEAST_VARIANCE) if freedom else USUAL_VARIANCE


def _pairs(gene_bundles: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of genes that have a weight."""
    n = len(gene_bundles)
    reach = n if n <= ALL_PAIRS else REACH
    pairs = [
        (i, j)
        for i in range(n)
        for j in range(i + 1, n)
        if gene_bundles[j] - gene_bundles[i] <= reach
    ]
    both = np.asarray(pairs, dtype=int).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _finite(row: Sequence[float]) -> np.ndarray:
    """Replace what is infinite by ten times the most that is not."""
    values = np.asarray(row, dtype=float)
    most = values[np.isfinite(values)].max(initial=0.0)
    return np.where(np.isfinite(values), values, 10 * most + 1e-6)
