"""Bayesian search on a space small enough to count out, and how it spends its tokens."""

import dataclasses
import importlib.util
import itertools
import subprocess
import sys
from typing import Any

import pytest

from autocompress.errors import EvaluationError, SpecError
from autocompress.search.base import Batch, Task
from autocompress.search.bayes import WAYS, BayesStrategy
from autocompress.search.evolve import EvolveSettings
from autocompress.search.proposals import Sampler, check_packages
from autocompress.search.single_changes import additive_solution
from autocompress.search.strategies import RuleScores, make_strategy
from autocompress.trial import Fidelity, Genotype, Measurement
from tests.search.synthetic import (
    SPACE,
    constraint_at,
    feasible_candidates,
    loss_of,
    measure,
    optimum,
    run,
    strategy_named,
)

CONTEXT = 16
GAP = 0.02
RULE = [
    [0.0, *(0.1 * site + entry for entry in range(1, len(menu)))]
    for site, menu in enumerate(SPACE.menus)
]
ENDS = (4, 12, 36)
every_way = pytest.mark.parametrize("way", [strategy_named(name) for name in WAYS])
every_start = pytest.mark.parametrize(
    "way", [strategy_named("bayes"), strategy_named("bayes-tpe")]
)


def task(speedup: float = 2.0, **given: Any) -> Task:
    return Task(constraint_at(speedup), given.pop("seed", 0), CONTEXT, 64, **given)


def strategy_of(way: str, given: Task, batches: int = 3) -> BayesStrategy:
    return BayesStrategy(given, dataclasses.replace(WAYS[way], batches=batches))


def proposed(batches: list[Batch]) -> list[Batch]:
    """Leave the single changes out."""
    return [b for b in batches if all(sum(map(bool, g.levels)) > 1 for g in b.candidates)]


@every_way
@pytest.mark.parametrize("speedup", [1.2, 1.6, 2.0, 3.0])
def test_the_search_ends_near_the_optimum(way: str, speedup: float) -> None:
    strategy = strategy_of(way, task(speedup), batches=12)

    run(strategy)

    best = strategy.standing().best
    assert best is not None
    assert loss_of(best) <= (1 + GAP) * loss_of(optimum(constraint_at(speedup)))


@every_start
def test_the_additive_solution_is_tried_first(way: str) -> None:
    strategy = BayesStrategy(task(), WAYS[way], RULE)

    first = strategy.ask()

    assert first is not None
    assert first.candidates[0] == additive_solution(task(), RULE)


@every_start
def test_a_start_known_beforehand_is_not_measured(way: str) -> None:
    strategy = make_strategy(way, task(), EvolveSettings(), RuleScores(start=RULE))

    batches = run(strategy)

    assert proposed(batches) == batches


@every_way
def test_nothing_is_read_twice(way: str) -> None:
    batches = run(strategy_of(way, task()))

    read: dict[Genotype, int] = {}
    for batch in batches:
        for genotype in batch.candidates:
            assert batch.fidelity.end > read.get(genotype, 0)
            read[genotype] = batch.fidelity.end


@every_way
def test_a_pruner_lets_few_of_a_batch_read_on(way: str) -> None:
    batches = proposed(run(strategy_of(way, task())))

    assert {batch.fidelity.draw for batch in batches} == {0}
    at = {end: [b.candidates for b in batches if b.fidelity.end == end] for end in ENDS}
    n_read = [sum(map(len, at[end])) for end in ENDS]
    assert max(map(len, at[ENDS[0]])) <= WAYS[way].batch
    assert n_read[0] > n_read[1] >= n_read[2] >= 1
    assert sum(n_read) == sum(len(batch.candidates) for batch in batches)


@every_way
def test_only_what_read_to_the_end_is_a_finalist(way: str) -> None:
    strategy = strategy_of(way, task())

    batches = run(strategy)

    whole = {g for b in batches if b.fidelity.end == ENDS[-1] for g in b.candidates}
    finalists = strategy.finalists(100)
    assert set(finalists) == whole
    losses = [loss_of(genotype) for genotype in finalists]
    assert losses == sorted(losses)


@every_way
def test_other_seeds_and_phases_ask_otherwise(way: str) -> None:
    runs = [
        run(strategy_of(way, task(seed=seed, phase=phase)))
        for seed, phase in [(0, 0), (1, 0), (0, 1)]
    ]

    assert all(first != second for first, second in itertools.combinations(runs, 2))


def test_a_search_after_a_correction_is_shorter() -> None:
    searches = [strategy_of("bayes-tpe", task(phase=phase), batches=48) for phase in (0, 1)]

    assert [search.standing().generations for search in searches] == [48, 12]


@every_way
def test_a_candidate_known_from_elsewhere_is_repaired_and_competes(way: str) -> None:
    best = optimum(constraint_at(2.0))
    given = task(extra=(best, SPACE.dense))
    strategy = strategy_of(way, given, batches=1)

    batches = run(strategy)

    assert strategy.standing().best == best
    asked = {genotype for batch in proposed(batches) for genotype in batch.candidates}
    assert asked <= set(feasible_candidates(constraint_at(2.0)))


@every_way
def test_a_candidate_that_fails_never_survives(way: str) -> None:
    best = optimum(constraint_at(2.0))

    def fails(genotype: Genotype, fidelity: Fidelity) -> Measurement | None:
        return None if genotype == best else measure(genotype, fidelity)

    strategy = strategy_of(way, task(extra=(best,)))
    run(strategy, fails)

    assert best not in strategy.finalists(100)
    assert strategy.standing().best is not None


@every_way
def test_one_that_fails_further_on_leaves_the_next_best(way: str) -> None:
    asked: list[Genotype] = []

    def fails(genotype: Genotype, fidelity: Fidelity) -> Measurement | None:
        asked.extend([genotype] * (fidelity.end > ENDS[0]))
        return None if genotype in asked[:1] else measure(genotype, fidelity)

    strategy = strategy_of(way, task(), batches=1)
    run(strategy, fails)

    assert strategy.standing().best not in {None, asked[0]}


@every_way
def test_a_rung_where_all_fail_is_an_error(way: str) -> None:
    def fails(genotype: Genotype, fidelity: Fidelity) -> Measurement | None:
        return measure(genotype, fidelity) if sum(map(bool, genotype.levels)) == 1 else None

    with pytest.raises(EvaluationError, match="candidates of a rung failed"):
        run(strategy_of(way, task()), fails)


@every_way
def test_a_loss_of_nothing_does_not_end_the_search(way: str) -> None:
    def nothing(genotype: Genotype, fidelity: Fidelity) -> Measurement:
        return Measurement((0.0,) * fidelity.sequences, (0.0,) * fidelity.sequences, 15)

    strategy = strategy_of(way, task())
    run(strategy, nothing)

    assert strategy.standing().loss == 0


@every_way
def test_little_text_shortens_the_rungs(way: str) -> None:
    given = dataclasses.replace(task(), available=10)

    batches = proposed(run(strategy_of(way, given)))

    assert {batch.fidelity.end for batch in batches} == {4, 10}


@pytest.mark.parametrize("sampler", Sampler)
def test_a_missing_package_is_told_with_the_way_out(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(
        SpecError, match=r"needs optuna.*: run `pip install 'autocompress\[bayes\]'"
    ):
        check_packages(sampler)


def test_naming_strategies_imports_neither_optuna_nor_torch() -> None:
    asks = (
        "import autocompress.search.strategies, sys; print({'optuna', 'torch'} & {*sys.modules})"
    )

    said = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)

    assert said.stdout == "set()\n"
