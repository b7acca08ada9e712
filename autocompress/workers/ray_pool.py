"""Measures candidates in Ray actors, on this machine or on a running cluster; imports Ray."""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import autocompress
from autocompress.errors import EngineError
from autocompress.workers.base import BuildJob, Measured, SessionFactory, Shard, Utilisation
from autocompress.workers.dispatch import Death, Dispatcher
from autocompress.workers.patience import Patience
from autocompress.workers.placement import largest_share, room
from autocompress.workers.responder import ONE_THREAD, Answer, Job, Responder

if TYPE_CHECKING:
    import ray

LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Despite its name, and on Linux too, the switch that keeps every socket on 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
OBJECT_STORE_BYTES = 100 * 2**20
"""Jobs and answers are a few hundred bytes; Ray would otherwise reserve 30% of the memory."""
REACH_SECONDS = 5.0


class RayPool:
    """Keeps one Ray actor per worker; Ray is started or joined at the first job.

    Args:
        n_workers: None takes as many as the cluster holds.
        address: `host:port` of a running cluster to join; None starts Ray on this machine.
        gpus_per_worker: A share that Ray counts, but does not enforce. None takes as large a
            part of one GPU as leaves room for all workers: a whole one wherever there are enough.
    """

    def __init__(
        self,
        factory: SessionFactory,
        n_workers: int | None,
        address: str | None,
        gpus_per_worker: float | None = 0.0,
        patience: Patience | None = None,
    ) -> None:
        """Start nothing yet, unless the cluster has to be asked how many workers it holds."""
        self._actors = _Actors(factory, n_workers, address, gpus_per_worker)
        self._dispatcher = Dispatcher(
            self._actors, n_workers or self._actors.count_workers(), patience
        )

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
        """End all workers, and Ray if this pool started or joined it; may be called twice."""
        self._dispatcher.close()
        self._actors.leave()


