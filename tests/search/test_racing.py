"""What a race promises: leaders are best, nobody is dropped who may still be, pairs are fair."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.search.racing import (
    Answered,
    Objective,
    Race,
    Rules,
    against,
    joined,
    paired,
    steps,
)

ITEMS = 64


def answered(n: int = ITEMS, score: float = 0.5, seconds: float = 1.0, seed: int = 0) -> Answered:
    """Return noisy answers: difficulty and length of an item are the same for every seed."""
    items = np.random.default_rng(7)
    hard, length = items.random(ITEMS)[:n], 1 + items.random(ITEMS)[:n]
    own = np.random.default_rng([seed, 1]).normal(0, 0.02, ITEMS)[:n]
    return Answered(
        scores=np.clip(score * 2 * hard + own, 0, 1),
        tokens=np.round(20 * length),
        said=np.round(20 * length),
        seconds=seconds * length * (1 + own),
        first_seconds=0.1 * seconds * (1 + own),
        memory_bytes=np.full(n, 1000.0),
    )


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (Objective.QUALITY, 0.25),
        (Objective.SECONDS, 3.0),
        # Of the 16 tokens that two answers say, 40 were generated: only the former are speed.
        (Objective.TOKENS_PER_SECOND, 16 / 6),
        (Objective.TO_FIRST, 0.2),
        (Objective.QUALITY_PER_SECOND, 0.5 / 6),
        (Objective.COST, 40 / 0.5),
        (Objective.MEMORY, 600.0),
    ],
)
def test_objectives_are_what_people_call_so(objective: Objective, value: float) -> None:
    of_two = Answered(
        scores=np.array([0.5, 0.0]),
        tokens=np.array([30.0, 10.0]),
        said=np.array([12.0, 4.0]),
        seconds=np.array([5.0, 1.0]),
        first_seconds=np.array([0.3, 0.1]),
        memory_bytes=np.array([700.0, 500.0]),
    )

    assert objective.shown(objective.ratio(of_two)) == pytest.approx(value)


def test_one_that_is_surely_slower_is_dropped_at_the_first_look() -> None:
    race = Race(Rules((Objective.SECONDS,)), answered())

    assert not race.goes_on(answered(8, seconds=2.0, seed=1))


def test_one_that_is_faster_goes_on_and_leads() -> None:
    race = Race(Rules((Objective.SECONDS,)), answered())
    faster = answered(seconds=0.5, seed=1)

    assert race.goes_on(faster.first(8))
    assert not race.goes_on(faster)
    assert race.leaders == [faster]


def test_nobody_is_dropped_where_nothing_is_pruned() -> None:
    race = Race(Rules((Objective.SECONDS,)), answered(), prunes=False)

    assert race.goes_on(answered(32, seconds=9.0, seed=1))
    assert not race.goes_on(answered(seconds=9.0, seed=1))


def test_of_two_objectives_one_that_is_better_in_either_goes_on() -> None:
    race = Race(Rules((Objective.SECONDS, Objective.QUALITY)), answered())

    assert race.goes_on(answered(16, score=0.9, seconds=2.0, seed=1))
    assert race.goes_on(answered(16, score=0.1, seconds=0.5, seed=1))
    assert not race.goes_on(answered(16, score=0.1, seconds=2.0, seed=1))


def test_one_that_surely_loses_too_much_quality_is_dropped_however_fast() -> None:
    race = Race(Rules((Objective.SECONDS,), drop=0.05), answered(score=0.5))

    assert not race.goes_on(answered(32, score=0.2, seconds=0.1, seed=1))
    assert race.goes_on(answered(32, score=0.5, seconds=0.1, seed=1))


def test_one_that_is_not_proven_good_enough_does_not_lead() -> None:
    worse = answered(score=0.45, seconds=0.1, seed=1)
    race = Race(Rules((Objective.SECONDS,), drop=0.04), answered(score=0.5))

    race.goes_on(worse)

    assert race.violation(worse) > 0
    assert worse not in race.leaders


def test_a_time_that_no_answer_keeps_is_hopeless() -> None:
    rules = Rules((Objective.QUALITY,), limits={Objective.SECONDS: 0.5})

    assert rules.is_hopeless(answered(16), answered(16))
    assert not rules.is_hopeless(answered(16, seconds=0.1), answered(16))


@given(st.sampled_from(list(Objective)), st.floats(0.3, 3.0))
def test_a_limit_is_missed_by_what_the_ratio_is_above_it(
    objective: Objective, factor: float
) -> None:
    own = answered(16)
    ratio = objective.ratio(own)
    rules = Rules((Objective.QUALITY,), limits={objective: factor * ratio})

    assert rules.violation(own, own) == pytest.approx(1 / factor - 1)
    # What is surely missed is missed.
    assert not rules.is_hopeless(own, own) or factor < 1
    assert objective.shown(objective.shown(ratio)) == pytest.approx(ratio)


def test_a_limit_that_nothing_can_keep_is_missed_by_all() -> None:
    rules = Rules((Objective.SECONDS,), limits={Objective.QUALITY: 0.0})

    assert rules.violation(answered(score=0.5), answered()) > 0


@given(st.integers(8, ITEMS), st.floats(0.1, 3.0), st.integers(0, 50))
def test_easy_items_are_no_merit(n: int, seconds: float, seed: int) -> None:
    race = Race(Rules((Objective.SECONDS,)), answered())
    whole = answered(seconds=seconds, seed=seed)

    (expected,) = race.expected(whole.first(n))

    assert expected == pytest.approx(Objective.SECONDS.ratio(whole), rel=0.1)


@given(st.sampled_from(list(Objective)), st.integers(4, ITEMS))
def test_nothing_is_worse_than_itself(objective: Objective, n: int) -> None:
    own = answered(n)

    difference = against(objective, own, own)

    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)


@given(st.sampled_from(list(Objective)), st.floats(0.2, 0.9), st.floats(0.2, 3.0))
def test_the_sign_of_a_difference_is_that_of_the_ratios(
    objective: Objective, score: float, seconds: float
) -> None:
    own, other = answered(score=score, seconds=seconds, seed=1), answered()

    mean = against(objective, own, other).mean

    apart = objective.ratio(own) - objective.ratio(other)
    assert mean == pytest.approx(apart, rel=1e-6, abs=1e-9)


def test_a_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    draws = rng.normal(0.3, 1.0, (2000, 12))

    held = [own.low <= 0.3 <= own.high for own in map(paired, draws)]

    assert 0.93 < np.mean(held) < 0.97


def test_of_few_items_nothing_is_known() -> None:
    assert paired(np.ones(3)).low == -math.inf


def test_items_that_are_not_the_same_are_not_paired() -> None:
    with pytest.raises(SpecError, match="8 items cannot be paired with 16"):
        against(Objective.SECONDS, answered(8), answered(16))


def test_answers_come_back_from_json_and_in_parts() -> None:
    own = answered()

    again = Answered.from_json(own.to_json())
    parts = joined([own.first(8), Answered(*(getattr(own, n)[8:] for n in own.to_json()))])

    for name in own.to_json():
        assert np.array_equal(getattr(again, name), getattr(own, name))
        assert np.array_equal(getattr(parts, name), getattr(own, name))


@pytest.mark.parametrize(
    ("items", "looks"), [(8, (8,)), (9, (8, 9)), (40, (8, 16, 32, 40)), (5, (5,))]
)
def test_candidates_are_looked_at_after_twice_as_many_items_each_time(
    items: int, looks: tuple[int, ...]
) -> None:
    assert steps(items) == looks
