"""Evolution on a space small enough to count out, where it must find the optimum."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

from autocompress.errors import EvaluationError, UnreachableTarget
from autocompress.search.base import Standing, Stopper, Task, go_on
from autocompress.search.evolve import EvolveSettings, EvolveStrategy, settings_for
from autocompress.search.steps import Rung
from autocompress.search.strategies import make_strategy
from autocompress.spaces.cost import under
from autocompress.spaces.making import make_space
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from tests.search.synthetic import (
    COST,
    SPACE,
    constraint_at,
    feasible_candidates,
    loss_of,
    measure,
    optimum,
    run,
    trial_of,
)

SETTINGS = EvolveSettings(
    offspring=12,
    rungs=(Rung(4, 6), Rung(8, 2), Rung(16, 1)),
    mutants=60,
    random_parents=8,
    single_sequences=4,
    generations=12,
    epoch=6,
    patience=25,
)
CONTEXT = 16
SPEEDUPS = [1.2, 1.6, 2.0, 3.0]


def task_at(
    speedup: float,
    *,
    seed: int = 0,
    phase: int = 0,
    available: int = 64,
    max_tokens: int | None = None,
    stop: Stopper = go_on,
    extra: tuple[Genotype, ...] = (),
) -> Task:
    return Task(constraint_at(speedup), seed, CONTEXT, available, phase, max_tokens, stop, extra)


def strategy_at(
    speedup: float, settings: EvolveSettings = SETTINGS, **given: Any
) -> EvolveStrategy:
    return EvolveStrategy(task_at(speedup, **given), settings)


def best_of(strategy: EvolveStrategy) -> Genotype:
    best = strategy.standing().best
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("speedup", SPEEDUPS)
def test_the_search_finds_the_optimum(speedup: float, seed: int) -> None:
    strategy = strategy_at(speedup, seed=seed)

    run(strategy)

    assert loss_of(best_of(strategy)) == loss_of(optimum(constraint_at(speedup)))


def test_the_additive_solution_is_not_the_optimum() -> None:
    missed = []
    for speedup in SPEEDUPS:
        strategy = make_strategy("additive", task_at(speedup), SETTINGS)
        run(strategy)
        best = strategy.standing().best
        assert best is not None
        missed.append(loss_of(best) > loss_of(optimum(constraint_at(speedup))))

    # Otherwise the law above would hold of a search that does nothing.
    assert any(missed)


@pytest.mark.parametrize("speedup", SPEEDUPS)
def test_every_candidate_but_the_single_changes_is_feasible(speedup: float) -> None:
    feasible = set(feasible_candidates(constraint_at(speedup)))

    singles, *others = run(strategy_at(speedup))

    n_cut = [sum(entry > 0 for entry in SPACE.entries(g)) for g in singles.candidates]
    assert set(n_cut) == {1}
    assert {genotype for batch in others for genotype in batch.candidates} <= feasible


def test_the_same_seed_asks_the_same_batches() -> None:
    assert run(strategy_at(2.0, seed=3)) == run(strategy_at(2.0, seed=3))


def test_other_seeds_and_phases_ask_other_batches() -> None:
    first, other_seed, other_phase = (
        run(strategy_at(2.0, seed=seed, phase=phase)) for seed, phase in [(0, 0), (1, 0), (0, 1)]
    )

    assert first != other_seed
    assert first != other_phase


@pytest.mark.parametrize("speedup", SPEEDUPS)
def test_nothing_is_asked_twice(speedup: float) -> None:
    batches = run(strategy_at(speedup))

    asked = [(genotype, batch.fidelity) for batch in batches for genotype in batch.candidates]
    assert len(set(asked)) == len(asked)


def test_only_the_search_text_is_read_and_no_more_than_there_is() -> None:
    batches = run(strategy_at(2.0, available=10))

    assert {batch.fidelity.split for batch in batches} == {Split.SEARCH}
    assert max(batch.fidelity.end for batch in batches) == 10


def test_draws_last_an_epoch() -> None:
    settings = dataclasses.replace(SETTINGS, generations=13)

    batches = run(strategy_at(2.0, settings))

    assert sorted({batch.fidelity.draw for batch in batches}) == [0, 1, 2]


def test_rungs_read_on_with_the_survivors_and_the_parent() -> None:
    batches = run(strategy_at(2.0, dataclasses.replace(SETTINGS, generations=1)))

    assert [batch.fidelity.end for batch in batches[1:4]] == [4, 8, 16]
    assert len(batches[2].candidates) == 6
    assert len(batches[3].candidates) == 2
    assert set(batches[2].candidates) <= set(batches[1].candidates) | set(batches[0].candidates)
    assert set(batches[3].candidates) <= set(batches[2].candidates)


def test_the_parent_competes_at_every_rung() -> None:
    strategy = strategy_at(2.0, dataclasses.replace(SETTINGS, epoch=2, generations=6))
    read: dict[tuple[Genotype, int], int] = {}
    missed = []
    while (batch := strategy.ask()) is not None:
        draw, end = batch.fidelity.draw, batch.fidelity.end
        read |= dict.fromkeys([(genotype, draw) for genotype in batch.candidates], end)
        best = strategy.standing().best
        missed.append(best is not None and read.get((best, draw), 0) < end)
        strategy.tell([trial_of(genotype, batch, measure) for genotype in batch.candidates])

    assert len(missed) > 6 * 3
    assert not any(missed)


def test_the_loss_never_rises_within_a_draw() -> None:
    standings: list[Standing] = []
    strategy = strategy_at(2.0, dataclasses.replace(SETTINGS, epoch=100))

    def objective(genotype: Genotype, fidelity: Fidelity) -> Measurement:
        standings.append(strategy.standing())
        return measure(genotype, fidelity)

    run(strategy, objective)

    losses = [loss_of(standing.best) for standing in standings if standing.best is not None]
    assert losses == sorted(losses, reverse=True)


def test_tokens_are_those_that_were_read() -> None:
    strategy = strategy_at(2.0)

    batches = run(strategy)

    longest: dict[tuple[Genotype, int], int] = {}
    for batch in batches:
        for genotype in batch.candidates:
            key = (genotype, batch.fidelity.draw)
            longest[key] = max(batch.fidelity.end, longest.get(key, 0))
    assert strategy.standing().tokens == CONTEXT * sum(longest.values())


@pytest.mark.parametrize("limit", [1, 4_000, 8_000])
def test_the_search_stops_at_its_tokens(limit: int) -> None:
    strategy = strategy_at(2.0, max_tokens=limit)

    batches = run(strategy)

    spent = strategy.standing().tokens
    a_generation = CONTEXT * 16 * (SETTINGS.offspring + 1)
    # The first parents are measured whatever the limit is.
    start = CONTEXT * sum(len(b.candidates) * b.fidelity.sequences for b in batches[:4])
    assert strategy.stopped_because == f"{limit:,} tokens spent"
    assert limit <= spent <= max(limit, start) + a_generation


def test_the_search_stops_when_a_fresh_draw_shows_no_progress() -> None:
    strategy = strategy_at(2.0, dataclasses.replace(SETTINGS, patience=2, generations=1000))

    run(strategy)

    assert strategy.stopped_because == (
        "a paired test on a fresh draw found no improvement, 2 times in a row, 6 generations each"
    )
    assert strategy.standing().generation < 60
    assert loss_of(best_of(strategy)) == loss_of(optimum(constraint_at(2.0)))


def test_progress_that_a_fresh_draw_does_not_confirm_counts_for_nothing() -> None:
    def objective(genotype: Genotype, fidelity: Fidelity) -> Measurement:
        # Every candidate is as good as any other; each draw's noise says otherwise.
        rng = np.random.default_rng([*genotype.levels, fidelity.draw])
        losses = tuple(1 + 0.2 * rng.standard_normal(64)[: fidelity.end])
        return Measurement(losses, losses, CONTEXT - 1)

    strategy = strategy_at(2.0, dataclasses.replace(SETTINGS, patience=2, generations=1000))
    run(strategy, objective)

    assert strategy.stopped_because.startswith("a paired test on a fresh draw")
    assert strategy.standing().generation <= 60


def test_the_search_stops_after_all_generations() -> None:
    strategy = strategy_at(2.0, dataclasses.replace(SETTINGS, generations=2))

    run(strategy)

    assert strategy.stopped_because == "all 2 generations done"
    assert strategy.standing().generation == 2


def test_a_stop_from_outside_is_reported() -> None:
    strategy = strategy_at(2.0, stop={3: "the budget ran out"}.get)

    run(strategy)

    assert strategy.stopped_because == "the budget ran out"
    assert strategy.standing().generation == 2
    assert math.isfinite(strategy.standing().loss)


def test_finalists_are_distinct_and_begin_with_the_best() -> None:
    strategy = strategy_at(2.0)

    run(strategy)

    finalists = strategy.finalists(4)
    assert finalists[0] == best_of(strategy)
    assert len(finalists) == len(set(finalists)) == 4
    assert set(finalists) <= set(feasible_candidates(constraint_at(2.0)))


def test_a_candidate_known_from_elsewhere_is_repaired_and_competes() -> None:
    winner = optimum(constraint_at(1.6))
    known = run(strategy_at(2.0, extra=(winner,)))
    unknown = run(strategy_at(2.0))

    assert known[0] == unknown[0]
    assert known[1].candidates != unknown[1].candidates
    assert set(known[1].candidates) <= set(feasible_candidates(constraint_at(2.0)))


def test_a_candidate_that_fails_never_survives() -> None:
    best = optimum(constraint_at(2.0))

    def objective(genotype: Genotype, fidelity: Fidelity) -> Measurement | None:
        return None if genotype == best else measure(genotype, fidelity)

    # One generation: later ones may find nothing new but the failing one.
    strategy = strategy_at(2.0, dataclasses.replace(SETTINGS, generations=1))
    run(strategy, objective)

    others = [g for g in feasible_candidates(constraint_at(2.0)) if g != best]
    assert best not in strategy.finalists(100)
    assert best_of(strategy) in others


def test_a_start_known_beforehand_is_not_measured() -> None:
    losses = [[float(entry) for entry in range(len(menu))] for menu in SPACE.menus]

    strategy = EvolveStrategy(task_at(2.0), SETTINGS, losses)
    batches = run(strategy)

    asked = {genotype for batch in batches for genotype in batch.candidates}
    assert asked <= set(feasible_candidates(constraint_at(2.0)))
    assert loss_of(best_of(strategy)) == loss_of(optimum(constraint_at(2.0)))


def test_a_rung_where_all_fail_is_an_error() -> None:
    with pytest.raises(EvaluationError, match=r"All 9 candidates of a rung failed; the last: it"):
        run(strategy_at(2.0), lambda genotype, fidelity: None)


@pytest.mark.parametrize("excess", [0.5, 0.99])
def test_a_limit_that_nothing_meets_is_unreachable(excess: float) -> None:
    task = Task(under(SPACE, COST, excess * COST.least), 0, CONTEXT, 64)

    with pytest.raises(UnreachableTarget, match="No candidate of the space meets the constraint"):
        run(EvolveStrategy(task, SETTINGS))


def test_asking_twice_is_asking_once() -> None:
    strategy = strategy_at(2.0)

    assert strategy.ask() == strategy.ask()
    assert strategy.standing() == Standing(0, SETTINGS.generations, 0, math.inf, None)


def test_a_loss_of_nothing_does_not_end_the_search() -> None:
    def objective(genotype: Genotype, fidelity: Fidelity) -> Measurement:
        return Measurement((0.0,) * fidelity.sequences, (1.0,) * fidelity.sequences, 15)

    strategy = strategy_at(2.0, dataclasses.replace(SETTINGS, generations=4, epoch=2))
    run(strategy, objective)

    assert strategy.standing().loss == 0.0


def test_a_parent_that_stays_has_one_loss_on_all_draws() -> None:
    strategy = strategy_at(2.0, dataclasses.replace(SETTINGS, epoch=1))
    standings = []
    while (batch := strategy.ask()) is not None:
        strategy.tell([trial_of(genotype, batch, measure) for genotype in batch.candidates])
        standings.append(strategy.standing())

    stayed = [
        (first.loss, later.loss)
        for first, later in itertools.pairwise(standings)
        if first.best is not None and first.best == later.best
    ]
    assert len(stayed) > 10
    assert all(later == pytest.approx(first) for first, later in stayed)


def test_candidates_of_spaces_of_many_entries_are_more_and_read_for_longer() -> None:
    depth = make_space(12, 4, 768, depth=True, width=False)
    both = make_space(12, 4, 768, depth=True, width=True)

    few, many = (
        settings_for([range(len(menu)) for menu in space.menus]) for space in (depth, both)
    )

    assert few == EvolveSettings()
    assert many.rungs[-1].sequences > few.rungs[-1].sequences
    assert many.offspring > few.offspring
