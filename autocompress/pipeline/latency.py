"""Obtains the latency table of a search, and measures winners end to end."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autocompress.evaluators import latency_model
from autocompress.evaluators.base import Engine
from autocompress.evaluators.latency_model import LatencyTable
from autocompress.evaluators.latency_rows import Sample
from autocompress.evaluators.profile import Stopwatch, measure_profile, measure_samples
from autocompress.pipeline.intervals import median_interval
from autocompress.pipeline.observer import Observer
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import under
from autocompress.spaces.moves import Moves
from autocompress.spec import Workload
from autocompress.trial import Genotype

SAMPLES = 30
# Of the way from dense to the fastest: nearer to it, nothing is left to draw from.
NEAREST = 0.95
REPEATS = 25
MOST_REPEATS = 100


@dataclass(frozen=True, slots=True)
class MeasuredSpeedup:
    """Dense milliseconds over compressed, of one pair of checkpoints run in turn.

    Args:
        interval: 95 % bootstrap interval of the median over pairs.
        milliseconds: Medians of the whole workload: dense, compressed.
    """

    median: float
    interval: tuple[float, float]
    milliseconds: tuple[float, float]


def measure_table(
    stopwatch: Stopwatch,
    engine: Engine,
    machine: str,
    space: SearchSpace,
    workload: Workload,
    seed: int,
    observer: Observer,
) -> LatencyTable:
    """Profile every distinct change, then fit and check on whole random configurations.

    The configurations are spread over the speedups from 1x to 3x, or to the fastest there is.

    Args:
        machine: What the engine runs on, in words.
    """
    observer.stage("latency profile")
    profile = measure_profile(stopwatch, space, stopwatch.rounds, seed, observer.advance)

    def table(samples: Sequence[Sample], scales: tuple[float, float, float]) -> LatencyTable:
        return LatencyTable(
            engine.name,
            engine.version,
            machine,
            engine.threads,
            workload,
            profile,
            tuple(samples),
            scales,
        )

    cost = table((), (1.0, 1.0, 1.0)).cost(space)
    # On a machine that was disturbed the fixed part may come out as nothing.
    most = cost.dense / max(cost.least, 1e-9 * cost.dense)
    fastest = min(3.0, 1.0 + NEAREST * (most - 1.0))
    rng = np.random.default_rng([seed, 11])
    # Every third is held out: both parts spread evenly over the whole range.
    speedups = np.linspace(1.0 + (fastest - 1.0) / SAMPLES, fastest, SAMPLES)
    limits = [under(space, cost, cost.dense / speedup) for speedup in speedups]
    drawn = [Moves(limit, limit.useful_levels()).random(1, rng)[0] for limit in limits]
    candidates = [Genotype(tuple(levels.tolist())) for levels in drawn]
    observer.stage("latency check on whole configurations")
    samples = measure_samples(
        stopwatch, space, candidates, stopwatch.rounds // 3, seed, observer.advance
    )
    return table(samples, latency_model.fit(profile, samples, workload, space))


def measure_speedup(
    engine: Engine,
    dense: Path,
    compressed: Path,
    workload: Workload,
    seed: int,
    target: float | None = None,
) -> MeasuredSpeedup:
    """Time two checkpoints end to end, in turn, in processes of their own.

    Args:
        target: More repeats are added, up to `MOST_REPEATS`, while the median reaches it and its
            interval does not.
    """
    before: list[float] = []
    after: list[float] = []
    while True:
        first, second = engine.latency([dense, compressed], workload, REPEATS)
        before += first.total
        after += second.total
        median, interval = median_interval(np.asarray(before) / np.asarray(after), seed)
        is_open = target is not None and interval[0] < target <= median
        if not is_open or len(before) >= MOST_REPEATS:
            return MeasuredSpeedup(
                median, interval, (float(np.median(before)), float(np.median(after)))
            )


def hardware(device: torch.device, threads: int) -> str:
    """Name what the model runs on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {threads} of {os.cpu_count()} cores"
