"""Candidates lie where they cost and lose, and the best picks lie furthest below a front."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.axes import DENSE, Axes
from autocompress.search.base import Task
from autocompress.spaces.cost import AdditiveCost, Constraint, Limit
from autocompress.spaces.pareto import Point
from tests.search.synthetic import COST, SPACE, constraint_at

# Bytes are dear where time is cheap.
BYTES = AdditiveCost(1.0, ((6.0, 5.0, 4.0), (3.0, 2.0, 1.0, 0.0)) * 3)
BOTH = Constraint(SPACE, (Limit(COST, COST.dense / 2), Limit(BYTES, BYTES.dense * 0.75)))
CANDIDATES = st.tuples(*(st.integers(0, len(menu) - 1) for menu in SPACE.menus))
POINTS = st.lists(st.tuples(st.floats(0.1, 1.2), st.floats(-3, 2)), max_size=8)


def axes_of(constraint: Constraint) -> Axes:
    return Axes(Task(constraint, 0, 16, 64))


def levels_of(entries: list[tuple[int, ...]]) -> np.ndarray:
    return np.asarray([SPACE.genotype(own).levels for own in entries])


@given(st.lists(CANDIDATES, min_size=1, max_size=5))
def test_shares_are_costs_over_the_dense_one(entries: list[tuple[int, ...]]) -> None:
    shares = axes_of(BOTH).shares(levels_of(entries))

    for row, cost in zip(shares, (COST, BYTES), strict=True):
        assert row == pytest.approx([cost.of(own) / cost.dense for own in entries])


def test_budgets_go_along_every_axis_and_beyond_the_constraint() -> None:
    budgets = axes_of(BOTH).budgets(4)

    limits = [limit for constraint in budgets for limit in constraint.limits]
    assert [limit.cost for limit in limits] == [COST] * 4 + [BYTES] * 4
    assert min(limit.most for limit in limits[:4]) < COST.dense / 2
    assert all(limit.most < limit.cost.dense for limit in limits)


@given(st.lists(CANDIDATES, min_size=4, max_size=9), st.integers(0, 2**32 - 1))
def test_moves_stay_above_the_least_that_is_searched_on_some_axis(
    entries: list[tuple[int, ...]], seed: int
) -> None:
    axes = axes_of(constraint_at(2.0))
    rng = np.random.default_rng(seed)

    mutants = axes.moves_near(levels_of(entries), rng).mutate(levels_of(entries), rng)

    # What is given back fills a budget to within the cheapest step of the space.
    assert (axes.shares(mutants) >= axes.lows[:, None] - 8.0 / COST.dense).all()
    assert (axes.shares(mutants) <= DENSE + 1e-9).all()


def test_a_curve_goes_through_its_members() -> None:
    axes = axes_of(constraint_at(2.0))
    everyone = [SPACE.genotype(own) for own in ((1, 0, 0, 0, 0, 0), (2, 2, 0, 0, 0, 0))]
    dominated = SPACE.genotype((0, 0, 1, 0, 0, 0))
    places = axes.places([*everyone, dominated], np.asarray([-3.0, -1.0, -2.0]))

    curve = axes.curve(0, places)

    shares = np.asarray([places[genotype].shares[0] for genotype in everyone])
    assert curve.at(shares).tolist() == [-3.0, -1.0]
    assert curve.at(np.asarray([0.0, shares.mean(), 1.0])).tolist() == [-1.0, -2.0, -3.0]


@given(POINTS, st.tuples(st.floats(0.1, 1.0), st.floats(-3, 2)))
def test_one_more_candidate_never_raises_the_mean_loss(points: list[Point], more: Point) -> None:
    axes = axes_of(constraint_at(2.0))
    worst = (0.0, 3.0)  # Meets every budget.

    def mean_loss(*own: Point) -> float:
        shares, losses = np.asarray([worst, *points, *own]).T
        return axes.mean_loss(shares[None], losses)

    assert mean_loss(more) <= mean_loss()


def test_picks_lie_furthest_below_the_front_and_not_all_in_one_place() -> None:
    axes = axes_of(constraint_at(1.01))
    ends = [SPACE.genotype(own) for own in ((1, 0, 0, 0, 0, 0), (2, 3, 2, 3, 0, 0))]
    places = axes.places(ends, np.asarray([-5.0, 0.0]))
    crowd = [SPACE.genotype(own) for own in ((0, 0, 1, 0, 0, 0), (0, 0, 0, 0, 1, 0))]
    below, above = SPACE.genotype((2, 2, 0, 0, 0, 0)), SPACE.genotype((2, 0, 2, 0, 0, 0))
    levels = np.asarray([genotype.levels for genotype in (*crowd, below, above)])
    losses = axes.curve(0, places).at(axes.shares(levels)[0]) - [0.3, 0.2, 0.4, -0.5]

    picked = axes.pick(levels, [np.zeros(4), losses, losses, losses], places)

    # The first is picked for the constraint, and one of two candidates in one place is enough.
    assert picked == [0, 2, 3]


def test_every_eighth_pick_is_the_best_within_the_constraint() -> None:
    axes = axes_of(BOTH)
    everyone = levels_of([(0, 1, 0, 0, 0, 0), (2, 3, 2, 3, 0, 3), (2, 3, 2, 3, 2, 3)])
    places = axes.places([SPACE.dense], np.asarray([-9.0]))

    picked = axes.pick(everyone, [np.asarray([-2.0, 1.0, 0.5])], places)

    assert picked == [2]


def test_candidates_are_ranked_front_by_front() -> None:
    axes = axes_of(constraint_at(2.0))
    light, same_cost = SPACE.genotype((1, 0, 0, 0, 0, 0)), SPACE.genotype((0, 0, 1, 0, 0, 0))
    places = axes.places([same_cost, light, SPACE.dense], np.asarray([-1.0, -2.0, -9.0]))

    assert axes.ranked(places) == [light, SPACE.dense, same_cost]
