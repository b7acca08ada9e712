"""The 95 % intervals that reports and judgements state."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
MOST = 1e30
"""Stands for a ratio over nothing: reports hold no infinity, nor does Optuna."""


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the t-interval of the mean of a loss, or of a paired difference, over sequences."""
    if not values.std() > 0:
        return (float(values.mean()), float(values.mean()))
    error = values.std(ddof=1) / np.sqrt(len(values))
    interval = stats.t.interval(CONFIDENCE, len(values) - 1, loc=values.mean(), scale=error)
    return (float(interval[0]), float(interval[1]))


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's interval of a share, of which a sample of n holds some hits."""
    interval = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return (float(interval.low), float(interval.high))


def process_interval(medians: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the geometric mean of what several processes found, and its t-interval.

    Args:
        medians: Over the repeats of each process, all above 0. Between processes they differ by
            what no repeat within one averages out.
    """
    logs = np.log(medians)
    low, high = mean_interval(logs)
    return float(np.exp(logs.mean())), (float(np.exp(low)), float(np.exp(high)))


def ratio_interval(
    above: Sequence[np.ndarray], below: Sequence[np.ndarray], seed: int
) -> tuple[float, tuple[float, float]]:
    """Return the product of sums above over that of sums below, and its bootstrap interval.

    Args:
        above: (n,) each, over the same n items, which are drawn anew together; `below` too.
    """
    columns = np.stack([*above, *below])  # (columns, items)
    n_above = len(above)

    def ratio(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = sums[:n_above].prod(axis=0) / sums[n_above:].prod(axis=0)
        finite: np.ndarray = np.nan_to_num(found, nan=MOST, posinf=MOST)
        return finite

    rng = np.random.default_rng(seed)
    n = columns.shape[1]
    drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)  # (resamples, items)
    found = ratio(columns @ drawn.T)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(found, [tail, 100 - tail])
    return float(ratio(columns.sum(axis=1))), (float(low), float(high))
