"""Obtains the latency table of a search, and measures winners end to end."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autocompress.evaluators import latency_model
from autocompress.evaluators.base import Engine
from autocompress.evaluators.latency_model import LatencyTable
from autocompress.evaluators.profile import Profiler
from autocompress.evaluators.torch_engine import TorchEngine, fastest_threads
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.intervals import median_interval
from autocompress.pipeline.observer import Observer
from autocompress.spaces.cost import under
from autocompress.spaces.moves import Moves
from autocompress.spec import Workload
from autocompress.trial import Genotype

PROFILE_ROUNDS = 7
SAMPLE_ROUNDS = 2
SAMPLES = 30
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
    shaped: ShapedModel, workload: Workload, seed: int, observer: Observer
) -> LatencyTable:
    """Profile every distinct choice, then fit and check on whole random configurations.

    The configurations are spread over the speedups from 1x to 3x, or to the fastest there is.
    """
    observer.stage("latency profile")
    threads = fastest_threads(shaped.model, workload)
    torch.set_num_threads(threads)
    profiler = Profiler(shaped, workload)
    profile = profiler.profile(PROFILE_ROUNDS, seed, observer.advance)
    engine = TorchEngine(str(shaped.model.device), "auto", threads)
    rough = LatencyTable(
        engine.name,
        engine.version,
        hardware(shaped.model.device, threads),
        threads,
        workload,
        profile,
        (),
        (1.0, 1.0, 1.0),
    )
    space = shaped.space
    cost = rough.cost(space)
    # On a machine that was disturbed the fixed part may come out as nothing.
    fastest = min(3.0, 0.95 * cost.dense / max(cost.least, 1e-9 * cost.dense))
    rng = np.random.default_rng([seed, 11])
    # Every third is held out: both parts spread evenly over the whole range.
    speedups = np.linspace(1.0 + (fastest - 1.0) / SAMPLES, fastest, SAMPLES)
    limits = [under(space, cost, cost.dense / speedup) for speedup in speedups]
    drawn = [Moves(limit, limit.useful_levels()).random(1, rng)[0] for limit in limits]
    candidates = [Genotype(tuple(levels.tolist())) for levels in drawn]
    observer.stage("latency check on whole configurations")
    samples = profiler.samples(candidates, SAMPLE_ROUNDS, seed, observer.advance)
    scales = latency_model.fit(profile, samples, workload, space)
    return LatencyTable(
        rough.engine,
        rough.engine_version,
        rough.hardware,
        threads,
        workload,
        profile,
        tuple(samples),
        scales,
    )


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
