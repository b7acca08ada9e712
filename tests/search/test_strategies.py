"""The contract of `Strategy`, kept by every strategy, and what is each one's own."""

import contextlib
import dataclasses
import math
from pathlib import Path

import pytest

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.search.base import Batch, Stopper, Strategy, Task, go_on
from autocompress.search.bayes import WAYS, BayesStrategy
from autocompress.search.darwin import DarwinSettings
from autocompress.search.driver import SearchDriver
from autocompress.search.evolve import EvolveSettings, EvolveStrategy
from autocompress.search.evopress import EvoPressSettings, EvoPressStrategy, Trade
from autocompress.search.listed import CHUNK_SEQUENCES, ListedStrategy, ListSettings, brute_force
from autocompress.search.local_steps import tempered_solutions
from autocompress.search.single_changes import additive_solution, random_candidates
from autocompress.search.steps import Rung
from autocompress.search.strategies import FROM_SINGLE_CHANGES, RuleScores, make_strategy
from autocompress.spaces.base import SiteKind
from autocompress.spaces.cost import drops_of_each_kind, under
from autocompress.spaces.making import make_space
from autocompress.spec import PARETO, STRATEGIES
from autocompress.spec_rules import OF_STRATEGIES
from autocompress.store.study_store import create_study, open_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split, Trial
from tests.search.synthetic import (
    COST,
    SPACE,
    SynchronousPool,
    constraint_at,
    feasible_candidates,
    loss_of,
    measure,
    optimum,
    run,
    strategy_named,
)

CONTEXT = 16
SETTINGS = EvolveSettings(
    offspring=8,
    rungs=(Rung(4, 3), Rung(16, 1)),
    mutants=40,
    random_parents=4,
    generations=4,
    epoch=2,
)
DARWIN = DarwinSettings((Rung(4, 3, 32), Rung(16, 1, 64)), generations=2, offspring=4)
RULE = [
    [0.0, *(0.1 * site + entry for entry in range(1, len(menu)))]
    for site, menu in enumerate(SPACE.menus)
]
SCORES = RuleScores(RULE, [(1, 1), (2, 0)], by_rule={"weight-error": RULE, "fisher": RULE})
# OWL says nothing of drops and widths: it has a space of its own in its own tests.
EVERY = [strategy_named(name) for name in STRATEGIES if name not in ("owl", "given")]
every_strategy = pytest.mark.parametrize("name", EVERY)
# The others make one list and end with it.
every_going_on = pytest.mark.parametrize(
    "name", [strategy_named(name) for name in STRATEGIES if name.startswith(("evo", *WAYS))]
)


def task(
    speedup: float = 2.0, seed: int = 0, max_tokens: int | None = None, stop: Stopper = go_on
) -> Task:
    return Task(constraint_at(speedup), seed, CONTEXT, 64, max_tokens=max_tokens, stop=stop)


def make(name: str, given: Task) -> Strategy:
    if name in WAYS:
        return BayesStrategy(given, dataclasses.replace(WAYS[name], batch=4, batches=3))
    if name.startswith("evopress"):
        # Its defaults read 128 sequences of 256 tokens.
        trade = Trade.NONE if name.endswith("free") else Trade.SIZE
        return EvoPressStrategy(given, EvoPressSettings(offspring=6, generations=3, trade=trade))
    return make_strategy(name, given, SETTINGS, SCORES, DARWIN)


@every_strategy
def test_a_strategy_ends_with_a_feasible_best(name: str) -> None:
    strategy = make(name, task())

    run(strategy)

    end = strategy.standing()
    assert end.best in feasible_candidates(constraint_at(2.0))
    assert math.isfinite(end.loss)
    assert strategy.finalists(1) == [end.best]
    assert strategy.stopped_because


@every_strategy
def test_the_same_seed_asks_the_same_batches(name: str) -> None:
    assert run(make(name, task(seed=3))) == run(make(name, task(seed=3)))


