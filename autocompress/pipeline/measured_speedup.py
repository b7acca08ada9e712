"""What timing two checkpoints in turn says; loads no torch."""

from dataclasses import dataclass

Pair = tuple[float, float]
"""Milliseconds: dense, compressed."""


@dataclass(frozen=True, slots=True)
class MeasuredSpeedup:
    """Dense milliseconds over compressed, of one pair of checkpoints run in turn.

    Args:
        median: Of the runs of a process; of those of several processes the geometric mean.
        interval: 95 % interval of that, over processes.
        milliseconds: Medians of what counts of a mean request: dense, compressed.
        compressed_interval: 95 % interval of the latter.
        shares: Of each workload the compressed time over the dense one, medians.
        first_token: Of each workload the medians until the first token; empty if not told.
        further_token: Of each workload those of a further token, if it generates one.
    """

    median: float
    interval: tuple[float, float]
    milliseconds: Pair
    compressed_interval: tuple[float, float]
    shares: tuple[float, ...]
    first_token: tuple[Pair, ...] = ()
    further_token: tuple[Pair, ...] = ()
