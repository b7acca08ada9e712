"""Searches keep to their time over interruptions, and are refused before work where none helps."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.pipeline import searching
from autocompress.pipeline.aiming import Timed
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.pipeline.observer import Values
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.searching import (
    Found,
    _measured,
    baseline,
    check_darwin,
    search,
    stopper,
)
from autocompress.pipeline.time_spent import TimeSpent
from autocompress.search.base import Task, go_on
from autocompress.search.driver import SearchDriver
from autocompress.search.evolve import EvolveSettings
from autocompress.search.strategies import RuleScores, make_strategy
from autocompress.spaces.cost import AdditiveCost, Limit, least_left
from autocompress.spec import from_mapping
from autocompress.store.base import StudyStore
from autocompress.store.study_store import create_study
from autocompress.trial import Genotype, Split
from tests.search.synthetic import COST, SPACE, SynchronousPool, constraint_at, run

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


def test_what_was_timed_of_another_candidate_is_not_credited(tmp_path: Path) -> None:
    times = [BARE, ONCE]

    with contextlib.closing(create_study(f"sqlite:///{tmp_path}/s.db", "own", {})) as store:
        for winner, own in ((Genotype((1, 0)), ONCE), (Genotype((0, 1)), BARE)):
            assert _measured(store, 1, winner, lambda _: times.pop()) == own
            assert _measured(store, 1, winner, lambda _: times.pop()) == own


# Each MLP must have 64 columns: without it more is left of this cost than with them. With all
# attention gone a model is at most 35 / 11 = 3.18 times as fast; without this limit, 35 / 2.
OTHER = AdditiveCost(0.0, ((1.0, 1.0, 1.0), (8.0, 6.0, 1.0, 4.0)) * 3)
MOST_OF_OTHER = Limit(OTHER, 6.5)


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Values]] = []

    def stage(self, name: str) -> None: ...

    def advance(self, done: int, total: int) -> None: ...

    def tell(self, kind: str, values: Values) -> None:
        self.said.append((kind, values))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    with contextlib.closing(create_study(f"sqlite:///{tmp_path}/s.db", "own", {})) as opened:
        yield opened


def searched(
    store: StudyStore,
    target: float,
    shares: Sequence[float],
    observer: Told,
    limits: tuple[Limit, ...] = (MOST_OF_OTHER,),
    **settings: object,
) -> Found:
    """Search the synthetic space for a speedup under other limits.

    Args:
        shares: What winners measure, of what they are predicted; the last of all that follow, too.
    """
    asked = {"model": "none", "target_speedup": target, "space": "depth,width", "context": 16}
    spec = from_mapping(asked | {"strategy": "uniform"} | settings)
    to_come = list(shares)
    nothing: Any = None
    rows = dict.fromkeys(Split, np.zeros((64, 16), np.int32))
    prepared = Prepared(
        spec, Path(), nothing, SPACE, nothing, rows, torch.device("cpu"), imported=None
    )

    def measure(winner: Genotype) -> MeasuredSpeedup:
        share = to_come.pop(0) if len(to_come) > 1 else to_come[0]
        median = share * COST.dense / COST.of(SPACE.entries(winner))
        return dataclasses.replace(ONCE, median=median, interval=(0.99 * median, 1.01 * median))

    return search(
        prepared,
        lambda _: limits,
        Timed(COST, target, COST.dense / least_left(SPACE, COST)),
        SearchDriver(SynchronousPool(), store, lambda done, total: None),
        store,
        (),
        RuleScores(),
        measure,
        None,
        TimeSpent(store, observer),
    )


def test_a_correction_that_finds_no_candidate_ends_with_the_best_winner_before(
    store: StudyStore,
) -> None:
    observer = Told()

    found = searched(store, 3.0, [0.9], observer)

    assert OTHER.of(SPACE.entries(found.winner)) <= MOST_OF_OTHER.most
    assert found.speedup is not None
    assert found.speedup.median < 3.0
    assert found.corrections == ()
    assert len(found.finalists) == 1
    (warned,) = [values["warning"] for kind, values in observer.said if kind == "warning"]
    assert str(warned).startswith("Correction 1 came to nothing, the best winner so far stays: No")


def test_where_the_margin_leaves_no_candidate_the_target_itself_is_asked_for(
    store: StudyStore,
) -> None:
    found = searched(store, 3.15, [1.02], Told())

    assert COST.dense / COST.of(SPACE.entries(found.winner)) == pytest.approx(35 / 11)
    with pytest.raises(UnreachableTarget, match="No evenly compressed candidate meets"):
        searched(store, 3.3, [1.0], Told())


def test_why_a_search_stopped_is_told_of_the_one_that_found_the_winner(store: StudyStore) -> None:
    # The first winner is faster than it must be, and the looser searches' are too slow.
    limited = {"strategy": "evolve", "budget_seconds": 0.001}

    found = searched(store, 2.0, [1.2, 0.5], Told(), (), **limited)

    assert found.corrections
    assert found.stopped_because == "the budget of 0.001 seconds ran out"


def test_a_generation_has_taken_what_it_took_in_the_run_that_came_to_it(
    store: StudyStore,
) -> None:
    limited = {"strategy": "evolve", "max_tokens": 20_000}

    first, again = (searched(store, 2.0, [1.0], Told(), (), **limited) for _ in range(2))

    assert len(first.history) > 1
    assert again.history == first.history
