"""How the winner of a search for a decoding is picked from its finalists."""

from autocompress.pipeline.decoding_conclusion import pick
from autocompress.search.racing import Objective, Rules
from autocompress.trial import Genotype
from tests.search.test_racing import answered

UNTUNED, OTHER, THIRD = Genotype((0,)), Genotype((1,)), Genotype((2,))
BOTH = (Objective.QUALITY, Objective.SECONDS)


def test_the_best_in_the_only_objective_is_picked() -> None:
    finalists = {OTHER: answered(score=0.51, seed=1), UNTUNED: answered(score=0.5)}

    assert pick(Rules((Objective.QUALITY,)), finalists, answered(), UNTUNED) == OTHER


def test_of_two_objectives_the_second_decides_where_the_first_is_in_doubt() -> None:
    lucky = answered(score=0.501, seconds=1.0, seed=1)
    fast, worse = answered(score=0.5, seconds=0.5), answered(score=0.2, seconds=0.1, seed=2)
    finalists = {OTHER: lucky, THIRD: worse, UNTUNED: fast}

    assert pick(Rules(BOTH), finalists, answered(), UNTUNED) == UNTUNED


def test_where_no_finalist_keeps_the_constraints_what_misses_least_is_picked() -> None:
    rules = Rules(BOTH, limits={Objective.SECONDS: 0.01})
    finalists = {OTHER: answered(score=0.1, seconds=0.5), UNTUNED: answered(score=0.9)}

    assert pick(rules, finalists, answered(), UNTUNED) == OTHER


def test_of_equals_the_untuned_is_picked() -> None:
    finalists = {OTHER: answered(), UNTUNED: answered()}

    assert pick(Rules(BOTH), finalists, answered(), UNTUNED) == UNTUNED
