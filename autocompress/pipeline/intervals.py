"""The 95 % intervals that reports and judgements state."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the t-interval of the mean of a loss, or of a paired difference, over sequences."""
    if not values.std() > 0:
        return (float(values.mean()), float(values.mean()))
    error = values.std(ddof=1) / np.sqrt(len(values))
    interval = stats.t.interval(CONFIDENCE, len(values) - 1, loc=values.mean(), scale=error)
    return (float(interval[0]), float(interval[1]))


def median_interval(values: np.ndarray, seed: int) -> tuple[float, tuple[float, float]]:
    """Return the median of repeats and its bootstrap interval."""
    interval = stats.bootstrap(
        (values,), np.median, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(np.median(values)), (float(interval.low), float(interval.high))
