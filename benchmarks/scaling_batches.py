"""The batches of a real search, and the shards that any cut makes of them."""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.evaluators.subprocess_call import nobody
from autocompress.search.base import Batch, Standing, Strategy, Task
from autocompress.search.driver import SearchDriver
from autocompress.search.evolve import EvolveSettings, EvolveStrategy, settings_for
from autocompress.search.shards import Cut
from autocompress.search.steps import Rung
from autocompress.store.study_store import create_study
from autocompress.trial import Genotype, Split, Trial
from autocompress.workers.base import Shard
from benchmarks.generation import half_the_time
from benchmarks.laboratory import Laboratory
from benchmarks.null_session import NullPool


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch, and the seconds that the strategy thought about it, the tell before included."""

    batch: Batch
    strategy_seconds: float


class Witness:
    """A strategy that keeps what another one asks, and how long that took."""

    def __init__(self, strategy: Strategy, began: float) -> None:
        self._strategy = strategy
        self._thought = time.perf_counter() - began
        self.asked: list[Asked] = []

    def ask(self) -> Batch | None:
        """Ask the strategy."""
        started = time.perf_counter()
        batch = self._strategy.ask()
        if batch is not None:
            seconds = self._thought + time.perf_counter() - started
            self.asked.append(Asked(batch, seconds))
        return batch

    def tell(self, trials: Sequence[Trial]) -> None:
        """Tell the strategy; it already thinks of its next batch."""
        started = time.perf_counter()
        self._strategy.tell(trials)
        self._thought = time.perf_counter() - started

    def standing(self) -> Standing:
        """Return where the search stands."""
        return self._strategy.standing()

    def finalists(self, n: int) -> list[Genotype]:
        """Return the strategy's."""
        return self._strategy.finalists(n)

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
        return self._strategy.stopped_because


def scaled(settings: EvolveSettings, offspring: int, generations: int) -> EvolveSettings:
    """Return settings of more offspring: all rungs but the last keep the same share of them."""
    growth = offspring / settings.offspring
    *first, last = settings.rungs
    rungs = [Rung(rung.sequences, round(rung.survivors * growth)) for rung in first]
    return dataclasses.replace(
        settings, offspring=offspring, generations=generations, rungs=(*rungs, last)
    )


def batches_of(
    lab: Laboratory, offspring: int, generations: int, seed: int
) -> tuple[EvolveSettings, list[Asked]]:
    """Run a real search for some generations on the real workers and return what it asked."""
    prepared = lab.prepared
    task = Task(
        half_the_time(prepared.space),
        seed,
        prepared.spec.context,
        len(prepared.sequences[Split.SEARCH]),
    )
    settings = scaled(settings_for(task.allowed), offspring, generations)
    began = time.perf_counter()
    witness = Witness(EvolveStrategy(task, settings), began)
    lab.run(witness)
    return settings, witness.asked


def shards_of(batches: Sequence[Batch], how: Cut) -> list[list[Shard]]:
    """Return the shards of every batch, as the driver really cuts them."""
    pool = NullPool()
    with tempfile.TemporaryDirectory() as folder:
        store = create_study(f"sqlite:///{folder}/studies.db", "study", {})
        driver = SearchDriver(pool, store, nobody, how)
        for batch in batches:
            n_asked = len(pool.asked)
            driver.measure(batch)
            if len(pool.asked) == n_asked:
                pool.asked.append([])
        store.close()
    return pool.asked
