"""The loop between a strategy and its workers: what is measured is recorded, and never twice."""

import time
from collections.abc import Callable, Mapping, Sequence

from autocompress.search.base import Batch, Strategy
from autocompress.store.base import Record, StudyStore
from autocompress.trial import Fidelity, Genotype, Trial, join
from autocompress.workers.base import Shard, WorkerPool

SHARD_SEQUENCES = 32

Measured = Callable[[int, int], None]
"""Told after every shard: shards done and shards of the batch."""


class SearchDriver:
    """Measures batches on a pool, through the store's memo.

    Only the driver writes to the store; each shard is recorded when it arrives. A shard that
    failed in an earlier run of the study is tried again.
    """

    def __init__(self, pool: WorkerPool, store: StudyStore, on_shard: Measured) -> None:
        self._pool = pool
        self._store = store
        self._on_shard = on_shard
        self._memo: dict[Shard, Record] = {
            Shard(*key): record
            for key, record in store.measurements().items()
            if record.error is None
        }

    @property
    def n_trials(self) -> int:
        """Different candidates measured so far, in this run and before."""
        return len({shard.genotype for shard in self._memo})

    @property
    def sequences(self) -> int:
        """Sequences read, summed over candidates and all splits; times the context, tokens."""
        return sum(shard.fidelity.sequences for shard in self._memo)

    def run(self, strategy: Strategy, on_batch: Callable[[], None]) -> None:
        """Ask and tell until the strategy is done."""
        while (batch := strategy.ask()) is not None:
            strategy.tell(self.measure(batch))
            on_batch()

    def measure(self, batch: Batch) -> list[Trial]:
        """Measure a batch and return its trials in order."""
        cut = [
            [Shard(genotype, part) for part in cut_fidelity(batch.fidelity)]
            for genotype in batch.candidates
        ]
        everything = list(dict.fromkeys(shard for shards in cut for shard in shards))
        records = {shard: self._memo[shard] for shard in everything if shard in self._memo}
        missing = [shard for shard in everything if shard not in records]
        done = len(records)
        before = time.monotonic()
        for index, result in self._pool.measure(missing):
            now = time.monotonic()
            shard = missing[index]
            failed = isinstance(result, Exception)
            record = Record(
                shard.genotype,
                shard.fidelity,
                None if isinstance(result, Exception) else result,
                str(result) if failed else None,
                now - before,
            )
            before = now
            self._store.record([record])
            records[shard] = record
            if not failed:
                self._memo[shard] = record
            done += 1
            self._on_shard(done, len(everything))
        return [
            _trial(genotype, batch.fidelity, shards, records)
            for genotype, shards in zip(batch.candidates, cut, strict=True)
        ]


def cut_fidelity(fidelity: Fidelity) -> list[Fidelity]:
    """Cut a reading into shards of at most 32 sequences, the same for any number of workers."""
    return [
        Fidelity(fidelity.split, fidelity.draw, first, min(SHARD_SEQUENCES, fidelity.end - first))
        for first in range(fidelity.first, fidelity.end, SHARD_SEQUENCES)
    ]


def _trial(
    genotype: Genotype,
    fidelity: Fidelity,
    shards: Sequence[Shard],
    records: Mapping[Shard, Record],
) -> Trial:
    found = [records[shard] for shard in shards]
    errors = [record.error for record in found if record.error is not None]
    if errors:
        return Trial(genotype, fidelity, None, errors[0])
    return Trial(genotype, fidelity, join([r.measurement for r in found if r.measurement]))
