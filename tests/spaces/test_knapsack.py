"""The additive solution against counting all candidates out."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.cost import AdditiveCost, Constraint, Limit, drops_of_each_kind, under
from autocompress.spaces.knapsack import BUCKETS, solve, solve_under
from autocompress.spaces.making import Weights, make_space
from tests.spaces.problems import Problem, everything, menus_of, problems

# A cost that is a whole number of buckets but for rounding counts as that number.
ROUNDING = 1e-6


@st.composite
def losses_for(draw: st.DrawFn, problem: Problem) -> list[list[float]]:
    """Return a loss for every entry; dense loses nothing."""
    amounts = st.floats(0.0, 10.0)
    return [[0.0, *(draw(amounts) for _ in costs[1:])] for costs in problem.cost.menus]


WIDTHS_ALONE = problems(most_layers=2, stored=(Weights(),))
CASES = WIDTHS_ALONE.flatmap(lambda p: st.tuples(st.just(p), losses_for(p)))


def best_within(problem: Problem, losses: list[list[float]], limit: float) -> float:
    """Count out the least summed loss under a limit."""
    return min(
        (
            sum(row[entry] for row, entry in zip(losses, entries, strict=True))
            for entries in everything(menus_of(problem.space))
            if problem.cost.of(entries) <= limit
        ),
        default=math.inf,
    )


@given(CASES)
def test_the_solution_equals_brute_force_within_a_bucket_a_site(
    case: tuple[Problem, list[list[float]]],
) -> None:
    problem, losses = case
    cost, limit = problem.cost, problem.limit
    bucket = (limit - cost.fixed) / BUCKETS

    solution = solve(losses, cost, limit)

    found = (
        math.inf
        if solution is None
        else sum(row[entry] for row, entry in zip(losses, solution, strict=True))
    )
    assert found >= best_within(problem, losses, limit * (1 + ROUNDING)) - ROUNDING
    tighter = limit - len(losses) * bucket
    assert found <= best_within(problem, losses, tighter - ROUNDING) + ROUNDING


@given(CASES)
def test_the_solution_meets_the_limit_and_stays_in_the_space(
    case: tuple[Problem, list[list[float]]],
) -> None:
    problem, losses = case
    cost, limit = problem.cost, problem.limit

    solution = solve(losses, cost, limit)

    assert solution is None or cost.of(solution) <= limit * (1 + ROUNDING)
    sizes = zip(solution or (), problem.space.menus, strict=False)
    assert all(0 <= entry < len(menu) for entry, menu in sizes)


@given(CASES)
def test_a_limit_below_the_least_cost_has_no_solution(
    case: tuple[Problem, list[list[float]]],
) -> None:
    problem, losses = case
    cost = problem.cost

    assert solve(losses, cost, 0.99 * cost.least) is None


def test_a_limit_below_the_fixed_part_has_no_solution() -> None:
    cost = AdditiveCost(5.0, ((1.0, 0.0),))

    assert solve([[0.0, 1.0]], cost, 4.0) is None


def test_nothing_fits_into_no_room_but_what_costs_nothing() -> None:
    cost = AdditiveCost(5.0, ((1.0, 0.0), (2.0, 0.0)))

    assert solve([[0.0, 1.0], [0.0, 1.0]], cost, 5.0) == (1, 1)


def test_entries_that_are_not_allowed_are_not_taken() -> None:
    cost = AdditiveCost(0.0, ((4.0, 2.0, 0.0), (4.0, 2.0, 0.0)))
    losses = [[0.0, 0.1, 9.0], [0.0, 0.1, 8.0]]

    assert solve(losses, cost, 4.0) == (1, 1)
    assert solve(losses, cost, 4.0, [(0, 2), (0, 2)]) == (0, 2)


def test_a_failed_entry_is_not_taken() -> None:
    cost = AdditiveCost(0.0, ((4.0, 0.0), (4.0, 0.0)))

    assert solve([[0.0, math.inf], [0.0, 5.0]], cost, 4.0) == (0, 1)


@pytest.mark.parametrize("room", [12.01, 8.0, 4.0, 0.0])
def test_a_greedy_trap_is_solved_exactly(room: float) -> None:
    # The cheapest loss for each unit saved is not in the optimum: entry 1 of site 0 saves 7.
    cost = AdditiveCost(1.0, ((8.0, 1.0, 0.0), (4.0, 0.0, 0.0)))
    losses = [[0.0, 1.0, 5.0], [0.0, 0.9, 1.0]]
    best = {12.01: (0, 0), 8.0: (0, 1), 4.0: (1, 1), 0.0: (2, 1)}

    assert solve(losses, cost, 1.0 + room) == best[room]


def test_limits_on_different_sites_are_solved_together() -> None:
    space = make_space(3, 1, 128, depth=True, width=False)
    constraint = drops_of_each_kind(space, 1)
    losses = [[0.0, loss] for loss in (3.0, 0.5, 1.0, 2.0, 2.0, 0.4)]

    assert solve_under(losses, constraint, constraint.useful_levels()) == (0, 0, 1, 0, 0, 1)


def test_a_single_limit_is_the_plain_knapsack() -> None:
    space = make_space(2, 1, 128, depth=True, width=False)
    cost = AdditiveCost(1.0, ((3.0, 0.0), (2.0, 0.0), (3.0, 0.0), (2.0, 0.0)))
    losses = [[0.0, loss] for loss in (3.0, 0.5, 1.0, 2.0)]

    expected = solve(losses, cost, 6.0)

    assert solve_under(losses, under(space, cost, 6.0), [(0, 1)] * 4) == expected


@given(CASES, st.floats(0.0, 1.0), st.randoms(use_true_random=False))
def test_two_limits_on_the_same_sites_are_both_met(
    case: tuple[Problem, list[list[float]]], share: float, order: random.Random
) -> None:
    problem, losses = case
    turned = tuple(tuple(order.sample(own, len(own))) for own in problem.cost.menus)
    second = AdditiveCost(1.0, turned)
    most = second.least + share * (second.dense - second.least)
    both = Constraint(
        problem.space, (Limit(problem.cost, problem.limit), Limit(second, max(most, second.least)))
    )

    solution = solve_under(losses, both, menus_of(problem.space))

    assert solution is None or both.violation_of(solution) <= 0


def test_two_limits_find_what_neither_finds_alone() -> None:
    space = make_space(1, 1, 128, depth=True, width=False)
    time = AdditiveCost(1.0, ((3.0, 0.0), (1.0, 0.0)))
    size = AdditiveCost(1.0, ((1.0, 0.0), (3.0, 0.0)))
    both = Constraint(space, (Limit(time, 2.0), Limit(size, 2.0)))

    solution = solve_under([[0.0, 1.0], [0.0, 1.0]], both, menus_of(space))

    assert solution == (1, 1)
