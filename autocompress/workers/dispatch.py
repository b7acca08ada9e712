"""Who works on what: hands jobs to workers of any kind and replaces the ones that die."""

import time
from collections import deque
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from autocompress.errors import EvaluationError
from autocompress.workers.base import BuildJob, Shard
from autocompress.workers.patience import Pace, Patience
from autocompress.workers.responder import Answer, Job, OpenJob

MAX_DEATHS = 2
"""Workers that one job may cost: one can be bad luck, two are taken for the job's own doing.

So it is of workers that die while they load the model, one after the other.
"""


@dataclass(frozen=True, slots=True)
class Death:
    """A worker ended without an answer; `cause` continues a sentence."""

    cause: str


WorkerT = TypeVar("WorkerT", bound=Hashable)


class Crew(Protocol[WorkerT]):
    """Workers of one kind; it knows nothing of what they work on."""

    def start(self) -> WorkerT:
        """Start a worker without waiting for it."""

    def give(self, worker: WorkerT, job: Job) -> None:
        """Hand one job to a worker that has none; a dead one is found by `wait`."""

    def wait(
        self, workers: Collection[WorkerT], seconds: float
    ) -> Sequence[tuple[WorkerT, Answer | Death]]:
        """Wait until one of these busy workers has answered or died, but so long at most."""

    def end(self, worker: WorkerT) -> None:
        """End a worker at once, also in mid-job or if it is dead already."""


class Dispatcher(Generic[WorkerT]):
    """Keeps up to `n_workers` workers busy, starting them when there is work."""

    def __init__(
        self, crew: Crew[WorkerT], n_workers: int, patience: Patience | None = None
    ) -> None:
        """Start nothing yet."""
        self.n_workers = n_workers
        self._crew = crew
        self._pace = Pace(patience or Patience())
        # What each busy worker was given, when, and until when it may take.
        self._given: dict[WorkerT, tuple[Job, float, float]] = {}
        # Every living worker, and whether its session was made.
        self._is_open: dict[WorkerT, bool] = {}
        # What each busy worker does: the index of a job, or None for `OpenJob`.
        self._busy: dict[WorkerT, int | None] = {}

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the job, its answer) as jobs finish.

        One run at a time: a run that was left early loses its workers to the next.

        Raises:
            Exception: What the session factory raised; all workers are ended.
            EvaluationError: If workers die while they make their sessions; likewise.
        """
        self._end(worker for worker, index in self._busy.items() if index is not None)
        busy = self._busy = dict.fromkeys(self._busy)
        for worker in self._is_open.keys() - busy.keys():
            # An idle worker may have died since the last run. Asking costs a millisecond, and
            # keeps a death that no job has caused from being counted against one.
            self._give(worker, None, OpenJob())
        pending = deque(range(len(jobs)))
        n_deaths = [0] * len(jobs)
        n_left = len(jobs)
        n_unopened = 0
        try:
            while n_left:
                while len(self._is_open) < min(self.n_workers, n_left):
                    worker = self._crew.start()
                    self._is_open[worker] = False
                    self._give(worker, None, OpenJob())
                for worker in list(self._is_open):
                    if pending and worker not in busy:
                        index = pending.popleft()
                        self._give(worker, index, jobs[index])
                finished: list[tuple[int, Answer]] = []
                for worker, answer in self._wait(list(busy)):
                    done = busy.pop(worker)
                    if isinstance(answer, Death):
                        was_open = self._is_open[worker]
                        self._end([worker])
                        if done is not None:
                            n_deaths[done] += 1
                            if n_deaths[done] < MAX_DEATHS:
                                pending.append(done)
                            else:
                                finished.append((done, _poison(jobs[done], answer)))
                        elif not was_open:
                            n_unopened += 1
                            if n_unopened == MAX_DEATHS:
                                raise EvaluationError(
                                    f"{MAX_DEATHS} workers died while they loaded the model, and "
                                    f"the last {answer.cause}. If memory ran out, lower --workers."
                                )
                    elif done is not None:
                        finished.append((done, answer))
                    elif isinstance(answer, Exception):
                        raise answer
                    else:
                        self._is_open[worker] = True
                        n_unopened = 0
                n_left -= len(finished)
                for index, result in finished:
                    yield index, result
                    if self._busy is not busy:
                        raise EvaluationError("The pool was closed or reused in mid-run.")
        except GeneratorExit:
            # The consumer left. After a newer run or `close`, `busy` is not ours to end.
            if self._busy is busy:
                self._end(worker for worker, index in busy.items() if index is not None)
            raise
        except BaseException:
            # A failed factory, or an interrupt at any line, after which no state can be trusted.
            if self._busy is busy:
                self.close()
            raise

    def close(self) -> None:
        """End all workers; a later run would start new ones."""
        self._busy = {}
        self._end(self._is_open)

    def _give(self, worker: WorkerT, index: int | None, job: Job) -> None:
        self._busy[worker] = index
        now = time.monotonic()
        self._given[worker] = job, now, now + self._pace.allowed(job)
        self._crew.give(worker, job)

    def _wait(self, workers: Collection[WorkerT]) -> Sequence[tuple[WorkerT, Answer | Death]]:
        """Wait until one has answered or died, or one has taken longer than it may."""
        ends = [self._given[worker][2] for worker in workers]
        came = self._crew.wait(workers, max(0.0, min(ends) - time.monotonic()))
        now = time.monotonic()
        if not came:
            return [
                (worker, Death(f"had no answer after {now - begun:.0f} s"))
                for worker, (_, begun, end) in self._given.items()
                if worker in workers and end <= now
            ]
        for worker, answer in came:
            job, begun, _ = self._given[worker]
            if not isinstance(answer, Death | Exception):
                self._pace.learn(job, now - begun)
        return came

    def _end(self, workers: Iterator[WorkerT] | Collection[WorkerT]) -> None:
        for worker in list(workers):
            self._crew.end(worker)
            self._is_open.pop(worker, None)
            self._busy.pop(worker, None)
            self._given.pop(worker, None)


def _poison(job: Job, death: Death) -> EvaluationError:
    """Return what is said of a job that has cost its last worker."""
    match job:
        case Shard(genotypes=genotypes):
            keys = ", ".join(genotype.key for genotype in genotypes)
            what = f"Candidate {keys} could not be measured"
        case BuildJob(layers=layers):
            what = f"The levels of layers {', '.join(map(str, layers))} could not be built"
        case _:
            what = "No session could be made"
    return EvaluationError(
        f"{what}: {MAX_DEATHS} workers died of it, and the last {death.cause}. "
        "If memory ran out, lower --workers."
    )
