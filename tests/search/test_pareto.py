"""A search for a whole front finds it, on one draw, within its budget, and resumes."""

import contextlib
import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from autocompress.errors import EvaluationError
from autocompress.search import breeding
from autocompress.search.base import Task
from autocompress.search.driver import SearchDriver
from autocompress.search.pareto import ParetoSettings, ParetoStrategy
from autocompress.search.steps import Rung
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import AdditiveCost, Constraint, Limit
from autocompress.spaces.pareto import Point, hypervolume
from autocompress.store.study_store import create_study, open_study
from autocompress.trial import Genotype
from tests.search.synthetic import (
    COST,
    SPACE,
    SynchronousPool,
    constraint_at,
    loss_of,
    measure,
    optimum,
    run,
)

CONTEXT = 16
SETTINGS = ParetoSettings(
    budgets=8, offspring=8, rungs=(Rung(4, 8), Rung(16, 6), Rung(48, 6)), generations=8
)
REFERENCE = (1.0, math.log(5))
BYTES = AdditiveCost(1.0, ((6.0, 5.0, 4.0), (3.0, 2.0, 1.0, 0.0)) * 3)
every_breeder = pytest.mark.parametrize(
    "breed", [breeding.by_nsga2, breeding.by_map_elites, breeding.by_snes]
)


def strategy(
    breed: breeding.Breeder = breeding.by_nsga2,
    constraint: Constraint | None = None,
    max_tokens: int | None = None,
    settings: ParetoSettings = SETTINGS,
) -> ParetoStrategy:
    task = Task(constraint or constraint_at(2.0), 0, CONTEXT, 64, max_tokens=max_tokens)
    return ParetoStrategy(task, settings, breed)


def points(genotypes: Sequence[Genotype], cost: AdditiveCost = COST) -> list[Point]:
    return [
        (cost.of(SPACE.entries(genotype)) / cost.dense, math.log(loss_of(genotype)))
        for genotype in genotypes
        if any(genotype.levels)
    ]


def everyone(space: SearchSpace = SPACE) -> list[Genotype]:
    return [
        space.genotype(own) for own in itertools.product(*(range(len(m)) for m in space.menus))
    ]


@every_breeder
def test_it_finds_most_of_the_true_front(breed: breeding.Breeder) -> None:
    searched = strategy(breed)
    run(searched)

    whole = hypervolume([p for p in points(everyone()) if p[0] >= 0.3], REFERENCE)
    found = hypervolume([p for p in points(searched.front()) if p[0] >= 0.3], REFERENCE)

    assert found > 0.97 * whole


def test_its_winner_is_the_best_within_the_constraint() -> None:
    searched = strategy()
    run(searched)

    best = searched.standing().best
    assert best is not None
    assert loss_of(best) == loss_of(optimum(constraint_at(2.0)))
    assert all(constraint_at(2.0).violation(own) <= 0 for own in searched.finalists(6))


def test_its_front_goes_from_little_compression_to_more_than_was_asked() -> None:
    searched = strategy()
    run(searched)

    shares = [share for share, _ in points(searched.front())]
    assert max(shares) > 0.9
    # The constraint asks for a half, and the front goes on by as much again as a half of that.
    assert min(shares) <= 1 / 3 + 1e-9


def test_two_targets_are_two_fronts() -> None:
    limits = (Limit(COST, COST.dense / 2), Limit(BYTES, 0.75 * BYTES.dense))
    both = Constraint(SPACE, limits)
    searched = strategy(constraint=both)

    run(searched)

    for cost in (COST, BYTES):
        found = hypervolume(points(searched.front(), cost), REFERENCE)
        assert found > 0.9 * hypervolume(points(everyone(), cost), REFERENCE)
    best = searched.standing().best
    assert best is not None
    assert both.violation(best) <= 0


def test_all_losses_are_of_one_draw() -> None:
    batches = run(strategy())

    assert {batch.fidelity.draw for batch in batches} == {0}


def test_the_dense_model_is_never_read() -> None:
    batches = run(strategy())

    assert not any(SPACE.dense in batch.candidates for batch in batches)


def test_a_generation_begun_within_the_budget_is_the_last() -> None:
    whole = strategy()
    run(whole)
    half = whole.standing().tokens // 2

    searched = strategy(max_tokens=half)
    run(searched)

    most = sum(rung.survivors * rung.sequences for rung in SETTINGS.rungs) * CONTEXT
    assert half <= searched.standing().tokens <= half + most
    assert searched.stopped_because == f"{half:,} tokens spent"


def test_a_front_that_gets_no_better_ends_the_search() -> None:
    patient = dataclasses.replace(SETTINGS, generations=60, epoch=2, patience=1)

    searched = strategy(settings=patient)
    run(searched)

    assert searched.stopped_because.startswith("the front got no better, 1 times in a row, 2 gen")


def test_failed_candidates_are_left_out() -> None:
    broken = {own for own in everyone() if own.levels[1] == 3}

    searched = strategy()
    run(
        searched,
        lambda genotype, fidelity: None if genotype in broken else measure(genotype, fidelity),
    )

    assert searched.front()
    assert not broken & {*searched.front(), *searched.finalists(100)}


def test_a_search_of_which_all_fails_says_so() -> None:
    with pytest.raises(EvaluationError, match="candidates of a rung failed"):
        run(strategy(), lambda genotype, fidelity: None)


def test_a_search_that_was_stopped_goes_on_to_the_same_end(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    whole = strategy()
    asked = run(whole)
    with contextlib.closing(create_study(url, "study", {})) as store:
        pool = SynchronousPool(patience=40)
        with pytest.raises(KeyboardInterrupt):
            SearchDriver(pool, store, lambda done, total: None).run(strategy(), lambda: None)
    again = strategy()

    with contextlib.closing(open_study(url, "study")) as store:
        SearchDriver(SynchronousPool(), store, lambda done, total: None).run(again, lambda: None)

    assert again.standing() == whole.standing()
    assert again.front() == whole.front()
    assert asked


def test_what_needs_no_front_imports_neither_torch_nor_evotorch() -> None:
    code = (
        "import sys, autocompress.search.strategies\n"
        "sys.exit(bool({'torch', 'evotorch'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
