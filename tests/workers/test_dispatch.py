"""The dispatcher over workers that are only told of, on a clock that runs while it waits."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import pytest

from autocompress.errors import EvaluationError
from autocompress.workers.base import BuildJob
from autocompress.workers.dispatch import Death, Dispatcher
from autocompress.workers.patience import Patience
from autocompress.workers.responder import Answer, ArriveJob, Job, OpenJob

PATIENCE = Patience(first=100.0, least=100.0, times=1.0)
JOBS = [BuildJob((number,)) for number in range(12)]


@dataclass
class Clock:
    """Stands in for `time`."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class ToldCrew:
    """Workers 0, 1, 2 ... that answer in the order in which they were given jobs.

    Args:
        room: How many run at a time, at a moment; those that were started first.
        seconds: That any job takes, one after the other.
        fate: What becomes of a worker with a job, if it dies of it.
    """

    clock: Clock
    room: Callable[[float], int]
    seconds: float = 0.0
    fate: Callable[[int, Job], Death | None] = lambda worker, job: None
    n_started: int = 0
    living: list[int] = field(default_factory=list)
    given: dict[int, Job] = field(default_factory=dict)

    def start(self) -> int:
        self.living.append(self.n_started)
        self.n_started += 1
        return self.living[-1]

    def give(self, worker: int, job: Job) -> None:
        self.given[worker] = job

    def wait(self, workers: Collection[int], seconds: float) -> list[tuple[int, Answer | Death]]:
        running = self.living[: self.room(self.clock.now)]
        for worker in self.given:
            if worker in running and worker in workers:
                job = self.given.pop(worker)
                if not isinstance(job, ArriveJob):
                    self.clock.now += self.seconds
                return [(worker, self.fate(worker, job) or _answer(worker, job))]
        self.clock.now += seconds
        return []

    def end(self, worker: int) -> None:
        self.living.remove(worker)
        self.given.pop(worker, None)


def _answer(worker: int, job: Job) -> Answer:
    match job:
        case ArriveJob():
            return f"place {worker}"
        case OpenJob():
            return None
        case _:
            return worker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    for module in ("dispatch", "timesheet"):
        monkeypatch.setattr(f"autocompress.workers.{module}.time", own)
    return own


def losing(n_nodes: int, workers_a_node: int) -> Callable[[int, Job], Death | None]:
    """Lose so many nodes, one after the other, as soon as their workers load the model."""

    def fate(worker: int, job: Job) -> Death | None:
        node = worker // workers_a_node
        if isinstance(job, OpenJob) and node < n_nodes:
            return Death("was lost with its node", str(node))
        return None

    return fate


def test_a_worker_without_room_holds_no_job_and_delays_no_end(clock: Clock) -> None:
    crew = ToldCrew(clock, room=lambda now: 2)

    answers = dict(Dispatcher(crew, 4, PATIENCE).run(JOBS))

    assert answers.keys() == set(range(len(JOBS)))
    assert set(answers.values()) == {0, 1}
    assert clock.now == 0.0


def test_workers_may_lack_room_for_ever_while_others_work(clock: Clock) -> None:
    crew = ToldCrew(clock, room=lambda now: 1, seconds=70.0)

    answers = dict(Dispatcher(crew, 3, PATIENCE).run(JOBS))

    assert answers == dict.fromkeys(range(len(JOBS)), 0)


def test_room_that_comes_late_is_taken(clock: Clock) -> None:
    crew = ToldCrew(clock, room=lambda now: 1 if now < 350.0 else 3, seconds=70.0)

    answers = dict(Dispatcher(crew, 3, PATIENCE).run(JOBS))

    assert len(set(answers.values())) == 3


def test_no_room_at_all_ends_the_run(clock: Clock) -> None:
    crew = ToldCrew(clock, room=lambda now: 0)

    with pytest.raises(EvaluationError, match=r"^No worker came to run in 100 s: there is no ro"):
        list(Dispatcher(crew, 3, PATIENCE).run(JOBS))

    assert crew.living == []


def test_a_lost_node_is_one_loss_however_many_workers_it_takes_along(clock: Clock) -> None:
    crew = ToldCrew(clock, room=lambda now: 8, fate=losing(n_nodes=3, workers_a_node=8))

    answers = dict(Dispatcher(crew, 8, PATIENCE).run(JOBS))

    assert answers.keys() == set(range(len(JOBS)))


def test_a_model_that_takes_node_after_node_ends_the_run(clock: Clock) -> None:
    crew = ToldCrew(clock, room=lambda now: 8, fate=losing(n_nodes=9, workers_a_node=8))

    with pytest.raises(EvaluationError, match=r"4 nodes died while they loaded the model"):
        list(Dispatcher(crew, 8, PATIENCE).run(JOBS))


@pytest.mark.parametrize(("nodes", "fails"), [(3, False), (4, True)])
def test_a_job_that_takes_node_after_node_fails_alone(
    clock: Clock, nodes: int, fails: bool
) -> None:
    takers: list[int] = []

    def fate(worker: int, job: Job) -> Death | None:
        if job == JOBS[5] and len(takers) < nodes:
            takers.append(worker)
            return Death("was lost with its node", str(worker))
        return None

    crew = ToldCrew(clock, room=lambda now: 2, fate=fate)

    answers = dict(Dispatcher(crew, 2, PATIENCE).run(JOBS))

    failed = [index for index, answer in answers.items() if isinstance(answer, Exception)]
    assert failed == ([5] if fails else [])
    assert not fails or "4 nodes died of it" in str(answers[5])


def test_a_worker_is_busy_while_it_has_a_job_and_there_is_a_run(clock: Clock) -> None:
    dispatcher = Dispatcher(ToldCrew(clock, room=lambda now: 1, seconds=10.0), 1, PATIENCE)
    list(dispatcher.run(JOBS))
    clock.now += 1000.0

    # In each run one answer, that the session is there, is none to a job.
    list(dispatcher.run(JOBS))

    (found,) = dispatcher.utilisation()
    assert (found.worker, found.jobs) == ("place 0", 24)
    assert found.busy == pytest.approx(240 / 260)


def test_what_a_worker_did_is_told_when_it_is_dead(clock: Clock) -> None:
    def fate(worker: int, job: Job) -> Death | None:
        return Death("fell") if (worker, job) == (0, JOBS[3]) else None

    crew = ToldCrew(clock, room=lambda now: 1, seconds=10.0, fate=fate)
    dispatcher = Dispatcher(crew, 1, PATIENCE)
    list(dispatcher.run(JOBS))
    dispatcher.close()

    first, second = dispatcher.utilisation()

    # The fourth job, of which it died, kept it busy as well.
    assert (first.jobs, second.jobs) == (3, 9)
    assert first.busy == pytest.approx(40 / 50)
    assert second.busy == pytest.approx(90 / 100)
