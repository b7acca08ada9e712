"""Measures candidates in processes of this machine."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Final, cast

from autocompress.workers.base import BuildJob, Measured, SessionFactory, Shard, Utilisation
from autocompress.workers.dispatch import Death, Dispatcher
from autocompress.workers.patience import Patience
from autocompress.workers.responder import ONE_THREAD, Answer, Job, Responder

Pipe = connection.Connection

ENDING_SECONDS: Final = 60.0
"""For a process whose pipe is closed, after which it is taken to hang in its own end."""


class LocalPool:
    """Keeps one process per worker, spawned at the first job.

    The factory's class must be importable in a fresh interpreter: not from `__main__`.

    Args:
        environments: Variables for the workers, dealt out evenly among those that live; such as
            one for each GPU.
    """

    def __init__(
        self,
        factory: SessionFactory,
        n_workers: int,
        environments: Sequence[Mapping[str, str]] = ({},),
        patience: Patience | None = None,
    ) -> None:
        """Start nothing yet."""
        self._dispatcher = Dispatcher(_Processes(factory, environments), n_workers, patience)

    @property
    def n_workers(self) -> int:
        """How many workers measure at a time."""
        return self._dispatcher.n_workers

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[int, int | Exception]]:
        """Yield (index of the job, levels built or the exception), as jobs finish."""
        return cast(Iterator[tuple[int, int | Exception]], self._dispatcher.run(jobs))

    def measure(self, shards: Sequence[Shard]) -> Iterator[tuple[int, Measured | Exception]]:
        """Yield (index of the shard, its measurements or the exception), as shards finish."""
        return cast(Iterator[tuple[int, Measured | Exception]], self._dispatcher.run(shards))

    def utilisation(self) -> tuple[Utilisation, ...]:
        """Return what each worker has done so far, also after the pool was closed."""
        return self._dispatcher.utilisation()

    def close(self) -> None:
        """End all workers; may be called twice."""
        self._dispatcher.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Pipe
    place: int
    """Which of the environments it was given."""


class _Processes:
    """Workers that are spawned processes, each behind one duplex pipe."""

    def __init__(self, factory: SessionFactory, environments: Sequence[Mapping[str, str]]) -> None:
        self._factory = factory
        self._environments = environments
        self._n_workers = [0] * len(environments)

    def start(self) -> _Worker:
        place = min(range(len(self._n_workers)), key=self._n_workers.__getitem__)
        context = multiprocessing.get_context("spawn")
        pipe, far_end = context.Pipe()
        process = context.Process(
            target=_serve, args=(self._factory, far_end), name="autocompress-worker", daemon=True
        )
        try:
            with _birth_conditions(self._environments[place]):
                process.start()
        except BaseException:
            pipe.close()
            raise
        finally:
            # With a copy of the far end left open here, a dead worker would never read as EOF.
            far_end.close()
        self._n_workers[place] += 1
        return _Worker(process, pipe, place)

    def give(self, worker: _Worker, job: Job) -> None:
        with contextlib.suppress(OSError):
            worker.pipe.send(job)

    def wait(
        self, workers: Collection[_Worker], seconds: float
    ) -> list[tuple[_Worker, Answer | Death]]:
        by_pipe = {worker.pipe: worker for worker in workers}
        ready = [cast(Pipe, pipe) for pipe in connection.wait(list(by_pipe), seconds)]
        return [(by_pipe[pipe], _receive(by_pipe[pipe])) for pipe in ready]

    def end(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self._n_workers[worker.place] -= 1


def _receive(worker: _Worker) -> Answer | Death:
    """Read the answer that waits in the pipe, or say how the worker ended."""
    try:
        return cast(Answer, worker.pipe.recv())
    except (EOFError, OSError):
        # The pipe closes a moment before the process is gone and has its exit code.
        worker.process.join(ENDING_SECONDS)
    code = worker.process.exitcode
    if code is None:
        return Death("closed its pipe and did not end")
    if code < 0:
        return Death(f"was killed by {signal.Signals(-code).name} (exit code {code})")
    return Death(f"ended with exit code {code}")


@contextlib.contextmanager
def _birth_conditions(environment: Mapping[str, str]) -> Iterator[None]:
    """Set, while a worker is spawned, what it inherits; put it back afterwards."""
    inherited = ONE_THREAD | dict(environment)
    # Its first start unblocks SIGINT, so it must not fall into the section below.
    resource_tracker.ensure_running()
    # Spawning imports the parent's `__main__` again in the child. That runs a script without a
    # guard a second time, fails for a `__main__` read from stdin, and we need nothing from it.
    main = sys.modules["__main__"]
    before = {name: os.environ.get(name) for name in inherited}
    # A signal mask outlives exec: Ctrl-C cannot hit the child, not even during its imports.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        sys.modules["__main__"] = types.ModuleType("__main__")
        os.environ.update(inherited)
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(factory: SessionFactory, pipe: Pipe) -> None:
    """Answer jobs until the driver closes the pipe or is gone; the main of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_driver, daemon=True).start()
    responder = Responder(factory)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(responder.answer(pipe.recv()))


def _follow_driver() -> None:
    """End this worker, whatever it computes, as soon as the driver is gone."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)
