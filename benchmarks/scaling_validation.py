"""Holds the simulated clock against real workers on the same batches."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from autocompress.evaluators.subprocess_call import nobody
from autocompress.pipeline.prepared import Prepared
from autocompress.search.base import Batch
from autocompress.search.driver import SearchDriver
from autocompress.search.shards import Cut
from autocompress.store.study_store import create_study
from autocompress.trial import Fidelity, Split
from autocompress.workers.base import Shard
from autocompress.workers.local_pool import LocalPool
from benchmarks.laboratory import workers
from benchmarks.scaling_batches import shards_of

Simulate = Callable[[list[list[Shard]], int], float]
"""Seconds that batches of shards take so many workers, by the simulated clock."""


def compare_with_real(
    prepared: Prepared,
    batches: Sequence[Batch],
    ways: Sequence[tuple[Cut, int]],
    simulate: Simulate,
    rounds: int,
) -> dict[str, object]:
    """Return real and simulated seconds of each cut and number of workers.

    Two busy cores of one machine are slower than one: `contention` is by how much, measured on two
    workers that do the same at once, and what the second comparison of two workers allows for.
    """
    contention = slower_together(prepared, batches[0], rounds)
    rows = []
    for how, n in ways:
        real = really(prepared, batches, how, n)
        simulated = simulate(shards_of(batches, how), n)
        together = simulated * (contention if n > 1 else 1.0)
        rows.append(
            {
                "shards": how.shards,
                "workers": n,
                "real": real,
                "simulated": simulated,
                "error": simulated / real - 1,
                "error_with_contention": together / real - 1,
            }
        )
        print(rows[-1], flush=True)
    return {"contention": contention, "batches": len(batches), "rows": rows}


def really(prepared: Prepared, batches: Sequence[Batch], how: Cut, n: int) -> float:
    """Return the seconds of a driver with a store of its own and n warm workers."""
    with workers(prepared, n) as pool, tempfile.TemporaryDirectory() as folder:
        warm_up(pool, batches)
        store = create_study(f"sqlite:///{Path(folder)}/studies.db", "study", {})
        driver = SearchDriver(pool, store, nobody, how)
        started = time.perf_counter()
        for batch in batches:
            driver.measure(batch)
        seconds = time.perf_counter() - started
        store.close()
    return seconds


def slower_together(prepared: Prepared, batch: Batch, rounds: int) -> float:
    """Return how much longer a shard takes two workers, each with one of its own, than one."""
    shard = Shard(batch.candidates[:16], Fidelity(Split.SEARCH, batch.fidelity.draw, 0, 4))
    medians = []
    for n in (1, 2):
        with workers(prepared, n) as pool:
            seconds = []
            for _ in range(rounds + 1):
                started = time.perf_counter()
                measured(pool, [shard] * n)
                seconds.append(time.perf_counter() - started)
        medians.append(statistics.median(seconds[1:]))  # In the first all is read for once.
    return medians[1] / medians[0]


def warm_up(pool: LocalPool, batches: Sequence[Batch]) -> None:
    """Let every worker load the model and read the levels, on text that is not timed."""
    everyone = tuple(dict.fromkeys(g for batch in batches for g in batch.candidates))
    measured(pool, [Shard(everyone, Fidelity(Split.SELECTION, 0, 0, 1))] * pool.n_workers)


def measured(pool: LocalPool, shards: Sequence[Shard]) -> None:
    """Measure shards and forget their losses."""
    for _, result in pool.measure(shards):
        if isinstance(result, Exception):
            raise result
