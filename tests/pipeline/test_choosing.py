"""Choices that models make beside the answers of a search for a decoding."""

import json
from pathlib import Path

import numpy as np
import pytest

from autocompress.export.right_choices import choices_in_words
from autocompress.pipeline.choosing import right_choices
from autocompress.pipeline.decoding import opened_for
from autocompress.pipeline.decoding_asked import decode_asked
from autocompress.pipeline.decoding_opened import UNREAD
from autocompress.trial import Split
from autocompress.workers.decoding_session import CHOOSING, DecodingSession

ASKING = [
    {"prompt": f"the number {n} and", "references": " one", "source": f"s{n % 12}"}
    for n in range(60)
]
CHOOSE = [
    {"prompt": f"{n} is", "references": " odd", "choices": [" odd", " even"], "source": f"s{n}"}
    for n in range(16)
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ASKING, *CHOOSE]), "utf-8")
    return path


def test_choices_share_no_source_with_what_a_search_or_a_validation_reads(
    tiny_llama: Path, tasks: Path
) -> None:
    opened = opened_for(decode_asked({"model": str(tiny_llama), "tasks": str(tasks), "items": 16}))

    read = {
        item.source for split in (Split.SEARCH, Split.SELECTION) for item in opened.items[split]
    }
    chosen = {item.source for item in opened.choices}
    # Those of sources 12 to 15 are of no item that asks for an answer.
    assert chosen == {f"s{n}" for n in range(16)} - read
    assert len(chosen) > 4


def test_a_model_chooses_what_it_finds_the_likeliest(tiny_llama: Path, tasks: Path) -> None:
    asked = {"model": str(tiny_llama), "against": str(tiny_llama), "tasks": str(tasks)}
    factory = opened_for(decode_asked(asked)).factory(*UNREAD)
    session = DecodingSession(factory)
    decoder = factory.load(factory.models[0])

    found = session.measure({CHOOSING: (0, 1)}, 1, 5)[CHOOSING]

    choices = factory.choices[1:5]
    likelihoods = decoder.choose([own.prompt for own in choices], [own.choices for own in choices])
    right = [
        own.choices[int(np.argmax(of))] == own.references[0]
        for own, of in zip(choices, likelihoods, strict=True)
    ]
    assert found == [right, right]


def test_what_was_chosen_is_told_beside_another_model() -> None:
    own, other = np.array([1.0, 0, 1, 1]), np.array([1.0, 0, 0, 0])

    alone, beside = right_choices(own), right_choices(own, other)

    assert alone.beside is None
    assert "m chooses right in 75.0%" in choices_in_words(alone, "m", "dense")
    assert beside.difference is not None
    assert beside.difference.value == 0.5
    told = choices_in_words(beside, "m", "dense")
    assert "75.0% [30.1%, 95.4%] of 4 items" in told
    assert "dense in 25.0%" in told
    assert "a difference of +50.0%" in told