@every_strategy
def test_only_the_search_text_is_read_and_tokens_are_counted_once(name: str) -> None:
    strategy = make(name, task())

    batches = run(strategy)

    longest: dict[tuple[Genotype, int, int], int] = {}
    for batch in batches:
        assert batch.fidelity.split is Split.SEARCH
        for genotype in batch.candidates:
            key = (genotype, batch.fidelity.draw, batch.fidelity.trained)
            longest[key] = max(batch.fidelity.end, longest.get(key, 0))
    trained = sum(trained for _, _, trained in longest)
    assert strategy.standing().tokens == CONTEXT * sum(longest.values()) + trained


@pytest.mark.parametrize("name", [strategy_named(name) for name in FROM_SINGLE_CHANGES])
def test_where_a_rule_tells_single_changes_none_is_measured(name: str) -> None:
    def first(scores: RuleScores) -> list[int]:
        asked = make_strategy(name, task(), SETTINGS, scores, DARWIN).ask()
        assert asked is not None
        return [sum(level > 0 for level in own.levels) for own in asked.candidates]

    assert set(first(RuleScores())) == {1}
    assert max(first(RuleScores(start=RULE))) > 1


@pytest.mark.parametrize("speedup", [1.2, 2.0, 3.0])
def test_what_all_candidates_lose_is_not_summed_over_genes(speedup: float) -> None:
    def objective(genotype: Genotype, fidelity: Fidelity) -> Measurement:
        known = measure(genotype, fidelity)
        return Measurement(tuple(0.5 + own for own in known.kl), known.nll, known.tokens)

    plain, offset = (
        make("additive", dataclasses.replace(task(speedup), start_loses=loses))
        for loses in (False, True)
    )

    first, *_ = run(plain)
    with_start, *_ = run(offset, objective)

    assert with_start.candidates == (SPACE.dense, *first.candidates)
    assert offset.standing().best == plain.standing().best
    assert offset.standing().loss == pytest.approx(0.5 + plain.standing().loss)


# A front is searched on both sides of the target; its finalists meet it all the same.
@pytest.mark.parametrize("name", [own for own in EVERY if own.values[0] not in PARETO])
def test_nothing_but_single_changes_violates_the_constraint(name: str) -> None:
    given = task()

    batches = run(make(name, given))

    violating = [
        genotype
        for batch in batches
        for genotype in batch.candidates
        if given.constraint.violation(genotype) > 0
    ]
    assert all(sum(level > 0 for level in genotype.levels) == 1 for genotype in violating)


@every_strategy
def test_finalists_differ_and_meet_the_constraint(name: str) -> None:
    given = task()
    strategy = make(name, given)

    run(strategy)

    finalists = strategy.finalists(6)
    assert 1 <= len(finalists) == len(set(finalists)) <= 6
    assert all(given.constraint.violation(genotype) <= 0 for genotype in finalists)


@every_going_on
@pytest.mark.parametrize("limit", [1, 4_000, 8_000])
def test_no_generation_begins_once_the_tokens_are_spent(name: str, limit: int) -> None:
    longest: dict[tuple[Genotype, int], int] = {}
    spent: list[int] = []

    def counted(genotype: Genotype, fidelity: Fidelity) -> Measurement:
        key = (genotype, fidelity.draw)
        longest[key] = max(fidelity.end, longest.get(key, 0))
        return measure(genotype, fidelity)

    def stop(_generation: int) -> None:
        spent.append(CONTEXT * sum(longest.values()))

    run(make(name, task(max_tokens=limit, stop=stop)), counted)

    assert all(tokens < limit for tokens in spent)


@every_going_on
def test_a_stop_ends_the_search_before_a_generation(name: str) -> None:
    strategy = make(name, task(stop=lambda generation: "enough" if generation == 2 else None))

    run(strategy)

    assert strategy.standing().generation == 1
    assert strategy.stopped_because == "enough"


