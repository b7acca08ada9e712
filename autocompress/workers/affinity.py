"""Which worker has read what: it need not make the dense model's predictions there again."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

WorkerT = TypeVar("WorkerT", bound=Hashable)
Needs = tuple[Hashable, ...]
"""What a job reads: of a shard, its sequences."""


class Affinity(Generic[WorkerT]):
    """Picks for a worker, of the jobs that wait, the one of which it has read the most.

    Of those it knows nothing of, one that no other worker knows, if there is one. Which worker
    does what changes no result.
    """

    def __init__(self) -> None:
        self._readers: dict[Hashable, set[WorkerT]] = defaultdict(set)

    def pick(self, worker: WorkerT, waiting: Sequence[Needs]) -> int:
        """Return the index of the job to do next; of equal ones the first."""

        def rank(index: int) -> tuple[int, int, int]:
            readers = [self._readers.get(need, set()) for need in waiting[index]]
            own = sum(worker in known for known in readers)
            others = sum(bool(known) and worker not in known for known in readers)
            return own, -others, -index

        return max(range(len(waiting)), key=rank)

    def note(self, worker: WorkerT, needs: Needs) -> None:
        """Remember that a worker reads this."""
        for need in needs:
            self._readers[need].add(worker)

    def forget(self, worker: WorkerT) -> None:
        """Forget a worker that is gone."""
        for known in self._readers.values():
            known.discard(worker)
