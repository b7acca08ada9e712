"""Obtains the latency table of a search, and measures winners end to end."""

import dataclasses
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from autocompress.evaluators import latency_model
from autocompress.evaluators.base import Engine, Timer
from autocompress.evaluators.latency_model import LatencyTable, LatencyTables
from autocompress.evaluators.latency_rows import Sample, Spent
from autocompress.evaluators.profile import Stopwatch, measure_profile, measure_samples
from autocompress.pipeline.intervals import process_interval
from autocompress.pipeline.measured_speedup import MeasuredSpeedup, Pair
from autocompress.pipeline.observer import Observer
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import AdditiveCost, under
from autocompress.spaces.moves import Moves
from autocompress.spec import TIMING_PROCESSES
from autocompress.spec_rules import USUAL_EMBEDDINGS
from autocompress.trial import Genotype
from autocompress.workload import Mix, Workload

SAMPLES = 30
# Of the way from dense to the fastest: nearer to it, nothing is left to draw from.
NEAREST = 0.95
REPEATS = 5
"""In each process."""
ROUNDS = 3
"""Of processes, at most, where it is open whether a target is met."""


def measure_tables(
    stopwatches: Sequence[Stopwatch],
    engine: Engine,
    machine: str,
    space: SearchSpace,
    mix: Mix,
    seed: int,
    observer: Observer,
    ratios: Sequence[Spent] = (),
    embeddings: str = USUAL_EMBEDDINGS,
) -> LatencyTables:
    """Profile every distinct change, then fit and check on whole random configurations.

    The configurations are spread over the speedups from 1x to 3x, or to the fastest there is.

    Args:
        stopwatches: One for each workload.
        machine: What the engine runs on, in words.
        ratios: Of the dense model's time to that of what changes are timed beside, one for each
            workload; none where that is the dense model.
        embeddings: In which type candidates store token embedding and head.
    """
    timed = list(zip(mix.workloads, stopwatches, strict=True))
    profiles = []
    for number, (workload, stopwatch) in enumerate(timed):
        observer.stage(_stage("latency profile", workload, mix))
        found = measure_profile(stopwatch, space, stopwatch.rounds, seed, observer.advance)
        profiles.append(found.beside(ratios[number]) if ratios else found)

    def table(
        number: int, samples: Sequence[Sample], scales: tuple[float, float, float]
    ) -> LatencyTable:
        return LatencyTable(
            engine.name,
            engine.version,
            machine,
            engine.threads,
            mix.workloads[number],
            profiles[number],
            tuple(samples),
            scales,
            embeddings=embeddings,
        )

    unfitted = tuple(table(number, (), (1.0, 1.0, 1.0)) for number in range(len(timed)))
    candidates = spread(space, LatencyTables(mix, unfitted).cost(space), SAMPLES, seed)
    tables = []
    for number, (workload, stopwatch) in enumerate(timed):
        observer.stage(_stage("latency check on whole configurations", workload, mix))
        samples = measure_samples(
            stopwatch,
            space,
            candidates,
            profiles[number].reference,
            stopwatch.rounds // 3,
            seed,
            observer.advance,
        )
        scales = latency_model.fit(profiles[number], samples, workload, space)
        tables.append(table(number, samples, scales))
    return LatencyTables(mix, tuple(tables))


def spread(space: SearchSpace, cost: AdditiveCost, n: int, seed: int) -> list[Genotype]:
    """Draw n configurations of evenly spaced costs, from 1x to 3x or to the fastest there is.

    The speedups are those over what a search begins with, below which nothing could be drawn.
    """
    # On a machine that was disturbed the fixed part may come out as nothing.
    most = cost.start / max(cost.least, 1e-9 * cost.start)
    fastest = min(3.0, 1.0 + NEAREST * (most - 1.0))
    rng = np.random.default_rng([seed, 11])
    # Every third is held out: both parts spread evenly over the whole range.
    speedups = np.linspace(1.0 + (fastest - 1.0) / n, fastest, n)
    # A table is checked on all levels, also on those that it hardly tells apart.
    exact = dataclasses.replace(cost, resolution=0.0)
    limits = [under(space, exact, cost.start / speedup) for speedup in speedups]
    drawn = [Moves(limit, limit.useful_levels()).random(1, rng)[0] for limit in limits]
    return [_with_a_site(space, Genotype(tuple(levels.tolist()))) for levels in drawn]


def _with_a_site(space: SearchSpace, genotype: Genotype) -> Genotype:
    """Return a configuration that has anything left: nothing is no model that could be timed."""
    if not all(choice.is_dropped for choice in space.choices(genotype)):
        return genotype
    return space.genotype([0, *space.entries(genotype)[1:]])


def _stage(name: str, workload: Workload, mix: Mix) -> str:
    return name if len(mix.parts) == 1 else f"{name}, {workload}"


def measure_speedup(
    engine: Timer,
    dense: Path,
    compressed: Path,
    mix: Mix,
    is_open: Callable[[MeasuredSpeedup], bool] = lambda _: False,
    processes: int = TIMING_PROCESSES,
) -> MeasuredSpeedup:
    """Time two checkpoints end to end, in turn, in processes of their own.

    Args:
        is_open: Whether as many processes more are wanted; in `ROUNDS` rounds at most.
    """
    # For each process, milliseconds of what counts, of first and of further tokens:
    # (3, 2, workloads, repeats).
    told: list[list[object]] = []
    while True:
        for _ in range(processes):
            runs = [engine.latency([dense, compressed], own, REPEATS) for own in mix.workloads]
            pairs = list(zip(mix.workloads, runs, strict=True))
            told.append(
                [
                    [[own[side].times(workload) for workload, own in pairs] for side in (0, 1)],
                    [[own[side].prefill for own in runs] for side in (0, 1)],
                    [[own[side].decode for own in runs] for side in (0, 1)],
                ]
            )
        # (3, 2, workloads, processes, repeats).
        (theirs, ours), *phases = np.moveaxis(np.asarray(told, dtype=float), 0, 3)
        before, after = (np.tensordot(mix.shares, times, 1) for times in (theirs, ours))
        speedup, interval = process_interval(np.median(before / after, 1))
        taken, taken_interval = process_interval(np.median(after, 1))
        found = MeasuredSpeedup(
            speedup,
            interval,
            (float(np.median(before)), taken),
            taken_interval,
            tuple(np.median(ours / theirs, (1, 2)).tolist()),
            *(_medians(phase) for phase in phases),
        )
        if len(told) >= ROUNDS * processes or not is_open(found):
            return found


def _medians(phase: np.ndarray) -> tuple[Pair, ...]:
    """Return what a phase takes of each workload, of (2, workloads, ...) milliseconds."""
    medians = np.median(phase.reshape(*phase.shape[:2], -1), 2)
    return tuple((dense, compressed) for dense, compressed in medians.T.tolist())


def engine_device(engine: str, device: torch.device) -> torch.device:
    """Return what an engine, as `--engine` names it, runs on where losses are measured elsewhere.

    llama.cpp runs on the CPU: what it takes there is never told of a GPU, nor reused beside one.
    """
    return torch.device("cpu") if engine == "llama.cpp" else device


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
    used = f"{threads} of {os.cpu_count()}" if threads else f"{os.cpu_count()}"
    return f"{model}, {used} cores"
