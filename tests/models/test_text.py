"""Calibration text: the three splits share nothing, and bad text is refused."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from autocompress.errors import TextError
from autocompress.models.sample_text import HELD_OUT_FOR_VALIDATION, module_files
from autocompress.models.text import (
    DOCUMENT_CHARACTERS,
    SHARES,
    draw_order,
    fingerprint,
    make_sequences,
    read_documents,
    split_documents,
)
from autocompress.trial import Split
from tests.tiny_models import make_tokenizer

DOCUMENTS = [f"Document {i} tells of {i * i} things.\n" * (1 + i % 5) for i in range(120)]
TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=30, unique=True
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


@given(TEXTS)
def test_every_document_is_in_exactly_one_split(documents: list[str]) -> None:
    dealt = split_documents(documents)

    assert Counter(text for texts in dealt.values() for text in texts) == Counter(documents)


@given(TEXTS, st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order(documents: list[str], rng: random.Random) -> None:
    shuffled = documents.copy()
    rng.shuffle(shuffled)

    assert split_documents(shuffled) == split_documents(documents)


def test_splits_keep_their_shares() -> None:
    dealt = split_documents(DOCUMENTS)

    total = sum(map(len, DOCUMENTS))
    longest = max(map(len, DOCUMENTS))
    for split, share in SHARES.items():
        # Each is dealt to whoever lacks most, so none is off by more than a document or two.
        assert abs(sum(map(len, dealt[split])) - share * total) <= 2 * longest


def test_sequences_have_one_length(tokenizer: PreTrainedTokenizerBase) -> None:
    sequences = make_sequences(tokenizer, DOCUMENTS, 16)

    assert set(sequences) == set(Split)
    for rows in sequences.values():
        assert rows.dtype == np.int32
        assert rows.shape[1] == 16
        assert len(rows) >= 8


def test_documents_are_parted_by_the_end_of_text(tokenizer: PreTrainedTokenizerBase) -> None:
    sequences = make_sequences(tokenizer, DOCUMENTS, 16)

    for split, texts in split_documents(DOCUMENTS).items():
        text = str(tokenizer.decode(sequences[split].flatten().tolist()))
        assert "<|endoftext|>".join(texts).startswith(text.removesuffix("<|endoftext|>"))


def test_sequences_of_shuffled_documents_are_the_same(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    backwards = make_sequences(tokenizer, DOCUMENTS[::-1], 16)

    assert fingerprint(backwards) == fingerprint(make_sequences(tokenizer, DOCUMENTS, 16))
    assert fingerprint(backwards) != fingerprint(make_sequences(tokenizer, DOCUMENTS[1:], 16))


def test_the_same_tokens_in_sequences_of_another_length_are_another_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    sequences = make_sequences(tokenizer, DOCUMENTS, 16)
    longer = {split: rows[: len(rows) // 2 * 2] for split, rows in sequences.items()}
    recut = {split: rows.reshape(-1, 32) for split, rows in longer.items()}

    assert fingerprint(recut) != fingerprint(longer)


def test_too_little_text_is_refused_for_all_splits(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TextError) as caught:
        make_sequences(tokenizer, DOCUMENTS[:2], 1024)

    assert str(caught.value) == (
        "`sequences >= 8` of 1024 tokens must hold for each split of the calibration text, but "
        "got {'search': 0, 'selection': 0, 'report': 0}. Give more text or a smaller --context."
    )


def test_only_the_short_splits_are_named(tokenizer: PreTrainedTokenizerBase) -> None:
    lengths = {
        split: len(rows) for split, rows in make_sequences(tokenizer, DOCUMENTS, 16).items()
    }
    # The selection has half of what the others have: a context at which only it is short.
    context = 16 * lengths[Split.SELECTION] // 8 + 8

    with pytest.raises(TextError, match=r"but got \{'selection': \d\}\."):
        make_sequences(tokenizer, DOCUMENTS, context)


@given(st.integers(1, 200), st.sampled_from(Split), st.integers(0, 9), st.integers(0, 9))
def test_a_draw_is_an_order_of_all_sequences(n: int, split: Split, draw: int, seed: int) -> None:
    order = draw_order(n, split, draw, seed)

    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, draw_order(n, split, draw, seed))


def test_draws_splits_and_seeds_differ() -> None:
    orders = {
        tuple(draw_order(50, split, draw, seed).tolist())
        for split in Split
        for draw in range(3)
        for seed in range(3)
    }

    assert len(orders) == 27


def test_plain_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "Words and words. " * 40 for i in range(40)]
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(paragraphs), "utf-8")

    documents = read_documents(str(file))

    assert "\n\n".join(documents) == "\n\n".join(paragraphs)
    assert all(len(document) >= DOCUMENT_CHARACTERS for document in documents[:-1])
    assert len(documents) > 1


def test_json_lines_hold_a_document_a_line(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    texts = ["first", "second\n\nwith lines", "drittes: \u00e4"]
    file.write_text("\n\n".join(json.dumps({"text": t, "id": 1}) for t in texts), "utf-8")

    assert read_documents(str(file)) == texts


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.txt", b"", "empty.txt is empty."),
        ("blank.txt", b" \n\n\t\n", "blank.txt is empty."),
        ("blank.jsonl", b"\n\n", "blank.jsonl is empty."),
        ("binary.txt", bytes(range(256)), "binary.txt is not UTF-8: "),
        ("words.jsonl", b'{"text": "a"}\nwords', "words.jsonl:2 is not JSON with a field `text`."),
        ("other.jsonl", b'{"body": "a"}', "other.jsonl:1 is not JSON with a field `text`."),
        ("list.jsonl", b'["text"]', "list.jsonl:1 is not JSON with a field `text`."),
        ("number.jsonl", b'{"text": 1}', "number.jsonl:1: `text` must hold text."),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(TextError) as caught:
        read_documents(str(file))

    assert reason in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"none\.txt: No such file or directory\."):
        read_documents(str(tmp_path / "none.txt"))


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="Is a directory"):
        read_documents(str(tmp_path))


def test_the_built_in_sample_is_python_and_no_tests() -> None:
    documents = read_documents(None)

    assert len(documents) > 50
    assert sum(map(len, documents)) > 1_000_000
    files = module_files(HELD_OUT_FOR_VALIDATION)
    assert {file.suffix for file in files} == {".py"}
    assert not any("test" in part for file in files for part in file.parts[-2:])


def test_equal_documents_land_in_one_split() -> None:
    dealt = split_documents(["same"] * 6)

    assert sum(len(texts) for texts in dealt.values()) == 1


def test_json_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "one\u2028line\u0085still"
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")

    assert read_documents(str(file)) == [text]


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "\\ud800"}\n', encoding="utf-8")

    with pytest.raises(TextError, match="surrogate"):
        read_documents(str(file))