@pytest.mark.parametrize("name", ["brute-force", "random"])
def test_a_list_is_read_no_further_once_the_tokens_are_spent(name: str) -> None:
    whole, cut_short = make(name, task()), make(name, task(max_tokens=5_000))
    run(whole)

    batches = run(cut_short)

    within = {genotype for batch in batches for genotype in batch.candidates}
    chunk = CHUNK_SEQUENCES * CONTEXT
    assert 5_000 <= cut_short.standing().tokens < 5_000 + chunk < whole.standing().tokens
    assert cut_short.standing().best == min(within, key=loss_of)
    assert cut_short.stopped_because.startswith("5,000 tokens spent, ")
    assert cut_short.stopped_because.endswith("candidates read so far")


@pytest.mark.parametrize("name", ["brute-force", "random"])
def test_a_stop_ends_a_list_with_the_best_of_what_was_read(name: str) -> None:
    strategy = make(name, task(stop=lambda part: "enough" if part == 1 else None))

    (batch,) = run(strategy)

    assert strategy.standing().best == min(batch.candidates, key=loss_of)
    assert strategy.stopped_because.startswith("enough, ")


@pytest.mark.parametrize("stopped_at", range(1, 6))
def test_a_stop_within_any_rung_leaves_finalists(stopped_at: int) -> None:
    def stop(part: int) -> str | None:
        return "enough" if part == stopped_at else None

    rungs = ListSettings((Rung(16, 24), Rung(32, 8), Rung(64, 1)), heeds_limits=True)
    strategy = ListedStrategy(task(1.2, stop=stop), brute_force, rungs)

    run(strategy)

    finalists = strategy.finalists(6)
    assert len(set(finalists)) == 6
    assert finalists[0] == strategy.standing().best
    assert strategy.stopped_because.startswith("enough, ")


@pytest.mark.parametrize("name", ["brute-force", "random"])
def test_a_limit_that_is_not_reached_changes_nothing_that_a_list_ends_with(name: str) -> None:
    free, limited = make(name, task()), make(name, task(max_tokens=10**9, stop=lambda _part: None))

    whole, parts = run(free), run(limited)

    assert limited.finalists(6) == free.finalists(6)
    assert limited.standing() == free.standing()
    assert limited.stopped_because == free.stopped_because
    assert len(parts) > len(whole)


@every_strategy
def test_a_strategy_heeds_the_limits_that_it_may_be_given(name: str) -> None:
    free, limited = make(name, task()), make(name, task(max_tokens=1))

    whole, parts = run(free), run(limited)

    assert (parts != whole) == (name in OF_STRATEGIES["max_tokens"])


@every_strategy
def test_a_strategy_measures_the_start_that_it_may_be_given(name: str) -> None:
    start = random_candidates(task(seed=7), 1)[0]
    strategy = make(name, dataclasses.replace(task(), extra=(start,)))

    asked = {genotype for batch in run(strategy) for genotype in batch.candidates}

    assert name not in OF_STRATEGIES["start"] or start in asked


@every_strategy
def test_the_order_in_which_workers_answer_decides_nothing(name: str, tmp_path: Path) -> None:
    alone, driven = make(name, task()), make(name, task())
    run(alone)

    drive(driven, SynchronousPool(), new_study(tmp_path, "studies"))

    assert driven.standing() == alone.standing()
    assert driven.finalists(6) == alone.finalists(6)


@every_strategy
@pytest.mark.parametrize(("patience", "max_tokens"), [(0, None), (1, None), (5, None), (2, 5_000)])
def test_a_killed_search_goes_on_as_if_it_had_not_been(
    name: str, patience: int, max_tokens: int | None, tmp_path: Path
) -> None:
    whole, cut_short, resumed = SynchronousPool(), SynchronousPool(), SynchronousPool()
    given = task(max_tokens=max_tokens)
    undisturbed, again = make(name, given), make(name, given)
    drive(undisturbed, whole, new_study(tmp_path, "undisturbed"))
    cut_short.patience = min(patience, len(whole.asked) - 1)
    url = new_study(tmp_path, "killed")

    with pytest.raises(KeyboardInterrupt):
        drive(make(name, given), cut_short, url)
    drive(again, resumed, url)

    assert again.standing() == undisturbed.standing()
    assert again.finalists(6) == undisturbed.finalists(6)
    assert sorted(map(repr, cut_short.asked + resumed.asked)) == sorted(map(repr, whole.asked))


