"""Steps of many genes at once, on losses by formula in a space of many levels."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.base import Batch, Task
from autocompress.search.evolve import EvolveSettings, EvolveStrategy
from autocompress.search.local_steps import (
    is_fine,
    middle,
    neighbours,
    steps_around,
    tempered_solutions,
)
from autocompress.search.single_changes import additive_solution
from autocompress.search.steps import Rung
from autocompress.spaces.cost import under
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.moves import Moves
from autocompress.spaces.sizes import nominal_bits
from autocompress.trial import Fidelity, Genotype, Measurement
from tests.search.synthetic import run, trial_of
from tests.spaces.problems import GROUPS, sparse_space

LEVELS = 20
SPACE = sparse_space(4, LEVELS)
FEW = sparse_space(4, 5)
BITS = make_space(
    4, 1, 96, depth=False, width=False, weights=Weights(bits=tuple(range(2, 9))), groups=GROUPS
)
SENSITIVITY = np.random.default_rng(0).uniform(0.2, 2.0, len(SPACE.genes))


def task_at(sparsity: float, max_tokens: int | None = None) -> Task:
    constraint = under(SPACE, nominal_bits(SPACE, 16), 16 * (1 - sparsity))
    return Task(constraint, 0, 16, 64, max_tokens=max_tokens)


def loss_of(genotype: Genotype) -> float:
    """Return a loss that adds up, a parabola in each gene's level."""
    share = np.asarray(genotype.levels) / LEVELS
    return float(SENSITIVITY @ share**2)


def more_together(genotype: Genotype) -> float:
    """Return a loss that zeros everywhere raise above the sum of what each gene's cost alone."""
    share = np.asarray(genotype.levels) / LEVELS
    return float(SENSITIVITY @ share**2 + 5 * ((SENSITIVITY * share**3).sum()) ** 2)


def feasible(sparsity: float, seed: int) -> Genotype:
    task = task_at(sparsity)
    (levels,) = Moves(task.constraint, task.allowed).random(1, np.random.default_rng(seed))
    return Genotype(tuple(map(int, levels)))


def test_only_many_levels_of_zeros_under_one_limit_are_fine() -> None:
    task = task_at(0.5)
    (limit,) = task.constraint.limits
    two = dataclasses.replace(task.constraint, limits=(limit, limit))
    dropping = sparse_space(4, 20, depth=True)

    assert is_fine(task)
    assert not is_fine(dataclasses.replace(task, constraint=two))
    for space in (FEW, BITS, dropping):
        assert not is_fine(Task(under(space, nominal_bits(space, 16), 8), 0, 16, 64))


@given(st.integers(0, 1000))
def test_neighbours_differ_in_one_gene(seed: int) -> None:
    task = task_at(0.5)
    centre = feasible(0.5, seed)

    found = neighbours(task, centre)

    distance = round(LEVELS / 7)
    assert len(set(found)) == len(found)
    for own in found:
        apart = np.abs(np.subtract(own.levels, centre.levels))
        (gene,) = np.flatnonzero(apart)
        at_an_end = own.levels[gene] in (task.allowed[gene][0], task.allowed[gene][-1])
        assert apart[gene] == distance or (apart[gene] < distance and at_an_end)
    genes = {int(np.flatnonzero(np.subtract(own.levels, centre.levels))[0]) for own in found}
    assert genes == set(range(len(SPACE.genes)))


@given(st.integers(0, 1000), st.sampled_from([0.3, 0.5, 0.7]))
def test_steps_meet_the_limit_and_lead_down(seed: int, sparsity: float) -> None:
    task = task_at(sparsity)
    centre = feasible(sparsity, seed)

    found = steps_around(task, centre, loss_of)

    assert all(task.constraint.violation(own) <= 0 for own in found)
    # The widest reach: parabolas are exact, a random candidate is far from the best.
    assert loss_of(found[-1]) < loss_of(centre)


def test_steps_of_steps_reach_the_optimum_of_what_adds_up() -> None:
    task = task_at(0.5)
    losses = [[s * (n / LEVELS) ** 2 for n in range(LEVELS)] for s in SENSITIVITY]
    best = loss_of(additive_solution(task, losses))
    now = feasible(0.5, 0)
    start = loss_of(now)

    for _ in range(12):
        now = min([now, *steps_around(task, now, loss_of)], key=loss_of)

    assert loss_of(now) == pytest.approx(best, rel=0.01)
    assert start > 1.1 * best


def test_no_gene_steps_to_a_side_where_its_neighbour_failed() -> None:
    task, centre = task_at(0.5), feasible(0.5, 1)
    around = neighbours(task, centre)
    failed = {own for own in around if own.levels[:6] > centre.levels[:6]}
    read = {centre, *around} - failed

    found = steps_around(task, centre, lambda own: loss_of(own) if own in read else math.inf)

    assert failed
    assert found
    for own in found:
        assert all(np.subtract(own.levels, centre.levels)[:6] <= 0)
        assert task.constraint.violation(own) <= 0


