"""Searches are aimed until the whole measured interval clears the target, and not far beyond."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.pipeline.aiming import (
    CLOSE,
    MOST_ATTEMPTS,
    STEP,
    Attempt,
    Reached,
    Timed,
    best_attempt,
    next_aim,
    next_share,
)
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.search.base import Task
from autocompress.spaces.cost import AdditiveCost, Constraint
from autocompress.spaces.making import make_space
from autocompress.trial import Fidelity, Genotype, Measurement, Split, Trial

SPACE = make_space(4, 2, 16, depth=True, width=False)
TASK = Task(Constraint(SPACE, ()), 0, 16, 8)


def timed(target: float, fastest: float = 4.0) -> Timed:
    return Timed(AdditiveCost(1.0, ()), target, fastest)


def attempt(
    aim: float,
    median: float,
    half: float = 0.01,
    loss: float | None = None,
    name: int | None = None,
) -> Attempt:
    """Return a search for `aim` whose winner was measured so; its genotype is told by `name`."""
    level = round(1e3 * aim) if name is None else name
    kl = aim if loss is None else loss
    winner = Trial(
        Genotype((level,)), Fidelity(Split.SELECTION, 0, 0, 1), Measurement((kl,), (kl,), 1)
    )
    interval = (median * (1 - half), median * (1 + half))
    measured = MeasuredSpeedup(median, interval, (median, 1.0), (1.0, 1.0), ())
    return Attempt(aim, TASK, winner, Reached(median, interval), measured)


def run(search: Timed, bias: float, half: float, seed: int = 0) -> list[Attempt]:
    """Aim until the end, where a winner measures a bias times its aim, give or take noise."""
    rng = np.random.default_rng(seed)
    attempts: list[Attempt] = []
    aim: float | None = search.first_aim
    while aim is not None:
        median = aim * bias * (1 + half * rng.uniform(-0.5, 0.5))
        attempts.append(attempt(aim, median, half))
        aim = next_aim(search, attempts)
    return attempts


@given(st.floats(1.2, 3.0), st.floats(0.85, 1.2), st.floats(0.001, 0.04), st.integers(0, 1000))
def test_it_ends_with_the_target_cleared_if_that_can_be(
    target: float, bias: float, half: float, seed: int
) -> None:
    attempts = run(timed(target, fastest=6.0), bias, half, seed)

    best = best_attempt(target, attempts)

    assert len(attempts) <= MOST_ATTEMPTS
    assert best.clears(target)


@given(st.floats(1.2, 3.0), st.floats(0.85, 1.2))
def test_on_a_quiet_machine_it_ends_near_the_target(target: float, bias: float) -> None:
    attempts = run(timed(target, fastest=6.0), bias, 0.002)

    best = best_attempt(target, attempts)

    assert target <= best.reached.median <= CLOSE * target


@given(st.floats(1.5, 3.0), st.floats(0.7, 0.95))
def test_it_ends_at_the_fastest_that_there_is(fastest: float, bias: float) -> None:
    search = timed(fastest, fastest)

    attempts = run(search, bias, 0.005)

    assert len(attempts) == 1
    assert best_attempt(fastest, attempts).aim == fastest


def test_a_near_hit_is_enough() -> None:
    assert next_aim(timed(2.0), [attempt(2.04, 2.05)]) is None


@pytest.mark.parametrize(("median", "is_tighter"), [(1.9, True), (2.0, True), (2.3, False)])
def test_the_next_aim_is_in_proportion(median: float, is_tighter: bool) -> None:
    following = next_aim(timed(2.0), [attempt(2.04, median)])

    assert following == pytest.approx(2.04 * 2.0 / (0.99 * median) * STEP)
    assert (following is not None and following > 2.04) is is_tighter


def test_no_aim_is_tried_again() -> None:
    missed, met = attempt(2.04, 1.99), attempt(2.15, 2.35)

    assert next_aim(timed(2.0), [missed, met]) == pytest.approx(2.04 * STEP)
    assert next_aim(timed(2.0), [attempt(2.12, 1.99), met]) is None


def test_a_badly_measured_miss_does_not_end_it_far_beyond_the_target() -> None:
    far, near = attempt(2.04, 2.256), attempt(2.04, 2.08)
    badly = attempt(1.84, 1.95, half=0.1)

    assert next_aim(timed(2.0), [far, badly]) == pytest.approx((2.04 * 1.84) ** 0.5)
    assert next_aim(timed(2.0), [near, badly]) is None
    assert next_aim(timed(2.0), [far, badly, attempt(2.01, 1.98, half=0.1)]) is None


def test_a_looser_search_that_finds_nothing_new_ends_it() -> None:
    first, looser = attempt(2.04, 2.3, name=1), attempt(1.8, 2.3, name=1)

    assert next_aim(timed(2.0), [first, looser]) is None


def test_within_a_budget_speed_is_given_back_once_and_a_miss_is_corrected_always() -> None:
    search = dataclasses.replace(timed(2.0), most_looser=1)
    far, short = attempt(2.04, 2.305), attempt(1.82, 1.985)

    assert next_aim(search, [far]) is not None
    assert next_aim(timed(2.0), [far, short]) is not None
    assert next_aim(search, [far, short]) is None
    assert next_aim(search, [attempt(2.04, 1.9), attempt(2.2, 1.95)]) is not None
    assert next_aim(search, [attempt(2.04, 1.9), attempt(2.2, 2.3)]) is not None


def test_of_those_that_clear_the_target_the_best_model_wins() -> None:
    attempts = [
        attempt(2.04, 2.4, loss=0.3),
        attempt(1.9, 2.1, loss=0.1),
        attempt(1.8, 1.95, loss=0.05),
    ]

    assert best_attempt(2.0, attempts) is attempts[1]


def test_where_none_clears_it_the_nearest_wins() -> None:
    attempts = [attempt(2.04, 1.9), attempt(2.2, 1.97), attempt(2.3, 1.97, half=0.05)]

    assert best_attempt(2.0, attempts) is attempts[1]
    assert best_attempt(None, attempts[:1]) is attempts[0]


def test_a_failed_selection_never_wins() -> None:
    broken = dataclasses.replace(
        attempt(2.0, 2.2), winner=Trial(Genotype((9,)), Fidelity(Split.SELECTION, 0, 0, 1), None)
    )
    whole = attempt(2.1, 2.3)

    assert best_attempt(2.0, [broken, whole]) is whole


def test_a_time_is_held_against_the_predicted_dense_model() -> None:
    """Dense was timed slower than predicted: a speedup is met that leaves the time too long."""
    measured = MeasuredSpeedup(2.2, (2.1, 2.3), (220.0, 100.0), (95.0, 105.0), ())
    cost = AdditiveCost(200.0, ())

    relative = Timed(cost, 2.0, 4.0)
    absolute = Timed(cost, 2.0, 4.0, is_absolute=True)

    assert relative.reached(measured) == Reached(2.2, (2.1, 2.3))
    assert absolute.reached(measured) == Reached(2.0, (200 / 105, 200 / 95))
    assert not relative.is_open(measured)
    assert absolute.is_open(measured)


@given(excess=st.floats(1.001, 1.3), share=st.floats(0.2, 1.0))
def test_a_winner_that_holds_too_much_is_given_less(excess: float, share: float) -> None:
    missed = dataclasses.replace(attempt(1.0, 1.0), held=excess)

    smaller = next_share(share, [missed])

    assert smaller is not None
    # What holds in proportion more than it is reckoned at then fits.
    assert excess * smaller / share < 1
    assert next_share(share, [dataclasses.replace(missed, held=1.0)]) is None
    assert next_share(share, [missed] * MOST_ATTEMPTS) is None


def test_what_fits_is_taken_before_what_is_fast() -> None:
    fast = dataclasses.replace(attempt(2.0, 3.0, loss=0.1), held=1.01)
    slow = dataclasses.replace(attempt(2.0, 2.1, loss=0.2), held=0.99)
    large = dataclasses.replace(attempt(2.0, 3.0, loss=0.1), held=1.2)

    assert best_attempt(2.0, [fast, slow]) is slow
    assert best_attempt(2.5, [fast, slow]) is slow
    assert best_attempt(2.0, [large, fast]) is fast
