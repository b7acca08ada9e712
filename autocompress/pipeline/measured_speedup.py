"""What timing two checkpoints in turn says; loads no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MeasuredSpeedup:
    """Dense milliseconds over compressed, of one pair of checkpoints run in turn.

    Args:
        interval: 95 % bootstrap interval of the median over pairs.
        milliseconds: Medians of what counts of a mean request: dense, compressed.
        compressed_interval: 95 % interval of the latter.
        shares: Of each workload the compressed time over the dense one, medians.
    """

    median: float
    interval: tuple[float, float]
    milliseconds: tuple[float, float]
    compressed_interval: tuple[float, float]
    shares: tuple[float, ...]
