"""Schedules and their runs, on every database: a firing belongs to one scheduler."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autocompress.errors import StoreError
from autocompress.store.schedules import RunState, Schedule, ScheduleStore, open_schedules

DUE = datetime(2026, 11, 1, 2, tzinfo=UTC)


@pytest.fixture
def store(url: str) -> Iterator[ScheduleStore]:
    with open_schedules(url) as own:
        yield own


def added(store: ScheduleStore, name: str = "nightly") -> Schedule:
    return store.add(name, "0 2 * * *", "Europe/Berlin", {"model": "m"}, {"output": "o"})


def test_a_schedule_comes_back_as_it_was_added(store: ScheduleStore) -> None:
    own = added(store)

    assert store.named("nightly") == own
    assert store.all() == [own]
    assert (own.cron, own.zone, own.spec) == ("0 2 * * *", "Europe/Berlin", {"model": "m"})
    assert own.settings == {"output": "o"}


def test_a_taken_name_and_an_unknown_one_are_told(store: ScheduleStore) -> None:
    added(store)

    with pytest.raises(StoreError, match="'nightly' exists already"):
        added(store)
    with pytest.raises(StoreError, match="'nihgtly'; did you mean 'nightly'"):
        store.named("nihgtly")


def test_a_firing_is_claimed_once(store: ScheduleStore) -> None:
    own = added(store)

    first = store.claim(own.id, DUE, "a")
    second = store.claim(own.id, DUE, "b")
    again = store.claim(own.id, DUE, "a")

    assert first is not None
    assert second is None
    assert again == first
    assert [run.claimed_by for run in store.runs(own.id)] == ["a"]


def test_a_firing_is_one_moment_in_every_zone(store: ScheduleStore) -> None:
    own = added(store)
    elsewhere = DUE.astimezone(datetime.now().astimezone().tzinfo)

    assert store.claim(own.id, elsewhere, "a") is not None
    assert store.claim(own.id, DUE, "b") is None


def test_a_run_is_taken_over_by_one(store: ScheduleStore) -> None:
    own = added(store)
    run = store.claim(own.id, DUE, "dead")
    assert run is not None

    assert store.take_over(run, "b")
    assert not store.take_over(run, "c")
    assert not store.beat(run, "dead")
    store.finish(run, "dead", RunState.FAILED, {"error": "late"})
    assert store.runs(own.id)[0].state is RunState.RUNNING
    assert store.beat(run, "b")
    store.finish(run, "b", RunState.FINISHED, {"outcome": "KEPT"})
    assert not store.take_over(store.runs(own.id)[0], "c")


def test_runs_come_in_the_order_that_they_were_due(store: ScheduleStore) -> None:
    own = added(store)
    for days in (3, 1, 2):
        state = RunState.MISSED if days == 1 else RunState.RUNNING
        store.claim(own.id, DUE + timedelta(days=days), "a", state)

    runs = store.runs(own.id)

    assert [run.due_at[8:10] for run in runs] == ["02", "03", "04"]
    assert [run.finished_at is None for run in runs] == [False, True, True]
    assert store.find_run(runs[1].id) == (own, runs[1])


def test_what_runs_is_not_removed(store: ScheduleStore) -> None:
    own = added(store)
    run = store.claim(own.id, DUE, "a")
    assert run is not None

    with pytest.raises(StoreError, match="is running"):
        store.remove("nightly")
    store.finish(run, "a", RunState.FAILED, {"error": "no"})
    store.remove("nightly")

    assert store.all() == []
    assert added(store).id is not None


CLAIM = """
import sys
from datetime import UTC, datetime, timedelta
from autocompress.store.schedules import open_schedules

url, name = sys.argv[1:]
start = datetime(2026, 11, 1, 2, tzinfo=UTC)
with open_schedules(url) as store:
    own = store.named("nightly")
    print(sum(
        store.claim(own.id, start + timedelta(minutes=n), name) is not None for n in range(40)
    ))
"""


def test_schedulers_that_race_share_the_firings(store: ScheduleStore, url: str) -> None:
    own = added(store)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CLAIM, url]
    racing = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True, cwd=root)
        for name in ("a", "b", "c")
    ]

    claimed = [int(process.communicate(timeout=60)[0]) for process in racing]

    assert sum(claimed) == 40
    assert len(store.runs(own.id)) == 40
