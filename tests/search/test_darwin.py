"""Training-aware selection: it ends with what a training suits, and trains nothing twice."""

import collections
import dataclasses

import pytest

from autocompress.search.base import Task
from autocompress.search.darwin import DarwinSettings, DarwinStrategy
from autocompress.search.evolve import EvolveSettings
from autocompress.search.steps import Rung
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from tests.search.synthetic import SPACE, constraint_at, feasible_candidates, measure, run

CONTEXT, AVAILABLE = 16, 64
BEFORE = EvolveSettings(
    offspring=8, rungs=(Rung(4, 3), Rung(16, 1)), random_parents=4, generations=4, epoch=2
)
RUNGS = (Rung(4, 4, 64), Rung(8, 2, 256), Rung(16, 1, 1024))
SETTINGS = DarwinSettings(RUNGS, generations=8)


def task(max_tokens: int | None = None) -> Task:
    return Task(constraint_at(2.0), 0, CONTEXT, AVAILABLE, max_tokens=max_tokens)


def darwin(given: Task) -> DarwinStrategy:
    return DarwinStrategy(given, BEFORE, SETTINGS)


def given_back(genotype: Genotype) -> float:
    """Return how much of its loss a training leaves a candidate: little where no layer went."""
    dropped = sum(choice.is_dropped for choice in SPACE.choices(genotype))
    return 0.1 if dropped == 0 else 1.0


def trained(genotype: Genotype, fidelity: Fidelity) -> Measurement:
    """Return losses as of a candidate that is trained where the fidelity says so."""
    found = measure(genotype, fidelity)
    if not fidelity.trained:
        return found
    return dataclasses.replace(found, kl=tuple(given_back(genotype) * kl for kl in found.kl))


def test_the_winner_is_one_that_a_training_suits() -> None:
    strategy = darwin(task())

    run(strategy, trained)

    def after(genotype: Genotype) -> float:
        return trained(genotype, Fidelity(Split.SEARCH, 0, 0, AVAILABLE, 1024)).loss

    best = strategy.standing().best
    assert best is not None
    ranked = sorted(feasible_candidates(constraint_at(2.0)), key=after)
    assert after(best) <= after(ranked[1])


def test_candidates_as_they_are_come_first_and_those_trained_rise_from_rung_to_rung() -> None:
    asked = [batch.fidelity.trained for batch in run(darwin(task()), trained)]

    first = asked.index(RUNGS[0].trained)
    assert set(asked[:first]) == {0}
    assert set(asked[first:]) == {rung.trained for rung in RUNGS}


def test_no_candidate_is_trained_twice_for_a_rung() -> None:
    times: collections.Counter[tuple[Genotype, int]] = collections.Counter()

    for batch in run(darwin(task()), trained):
        if batch.fidelity.trained:
            times.update((genotype, batch.fidelity.trained) for genotype in batch.candidates)

    assert set(times.values()) == {1}


def test_fewer_survive_to_be_trained_for_longer() -> None:
    sizes: dict[int, list[int]] = collections.defaultdict(list)

    for batch in run(darwin(task()), trained):
        sizes[batch.fidelity.trained].append(len(batch.candidates))

    # The parent competes at every rung, whatever survived.
    assert max(sizes[RUNGS[1].trained]) <= RUNGS[0].survivors + 1
    assert max(sizes[RUNGS[2].trained]) <= RUNGS[1].survivors + 1


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_both_evolutions_share_one_budget(share: float) -> None:
    whole = darwin(task())
    batches = run(whole, trained)
    most = int(share * whole.standing().tokens)
    largest = max(
        len(batch.candidates) * (batch.fidelity.end * CONTEXT + batch.fidelity.trained)
        for batch in batches
    )

    strategy = darwin(task(most))
    run(strategy, trained)

    assert strategy.standing().tokens <= most + len(RUNGS) * largest
    assert strategy.standing().best is not None


def test_generations_are_counted_through_both() -> None:
    asked: list[int] = []

    def stop(generation: int) -> str | None:
        asked.append(generation)
        return None

    strategy = darwin(dataclasses.replace(task(), stop=stop))
    run(strategy, trained)

    # Each evolution asks again after it went to a fresh draw, and before it ends.
    assert asked == sorted(asked)
    assert strategy.standing().generation == strategy.standing().generations


def test_time_that_ran_out_trains_nothing() -> None:
    late = dataclasses.replace(task(), stop=lambda generation: "late" if generation > 2 else None)
    strategy = darwin(late)

    batches = run(strategy, trained)

    assert all(not batch.fidelity.trained for batch in batches)
    assert strategy.stopped_because == "late"
