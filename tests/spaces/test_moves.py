"""Moves stay in the space, meet the limit and use it up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.base import make_space
from autocompress.spaces.cost import AdditiveCost, drops_of_each_kind, under, useful_entries
from autocompress.spaces.moves import (
    Entries,
    evenly_narrow,
    evenly_spaced,
    fill,
    mutate,
    random_candidate,
    repair,
    spread,
)
from tests.spaces.problems import Problem, candidates, problems

CASES = problems().flatmap(lambda p: st.tuples(st.just(p), candidates(p)))
SEEDS = st.integers(0, 2**32 - 1)


@given(CASES, SEEDS)
def test_repair_is_feasible_and_never_leaves_the_space(
    case: tuple[Problem, Entries], seed: int
) -> None:
    problem, entries = case

    repaired = repair(entries, problem.constraint, problem.allowed, np.random.default_rng(seed))

    assert problem.constraint.violation_of(repaired) <= 0
    assert problem.is_in_space(repaired)
    assert problem.is_filled(repaired)


@given(CASES, SEEDS, SEEDS)
def test_repair_leaves_what_it_repaired(
    case: tuple[Problem, Entries], seed: int, other: int
) -> None:
    problem, entries = case
    repaired = repair(entries, problem.constraint, problem.allowed, np.random.default_rng(seed))

    again = repair(repaired, problem.constraint, problem.allowed, np.random.default_rng(other))

    assert again == repaired


@given(CASES, SEEDS)
def test_mutate_takes_any_candidate(case: tuple[Problem, Entries], seed: int) -> None:
    # Evenly spaced parents may hold entries that the sieve leaves out.
    problem, _ = case
    narrow = tuple(allowed[-1:] for allowed in problem.allowed)
    mixed = [(0, *own) if own[0] else own for own in narrow]

    mutant = mutate(
        tuple(len(menu) - 1 for menu in problem.constraint.space.menus),
        problem.constraint,
        mixed,
        np.random.default_rng(seed),
    )

    assert len(mutant) == len(mixed)


@given(problems(), SEEDS)
def test_fill_only_gives_back_and_leaves_nothing_to_give(problem: Problem, seed: int) -> None:
    least = tuple(allowed[-1] for allowed in problem.allowed)

    filled = fill(least, problem.constraint, problem.allowed, np.random.default_rng(seed))

    assert all(new <= old for new, old in zip(filled, least, strict=True))
    assert problem.constraint.violation_of(filled) <= 0
    assert problem.is_in_space(filled)
    assert problem.is_filled(filled)


@given(problems(), SEEDS)
def test_a_random_candidate_is_feasible_and_full(problem: Problem, seed: int) -> None:
    candidate = random_candidate(problem.constraint, problem.allowed, np.random.default_rng(seed))

    assert problem.constraint.violation_of(candidate) <= 0
    assert problem.is_in_space(candidate)
    assert problem.is_filled(candidate)


@given(CASES, SEEDS)
def test_a_mutant_is_feasible_and_full(case: tuple[Problem, Entries], seed: int) -> None:
    problem, entries = case

    mutant = mutate(entries, problem.constraint, problem.allowed, np.random.default_rng(seed))

    assert problem.constraint.violation_of(mutant) <= 0
    assert problem.is_in_space(mutant)
    assert problem.is_filled(mutant)


@given(CASES, SEEDS)
def test_the_same_seed_gives_the_same_moves(case: tuple[Problem, Entries], seed: int) -> None:
    problem, entries = case
    constraint, allowed = problem.constraint, problem.allowed

    first, second = (
        [
            random_candidate(constraint, allowed, rng),
            mutate(entries, constraint, allowed, rng),
            repair(entries, constraint, allowed, rng),
        ]
        for rng in (np.random.default_rng(seed), np.random.default_rng(seed))
    )

    assert first == second


@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_spread_gives_distinct_positions(pair: tuple[int, int]) -> None:
    n, total = pair

    positions = spread(n, total)

    assert len(set(positions)) == n
    assert positions == sorted(positions)
    assert all(0 <= position < total for position in positions)


def test_spread_stays_away_from_both_ends() -> None:
    assert spread(1, 9) == [4]
    assert spread(3, 9) == [1, 4, 7]


@given(st.integers(1, 8), st.floats(0.1, 5.0), st.floats(0.1, 5.0), st.floats(0.01, 1.0))
def test_evenly_spaced_drops_as_few_as_suffice(
    n_layers: int, attention: float, mlp: float, share: float
) -> None:
    space = make_space(n_layers, 2, 128, depth=True, width=False)
    cost = AdditiveCost(0.5, ((attention, 0.0), (mlp, 0.0)) * n_layers)
    constraint = under(space, cost, cost.least + share * (cost.dense - cost.least))

    found = evenly_spaced(constraint)

    assert found is not None
    assert constraint.violation_of(found) <= 0
    by_kind = sum(found[0::2]), sum(found[1::2])
    assert abs(by_kind[0] - by_kind[1]) <= 1
    cheaper_pairs = [
        (a, m)
        for a in range(n_layers + 1)
        for m in range(n_layers + 1)
        if abs(a - m) <= 1 and a + m < sum(by_kind)
    ]
    saved = [a * attention + m * mlp for a, m in cheaper_pairs]
    assert all(cost.dense - s > constraint.limits[0].most - 1e-9 for s in saved)


def test_evenly_spaced_gives_up_where_all_drops_do_not_suffice() -> None:
    space = make_space(3, 2, 128, depth=True, width=False)
    cost = AdditiveCost(5.0, ((1.0, 0.0),) * 6)

    assert evenly_spaced(under(space, cost, 4.9)) is None


def test_evenly_spaced_has_nothing_to_drop_in_the_width_space() -> None:
    space = make_space(2, 2, 128, depth=False, width=True)
    cost = AdditiveCost(1.0, ((1.0, 0.0), (1.0, 0.0)) * 2)

    assert evenly_spaced(under(space, cost, 3.0)) is None


@pytest.mark.parametrize("speedup", [1.0, 1.5, 2.0, 5.0])
def test_evenly_narrow_narrows_all_sites_alike(speedup: float) -> None:
    space = make_space(3, 4, 256, depth=False, width=True, ffn_step=64)
    cost = AdditiveCost(1.0, ((3.0, 2.0, 1.0, 0.0),) * 6)
    constraint = under(space, cost, cost.dense / speedup)

    found = evenly_narrow(constraint)

    assert found is not None
    assert constraint.violation_of(found) <= 0
    assert len(set(found)) == 1
    one_wider = [max(0, entry - 1) for entry in found]
    assert constraint.violation_of(one_wider) > 0 or found == tuple(one_wider)


def test_evenly_narrow_gives_up_where_the_narrowest_does_not_suffice() -> None:
    space = make_space(1, 2, 128, depth=False, width=True)
    cost = AdditiveCost(5.0, ((1.0, 0.0), (1.0, 0.0)))

    assert evenly_narrow(under(space, cost, 4.9)) is None


def test_every_feasible_candidate_of_the_depth_space_can_be_drawn() -> None:
    space = make_space(2, 1, 128, depth=True, width=False)
    cost = AdditiveCost(1.0, ((1.0, 0.0),) * 4)
    constraint = under(space, cost, 3.0)
    rng = np.random.default_rng(0)

    drawn = {random_candidate(constraint, useful_entries(cost), rng) for _ in range(300)}

    assert len(drawn) == 6
    assert {sum(entries) for entries in drawn} == {2}


@given(st.integers(0, 5), SEEDS)
def test_moves_keep_the_drops_of_each_kind(n: int, seed: int) -> None:
    space = make_space(5, 1, 128, depth=True, width=False)
    constraint = drops_of_each_kind(space, n)
    allowed, rng = constraint.useful_entries(), np.random.default_rng(seed)

    drawn = random_candidate(constraint, allowed, rng)
    mutants = [mutate(drawn, constraint, allowed, rng) for _ in range(5)]

    for entries in (drawn, *mutants):
        assert (sum(entries[0::2]), sum(entries[1::2])) == (n, n)
