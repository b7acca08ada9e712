"""How long a job may take before its worker is taken to hang."""

from dataclasses import dataclass

from autocompress.workers.base import BuildJob, Shard
from autocompress.workers.responder import ArriveJob, Job


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a job may take before its worker is taken to hang.

    Args:
        first: Seconds, while no job of its kind has ended: a large model takes long to load. Also
            for all workers to find no room, which others may hold until they are done.
        least: Seconds, for any job.
        times: How many times as long as the slowest so far of its kind, for as much work.
    """

    first: float = 6 * 3600.0
    least: float = 600.0
    times: float = 20.0


_Kind = tuple[type[Job], int]
"""Of a shard also how long its candidates are trained: that takes longer than to read them."""


class Pace:
    """How long jobs take, learned from those that ended."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        # Of the slowest: seconds, and seconds for a unit of work.
        self._slowest: dict[_Kind, tuple[float, float]] = {}

    def learn(self, job: Job, seconds: float) -> None:
        """Take what a job took that ended."""
        if isinstance(job, ArriveJob):
            # How long one worker had to wait for room tells nothing of the next.
            return
        whole, rate = self._slowest.get(_kind(job), (0.0, 0.0))
        self._slowest[_kind(job)] = max(whole, seconds), max(rate, seconds / _work(job))

    def allowed(self, job: Job) -> float:
        """Return the seconds that a job may take."""
        slowest = self._slowest.get(_kind(job))
        if slowest is None:
            return self._patience.first
        # Small jobs may cost as much as large ones: what they begin with is the same.
        longest = max(slowest[0], slowest[1] * _work(job))
        return max(self._patience.least, self._patience.times * longest)


def _kind(job: Job) -> _Kind:
    return type(job), job.fidelity.trained if isinstance(job, Shard) else 0


def _work(job: Job) -> int:
    """Return how much a job is, beside others of its kind."""
    match job:
        case Shard(genotypes=genotypes, fidelity=fidelity):
            return len(genotypes) * fidelity.sequences
        case BuildJob(layers=layers):
            # All layers before them are run to calibrate them.
            return 1 + max(layers)
        case _:
            return 1
