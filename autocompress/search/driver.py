"""The loop between a strategy and its workers: what is measured is recorded, and never twice."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from autocompress.search.base import Batch, Strategy
from autocompress.search.memo import Memo, Text, text_of
from autocompress.search.shards import Cut, cut
from autocompress.search.totals import Totals
from autocompress.store.base import Record, StudyStore
from autocompress.trial import Fidelity, Genotype, Trial
from autocompress.workers.base import Measured, Shard, WorkerPool

Told = Callable[[int, int], None]
"""Told after every shard: shards done and shards of the batch."""


class SearchDriver:
    """Measures batches on a pool, through the store's memo.

    Which shards a batch is cut into depends on the batches before it alone, never on what an
    earlier run left in the store: a resumed search asks for the same shards and finds them there.
    Only the driver writes to the store; each shard is recorded when it arrives. What failed in an
    earlier run of the study is tried again.

    Args:
        inherited: What another study measured of the same model and text, and this one need not.
    """

    def __init__(
        self,
        pool: WorkerPool,
        store: StudyStore,
        on_shard: Told,
        how: Cut | None = None,
        inherited: Iterable[Record] = (),
    ) -> None:
        self._pool = pool
        self._how = how or Cut()
        self._store = store
        self._on_shard = on_shard
        measured = store.measurements().values()
        self._memo = Memo.of(measured)
        self._totals = Totals(measured)
        # How far each candidate has been asked for in this run, and why it failed.
        self._asked: dict[Text, int] = defaultdict(int)
        self._failed: dict[Text, str] = {}
        known = Memo.of(inherited)
        self._inherited_sequences = known.sequences
        for genotype, fidelity in known.readings():
            self._memo.add(genotype, fidelity, known.measurement(genotype, fidelity))
            self._asked[text_of(genotype, fidelity)] = fidelity.end

    @property
    def n_trials(self) -> int:
        """Different candidates measured so far, in this run and before, inherited ones too."""
        return self._memo.n_candidates

    @property
    def sequences(self) -> int:
        """Sequences read, summed over candidates and all splits; times the context, tokens.

        What was inherited was read elsewhere.
        """
        return self._memo.sequences - self._inherited_sequences

    @property
    def trained(self) -> int:
        """Tokens that candidates were trained on, summed over them, inherited ones too."""
        return self._memo.trained

    def run(self, strategy: Strategy, on_batch: Callable[[], None]) -> None:
        """Ask and tell until the strategy is done."""
        while (batch := strategy.ask()) is not None:
            strategy.tell(self.measure(batch))
            on_batch()

    def measure(self, batch: Batch) -> list[Trial]:
        """Measure what is not known of a batch and return its trials in order."""
        shards = self._cut(batch)
        missing = [shard for shard in shards if not self._is_known(shard)]
        done = len(shards) - len(missing)
        alone: list[Shard] = []
        for shard, result, seconds in self._measured(missing):
            failed = _failed(shard, result) if len(shard.genotypes) > 1 else []
            # By themselves: one candidate can spoil its siblings' shard, and says why it failed.
            alone += [Shard((genotype,), shard.fidelity) for genotype in failed]
            self._take(shard, result, seconds, without=failed)
            if not failed:
                done += 1
                self._on_shard(done, len(shards))
        for shard, result, seconds in self._measured([s for s in alone if not self._is_known(s)]):
            self._take(shard, result, seconds)
        if alone:
            self._on_shard(len(shards), len(shards))
        return [self._trial(genotype, batch.fidelity) for genotype in batch.candidates]

    def _cut(self, batch: Batch) -> list[Shard]:
        """Return the shards of what earlier batches have not asked for."""
        end = batch.fidelity.end
        unread: dict[int, list[Genotype]] = defaultdict(list)
        for genotype in dict.fromkeys(batch.candidates):
            text = text_of(genotype, batch.fidelity)
            if text not in self._failed and self._asked[text] < end:
                unread[self._asked[text]].append(genotype)
                self._asked[text] = end
        return [
            shard
            for first, genotypes in sorted(unread.items())
            for shard in cut(genotypes, batch.fidelity.part(first, end), self._how)
        ]

    def _is_known(self, shard: Shard) -> bool:
        return all(self._memo.covers(genotype, shard.fidelity) for genotype in shard.genotypes)

    def _measured(
        self, shards: Sequence[Shard]
    ) -> Iterator[tuple[Shard, Measured | Exception, float]]:
        """Yield (shard, what came of it, seconds since the one before it came), as they come."""
        before = time.monotonic()
        for index, result in self._pool.measure(shards):
            now = time.monotonic()
            yield shards[index], result, now - before
            before = now

    def _take(
        self,
        shard: Shard,
        result: Measured | Exception,
        seconds: float,
        without: Sequence[Genotype] = (),
    ) -> None:
        """Record what came of a shard: all its candidates in one transaction.

        Args:
            without: Candidates of which nothing is recorded yet.
        """
        records = []
        for index, genotype in enumerate(shard.genotypes):
            # A sibling's failure may have had the shard measured once more.
            if genotype in without or self._memo.covers(genotype, shard.fidelity):
                continue
            measurement, error = None, None
            if isinstance(result, Exception):
                error = str(result)
            elif result[index].is_finite:
                measurement = result[index]
            else:
                error = (
                    f"The loss of {genotype.key} is not finite in the model's number format; "
                    "try --dtype float32."
                )
            share = seconds / len(shard.genotypes)
            records.append(Record(genotype, shard.fidelity, measurement, error, share))
        self._store.record(records, self._totals.add(records))
        for record in records:
            if record.measurement is not None:
                self._memo.add(record.genotype, record.fidelity, record.measurement)
            else:
                self._failed[text_of(record.genotype, record.fidelity)] = str(record.error)

    def _trial(self, genotype: Genotype, fidelity: Fidelity) -> Trial:
        failure = self._failed.get(text_of(genotype, fidelity))
        if failure is not None:
            return Trial(genotype, fidelity, None, failure)
        return Trial(genotype, fidelity, self._memo.measurement(genotype, fidelity))


def _failed(shard: Shard, result: Measured | Exception) -> list[Genotype]:
    """Return the candidates of a shard that have no finite loss."""
    if isinstance(result, Exception):
        return list(shard.genotypes)
    pairs = zip(shard.genotypes, result, strict=True)
    return [genotype for genotype, measured in pairs if not measured.is_finite]