def new_study(folder: Path, name: str) -> str:
    """Make a study; return its database's address."""
    url = f"sqlite:///{folder}/{name}.db"
    create_study(url, "study", {}).close()
    return url


def drive(strategy: Strategy, pool: SynchronousPool, url: str) -> None:
    """Run a strategy on a study, which may hold some of it already."""
    with contextlib.closing(open_study(url, "study")) as store:
        SearchDriver(pool, store, lambda done, total: None).run(strategy, lambda: None)


@every_strategy
def test_a_limit_that_nothing_meets_is_unreachable(name: str) -> None:
    impossible = Task(under(SPACE, COST, 0.9 * COST.least), 0, CONTEXT, 64)

    with pytest.raises(UnreachableTarget):
        run(make(name, impossible))


def test_the_strategies_said_to_read_a_warm_start_are_those_that_do() -> None:
    assert {*OF_STRATEGIES["warm_start"]} == {*FROM_SINGLE_CHANGES}


@every_strategy
def test_what_rules_read_counts_among_the_tokens_of_a_search_once(name: str) -> None:
    rules = dataclasses.replace(task(), tokens_of_rules=1000)
    plain, after_rules = make(name, task()), make(name, rules)

    assert run(plain) == run(after_rules)
    assert after_rules.standing().tokens == plain.standing().tokens + 1000


def test_tempered_solutions_are_among_the_first_parents_where_widths_are_searched_too() -> None:
    parents = EvolveStrategy(task(), SETTINGS, RULE).ask()

    assert task().space.has_widths
    assert parents is not None
    tempered = {*tempered_solutions(task(), RULE)}
    assert tempered - {additive_solution(task(), RULE)}
    assert tempered <= {*parents.candidates}


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="no strategy 'magic'"):
        make_strategy("magic", task(), SETTINGS)


def test_a_rule_without_its_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="no strategy 'shortgpt'"):
        make_strategy("shortgpt", task(), SETTINGS)


@pytest.mark.parametrize("speedup", [1.2, 1.6, 2.0, 3.0])
def test_brute_force_finds_the_optimum(speedup: float) -> None:
    strategy = make("brute-force", task(speedup))

    run(strategy)

    best = strategy.standing().best
    assert best is not None
    assert loss_of(best) == loss_of(optimum(constraint_at(speedup)))


def test_brute_force_refuses_what_cannot_be_counted_out() -> None:
    space = make_space(40, 2, 256, depth=True, width=True)
    constraint = drops_of_each_kind(space, 5)

    with pytest.raises(SpecError, match=r"must hold for brute-force, but the space has"):
        ListedStrategy(Task(constraint, 0, CONTEXT, 64), brute_force, ListSettings())


def test_cosine_drops_the_shortest_run_that_suffices() -> None:
    constraint = drops_of_each_kind(make_space(4, 1, 128, depth=True, width=False), 2)
    scores = RuleScores([], [(1, 3), (2, 1), (3, 0)])
    strategy = make_strategy("cosine", Task(constraint, 0, CONTEXT, 64), SETTINGS, scores)

    (batch,) = run_any(strategy)

    assert batch == (Genotype((0, 0, 1, 1, 1, 1, 0, 0)),)