def test_where_all_neighbours_failed_there_is_no_step() -> None:
    task, centre = task_at(0.5), feasible(0.5, 1)

    assert not steps_around(task, centre, lambda own: loss_of(own) if own == centre else math.inf)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_the_middle_meets_the_limit(seeds: list[int]) -> None:
    task = task_at(0.5)

    own = middle(task, [feasible(0.5, seed) for seed in seeds])

    assert own is not None
    assert task.constraint.violation(own) <= 0


def test_the_middle_of_noisy_copies_is_nearer_than_they_are() -> None:
    task = task_at(0.5)
    losses = [[s * (n / LEVELS) ** 2 for n in range(LEVELS)] for s in SENSITIVITY]
    best = additive_solution(task, losses)
    noise = np.random.default_rng(0).integers(-3, 4, (12, len(SPACE.genes)))
    noisy = np.clip(np.asarray(best.levels) + noise, 0, LEVELS - 1).tolist()

    own = middle(task, [Genotype(tuple(row)) for row in noisy])

    assert own is not None

    def far(levels: Sequence[int]) -> float:
        return float(np.linalg.norm(np.subtract(levels, best.levels)))

    assert far(own.levels) < min(map(far, noisy))


def test_powers_of_losses_spare_what_loses_most() -> None:
    task = task_at(0.6)
    losses = [[s * (n / LEVELS) ** 2 for n in range(LEVELS)] for s in SENSITIVITY]

    def most(genotype: Genotype) -> float:
        return float(max(row[level] for row, level in zip(losses, genotype.levels, strict=True)))

    found = tempered_solutions(task, losses)

    assert all(task.constraint.violation(own) <= 0 for own in found)
    assert most(found[-1]) < most(additive_solution(task, losses))


SETTINGS = EvolveSettings(
    offspring=12,
    rungs=(Rung(4, 4), Rung(8, 2), Rung(16, 1)),
    mutants=120,
    random_parents=6,
    generations=7,
)


def measured(genotype: Genotype, fidelity: Fidelity) -> Measurement:
    kl = tuple(
        more_together(genotype) * (1 + 0.2 * math.sin(7 * fidelity.draw + position))
        for position in range(fidelity.first, fidelity.end)
    )
    return Measurement(kl, kl, 15)


def searched(max_tokens: int | None = None) -> tuple[EvolveStrategy, list[Batch]]:
    strategy = EvolveStrategy(task_at(0.6, max_tokens), SETTINGS)
    return strategy, run(strategy, measured)


def test_neighbours_are_read_on_every_draw_and_never_win() -> None:
    strategy, batches = searched()
    task = task_at(0.6)

    # Beside the single changes only neighbours violate the limit.
    read = [
        {batch.fidelity.draw for batch in batches if own in batch.candidates}
        for batch in batches
        for own in batch.candidates
        if task.constraint.violation(own) > 0 and np.count_nonzero(own.levels) > 1
    ]
    assert set().union(*read) == {batch.fidelity.draw for batch in batches}
    assert all(task.constraint.violation(own) <= 0 for own in strategy.finalists(100))


def test_what_neighbours_lead_to_is_measured_next() -> None:
    task = task_at(0.6)
    strategy = EvolveStrategy(task, SETTINGS)
    is_followed = False
    centre: Genotype | None = None
    around: list[Genotype] = []

    def told(genotype: Genotype) -> float:
        return more_together(genotype) if genotype in (centre, *around) else math.inf

    while (batch := strategy.ask()) is not None:
        if centre is not None:
            led_to = {*steps_around(task, centre, told)}
            is_followed |= bool(led_to & {*batch.candidates})
        best = strategy.standing().best
        around = [] if best is None else neighbours(task, best)
        centre = best if around and {*batch.candidates} <= {*around} else None
        strategy.tell([trial_of(genotype, batch, measured) for genotype in batch.candidates])

    assert is_followed


def test_neighbours_that_the_tokens_do_not_last_for_are_not_read() -> None:
    _, whole = searched()
    spent_before = 0
    for batch in whole:
        if any(task_at(0.6).constraint.violation(own) > 0 for own in batch.candidates) and (
            spent_before
        ):
            break
        spent_before += len(batch.candidates) * batch.fidelity.sequences * 16

    strategy, batches = searched(spent_before + 1)

    assert strategy.stopped_because.endswith("tokens spent")
    violating = [
        own
        for batch in batches[1:]
        for own in batch.candidates
        if task_at(0.6).constraint.violation(own) > 0
    ]
    assert not violating


def test_a_study_of_small_steps_is_a_function_of_its_seed() -> None:
    first, second = (searched() for _ in range(2))

    assert first[1] == second[1]
    assert first[0].standing() == second[0].standing()


def test_the_reason_tells_how_long_a_draw_lasted() -> None:
    strategy = EvolveStrategy(task_at(0.6), dataclasses.replace(SETTINGS, patience=1))

    run(strategy, lambda _own, read: measured(Genotype((0,) * len(SPACE.genes)), read))

    assert strategy.stopped_because.endswith("1 times in a row, 3 generations each")
