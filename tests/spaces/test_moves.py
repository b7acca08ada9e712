"""Moves stay in the space, meet the limit and use it up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.base import GeneKind, Levels
from autocompress.spaces.cost import (
    ROUNDING,
    AdditiveCost,
    Constraint,
    Limit,
    drops_of_each_kind,
    under,
)
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.moves import Moves
from autocompress.spaces.sizes import linear_bytes, nominal_bits
from autocompress.trial import Genotype
from tests.spaces.problems import GROUPS, Problem, candidates, problems, sparse_space

CASES = problems().flatmap(
    lambda p: st.tuples(st.just(p), st.lists(candidates(p), min_size=1, max_size=4))
)
SEEDS = st.integers(0, 2**32 - 1)


def moves_of(problem: Problem) -> Moves:
    """Return the moves of a problem."""
    return Moves(problem.constraint, problem.allowed)


@given(CASES, SEEDS)
def test_repair_is_feasible_and_never_leaves_the_space(
    case: tuple[Problem, list[Levels]], seed: int
) -> None:
    problem, start = case

    repaired = moves_of(problem).repair(np.asarray(start), np.random.default_rng(seed)).tolist()

    assert all(problem.violation(levels) <= 0 for levels in repaired)
    assert all(problem.is_in_space(levels) for levels in repaired)
    assert all(problem.is_filled(levels) for levels in repaired)


@given(CASES, SEEDS, SEEDS)
def test_repair_leaves_what_it_repaired(
    case: tuple[Problem, list[Levels]], seed: int, other: int
) -> None:
    problem, start = case
    moves = moves_of(problem)
    repaired = moves.repair(np.asarray(start), np.random.default_rng(seed))

    again = moves.repair(repaired, np.random.default_rng(other))

    assert again.tolist() == repaired.tolist()


@given(CASES, SEEDS)
def test_mutate_takes_any_candidate(case: tuple[Problem, list[Levels]], seed: int) -> None:
    # Evenly spaced parents may hold levels that the sieve leaves out.
    problem, start = case
    only_last = [own[-1:] for own in problem.allowed]

    mutants = Moves(problem.constraint, only_last).mutate(
        np.asarray(start), np.random.default_rng(seed)
    )

    assert mutants.shape == np.asarray(start).shape


@given(problems(), SEEDS)
def test_fill_only_gives_back_and_leaves_nothing_to_give(problem: Problem, seed: int) -> None:
    cheapest = [int(np.argmin(costs)) for costs in problem.cost.menus]
    least = problem.space.genotype(cheapest).levels

    filled = moves_of(problem).fill(np.asarray([least]), np.random.default_rng(seed))[0].tolist()

    assert problem.violation(filled) <= 0
    assert problem.is_filled(filled)


@given(problems(), SEEDS)
def test_random_candidates_are_feasible_and_full(problem: Problem, seed: int) -> None:
    drawn = moves_of(problem).random(5, np.random.default_rng(seed)).tolist()

    assert all(problem.violation(levels) <= 0 for levels in drawn)
    assert all(problem.is_in_space(levels) for levels in drawn)
    assert all(problem.is_filled(levels) for levels in drawn)


@given(CASES, SEEDS)
def test_mutants_are_feasible_and_full(case: tuple[Problem, list[Levels]], seed: int) -> None:
    problem, start = case

    mutants = moves_of(problem).mutate(np.asarray(start), np.random.default_rng(seed)).tolist()

    assert all(problem.violation(levels) <= 0 for levels in mutants)
    assert all(problem.is_in_space(levels) for levels in mutants)
    assert all(problem.is_filled(levels) for levels in mutants)


@given(CASES, SEEDS)
def test_a_crossing_takes_whole_sites_and_is_feasible(
    case: tuple[Problem, list[Levels]], seed: int
) -> None:
    problem, start = case
    first, second = np.asarray(start), np.asarray(start[::-1])

    crossed = moves_of(problem).cross(first, second, np.random.default_rng(seed)).tolist()

    assert all(problem.violation(levels) <= 0 for levels in crossed)
    assert all(problem.is_in_space(levels) for levels in crossed)


@given(CASES, SEEDS)
def test_the_same_seed_gives_the_same_moves(case: tuple[Problem, list[Levels]], seed: int) -> None:
    problem, start = case
    moves = moves_of(problem)

    first, second = (
        [
            moves.random(3, rng).tolist(),
            moves.mutate(np.asarray(start), rng).tolist(),
            moves.repair(np.asarray(start), rng).tolist(),
        ]
        for rng in (np.random.default_rng(seed), np.random.default_rng(seed))
    )

    assert first == second


def test_every_feasible_candidate_of_the_depth_space_can_be_drawn() -> None:
    space = make_space(2, 1, 128, depth=True, width=False)
    cost = AdditiveCost(1.0, ((1.0, 0.0),) * 4)
    constraint = under(space, cost, 3.0)

    drawn = Moves(constraint, constraint.useful_levels()).random(300, np.random.default_rng(0))

    assert len(set(map(tuple, drawn.tolist()))) == 6
    assert set(drawn.sum(axis=1).tolist()) == {2}


@given(st.integers(0, 5), SEEDS)
def test_moves_keep_the_drops_of_each_kind(n: int, seed: int) -> None:
    constraint = drops_of_each_kind(make_space(5, 1, 128, depth=True, width=False), n)
    moves, rng = Moves(constraint, constraint.useful_levels()), np.random.default_rng(seed)

    drawn = moves.random(1, rng)
    mutants = moves.mutate(drawn.repeat(5, axis=0), rng)

    for levels in (*drawn.tolist(), *mutants.tolist()):
        assert (sum(levels[0::2]), sum(levels[1::2])) == (n, n)


@given(st.floats(0.3, 1.0), st.floats(0.3, 1.0), SEEDS)
def test_moves_meet_two_limits_at_once(first: float, second: float, seed: int) -> None:
    space = make_space(4, 2, 128, depth=True, width=True)
    time = AdditiveCost(1.0, ((3.0, 2.0, 0.0), (4.0, 2.0, 0.0)) * 4)
    size = AdditiveCost(1.0, ((2.0, 1.0, 0.0), (9.0, 5.0, 0.0)) * 4)
    limits = (Limit(time, first * time.dense), Limit(size, second * size.dense))
    constraint = Constraint(space, limits)
    moves, rng = Moves(constraint, constraint.useful_levels()), np.random.default_rng(seed)

    drawn = moves.random(4, rng)

    entries = [*drawn.tolist(), *moves.mutate(drawn, rng).tolist()]
    assert all(constraint.violation_of(own) <= 0 for own in entries)


@given(CASES, SEEDS)
def test_candidates_may_have_limits_of_their_own(
    case: tuple[Problem, list[Levels]], seed: int
) -> None:
    problem, start = case
    rng = np.random.default_rng(seed)
    cost = problem.cost
    most = problem.limit * rng.uniform(1, 2, len(start))
    most[0] = np.inf

    mutants = moves_of(problem).within(most[None]).mutate(np.asarray(start), rng).tolist()

    spent = [cost.of(problem.space.entries(Genotype(tuple(levels)))) for levels in mutants]
    assert all(own <= limit * (1 + ROUNDING) for own, limit in zip(spent, most, strict=True))
    assert all(problem.is_in_space(levels) for levels in mutants)
    assert not any(mutants[0])


def test_what_is_given_back_is_often_one_level_of_many() -> None:
    space = sparse_space(4, 20)
    constraint = under(space, nominal_bits(space, 16), 8)
    moves = Moves(constraint, constraint.useful_levels())
    # All alike: an exchange changes nothing.
    even = moves.fill(np.full((2000, len(space.genes)), 10), np.random.default_rng(0))

    back = even - moves.mutate(even, np.random.default_rng(1))

    furthest = back.max(axis=1)
    assert np.mean(furthest[furthest > 0] == 1) > 0.3
    assert np.mean(furthest > 3) > 0.1


def test_compression_moves_between_kinds_both_ways() -> None:
    space = make_space(
        4,
        2,
        96,
        depth=True,
        width=True,
        ffn_step=16,
        weights=Weights(bits=(8, 4, 2)),
        groups=GROUPS,
    )
    cost = linear_bytes(space, 16)
    constraint = under(space, cost, 0.4 * cost.dense)
    moves = Moves(constraint, constraint.useful_levels())
    start = moves.random(500, np.random.default_rng(0))
    is_width = np.asarray([gene.kind is GeneKind.WIDTH for gene in space.genes])

    change = moves.mutate(start, np.random.default_rng(1)) - start

    less, more = change < 0, change > 0
    to_bits = less[:, is_width].any(axis=1) & more[:, ~is_width].any(axis=1)
    to_widths = less[:, ~is_width].any(axis=1) & more[:, is_width].any(axis=1)
    assert to_bits.mean() > 0.1
    assert to_widths.mean() > 0.1
