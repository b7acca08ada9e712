"""A new constraint is answered from what was measured, and from nothing else."""

import dataclasses
import math

import pytest

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.search.base import Task
from autocompress.search.evolve import EvolveSettings, EvolveStrategy
from autocompress.search.memo import Memo
from autocompress.search.retarget import retarget
from autocompress.search.steps import Rung
from autocompress.search.strategies import make_strategy
from autocompress.spaces.cost import under
from autocompress.store.base import Record
from autocompress.trial import Genotype
from tests.search.synthetic import (
    COST,
    SPACE,
    constraint_at,
    feasible_candidates,
    loss_of,
    measure,
    optimum,
    run,
)

SETTINGS = EvolveSettings(
    offspring=12, rungs=(Rung(4, 6), Rung(8, 2), Rung(16, 1)), mutants=60, generations=12
)


def task(speedup: float, seed: int = 0) -> Task:
    return Task(constraint_at(speedup), seed, 16, 64)


def searched(speedup: float, strategy: str = "evolve") -> Memo:
    """Return what a search under one constraint has measured."""
    own = make_strategy(strategy, task(speedup), SETTINGS)
    return Memo.of(
        Record(genotype, batch.fidelity, measure(genotype, batch.fidelity), None, 0.0)
        for batch in run(own)
        for genotype in batch.candidates
    )


@pytest.mark.parametrize("target", [1.3, 1.8, 2.5])
def test_the_answer_is_feasible_and_close_to_the_optimum(target: float) -> None:
    answer = retarget(task(target), searched(2.0), SETTINGS.single_sequences)

    everyone = sorted(map(loss_of, feasible_candidates(constraint_at(target))))
    assert answer.genotype in feasible_candidates(constraint_at(target))
    # Among the best twentieth of what is feasible, without having measured any of it.
    assert loss_of(answer.genotype) <= everyone[len(everyone) // 20]


def test_the_answer_to_the_old_target_is_what_the_search_found() -> None:
    answer = retarget(task(2.0), searched(2.0), SETTINGS.single_sequences)

    assert loss_of(answer.genotype) <= 1.05 * loss_of(optimum(constraint_at(2.0)))


@pytest.mark.parametrize("target", [1.3, 1.8, 2.5])
def test_the_interval_holds_the_expected_loss(target: float) -> None:
    answer = retarget(task(target), searched(2.0), SETTINGS.single_sequences)

    low, high = answer.interval
    assert 0 < low < answer.kl < high
    assert math.isfinite(high)


def test_the_same_study_gives_the_same_answer() -> None:
    memo = searched(2.0)

    first, second = (retarget(task(1.5), memo, SETTINGS.single_sequences) for _ in range(2))

    assert first == second


def test_a_study_without_single_changes_cannot_answer() -> None:
    with pytest.raises(SpecError, match="no single changes"):
        retarget(task(1.5), searched(2.0, "random"), SETTINGS.single_sequences)


def test_a_study_of_too_few_candidates_cannot_answer() -> None:
    with pytest.raises(SpecError, match="combined candidates >= 8"):
        retarget(task(1.5), searched(2.0, "additive"), SETTINGS.single_sequences)


def test_a_limit_that_nothing_meets_is_unreachable() -> None:
    impossible = dataclasses.replace(task(2.0), constraint=under(SPACE, COST, 0.9 * COST.least))

    with pytest.raises(UnreachableTarget):
        retarget(impossible, searched(2.0), SETTINGS.single_sequences)


def test_a_search_from_an_answer_begins_with_it() -> None:
    answer = retarget(task(1.5), searched(2.0), SETTINGS.single_sequences)
    refined = EvolveStrategy(dataclasses.replace(task(1.5), extra=(answer.genotype,)), SETTINGS)

    batches = run(refined)

    started: Genotype = answer.genotype
    assert started in batches[1].candidates
    best = refined.standing().best
    assert best is not None
    assert loss_of(best) <= loss_of(answer.genotype)