def test_shortgpt_drops_the_sites_of_least_influence() -> None:
    space = make_space(4, 1, 128, depth=True, width=False)
    influence = [[0.0, value] for value in (4.0, 1.0, 3.0, 2.0, 1.0, 4.0, 2.0, 3.0)]
    strategy = make_strategy(
        "shortgpt",
        Task(drops_of_each_kind(space, 1), 0, CONTEXT, 64),
        SETTINGS,
        RuleScores(influence, []),
    )

    (batch,) = run_any(strategy)

    assert batch == (Genotype((0, 1, 0, 0, 1, 0, 0, 0)),)


def run_any(strategy: Strategy) -> list[tuple[Genotype, ...]]:
    """Answer a strategy on a space of its own; return the candidates of its batches."""
    asked = []
    while (batch := strategy.ask()) is not None:
        asked.append(batch.candidates)
        strategy.tell([constant_trial(genotype, batch) for genotype in batch.candidates])
    return asked


def constant_trial(genotype: Genotype, batch: Batch) -> Trial:
    losses = (1.0 + sum(genotype.levels),) * batch.fidelity.sequences
    return Trial(genotype, batch.fidelity, Measurement(losses, losses, CONTEXT - 1))


DEPTH = make_space(8, 1, 128, depth=True, width=False)


def evopress(seed: int, generations: int | None = None) -> EvoPressStrategy:
    given = Task(drops_of_each_kind(DEPTH, 3), seed, 256, 200)
    return EvoPressStrategy(given, EvoPressSettings(generations=generations))


def test_evopress_keeps_its_published_schedule() -> None:
    strategy = evopress(0)
    first = strategy.ask()
    assert first is not None
    batches = run_batches(strategy)

    assert len(first.candidates) <= 64
    stages = batches[1:]
    # k (n - k) / 1.5 generations of two stages: 2,048 tokens for all, 32,768 for two.
    assert len(stages) == 2 * int(3 * 5 / 1.5)
    assert {len(b.candidates) for b in stages[0::2]} == {32}
    assert {b.fidelity.end for b in stages[0::2]} == {8}
    assert {len(b.candidates) for b in stages[1::2]} == {3}
    assert {b.fidelity.end for b in stages[1::2]} == {128}
    draws = [b.fidelity.draw for b in batches]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("seed", range(4))
def test_evopress_keeps_the_drops_of_each_kind(seed: int) -> None:
    for batch in run_batches(evopress(seed, generations=3)):
        for genotype in batch.candidates:
            pairs = zip(DEPTH.sites, genotype.levels, strict=True)
            attention = sum(level for site, level in pairs if site.kind is SiteKind.ATTENTION)
            assert (attention, sum(genotype.levels)) == (3, 6)


def test_evopress_mutants_differ_by_one_to_three_switches() -> None:
    strategy = evopress(0, generations=1)
    distances = set()
    while (batch := strategy.ask()) is not None:
        best = strategy.standing().best
        if best is not None and len(batch.candidates) == 32:
            distances |= {
                sum(a != b for a, b in zip(best.levels, mutant.levels, strict=True))
                for mutant in batch.candidates
            }
        strategy.tell([constant_trial(genotype, batch) for genotype in batch.candidates])

    assert distances <= {2, 4, 6}
    assert 2 in distances


def run_batches(strategy: Strategy) -> list[Batch]:
    asked = []
    while (batch := strategy.ask()) is not None:
        asked.append(batch)
        strategy.tell([constant_trial(genotype, batch) for genotype in batch.candidates])
    return asked


@pytest.mark.parametrize("speedup", [1.01, 2.0])
def test_a_given_candidate_is_the_only_one_whatever_it_costs(speedup: float) -> None:
    menus = enumerate(SPACE.menus)
    known = SPACE.genotype([len(menu) - 1 if number == 1 else 0 for number, menu in menus])
    strategy = make("given", dataclasses.replace(task(speedup), extra=(known,)))

    asked = run(strategy)

    assert {genotype for batch in asked for genotype in batch.candidates} == {known}
    assert strategy.finalists(6) == [known]
    with pytest.raises(ValueError, match="no strategy 'given'"):
        make("given", task(speedup))
