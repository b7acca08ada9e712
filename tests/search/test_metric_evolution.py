"""The evolution of metrics: a pure function of its seed, thrifty, and better than chance."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from autocompress.operators.expressions import evaluate
from autocompress.operators.rankings import Rankings, random_values
from autocompress.search.metric_evolution import LARGEST, MetricEvolution
from autocompress.spaces.expression_trees import Tree, parse, ranks, size, to_text
from autocompress.spaces.known_metrics import KNOWN_METRICS
from autocompress.spaces.simplification import canonical
from autocompress.spaces.tree_moves import grow

KNOWN = [parse(text) for text in KNOWN_METRICS.values()]
VALUES = random_values(16, 64, seed=5)
RANKINGS = Rankings()

Loss = Callable[[Tree], float]


def kept(tree: Tree) -> torch.Tensor:
    """Return which half of every row a metric keeps."""
    scores = evaluate(tree, VALUES).expand(16, 64)
    return scores >= scores.median(dim=1, keepdim=True).values


def distance_from(target: str) -> Loss:
    """Return a loss that is 0 for the target alone, and for all that ranks like it."""
    wanted = kept(parse(target))
    return lambda tree: float((kept(tree) != wanted).float().mean())


def evolved(loss: Loss, evaluations: int, seed: int = 0) -> tuple[MetricEvolution, list[str]]:
    """Run an evolution to its end; return it with all that it asked for."""
    evolution = MetricEvolution(KNOWN, RANKINGS, evaluations, seed)
    asked: list[str] = []
    while (batch := evolution.ask()) is not None:
        asked += [f"{to_text(tree)} {batch.rung}" for tree in batch.trees]
        evolution.tell([loss(tree) for tree in batch.trees])
    return evolution, asked


def test_the_same_seed_and_losses_ask_for_the_same_metrics() -> None:
    loss = distance_from("abs(W) * X * sqrt(G)")

    first, second, other = (evolved(loss, 80, seed)[1] for seed in (3, 3, 4))

    assert first == second
    assert first != other


def test_a_longer_search_begins_as_a_shorter_one() -> None:
    loss = distance_from("abs(W) * X * sqrt(G)")
    whole_generations = len(KNOWN) + 3 * 12

    short, long = (evolved(loss, n)[1] for n in (whole_generations, 2 * whole_generations))

    assert long[: len(short)] == short


@pytest.mark.parametrize("evaluations", [7, 30, 61])
def test_no_more_is_evaluated_than_asked_and_nothing_twice(evaluations: int) -> None:
    evolution, asked = evolved(distance_from("G"), evaluations)

    few = [text for text in asked if text.endswith(" 0")]
    names = {RANKINGS(parse(text[:-2])) for text in few}
    assert evolution.evaluations == evaluations == len(few) + len(KNOWN)
    assert len(names) == len(few)
    assert not names & ({RANKINGS(tree) for tree in KNOWN} | {None})


def test_what_is_asked_is_canonical_and_short_and_ranks() -> None:
    _, asked = evolved(distance_from("abs(W) + X * G"), 100)

    trees = [parse(text[:-2]) for text in asked]
    assert all(canonical(tree) == tree and ranks(tree) for tree in trees)
    assert all(size(tree) <= LARGEST for tree in trees)


# None of them is among the known metrics, nor one move away from these.
@pytest.mark.parametrize(
    "target", ["X * sqrt(abs(W)) + 0.3 * G", "abs(W) * X * sqrt(G) + abs(W) / columnsum(abs(W))"]
)
def test_evolution_comes_nearer_to_a_known_optimum_than_chance(target: str) -> None:
    loss = distance_from(target)
    rng = np.random.default_rng(0)

    by_chance = [loss(tree) for tree in KNOWN]
    while len(by_chance) < 400:
        tree = grow(rng, 4)
        if RANKINGS(tree) is not None:
            by_chance.append(loss(tree))
    by_evolution = [evolved(loss, 400, seed)[0].best for seed in range(3)]

    assert loss(parse(target)) == 0
    found = sorted(loss(own.tree) for own in by_evolution if own is not None)
    assert found[1] < 0.8 * min(by_chance)


def test_of_metrics_that_lose_alike_the_smallest_is_the_best() -> None:
    evolution, _ = evolved(lambda _: 0.5, 60)

    assert evolution.best is not None
    assert size(evolution.best.tree) == min(
        size(tree) for tree in (*map(canonical, KNOWN), *evolution.finalists(1000))
    )


def test_finalists_are_new_and_could_be_measured() -> None:
    def loss(tree: Tree) -> float:
        return math.nan if "X" in to_text(tree) else distance_from("G")(tree)

    evolution, _ = evolved(loss, 60)

    known = {RANKINGS(tree) for tree in KNOWN}
    finalists = evolution.finalists(5)
    assert finalists
    assert all("X" not in to_text(tree) for tree in finalists)
    assert not known & {RANKINGS(tree) for tree in finalists}


def test_a_search_ends_where_nothing_new_can_be_found() -> None:
    evolution = MetricEvolution(KNOWN, lambda tree: "one for all", 100, 0)

    batch = evolution.ask()
    assert batch is not None
    evolution.tell([1.0 for _ in batch.trees])

    assert evolution.ask() is None
    assert evolution.stopped_because == "no metric was found that ranks otherwise"
