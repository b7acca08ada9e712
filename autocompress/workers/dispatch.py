"""Who works on what: hands jobs to workers of any kind and replaces the ones that die."""

import time
from collections import deque
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from autocompress.errors import EvaluationError
from autocompress.workers.base import BuildJob, Shard, Utilisation
from autocompress.workers.patience import Pace, Patience
from autocompress.workers.responder import Answer, ArriveJob, Job, OpenJob
from autocompress.workers.timesheet import Timesheet

MAX_DEATHS = 2
"""Workers that one job may cost: one can be bad luck, two are taken for the job's own doing.

So it is of workers that die while they load the model, one after the other.
"""

MAX_LOST_NODES = 4
"""Nodes that one job may cost, or the loading of the model.

Nodes are lost by nobody's doing, several at a time. But what takes too much memory can take a
whole node with it, and then the next.
"""


@dataclass(frozen=True, slots=True)
class Death:
    """A worker ended without an answer.

    Args:
        cause: Continues a sentence.
        node: Names the node that it was lost with, if it was.
    """

    cause: str
    node: str | None = None


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


class _Toll:
    """What a job has cost, or loading the model."""

    def __init__(self) -> None:
        self._n_workers = 0
        # All workers of a node are lost at once, and but once.
        self._nodes: set[str] = set()

    def take(self, death: Death) -> None:
        """Count a death."""
        if death.node is None:
            self._n_workers += 1
        else:
            self._nodes.add(death.node)

    @property
    def is_too_much(self) -> bool:
        """Whether no more may be spent on it."""
        return self._n_workers >= MAX_DEATHS or len(self._nodes) >= MAX_LOST_NODES

    def __str__(self) -> str:
        if self._n_workers >= MAX_DEATHS:
            return f"{self._n_workers} workers"
        return f"{len(self._nodes)} nodes"


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
        # What each busy worker does: the index of a job, or None to get ready for one.
        self._busy: dict[WorkerT, int | None] = {}
        # When any worker was last heard of.
        self._heard = 0.0
        self._timesheet = Timesheet()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the job, its answer) as jobs finish.

        One run at a time: a run that was left early loses its workers to the next.

        Raises:
            Exception: What the session factory raised; all workers are ended.
            EvaluationError: If workers die while they make their sessions, or if no worker finds
                room; likewise.
        """
        self._end(worker for worker, index in self._busy.items() if index is not None)
        busy = self._busy = dict.fromkeys(self._busy)
        for worker in self._is_open.keys() - busy.keys():
            # An idle worker may have died since the last run. Asking costs a millisecond, and
            # keeps a death that no job has caused from being counted against one.
            self._give(worker, None, OpenJob())
        pending = deque(range(len(jobs)))
        tolls = [_Toll() for _ in jobs]
        loading = _Toll()
        n_left = len(jobs)
        self._heard = time.monotonic()
        self._timesheet.begin_run()
        try:
            while n_left:
                while len(self._is_open) < min(self.n_workers, n_left):
                    worker = self._crew.start()
                    self._is_open[worker] = False
                    self._give(worker, None, ArriveJob())
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
                            tolls[done].take(answer)
                            if tolls[done].is_too_much:
                                finished.append((done, _poison(jobs[done], tolls[done], answer)))
                            else:
                                pending.append(done)
                        elif not was_open:
                            loading.take(answer)
                            if loading.is_too_much:
                                raise EvaluationError(
                                    f"{loading} died while they loaded the model, and the last "
                                    f"{answer.cause}. If memory ran out, lower --workers."
                                )
                    elif done is not None:
                        finished.append((done, answer))
                    elif isinstance(answer, Exception):
                        raise answer
                    elif isinstance(answer, str):
                        self._timesheet.arrive(worker, answer)
                        self._give(worker, None, OpenJob())
                    else:
                        self._is_open[worker] = True
                        loading = _Toll()
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
        finally:
            if self._busy is busy:
                self._timesheet.end_run()

    def utilisation(self) -> tuple[Utilisation, ...]:
        """Return what each worker has done so far."""
        return self._timesheet.utilisation()

    def close(self) -> None:
        """End all workers; a later run would start new ones."""
        self._timesheet.end_run()
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
            late = [worker for worker in workers if self._given[worker][2] <= now]
            roomless = [worker for worker in late if self._is_waiting_for_room(worker)]
            self._give_up_on(roomless, now)
            came = [
                (worker, Death(f"had no answer after {now - self._given[worker][1]:.0f} s"))
                for worker in late
                if worker not in roomless
            ]
        else:
            self._heard = now
        for worker, answer in came:
            job, begun, _ = self._given[worker]
            is_death = isinstance(answer, Death)
            if isinstance(job, BuildJob | Shard):
                self._timesheet.add(worker, now - begun, jobs=0 if is_death else 1)
            if not is_death and not isinstance(answer, Exception):
                self._pace.learn(job, now - begun)
        return came

    def _is_waiting_for_room(self, worker: WorkerT) -> bool:
        return isinstance(self._given[worker][0], ArriveJob)

    def _give_up_on(self, workers: Sequence[WorkerT], now: float) -> None:
        """End workers that did not come to run: nobody's fault, and others take their places.

        Their node may be lost, or what they need in other hands. That may last as long as it will
        while any worker is at work.

        Raises:
            EvaluationError: If none is, and none was heard of for as long as they may take.
        """
        seconds = now - self._heard
        nobody_works = all(map(self._is_waiting_for_room, self._is_open))
        if workers and nobody_works and seconds >= self._pace.allowed(ArriveJob()):
            raise EvaluationError(
                f"No worker came to run in {seconds:.0f} s: there is no room for one. "
                "Add nodes or wait until others are done, and resume."
            )
        self._end(workers)

    def _end(self, workers: Iterator[WorkerT] | Collection[WorkerT]) -> None:
        for worker in list(workers):
            self._crew.end(worker)
            self._timesheet.leave(worker)
            self._is_open.pop(worker, None)
            self._busy.pop(worker, None)
            self._given.pop(worker, None)


def _poison(job: Job, toll: _Toll, death: Death) -> EvaluationError:
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
        f"{what}: {toll} died of it, and the last {death.cause}. "
        "If memory ran out, lower --workers."
    )
