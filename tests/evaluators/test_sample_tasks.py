"""The built-in task set: of held-out modules, answerable, and the same each time."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from autocompress.evaluators.answer_metrics import score
from autocompress.evaluators.sample_tasks import (
    FEWEST_ANSWER_CHARACTERS,
    FEWEST_PROMPT_CHARACTERS,
    N_CHOICES,
    N_LINES,
    N_WRONG,
    PROMPT_CHARACTERS,
    code_lines,
    sample_items,
)
from autocompress.evaluators.task_item import Item
from autocompress.evaluators.tasks import needs_generation, read_tasks, split_items
from autocompress.models.sample_text import (
    HELD_OUT_FOR_TEST,
    HELD_OUT_FOR_VALIDATION,
    standard_library,
)
from autocompress.trial import Split


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return sample_items()


def test_the_sample_is_the_same_each_time(items: list[Item]) -> None:
    assert read_tasks(None) == items
    assert len({item.key for item in items}) == len(items) == N_LINES + N_CHOICES


def test_every_prompt_stands_before_its_line_in_a_held_out_module(items: list[Item]) -> None:
    held_out = HELD_OUT_FOR_VALIDATION + HELD_OUT_FOR_TEST

    for item in items:
        text = (standard_library() / item.source).read_text(encoding="utf-8")
        lines = f"{item.prompt}{item.references[0]}\n"
        assert item.source.removesuffix(".py").split("/")[0] in held_out
        assert f"\n{lines}" in f"\n{text}"
        assert FEWEST_PROMPT_CHARACTERS <= len(item.prompt) <= PROMPT_CHARACTERS


def test_the_reference_model_reads_every_prompt_and_answer_whole(items: list[Item]) -> None:
    folder = Path(__file__).parents[2] / "examples" / "reference-model"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    read = tokenizer.encode_batch(
        [item.prompt + answer for item in items for answer in item.choices or item.references]
    )

    assert max(len(tokens.ids) for tokens in read) <= settings["model_max_length"]


def test_a_line_to_end_has_its_first_half_given(items: list[Item]) -> None:
    for item in filter(needs_generation, items):
        given, rest = item.prompt.rpartition("\n")[2], item.references[0]
        assert len(given.lstrip()) >= len(rest) >= FEWEST_ANSWER_CHARACTERS
        assert not given.endswith(" ")


def test_a_line_is_worth_1_whatever_follows_it(items: list[Item]) -> None:
    written = [item for item in items if needs_generation(item)]

    assert len(written) == N_LINES
    assert all(score(item, f"{item.references[0]} \nmore") == 1 for item in written)
    assert not any(score(item, "    pass") for item in written)


def test_the_right_line_is_once_among_others_as_far_to_the_right(items: list[Item]) -> None:
    chosen = [item for item in items if not needs_generation(item)]

    for item in chosen:
        widths = {len(choice) - len(choice.lstrip(" ")) for choice in item.choices}
        assert item.choices.count(item.references[0]) == 1
        assert len(set(item.choices)) == len(item.choices) == 1 + N_WRONG
        assert widths in ({0}, {1})
    places = [item.choices.index(item.references[0]) for item in chosen]
    # Of 200 even draws of four, fewer than 30 in one place come once in a thousand sets.
    assert all(places.count(place) >= 30 for place in range(1 + N_WRONG))


def test_the_items_are_spread_evenly_over_modules_and_split_by_them(items: list[Item]) -> None:
    written = [item.source for item in items if needs_generation(item)]
    splits = split_items(items)

    assert max(map(written.count, set(written))) <= 12
    assert len(set(written)) >= 40
    modules = [{item.source for item in splits[split]} for split in Split]
    assert sum(map(len, modules)) == len(set[str]().union(*modules))
    assert all(len(splits[split]) >= 100 for split in Split)


def test_only_whole_statements_and_heads_are_lines_of_code() -> None:
    text = '''"""A module."""
import os  # 1

# A remark.
def first(a):  # 4
    """Return nothing."""
    value = call(
        a,
    )
    if a:
        return value
    elif value: return None

def second(
    a, b
):
    try:
        pass
    except ValueError:
        raise
'''

    assert code_lines(text) == [1, 9, 10, 11, 16, 17, 18, 19]
