"""Efficiency against workers: the batches of a search in several cuts, on a simulated clock."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.search.shards import Cut
from autocompress.workers.base import Shard
from benchmarks.scaling_batches import Asked, shards_of
from benchmarks.scaling_costs import CostModel, Shape, count, rows_of
from benchmarks.scaling_overheads import PoolTimes, driver_and_store
from benchmarks.simulated_clock import Clockwork, SimulatedWorkers, TimedJob

WORKERS = (1, 2, 4, 8, 16, 32, 64)
CUTS = (16, 32, 64, 128)
WHOLE = Cut(1)


def jobs_of(shape: Shape, model: CostModel, asked: list[list[Shard]]) -> list[list[TimedJob]]:
    """Return what the simulated workers are given."""
    return [
        [TimedJob(model.of(count(shape, s, 0)), rows_of(shape, s)) for s in own] for own in asked
    ]


def played(
    jobs: Sequence[Sequence[TimedJob]], thought: Sequence[float], n: int, how: Clockwork
) -> SimulatedWorkers:
    """Return the workers when all batches are done.

    Args:
        thought: Seconds of the strategy before each batch.
    """
    crew = SimulatedWorkers(n, how)
    for own, seconds in zip(jobs, thought, strict=True):
        crew.wait(seconds)
        crew.run(own)
    return crew


@dataclass(frozen=True, slots=True)
class Best:
    """Seconds of one worker in the cut that is best for it.

    Args:
        generations: From the end of the warm start on.
        whole: With the warm start.
        with_strategy: Of the generations, and of the strategy meanwhile.
    """

    generations: float
    whole: float
    with_strategy: float


def since(crew: SimulatedWorkers, warm_start: int) -> float:
    """Return the seconds from the end of the warm start, which has so many batches."""
    return crew.clock - crew.ends[warm_start - 1]


def curve(
    jobs: Sequence[Sequence[TimedJob]],
    thought: Sequence[float],
    how: Clockwork,
    best: Best,
    warm_start: int,
) -> list[dict[str, float]]:
    """Return a row for each number of workers."""
    nothing = [0.0] * len(thought)
    alone = since(played(jobs, nothing, 1, how), warm_start)
    rows = []
    for n in WORKERS:
        crew = played(jobs, nothing, n, how)
        with_strategy = since(played(jobs, thought, n, how), warm_start)
        seconds = since(crew, warm_start)
        rows.append(
            {
                "workers": n,
                "seconds": seconds,
                "efficiency": best.generations / (n * seconds),
                "efficiency_of_this_cut": alone / (n * seconds),
                "efficiency_with_warm_start": best.whole / (n * crew.clock),
                "efficiency_with_strategy": best.with_strategy / (n * with_strategy),
                "worked": crew.busy,
                "for_the_dense_model": crew.prepared,
                "idle": 1 - crew.busy / (n * crew.clock),
            }
        )
    return rows


def clockwork_of(
    model: CostModel, shape: Shape, driver: dict[str, dict[str, float]], way: PoolTimes
) -> Clockwork:
    """Charge each job with driver, SQLite and the way to a local worker and back, one by one."""
    per_job = driver["sqlite"]["ms_per_shard"] + way.local.ms_per_shard
    return Clockwork(model.seconds.teachers, shape.teachers, per_job / 1000)


def curves(
    shape: Shape,
    model: CostModel,
    asked: Sequence[Asked],
    warm_start: int,
    least_sequences: int,
    way: PoolTimes,
) -> list[dict[str, object]]:
    """Return for each cut, the whole batch first, its overheads and its rows."""
    batches = [own.batch for own in asked]
    thought = [own.strategy_seconds for own in asked]
    nothing = [0.0] * len(thought)
    postgres = os.environ.get("AUTOCOMPRESS_TEST_POSTGRES", "")
    parts = []
    for how in (WHOLE, *(Cut(shards, least_sequences) for shards in CUTS)):
        driver = driver_and_store(batches, how, postgres)
        clockwork = clockwork_of(model, shape, driver, way)
        parts.append((how, driver, clockwork, jobs_of(shape, model, shards_of(batches, how))))
    alone = [played(jobs, nothing, 1, clockwork) for _, _, clockwork, jobs in parts]
    thinking = [played(jobs, thought, 1, clockwork) for _, _, clockwork, jobs in parts]
    best = Best(
        min(since(crew, warm_start) for crew in alone),
        min(crew.clock for crew in alone),
        min(since(crew, warm_start) for crew in thinking),
    )
    return [
        {
            "shards": how.shards,
            "overheads": driver,
            "seconds_per_job_in_driver": clockwork.per_job,
            "seconds_of_longest_job": max(job.seconds for own in jobs for job in own),
            "curve": curve(jobs, thought, clockwork, best, warm_start),
        }
        for how, driver, clockwork, jobs in parts
    ]