class _Worker:
    """An actor and the reference to its answer to come."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.pending: ray.ObjectRef[Answer] | None = None
        self.is_cut_off = False


class _Actors:
    """Workers that are Ray actors."""

    def __init__(
        self,
        factory: SessionFactory,
        n_workers: int | None,
        address: str | None,
        gpus_per_worker: float | None,
    ) -> None:
        self._factory = factory
        self._n_workers = n_workers
        self._address = address
        self._gpus_per_worker = gpus_per_worker
        self._is_joined = False
        self._actor_class: Any = None

    def count_workers(self) -> int:
        """Return how many workers the cluster holds."""
        if self._actor_class is None:
            self._actor_class = self._join()
        return room(living_nodes(), self._share())

    def start(self) -> _Worker:
        if self._actor_class is None:
            self._actor_class = self._join()
        return _Worker(self._actor_class.remote(self._factory))

    def give(self, worker: _Worker, job: Job) -> None:
        worker.pending = worker.actor.answer.remote(job)

    def wait(
        self, workers: Collection[_Worker], seconds: float
    ) -> list[tuple[_Worker, Answer | Death]]:
        import ray

        by_reference = {worker.pending: worker for worker in workers}
        ready, _ = ray.wait(list(by_reference), num_returns=1, timeout=seconds)
        found: list[tuple[_Worker, Answer | Death]] = []
        for reference in ready:
            worker = by_reference[reference]
            try:
                found.append((worker, _receive(reference, worker.is_cut_off)))
            except ray.exceptions.ActorUnavailableError:
                # The connection broke, most likely with the node. Ray takes a while to be sure,
                # and would put others there meanwhile; asked again, it says what became of it.
                worker.is_cut_off = True
                worker.pending = worker.actor.__ray_ready__.remote()
        return found

    def end(self, worker: _Worker) -> None:
        import ray

        # If Ray itself is gone, so is the actor.
        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
            ray.kill(worker.actor)

    def leave(self) -> None:
        """Shut Ray down, if `_join` has initialised it."""
        self._actor_class = None
        if self._is_joined:
            import ray

            self._is_joined = False
            ray.shutdown()

    def _join(self) -> Any:
        """Start Ray or join the cluster, and return the class of the actors.

        Raises:
            EngineError: If the cluster cannot be reached or can never hold the workers.
        """
        n_cpus = max(self._n_workers or 1, os.cpu_count() or 1)
        self._is_joined = enter_ray(self._address, n_cpus) or self._is_joined
        import ray

        self._check_capacity()
        options = ray.remote(
            num_cpus=1,
            num_gpus=self._share(),
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": _worker_environment()},
        )
        return options(Responder)

    def _share(self) -> float:
        """Return how much of a GPU each worker gets."""
        if self._gpus_per_worker is not None:
            return self._gpus_per_worker
        return largest_share(living_nodes(), self._n_workers or 1)

    def _check_capacity(self) -> None:
        """Raise instead of waiting forever for workers that no node will ever hold."""
        share = self._share()
        held = room(living_nodes(), share)
        if held == 0:
            raise EngineError(
                "The Ray cluster holds no worker: none of its nodes has a CPU to give, or a GPU "
                "where one is wanted."
            )
        if self._n_workers is not None and self._n_workers > held:
            each = f"a CPU and {share:g} GPU" if share else "a CPU"
            raise EngineError(
                f"The Ray cluster holds {held} workers, each with {each} of one node, but got "
                f"{self._n_workers}. Lower --workers."
            )


def enter_ray(address: str | None, n_cpus: int | None = None) -> bool:
    """Start Ray on this machine, or join the cluster at an address.

    Args:
        n_cpus: That a Ray of this machine counts; None counts them.

    Returns:
        False where this process was in already.

    Raises:
        EngineError: If the cluster cannot be reached, or Ray not started.
    """
    if address is None:
        for name, value in LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    else:
        _probe(address)
    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": address}
    if address is None:
        # Read from the environment at the first import, which EvoTorch may have made long ago.
        ray_constants.ENABLE_RAY_CLUSTER = False
        # "local", because None would join whatever cluster this machine happens to run.
        options = {
            "address": "local",
            "num_cpus": n_cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        ray.init(
            namespace="autocompress", log_to_driver=False, logging_level=logging.ERROR, **options
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = "on this machine" if address is None else f"at {address}"
        reason = str(error).strip().partition("\n")[0]
        raise EngineError(f"Ray {where} could not be started or joined: {reason}") from error
    return True


def living_nodes() -> list[Mapping[str, float]]:
    """Return what each living node has to give."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray left it so.
    return [node["Resources"] for node in nodes if node["Alive"]]


def _worker_environment() -> dict[str, str]:
    """Return what an actor's process gets: one thread, and this very package."""
    here = str(Path(autocompress.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    python_path = os.pathsep.join([here, inherited] if inherited else [here])
    return {**ONE_THREAD, "PYTHONPATH": python_path}


def _probe(address: str) -> None:
    """Raise at once if nothing listens there: Ray itself would try for over a minute."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise EngineError(f"A Ray address reads `host:port`, but got {address!r}.")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"No Ray cluster can be reached at {address}: {error}. "
            "Start one there (`ray start --head`) or leave the address out."
        ) from error


def _receive(reference: "ray.ObjectRef[Answer]", is_cut_off: bool) -> Answer | Death:
    """Fetch the answer that is ready, or say how the actor ended.

    Args:
        is_cut_off: Whether the connection to the actor was lost, and with it its answer.

    Raises:
        ray.exceptions.ActorUnavailableError: If that is not known yet.
    """
    import ray

    try:
        answer = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # Raised around the call, where `Responder` cannot catch: by unpickling, say.
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.ActorUnavailableError:
        raise
    except ray.exceptions.RayError as error:
        # What Ray knows, but no exit code, stands in the midst of a page of advice.
        if lost := re.search(r"node has died\. Node Id: (\w+)", str(error)):
            return Death("was lost with its node", lost.group(1))
        found = re.search(r"Worker exit type: (\w+)", str(error))
        reason = found.group(1) if found else type(error).__name__
        return Death(f"was ended: Ray says {reason}")
    return Death("was cut off") if is_cut_off else answer
