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


def cuts(n: int, processes: int) -> tuple[int, ...]:
    """Return where n items are cut into shares of processes, both ends too; none is empty."""
    parts = min(n, processes)
    return tuple(n * at // parts for at in range(parts + 1))


def ratio_over_processes(
    above: Sequence[np.ndarray], below: Sequence[np.ndarray], processes: int
) -> tuple[float, tuple[float, float]]:
    """Return the product of sums above over that of sums below, and its interval over processes.

    Of the logarithm, by the delete-a-group jackknife (Kott, Journal of Official Statistics 17,
    2001) with Student's t. One process shows nothing of how processes differ: its interval holds
    everything.

    Args:
        above: (n,) each, over the same n items, of which each process had a share as `cuts` deals
            them; `below` too.
    """
    columns = np.stack([*above, *below])  # (columns, items)
    edges = cuts(columns.shape[1], processes)
    parts = np.add.reduceat(columns, edges[:-1], axis=1)  # (columns, processes)
    whole = parts.sum(axis=1, keepdims=True)
    # Where nothing is left of a sum the logarithm is one of almost nothing: the interval is wide.
    logs = np.log(np.maximum(np.concatenate([whole, whole - parts], axis=1), 1 / MOST))
    signs = np.repeat([1, -1], [len(above), len(below)])
    ratio, *others = signs @ logs
    n = len(others)
    if n < 2:
        return _exponential(ratio), (0.0, MOST)
    error = np.sqrt((n - 1) * np.var(others))
    low, high = stats.t.interval(CONFIDENCE, n - 1, loc=ratio, scale=max(error, 1e-12))
    return _exponential(ratio), (_exponential(low), _exponential(high))


def _exponential(value: float) -> float:
    return float(np.exp(np.clip(value, -np.log(MOST), np.log(MOST))))


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
