"""What a trial costs beside its measuring: driver, store, and the ways to a worker and back."""

import contextlib
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.evaluators.subprocess_call import nobody
from autocompress.search.base import Batch
from autocompress.search.driver import SearchDriver
from autocompress.search.shards import Cut
from autocompress.store.study_store import create_study
from autocompress.workers.base import Shard, WorkerPool
from autocompress.workers.local_pool import LocalPool
from autocompress.workers.ray_pool import RayPool
from benchmarks.null_session import NullFactory, NullPool
from benchmarks.stopwatch import STORE, watch_store


def driver_and_store(
    batches: Sequence[Batch], how: Cut, postgres: str
) -> dict[str, dict[str, float]]:
    """Return what the driver and each kind of store take of a search whose workers take nothing.

    Args:
        postgres: A URL, or empty where there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        urls = {"sqlite": f"sqlite:///{folder}/studies.db"}
        if postgres:
            urls["postgresql"] = postgres
        return {name: _of_store(url, batches, how) for name, url in urls.items()}


def _of_store(url: str, batches: Sequence[Batch], how: Cut) -> dict[str, float]:
    pool = NullPool()
    store = create_study(url, f"overheads-{uuid.uuid4().hex}", {})
    with contextlib.closing(store):
        driver = SearchDriver(pool, store, nobody, how)
        with watch_store() as seconds:
            started = time.perf_counter()
            for batch in batches:
                driver.measure(batch)
            whole = time.perf_counter() - started
        store.discard()
    trials = sum(len(batch.candidates) for batch in batches)
    shards = sum(map(len, pool.asked))
    records = sum(len(shard.genotypes) for asked in pool.asked for shard in asked)
    return {
        "trials": trials,
        "shards": shards,
        "records": records,
        "driver_ms_per_trial": 1000 * (whole - seconds[STORE]) / trials,
        "store_ms_per_trial": 1000 * seconds[STORE] / trials,
        "ms_per_shard": 1000 * whole / shards,
    }


@dataclass(frozen=True, slots=True)
class Way:
    """The way to one worker and back, for a worker that answers at once: medians over shards."""

    ms_per_shard: float
    p95_ms_per_shard: float
    ms_per_trial: float


@dataclass(frozen=True, slots=True)
class PoolTimes:
    """Both pools; `candidates` is the mean of a shard."""

    shards: int
    rounds: int
    candidates: float
    local: Way
    ray: Way
    ray_over_local_ms_per_shard: float
    ray_over_local_ms_per_trial: float


def pools(asked: Sequence[Sequence[Shard]], rounds: int) -> PoolTimes:
    """Send all shards of some batches to a worker of each kind, again and again."""
    shards = [shard for own in asked for shard in own]
    candidates = statistics.mean(len(shard.genotypes) for shard in shards)
    local = _way(LocalPool(NullFactory(), 1), shards, rounds, candidates)
    ray = _way(RayPool(NullFactory(), 1, None), shards, rounds, candidates)
    more = ray.ms_per_shard - local.ms_per_shard
    return PoolTimes(len(shards), rounds, candidates, local, ray, more, more / candidates)


def _way(pool: WorkerPool, shards: Sequence[Shard], rounds: int, candidates: float) -> Way:
    with contextlib.closing(pool):
        _intervals(pool, shards[:2])  # The worker starts.
        intervals = [interval for _ in range(rounds) for interval in _intervals(pool, shards)]
    median = 1000 * statistics.median(intervals)
    p95 = 1000 * statistics.quantiles(intervals, n=20)[-1]
    return Way(median, p95, median / candidates)


def _intervals(pool: WorkerPool, shards: Sequence[Shard]) -> list[float]:
    """Return the seconds from each answer to the next."""
    before = time.perf_counter()
    found = []
    for _, result in pool.measure(shards):
        if isinstance(result, Exception):
            raise result
        now = time.perf_counter()
        found.append(now - before)
        before = now
    return found
