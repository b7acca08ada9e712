"""A race that was stopped goes on by what the store holds of it, and by nothing else."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from autocompress.cli.observers import make_observer
from autocompress.pipeline import decoding, decoding_race
from autocompress.pipeline.decoding import _reference
from autocompress.pipeline.decoding_opened import OpenedDecoding
from autocompress.pipeline.decoding_race import Judging, Limits
from autocompress.search.racing import Answered, Objective, Race, Rules, joined, steps
from autocompress.spaces.decoding import DecodingSpace, Parameter
from autocompress.store.base import StudyStore
from autocompress.store.study_store import create_study
from tests.search.test_racing import ITEMS, answered

SPACE = DecodingSpace([Parameter("top_k", (0, 1, 2))])
FAST, SLOW = answered(seconds=0.5, seed=1), answered(seconds=2.0, seed=2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    own = create_study(f"sqlite:///{tmp_path}/stopped.db", "own", {"kind": "decode"})
    yield own
    own.close()


def judging(store: StudyStore, seconds: float | None = None) -> Judging:
    race = Race(Rules((Objective.SECONDS,)), answered())
    return Judging(SPACE, race, store, Limits(None, seconds), make_observer(as_json=True))


def pool(
    judge: Judging, answers: Mapping[int, Answered], looks: Sequence[int] = steps(ITEMS)
) -> None:
    """Stand for the pool: trials one after another, each from its first item on."""
    for top_k, own in answers.items():
        for first, end in itertools.pairwise((0, *looks)):
            part = {name: column[first:end] for name, column in own.to_json().items()}
            if not judge.tell({"top_k": top_k}, first, part).goes_on:
                break


def told(judge: Judging) -> object:
    """Return all that a report tells of a race."""
    read = {own: read.to_json() for own, read in judge.read.items()}
    return read, judge.tokens, judge.failures, judge.leaders(), judge.known, judge.best(4)


def test_a_race_that_was_stopped_ends_as_if_it_had_not_been(
    tmp_path: Path, store: StudyStore
) -> None:
    other = create_study(f"sqlite:///{tmp_path}/undisturbed.db", "own", {"kind": "decode"})
    undisturbed = judging(other)
    pool(undisturbed, {1: FAST, 2: SLOW})
    pool(judging(store), {1: FAST}, looks=(8, 16))
    # Measured again, it is not as fast as it was.
    again = joined([SLOW.first(16), after(FAST, 16)])

    resumed = judging(store)
    pool(resumed, {1: again, 2: SLOW})

    assert told(resumed) == told(undisturbed)
    assert told(judging(store)) == told(undisturbed)
    assert store.answers() == other.answers()
    other.close()


def after(own: Answered, first: int) -> Answered:
    """Return what was made of the items from one on."""
    return Answered.from_json({name: column[first:] for name, column in own.to_json().items()})


def test_what_was_begun_goes_on_and_is_not_known_yet(store: StudyStore) -> None:
    pool(judging(store), {1: FAST}, looks=(8,))

    resumed = judging(store)

    assert [SPACE.values(own) for own in resumed.unfinished] == [{"top_k": 1}]
    assert resumed.known == []
    assert resumed.scores_of({"top_k": 1}) is None


def test_a_failure_that_heals_is_none(store: StudyStore) -> None:
    judging(store).fail({"top_k": 1}, "out of memory")
    resumed = judging(store)
    failed = dict(resumed.failures)

    pool(resumed, {1: FAST})

    assert list(failed.values()) == ["out of memory"]
    assert resumed.failures == {}
    assert judging(store).failures == {}


def test_what_an_interrupted_race_took_counts_against_its_time(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(decoding_race, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first = judging(store, 10.0)
    now[0] = 7.0
    pool(first, {1: FAST})
    # Killed; gone on with much later.
    now[0] = 1000.0
    again = judging(store, 10.0)

    assert not again.is_over
    now[0] += 3.0
    assert again.stopped_because == "10 seconds are over"


def test_what_a_race_took_adds_up_over_its_runs_without_a_limit_too(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(decoding_race, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first = judging(store)
    now[0] = 7.0
    pool(first, {1: FAST})
    # Killed; gone on with much later.
    now[0] = 1000.0
    again = judging(store)
    now[0] += 3.0

    assert again.seconds == 10.0


def test_what_the_reference_took_is_known_to_later_runs(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def answer(*_: object) -> Answered:
        now[0] += 5.0
        return FAST

    monkeypatch.setattr(decoding, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(decoding, "answer_search_items", answer)
    opened = cast("OpenedDecoding", SimpleNamespace(against=None))

    first, again = (_reference(opened, store, make_observer(as_json=True)) for _ in "12")

    assert (first[1], again[1], now[0]) == (5.0, 5.0, 5.0)
    assert again[0].scores.tolist() == FAST.scores.tolist()
