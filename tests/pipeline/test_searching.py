"""Searches keep to their time over interruptions, and are refused before work where none helps."""

import contextlib
from pathlib import Path

import pytest

from autocompress.errors import SpecError
from autocompress.pipeline import searching
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.pipeline.prepared import prepare
from autocompress.pipeline.searching import _measured, baseline, check_darwin, stopper
from autocompress.search.base import Task, go_on
from autocompress.search.driver import SearchDriver
from autocompress.search.evolve import EvolveSettings
from autocompress.search.strategies import make_strategy
from autocompress.spec import from_mapping
from autocompress.store.study_store import create_study
from autocompress.trial import Genotype
from tests.search.synthetic import SynchronousPool, constraint_at, run

BUDGET = 10.0


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(searching, "time", clock)
    return clock


def test_what_an_interrupted_run_took_counts_against_the_budget(
    tmp_path: Path, clock: Clock
) -> None:
    store = create_study(f"sqlite:///{tmp_path}/s.db", "study", {})
    first = stopper(store, 0, BUDGET)
    for generation in (0, 1, 2):
        assert first(generation) is None
        clock.now += 3.0
    # Killed in the fourth generation; gone on with much later.
    clock.now += 1000.0
    again = stopper(store, 0, BUDGET)
    assert [again(generation) for generation in (0, 1, 2)] == [None] * 3
    clock.now += 3.0

    assert again(3) is None
    clock.now += 3.0
    assert again(4) == "the budget of 10 seconds ran out"
    assert stopper(store, 0, BUDGET)(4) == "the budget of 10 seconds ran out"
    assert stopper(store, 0, BUDGET)(3) is None


def test_without_a_budget_no_search_is_asked_whether_it_may_go_on(tmp_path: Path) -> None:
    store = create_study(f"sqlite:///{tmp_path}/s.db", "study", {})

    assert stopper(store, 0, None) is go_on


def test_what_was_measured_is_gone_through_again_whatever_the_clock_says(
    tmp_path: Path, clock: Clock
) -> None:
    store = create_study(f"sqlite:///{tmp_path}/s.db", "study", {})
    clock.now = 0.0
    first = stopper(store, 0, BUDGET)
    clock.now = 9.0
    assert first(5) is None

    again = stopper(store, 0, BUDGET)
    clock.now += 5.0

    assert again(5) is None
    assert again(6) == "the budget of 10 seconds ran out"


def test_a_simple_strategy_beside_a_search_has_none_of_its_limits(tmp_path: Path) -> None:
    store = create_study(f"sqlite:///{tmp_path}/s.db", "study", {})
    over = Task(constraint_at(2.0), 0, 16, 64, max_tokens=1, stop=lambda _: pytest.fail("asked"))
    free = Task(constraint_at(2.0), 0, 16, 64)

    found = baseline("random", over, SearchDriver(SynchronousPool(), store, lambda *_: None))

    alone = make_strategy("random", free, EvolveSettings())
    run(alone)
    assert found == alone.standing().best


def test_darwin_is_refused_where_its_readings_leave_nothing_to_train_on(
    tiny_llama: Path, calibration: Path
) -> None:
    def check(rungs: str) -> None:
        given = {"model": str(tiny_llama), "calibration": str(calibration), "context": 16}
        more = {
            "strategy": "darwin",
            "darwin_rungs": rungs,
            "target_params": "50%",
            "recover": 1000,
        }
        check_darwin(prepare(from_mapping({**given, **more, "space": "depth,width"})))

    check("128:4:2,512:8:1")
    with pytest.raises(SpecError, match="darwin_rungs: `8 sequences to train on beside 5000 to"):
        check("128:4:2,512:5000:1")


ONCE = MeasuredSpeedup(
    2.0,
    (1.9, 2.1),
    (40.0, 20.0),
    (19.0, 21.0),
    (0.5, 0.4),
    ((8.0, 4.0), (9.0, 3.0)),
    ((2.0, 1.5), (3.0, 1.0)),
)
BARE = MeasuredSpeedup(1.5, (1.4, 1.6), (3.0, 2.0), (1.9, 2.1), (0.7,))


@pytest.mark.parametrize("once", [ONCE, BARE])
def test_a_winner_is_timed_once_and_read_back_afterwards(
    tmp_path: Path, once: MeasuredSpeedup
) -> None:
    times = [once]
    winner = Genotype((1, 0))

    with contextlib.closing(create_study(f"sqlite:///{tmp_path}/s.db", "own", {})) as store:
        found = [_measured(store, 1, winner, lambda _: times.pop()) for _ in range(2)]

    assert found == [once, once]
