"""The contract of `WorkerPool`, kept by every pool."""

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autocompress.errors import EngineError, EvaluationError, ModelError
from autocompress.trial import Measurement
from autocompress.workers import local_pool
from autocompress.workers.base import BuildJob, Measured, SessionFactory, WorkerPool
from autocompress.workers.dispatch import Death
from autocompress.workers.local_pool import LocalPool
from autocompress.workers.patience import Patience
from autocompress.workers.ray_pool import RayPool
from tests.workers.toy_sessions import (
    DIES,
    DIES_ONCE,
    HANGS,
    MEETS,
    RAISES,
    RAISES_UNPICKLABLE,
    DyingFactory,
    DyingOnceFactory,
    RaisingFactory,
    ToyFactory,
    shard,
)

MakePool = Callable[..., WorkerPool]

# Ray's raylet takes a few seconds to see that its driver is gone; 30 hold on a busy machine.
PATIENCE_SECONDS = 30.0

# As /proc/net/tcp writes 127.0.0.1, ::1 and ::ffff:127.0.0.1.
LOOPBACK = {
    "0100007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF00000100007F",
}


@pytest.fixture(scope="module")
def running_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start Ray once; pools made meanwhile find it running and leave it so.

    Ray is imported before, as EvoTorch does: what an import reads must not be what counts.
    """
    import ray  # noqa: F401

    keeper = RayPool(ToyFactory(tmp_path_factory.mktemp("keeper")), 4, address=None)
    list(keeper.build([BuildJob((0,))]))
    yield
    keeper.close()


@pytest.fixture(params=["local", "ray"])
def kind(request: pytest.FixtureRequest) -> str:
    """Name every pool in turn."""
    return str(request.param)


@pytest.fixture
def make_pool(kind: str, request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """Make pools of one kind, and close them when the test is over."""
    pools: list[WorkerPool] = []
    if kind == "ray":
        request.getfixturevalue("running_ray")

    def make(
        factory: SessionFactory, n_workers: int, patience: Patience | None = None
    ) -> WorkerPool:
        pool: WorkerPool
        if kind == "local":
            pool = LocalPool(factory, n_workers, patience=patience)
        else:
            pool = RayPool(factory, n_workers, address=None, patience=patience)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


def wait_until(is_so: Callable[[], bool]) -> bool:
    """Return whether it came to be so in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


