"""A study has one driver at a time, on both databases."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from autocompress.errors import DatabaseAway, StoreError, StudyHeld
from autocompress.store import holding
from autocompress.store.claims import SILENT_SECONDS, claimant, in_words, is_gone
from autocompress.store.holding import held
from autocompress.store.study_store import SqlStudyStore, create_study, open_study
from tests.store.test_study_store import SHARD

NOW = datetime(2026, 11, 27, 2, tzinfo=UTC)


@pytest.fixture
def store(url: str) -> Iterator[SqlStudyStore]:
    store = create_study(url, "held", {})
    yield store
    store.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 0.0)


def a_dead_process() -> str:
    command = "from autocompress.store.claims import claimant; print(claimant())"
    return subprocess.run(
        [sys.executable, "-c", command], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_held_study_is_refused_with_who_holds_it(store: SqlStudyStore, url: str) -> None:
    other = open_study(url, "held")
    with held(store), pytest.raises(StudyHeld) as refused, held(other):
        raise AssertionError("two drivers")
    other.close()

    assert "Study 'held' is being run by process " in str(refused.value)


def test_a_study_is_free_when_its_driver_has_ended(store: SqlStudyStore, url: str) -> None:
    other = open_study(url, "held")
    with pytest.raises(KeyboardInterrupt), held(store):
        raise KeyboardInterrupt

    with held(other):
        other.record([SHARD])
    other.close()

    assert list(store.measurements().values()) == [SHARD]


def test_a_killed_driver_holds_nothing(store: SqlStudyStore) -> None:
    store.hold(a_dead_process())

    with held(store):
        store.record([SHARD])


def test_a_driver_whose_database_went_away_lets_its_failure_out(store: SqlStudyStore) -> None:
    with pytest.raises(DatabaseAway, match="gone"), held(store):
        raise DatabaseAway("gone")


def test_a_driver_that_is_ending_is_waited_for(
    store: SqlStudyStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "PATIENCE_SECONDS", 20.0)
    other, own = open_study(url, "held"), claimant()
    other.hold(own)
    threading.Timer(0.7, other.release, [own]).start()

    with held(store):
        store.record([SHARD])
    other.close()


def test_who_lost_a_study_records_nothing_more(
    store: SqlStudyStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_study(url, "held")
    monkeypatch.setattr(holding, "BEAT_SECONDS", 0.05)
    with held(store):
        monkeypatch.setattr("autocompress.store.study_store.is_gone", lambda *_: True)
        other.hold(claimant())
        while not store._is_lost:
            pass
        with pytest.raises(StudyHeld, match="took the study over"):
            store.record([SHARD])
    monkeypatch.undo()

    with pytest.raises(StudyHeld):
        store.hold(claimant())
    other.close()


def test_a_driver_goes_on_beating_when_its_database_is_back(
    store: SqlStudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats, beat, is_back = itertools.count(), SqlStudyStore.beat, threading.Event()

    def beat_at_last(own: SqlStudyStore, name: str) -> bool:
        if next(beats) < 2:
            raise StoreError("locked")
        is_back.set()
        return beat(own, name)

    monkeypatch.setattr(holding, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(SqlStudyStore, "beat", beat_at_last)
    with held(store):
        assert is_back.wait(20)


def test_of_drivers_that_race_one_holds(store: SqlStudyStore, url: str) -> None:
    found: list[bool] = []

    def race() -> None:
        own = open_study(url, "held")
        try:
            own.hold(claimant())
            found.append(True)
        except StudyHeld:
            found.append(False)
        own.close()

    racing = [threading.Thread(target=race) for _ in range(6)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()

    assert sorted(found) == [False] * 5 + [True]


def test_the_silent_are_gone_after_a_while_wherever_they_are() -> None:
    _, _, tail = claimant().partition(":")
    elsewhere = f"other/0123abcd/42:{tail}"
    heard = NOW.isoformat()

    # A process of a container that was started again at once may look like the one before.
    for own in (elsewhere, claimant()):
        assert not is_gone(own, heard, NOW + timedelta(seconds=SILENT_SECONDS))
        assert is_gone(own, heard, NOW + timedelta(seconds=SILENT_SECONDS + 1))
    assert in_words(elsewhere).endswith(" on other")


def test_a_process_number_that_was_given_again_is_another_process() -> None:
    machine, pid, began, unique = claimant().rsplit(":", 3)
    earlier = f"{machine}:{pid}:{float(began) - 3600:.2f}:{unique}"

    assert is_gone(earlier, NOW.isoformat(), NOW)
    assert not is_gone(claimant(), NOW.isoformat(), NOW)
