"""What decodings answered, kept for every database."""

import dataclasses
from collections.abc import Iterator

import pytest

from autocompress.store.base import AnswerRecord, StudyStore
from autocompress.store.study_store import create_study, list_studies, open_study
from autocompress.trial import Genotype, Split

ANSWERS = AnswerRecord(
    Genotype((0, 3, 1)), Split.SEARCH, 0, 2, {"scores": [1.0, 0.1 + 0.2], "tokens": [3.0, 4.0]}
)
FAILED = dataclasses.replace(ANSWERS, payload=None, error="bad \0 and \ud800 ö")


@pytest.fixture
def store(url: str) -> Iterator[StudyStore]:
    store = create_study(url, "decoded", {"kind": "decode"})
    yield store
    store.close()


def test_answers_come_back_in_their_order(url: str, store: StudyStore) -> None:
    later = dataclasses.replace(ANSWERS, first=2, items=4)
    other = dataclasses.replace(ANSWERS, genotype=Genotype((1, 0, 0)), split=Split.REPORT)

    for record in (ANSWERS, other, later):
        store.record_answers(record)

    again = open_study(url, "decoded")
    assert again.answers() == [ANSWERS, other, later]
    again.close()
    assert store.row().n_trials == 2


def test_answers_are_never_replaced(store: StudyStore) -> None:
    store.record_answers(ANSWERS)

    store.record_answers(dataclasses.replace(ANSWERS, payload={"scores": [0.0, 0.0]}))
    store.record_answers(FAILED)

    assert store.answers() == [ANSWERS]


def test_answers_heal_an_error(store: StudyStore) -> None:
    store.record_answers(FAILED)
    (before,) = store.answers()

    store.record_answers(ANSWERS)

    assert before.error == "bad \\0 and \\ud800 ö"
    assert store.answers() == [ANSWERS]


def test_a_discarded_study_leaves_no_answers(url: str, store: StudyStore) -> None:
    store.record_answers(ANSWERS)

    store.discard()

    assert list_studies(url) == []
    again = create_study(url, "decoded", {})
    assert again.answers() == []
    again.close()
