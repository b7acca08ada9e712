"""Times two ways of doing one thing in alternate rounds, and compares their medians."""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import bootstrap


def alternate(
    first: Callable[[], object], second: Callable[[], object], rounds: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of both ways; who begins changes from round to round."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            started = time.perf_counter()
            (first, second)[which]()
            seconds[which].append(time.perf_counter() - started)
    return seconds


def compare(slower: Sequence[float], faster: Sequence[float], seed: int) -> dict[str, object]:
    """Return the ratio of medians with its 95 % bootstrap interval over rounds, kept in pairs."""
    found = bootstrap(
        (np.asarray(slower), np.asarray(faster)),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return {
        "ratio": statistics.median(slower) / statistics.median(faster),
        "interval": [float(found.low), float(found.high)],
    }


def median_interval(values: np.ndarray, seed: int) -> tuple[float, tuple[float, float]]:
    """Return the median of repeats and its 95 % bootstrap interval."""
    interval = bootstrap(
        (values,), np.median, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(np.median(values)), (float(interval.low), float(interval.high))
