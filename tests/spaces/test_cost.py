"""Costs add up over sites."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.base import Entries
from autocompress.spaces.cost import (
    AdditiveCost,
    drops_of_each_kind,
    least_left,
    mixed,
    under,
    useful_levels,
)
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.sizes import parameters
from autocompress.trial import Genotype
from tests.spaces.problems import Problem, entries_of, everything, menus_of, problems

# Sums in another order differ by roundings of numbers below a few hundred.
ROUNDING = 1e-9

CASES = problems().flatmap(lambda p: st.tuples(st.just(p), entries_of(p)))


@given(CASES)
def test_cost_is_additive_over_sites(case: tuple[Problem, Entries]) -> None:
    problem, entries = case
    cost = problem.cost
    dense = [0] * len(entries)

    alone = [
        cost.of([*dense[:site], entry, *dense[site + 1 :]]) - cost.dense
        for site, entry in enumerate(entries)
    ]

    assert cost.of(entries) - cost.dense == pytest.approx(sum(alone), abs=ROUNDING)


@given(problems(most_layers=2, stored=(Weights(),)))
def test_the_least_cost_is_that_of_some_candidate(problem: Problem) -> None:
    cost = problem.cost

    costs = [cost.of(entries) for entries in everything(menus_of(problem.space))]

    assert min(costs) == pytest.approx(cost.least, abs=ROUNDING)
    assert max(costs) == pytest.approx(cost.dense, abs=ROUNDING)


@given(CASES, st.floats(0.5, 100))
def test_what_all_candidates_save_is_no_part_of_the_dense_model(
    case: tuple[Problem, Entries], saved: float
) -> None:
    problem, entries = case
    plain, saving = problem.cost, problem.cost.saving(saved)

    both = mixed([(2.0, plain), (0.5, saving), (0.25, saving.saving(saved))])

    assert plain.start == plain.dense == saving.dense == saving.saving(saved).dense
    assert saving.start == pytest.approx(plain.dense - saved, abs=ROUNDING)
    assert saving.of(entries) == pytest.approx(plain.of(entries) - saved, abs=ROUNDING)
    assert saving.least == pytest.approx(plain.least - saved, abs=ROUNDING)
    assert both.dense == pytest.approx(2.75 * plain.dense)
    assert both.of(entries) == pytest.approx(2.75 * plain.of(entries) - saved, abs=1e-7)
    assert mixed([(2.0, plain)]).dense_fixed is None
    assert plain.saving(0.0) is plain


@given(CASES)
def test_a_candidate_is_feasible_up_to_the_limit(case: tuple[Problem, Entries]) -> None:
    problem, entries = case
    cost = problem.cost.of(entries)

    assert under(problem.space, problem.cost, cost).violation_of(entries) == 0
    assert under(problem.space, problem.cost, 2 * cost).violation_of(entries) == -0.5
    assert under(problem.space, problem.cost, cost / 2).violation_of(entries) == 1


@given(CASES)
def test_a_genotype_violates_as_its_entries_do(case: tuple[Problem, Entries]) -> None:
    problem, entries = case
    genotype = problem.space.genotype(entries)

    expected = problem.constraint.violation_of(entries)

    assert problem.constraint.violation(genotype) == expected


COSTS = st.lists(st.floats(0.0, 9.0), min_size=1, max_size=8)


@given(COSTS, st.floats(0.0, 3.0))
def test_useful_levels_save_more_and_more(costs: list[float], least_saving: float) -> None:
    useful = useful_levels(costs, least_saving)

    picked = [costs[level] for level in useful]
    assert useful[0] == 0
    assert list(useful) == sorted(set(useful))
    assert all(later < earlier for earlier, later in itertools.pairwise(picked))


@given(COSTS, st.floats(0.0, 3.0))
def test_the_cheapest_level_is_always_useful(costs: list[float], least_saving: float) -> None:
    assert costs[useful_levels(costs, least_saving)[-1]] == min(costs)


@given(problems())
def test_a_level_that_saves_under_some_limit_is_useful(problem: Problem) -> None:
    useful = problem.constraint.useful_levels()

    last = problem.space.entries(Genotype(tuple(own[-1] for own in useful)))
    assert problem.cost.of(last) == pytest.approx(problem.cost.least, abs=ROUNDING)


def test_a_level_that_saves_nothing_is_left_out() -> None:
    costs = (5.0, 5.0, 4.9, 3.0, 3.0, 0.0)

    assert useful_levels(costs) == (0, 2, 3, 5)
    assert useful_levels(costs, least_saving=0.5) == (0, 3, 5)


def test_what_is_stored_counts_however_little_it_saves_and_time_as_it_is_told() -> None:
    # Of the dearest bundle, half a percent: as the keys of a model with few heads of them.
    space = make_space(1, 2, 256, depth=False, width=True, ffn_step=64)
    stored = AdditiveCost(0.0, ((1.0, 0.5), (100.0, 99.5, 60.0, 30.0)))
    timed = dataclasses.replace(stored, resolution=1.0)

    assert under(space, stored, 50.0).useful_levels() == ((0, 1), (0, 1, 2, 3))
    assert under(space, timed, 50.0).useful_levels() == ((0, 1), (0, 2, 3))


def test_the_least_of_what_is_left_has_one_site() -> None:
    space = make_space(2, 1, 128, depth=True, width=False)
    cost = AdditiveCost(2.0, ((3.0, 0.0), (5.0, 0.0), (4.0, 0.0), (6.0, 0.0)))
    left = [entries for entries in everything([range(2)] * 4) if entries != (1, 1, 1, 1)]

    assert least_left(space, cost) == min(cost.of(entries) for entries in left) == 5.0
    assert len(space.sites) == len(cost.menus)


def test_what_cannot_be_dropped_may_cost_the_least_everywhere() -> None:
    space = make_space(2, 2, 128, depth=False, width=True)
    cost = parameters(space, 0)

    assert least_left(space, cost) == cost.least
    stays = make_space(2, 1, 128, depth=True, width=False, keeps_first_attention=True)
    assert least_left(stays, parameters(stays, 0)) == parameters(stays, 0).least


def test_drops_of_each_kind_are_counted_apart() -> None:
    space = make_space(4, 1, 128, depth=True, width=False)
    constraint = drops_of_each_kind(space, 2)

    feasible = {e for e in everything([range(2)] * 8) if constraint.violation_of(e) <= 0}

    assert feasible == {
        e for e in everything([range(2)] * 8) if sum(e[0::2]) >= 2 and sum(e[1::2]) >= 2
    }
    assert constraint.useful_levels() == ((0, 1),) * 8