def is_running(pid: int) -> bool:
    """Return whether a process lives; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def descendants(pid: int) -> set[int]:
    """Return the process ids of all children, and of theirs."""
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child} | descendants(child)
    return found


def answer_of(level: int) -> Measured:
    """Return what a toy session answers with one thread."""
    return (Measurement((float(level),), (0.0,), 1),)


def worker_pids(pool: WorkerPool) -> set[int]:
    """Return the process ids of the workers that come to answer."""
    return {int(str(pid)) for _, pid in pool.build([BuildJob((i,)) for i in range(20)])}


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_results_are_the_same_at_any_number_of_workers(
    make_pool: MakePool, n_workers: int, tmp_path: Path
) -> None:
    pool = make_pool(ToyFactory(tmp_path), n_workers)

    answers = list(pool.measure([shard(level) for level in range(12)]))

    expected = [(level, answer_of(level)) for level in range(12)]
    assert sorted(answers, key=lambda pair: pair[0]) == expected
    assert pool.n_workers == n_workers


def test_no_jobs_start_no_worker(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(RaisingFactory(), 2)

    assert list(pool.measure([])) == []


def test_a_raising_job_yields_its_exception_and_the_rest_go_on(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(ToyFactory(tmp_path), 2)

    answers = dict(pool.measure([shard(1), shard(RAISES), shard(RAISES_UNPICKLABLE), shard(2)]))

    assert isinstance(answers[0], tuple)
    assert isinstance(answers[3], tuple)
    assert type(answers[1]) is ValueError
    assert str(answers[1]) == "the toy broke"
    assert "In the worker:\nTraceback" in answers[1].__notes__[0]
    assert type(answers[2]) is EvaluationError
    assert str(answers[2]) == "UnpicklableError: no way"


def test_a_job_whose_worker_dies_is_given_to_another(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(ToyFactory(tmp_path), 2)

    answers = list(pool.measure([shard(1), shard(DIES_ONCE), shard(2), shard(3)]))

    assert (tmp_path / "died").exists()
    assert sorted(index for index, _ in answers) == [0, 1, 2, 3]
    assert dict(answers)[1] == answer_of(DIES_ONCE)


def test_a_job_that_kills_two_workers_fails_alone(
    make_pool: MakePool, kind: str, tmp_path: Path
) -> None:
    pool = make_pool(ToyFactory(tmp_path), 2)

    answers = dict(pool.measure([shard(1), shard(DIES), shard(2), shard(3)]))

    assert [index for index in range(4) if isinstance(answers[index], tuple)] == [0, 2, 3]
    assert type(answers[1]) is EvaluationError
    how = {"local": "killed by SIGKILL (exit code -9)", "ray": "Ray says SYSTEM_ERROR"}[kind]
    for part in (shard(DIES).genotypes[0].key, how, "lower --workers"):
        assert part in str(answers[1])


def test_what_the_factory_raises_ends_the_pool(make_pool: MakePool) -> None:
    pool = make_pool(RaisingFactory(), 2)

    with pytest.raises(ModelError, match=r"^no such model$"):
        list(pool.measure([shard(1), shard(2)]))


def test_a_worker_that_dies_in_the_factory_ends_the_pool(make_pool: MakePool) -> None:
    pool = make_pool(DyingFactory(), 1)

    with pytest.raises(EvaluationError, match=r"2 workers died while they loaded.*lower --work"):
        list(pool.measure([shard(1)]))


def test_one_death_in_the_factory_is_bad_luck(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(DyingOnceFactory(tmp_path), 1)

    answers = list(pool.measure([shard(1)]))

    assert (tmp_path / "died").exists()
    assert answers == [(0, answer_of(1))]


def test_a_job_that_hangs_costs_two_workers_and_fails_alone(
    make_pool: MakePool, tmp_path: Path
) -> None:
    # Nobody knows how long a job takes until one has ended.
    pool = make_pool(ToyFactory(tmp_path), 2, Patience(first=60.0, least=1.0, times=1.0))
    list(pool.measure([shard(1)]))

    answers = dict(pool.measure([shard(2), shard(HANGS), shard(3)]))

    assert [index for index in range(3) if isinstance(answers[index], tuple)] == [0, 2]
    assert type(answers[1]) is EvaluationError
    assert re.search(
        r"2 workers died of it, and the last had no answer after \d+ s", str(answers[1])
    )
    assert len(list(tmp_path.glob("*.hangs"))) == 2


def test_a_run_left_early_does_not_disturb_the_next(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(ToyFactory(tmp_path), 2)
    left = pool.measure([shard(HANGS), shard(1)])
    next(left)
    next_answers = list(pool.measure([shard(2), shard(3)]))

    with pytest.raises(EvaluationError, match="closed or reused in mid-run"):
        next(left)

    losses = [answer[0].loss for _, answer in next_answers if isinstance(answer, tuple)]
    assert sorted(losses) == [2.0, 3.0]


def test_the_death_of_an_idle_worker_is_counted_against_no_job(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(ToyFactory(tmp_path), 1)
    (pid,) = worker_pids(pool)
    os.kill(pid, signal.SIGKILL)

    answers = list(pool.measure([shard(DIES_ONCE)]))

    assert answers == [(0, answer_of(DIES_ONCE))]


def test_workers_live_from_run_to_run(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(ToyFactory(tmp_path), 1)

    assert worker_pids(pool) == worker_pids(pool)


def test_a_pool_tells_what_each_of_its_workers_did(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(ToyFactory(tmp_path), 2)
    list(pool.measure([shard(1), shard(DIES_ONCE), shard(2), shard(3)]))

    found = pool.utilisation()

    assert sum(own.jobs for own in found) == 4
    assert all(0.0 <= own.busy <= 1.0 for own in found)
    # One of them died.
    assert len({own.worker for own in found}) == len(found) >= 2
    assert all(own.worker.startswith(f"{socket.gethostname()} ") for own in found)


def test_closing_twice_leaves_no_worker(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(ToyFactory(tmp_path), 2)
    pids = worker_pids(pool)

    pool.close()
    pool.close()

    assert pids
    assert wait_until(lambda: not any(map(is_running, pids)))


def test_closing_a_pool_that_never_worked_does_nothing(make_pool: MakePool) -> None:
    make_pool(RaisingFactory(), 2).close()


def test_local_workers_are_gone_when_close_returns(tmp_path: Path) -> None:
    pool = LocalPool(ToyFactory(tmp_path), 2)
    pids = worker_pids(pool)

    pool.close()

    assert not any(map(is_running, pids))


def test_a_worker_that_closes_its_pipe_and_hangs_is_dead() -> None:
    waits: list[float] = []
    process: Any = SimpleNamespace(join=waits.append, exitcode=None)
    pipe, far_end = multiprocessing.Pipe()
    far_end.close()

    with pipe:
        found = local_pool._receive(local_pool._Worker(process, pipe, place=0))

    assert found == Death("closed its pipe and did not end")
    assert waits == [local_pool.ENDING_SECONDS]


def test_spawning_leaves_the_environment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before, main = dict(os.environ), sys.modules["__main__"]
    pool = LocalPool(ToyFactory(tmp_path), 1)

    answers = list(pool.measure([shard(1)]))
    pool.close()

    assert answers == [(0, answer_of(1))]
    assert dict(os.environ) == before
    assert sys.modules["__main__"] is main


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_workers_end_with_their_driver(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    script = Path(__file__).with_name("hanging_driver.py")
    driver = subprocess.Popen(
        [sys.executable, "-W", "error", str(script), kind, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert wait_until(lambda: len(list(tmp_path.glob("*.hangs"))) == 2)
    workers = [int(mark.stem) for mark in tmp_path.glob("*.hangs")]
    lived = [is_running(worker) for worker in workers]

    # Ctrl-C reaches the whole group of the terminal, SIGKILL the driver alone.
    {signal.SIGKILL: os.kill, signal.SIGINT: os.killpg}[number](driver.pid, number)
    _, errors = driver.communicate(timeout=PATIENCE_SECONDS)

    assert lived == [True, True]
    assert wait_until(lambda: not any(map(is_running, workers)))
    assert errors.count("Traceback") == {signal.SIGKILL: 0, signal.SIGINT: 1}[number]


@pytest.mark.usefixtures("running_ray")
def test_a_local_ray_listens_on_the_loopback_only() -> None:
    inodes = set()
    for pid in {os.getpid()} | descendants(os.getpid()):
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            if descriptor.is_symlink():
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]

    # Columns of /proc/net/tcp: 1 local address, 3 state (0A listens), 9 inode.
    listening = {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}

    assert listening
    assert listening <= LOOPBACK


def test_an_unreachable_cluster_is_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    pool = RayPool(RaisingFactory(), 1, address)

    with pytest.raises(EngineError, match=f"No Ray cluster can be reached at {address}"):
        list(pool.measure([shard(1)]))


def test_an_address_without_a_port_is_refused() -> None:
    pool = RayPool(RaisingFactory(), 1, "head")

    with pytest.raises(EngineError, match="`host:port`, but got 'head'"):
        list(pool.measure([shard(1)]))


@pytest.mark.usefixtures("running_ray")
def test_a_cluster_is_asked_how_many_workers_it_holds(running_ray: None, tmp_path: Path) -> None:
    pool = RayPool(ToyFactory(tmp_path), None, address=None)

    assert pool.n_workers == max(4, os.cpu_count() or 1)
    assert list(pool.measure([shard(1)])) == [(0, answer_of(1))]
    pool.close()


def test_a_cluster_that_can_hold_no_worker_is_refused() -> None:
    pool = RayPool(RaisingFactory(), 2, address=None, gpus_per_worker=1000.0)

    with pytest.raises(EngineError, match=r"holds no worker: none of its nodes has .* a GPU"):
        list(pool.measure([shard(1)]))


def test_environments_are_dealt_out_evenly_and_again_after_a_death(tmp_path: Path) -> None:
    environments = [{"OMP_NUM_THREADS": "3"}, {"OMP_NUM_THREADS": "4"}]
    with contextlib.closing(LocalPool(ToyFactory(tmp_path), 2, environments)) as pool:

        def threads() -> list[int]:
            for mark in tmp_path.glob("*.meets"):
                mark.unlink()
            results = dict(pool.measure([shard(MEETS), shard(MEETS)])).values()
            return sorted(r[0].tokens for r in results if not isinstance(r, Exception))

        before = threads()
        list(pool.measure([shard(DIES_ONCE), shard(1)]))

        assert before == [3, 4]
        assert threads() == [3, 4]
