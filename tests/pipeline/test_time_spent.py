"""What a study cost is the sum of its runs, whatever ended them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.pipeline import time_spent
from autocompress.pipeline.observer import Values
from autocompress.pipeline.time_spent import TimeSpent
from autocompress.store.base import StudyState, StudyStore
from autocompress.store.study_store import create_study


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def stage(self, name: str) -> None:
        self.said.append(name)

    def advance(self, done: int, total: int) -> None:
        self.said.append((done, total))

    def tell(self, kind: str, values: Values) -> None:
        self.said.append((kind, values))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_spent, "time", clock)
    return clock


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    with contextlib.closing(create_study(f"sqlite:///{tmp_path}/s.db", "own", {})) as opened:
        yield opened


def test_runs_add_up_and_time_between_them_does_not_count(store: StudyStore, clock: Clock) -> None:
    killed = TimeSpent(store, Told())
    killed.stage("levels")
    clock.now += 3600.0
    assert killed.reached("search") == 3600.0
    clock.now += 60.0
    killed.advance(1, 2)
    # Killed, and gone on with much later.
    clock.now += 10.0**6

    again = TimeSpent(store, Told())
    clock.now += 5.0

    assert again.seconds == 3665.0
    assert again.reached("search") == 3600.0
    assert again.reached("generation 1") == 3665.0


def test_what_has_finished_costs_no_more(store: StudyStore, clock: Clock) -> None:
    first = TimeSpent(store, Told())
    clock.now += 10.0
    assert first.keep() == 10.0
    store.finish(StudyState.FINISHED, {})

    again = TimeSpent(store, Told())
    clock.now += 10.0

    assert again.keep() == 10.0


def test_what_is_told_is_passed_on(store: StudyStore) -> None:
    told = Told()
    spent = TimeSpent(store, told)

    spent.stage("levels")
    spent.advance(1, 2)
    spent.tell("study", {"study": "own"})

    assert told.said == ["levels", (1, 2), ("study", {"study": "own"})]
