"""Schedulers let no schedule starve, and outlive a database that is away for a while."""

import functools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autocompress.errors import DatabaseAway
from autocompress.service import scheduler
from autocompress.service.scheduler import Scheduler
from autocompress.store.base import Json
from autocompress.store.schedules import Run, RunState, Schedule, ScheduleStore, open_schedules

STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""
"""Runs on when it is asked to end."""
EVERY_MINUTE = "* * * * *"


class Ended(Exception):
    """Stands for the interruption of a scheduler that goes on for ever."""


class Told:
    """A scheduler on a database, its runs ended at once, and what it told."""

    def __init__(self, store: ScheduleStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.events: list[tuple[str, dict[str, Json]]] = []
        self.scheduler = Scheduler("nowhere", store, lambda *event: self.events.append(event))

        def end(own: Scheduler, run: Run) -> int:
            store.finish(run, own._name, RunState.FINISHED, {"outcome": "KEPT"})
            return 0

        monkeypatch.setattr(Scheduler, "_process", end)

    def of(self, kind: str) -> list[Json]:
        """Return the schedules of which a kind of event was told."""
        return [values.get("schedule") for own, values in self.events if own == kind]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    with open_schedules(f"sqlite:///{tmp_path}/studies.db") as store:
        yield Told(store, monkeypatch)


def added(told: Told, name: str, cron: str = EVERY_MINUTE) -> Schedule:
    return told.store.add(name, cron, "UTC", {"model": "m"}, {"output": "o"})


@pytest.mark.parametrize("minutes", [1, 10, 1000])
def test_schedules_whose_runs_last_longer_than_their_interval_take_turns(
    told: Told, minutes: int
) -> None:
    for name in ("a", "b", "c"):
        added(told, name)
    now = datetime.now(UTC)

    for _ in range(6):
        now += timedelta(minutes=minutes)
        assert told.scheduler.step(now)

    assert told.of("run") == ["a", "b", "c"] * 2


def test_what_was_due_first_is_run_first(told: Told) -> None:
    added(told, "a", "0 0 * * *")
    added(told, "b")

    told.scheduler.step(datetime.now(UTC) + timedelta(days=1))

    assert told.of("run") == ["b"]


def test_a_schedule_that_cannot_be_read_here_holds_up_no_other(told: Told) -> None:
    told.store.add("a", EVERY_MINUTE, "Mars", {}, {})
    added(told, "b")

    assert told.scheduler.step(datetime.now(UTC) + timedelta(minutes=2))

    assert told.of("problem") == ["a"]
    assert told.of("run") == ["b"]


def test_a_database_that_is_away_ends_no_scheduler_and_no_run(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = added(told, "a")
    run = told.scheduler.claim_now(own)
    assert run is not None
    find_run, pauses = ScheduleStore.find_run, iter([None, None])

    def away(*_: object) -> tuple[Schedule, Run]:
        monkeypatch.setattr(ScheduleStore, "find_run", find_run)
        raise DatabaseAway("The server\nis gone.")

    def sleep(_seconds: float) -> None:
        if next(pauses, Ended) is Ended:
            raise Ended

    monkeypatch.setattr(Scheduler, "_process", lambda *_: 1)
    monkeypatch.setattr(ScheduleStore, "find_run", away)
    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(Ended):
        told.scheduler.forever()

    assert told.events[:2] == [
        ("taken over", {"schedule": "a", "due_at": run.due_at}),
        ("run", {"schedule": "a", "due_at": run.due_at}),
    ]
    assert ("problem", {"error": "The server is gone."}) in told.events
    assert told.of("run") == ["a", "a"]
    assert told.store.runs(own.id)[0].state is RunState.FAILED


def test_a_run_that_was_taken_over_and_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = tmp_path / "began"
    command = [sys.executable, "-c", STUBBORN, str(began)]
    monkeypatch.setattr(scheduler, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(scheduler, "GRACE_SECONDS", 0.1)
    popen = functools.partial(subprocess.Popen, command)
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: popen(**how))

    def beat(*_: object) -> bool:
        while not began.exists():
            time.sleep(0.01)
        return False

    monkeypatch.setattr(ScheduleStore, "beat", beat)
    with open_schedules(f"sqlite:///{tmp_path}/studies.db") as store:
        own = store.add("a", EVERY_MINUTE, "UTC", {"model": "m"}, {"output": "o"})
        stubborn = Scheduler("nowhere", store, lambda *_: None)
        run = stubborn.claim_now(own)
        assert run is not None

        status = stubborn._process(run)

    assert status == -signal.SIGKILL
