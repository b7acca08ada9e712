"""What the store holds of a race is read as it was judged, without a model."""

from collections.abc import Sequence

import numpy as np
import pytest

from autocompress.pipeline.decoding_conclusion import tried
from autocompress.pipeline.decoding_stored import ended
from autocompress.search.racing import Answered, Objective, Race, Rules
from autocompress.store.base import AnswerRecord
from autocompress.trial import Genotype, Split

ITEMS = 16
EASY = 8
"""The first items are answered twice as fast, and twice as well."""
SLOW, FAST = Genotype((1,)), Genotype((2,))


def answered(factor: float = 1.0) -> Answered:
    """Return what takes so many times as long as the reference, and errs as often."""
    seconds = factor * np.array([1.0 if at < EASY else 2.0 for at in range(ITEMS)])
    scores = np.array([0.8 if at < EASY else 0.4 for at in range(ITEMS)])
    tokens = np.full(ITEMS, 20.0)
    return Answered(scores, tokens, tokens, seconds, 0.1 * seconds, tokens)


def race() -> Race:
    return Race(Rules((Objective.SECONDS,)), answered())


def record(genotype: Genotype, factor: float, first: int, end: int) -> AnswerRecord:
    columns = answered(factor).to_json()
    part: dict[str, Sequence[float]] = {name: own[first:end] for name, own in columns.items()}
    return AnswerRecord(genotype, Split.SEARCH, first, end - first, part)


def test_one_that_goes_on_has_not_ended_and_one_that_was_dropped_has() -> None:
    begun = [record(FAST, 0.5, 0, 8), record(SLOW, 3.0, 0, 8)]

    first = ended(begun, race())
    later = ended([*begun, record(FAST, 0.5, 8, 16)], race())

    assert list(first) == [SLOW]
    assert {own: len(read) for own, read in later.items()} == {FAST: 16, SLOW: 8}


def test_what_is_told_again_counts_as_it_was_told_first() -> None:
    again = [record(FAST, 0.5, 0, 8), record(FAST, 0.7, 0, 8), record(FAST, 0.5, 8, 16)]

    read = ended(again, race())[FAST]

    assert read.seconds.tolist() == answered(0.5).seconds.tolist()


def test_a_dropped_one_is_told_as_expected_on_all_items() -> None:
    found = tried("top_k=7", answered(3.0).first(8), race())

    assert (found.items, found.read_all, found.met) == (8, False, True)
    assert (found.mean_score, found.seconds) == pytest.approx((0.8, 3.0))
    # The reference makes 0.6 of all items, in 1.5 seconds each.
    assert (found.expected_mean_score, found.expected_seconds) == pytest.approx((0.6, 4.5))


def test_no_mean_score_is_expected_below_zero() -> None:
    wrong = answered().first(8)
    wrong.scores[:] = 0.0

    assert tried("top_k=7", wrong, race()).expected_mean_score == 0.0
