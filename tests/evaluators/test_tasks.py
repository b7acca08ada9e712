"""How a task set is read, and that its splits hold nothing in common."""

import dataclasses
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import TextError
from autocompress.evaluators.task_item import Item
from autocompress.evaluators.tasks import (
    FEWEST_ITEMS,
    needs_generation,
    read_tasks,
    split_items,
    to_line,
)
from autocompress.trial import Split

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
some_texts = st.text("ab \n", min_size=1, max_size=4)
several = st.lists(some_texts, min_size=2, max_size=4, unique=True).map(tuple)
written_items = st.builds(
    Item,
    prompt=texts,
    references=several,
    metric=st.sampled_from(["exact", "f1", "line", "match", "rouge-l"]),
    source=texts,
    stop=several,
)
program_items = st.builds(
    Item,
    prompt=texts,
    references=st.just(()),
    tests=some_texts,
    metric=st.just("pass"),
    whole=st.booleans(),
)
choice_items = several.flatmap(
    lambda choices: st.builds(
        Item,
        prompt=some_texts,
        references=st.sampled_from(choices).map(lambda right: (right,)),
        choices=st.just(choices),
        metric=st.just("choice"),
    )
)
any_items = st.one_of(written_items, program_items, choice_items)


def write(file: Path, *lines: object) -> str:
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(file)


def questions(n: int, metric: str = "match", source: str = "") -> list[Item]:
    return [
        Item(f"{number} + 1 =", (f"{number + 1}",), metric=metric, source=source)
        for number in range(n)
    ]


@given(items=st.lists(any_items, min_size=1, max_size=4, unique_by=lambda item: item.key))
def test_items_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, items: list[Item]
) -> None:
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    file.write_text("".join(f"{to_line(item)}\n" for item in items))

    assert read_tasks(str(file), allow_python=True) == items


@given(any_items, any_items)
def test_items_have_one_key_if_they_ask_the_same(one: Item, other: Item) -> None:
    assert (one.key == other.key) == (
        dataclasses.replace(one, source="") == dataclasses.replace(other, source="")
    )


@pytest.mark.parametrize(
    ("fields", "metric"),
    [
        ({"references": "a"}, "match"),
        ({"references": ["a", "b"]}, "match"),
        ({"references": "a", "choices": ["a", "b"]}, "choice"),
        ({"tests": "assert True"}, "pass"),
        ({"tests": "assert True", "metric": "pass@9"}, "pass@9"),
    ],
)
def test_an_item_tells_its_metric_by_what_it_holds(
    tmp_path: Path, fields: dict[str, object], metric: str
) -> None:
    path = write(tmp_path / "tasks.jsonl", {"prompt": "?", **fields})

    (item,) = read_tasks(path, allow_python=True)

    assert item.metric == metric
    assert needs_generation(item) == (metric != "choice")


def test_a_folder_is_read_in_the_order_of_its_files_and_equal_items_once(tmp_path: Path) -> None:
    first, again = {"prompt": "1", "references": "a"}, {"prompt": "1", "references": ["a"]}
    write(tmp_path / "b.jsonl", again, {"prompt": "3", "references": "c"})
    write(tmp_path / "a.jsonl", first, {"prompt": "2", "references": "b"})
    write(tmp_path / "notes.json", {"no": "task"})

    items = read_tasks(str(tmp_path))

    assert [item.prompt for item in items] == ["1", "2", "3"]


RIGHT = {"prompt": "?", "references": "a"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is not JSON: "),
        ("[" * 100_000, "is not JSON: "),
        ("[1]", r"an object must hold, but got \[1\]"),
        ({"references": "a"}, "there is no `prompt`"),
        ({"prompt": 3, "references": "a"}, "`prompt` is a text, but got 3"),
        ({"prompt": "\ud800", "references": "a"}, "`prompt` holds half a character"),
        ({"prompt": "?"}, "there are no `references`"),
        ({"prompt": "?", "references": 4}, "`references` is a text or a list of texts, but got 4"),
        ({"prompt": "?", "references": ["\udfff"]}, "`references` holds half a character"),
        ({**RIGHT, "metirc": "f1"}, "unknown 'metirc'; did you mean 'metric'"),
        ({**RIGHT, "metric": "rouge"}, "unknown 'rouge'; did you mean 'rouge-l'"),
        ({**RIGHT, "metric": "choice"}, "`choices` are there for metric 'choice' and no other"),
        ({**RIGHT, "metric": "f1", "choices": ["a", "b"]}, "`choices` are there for metric"),
        ({**RIGHT, "metric": "pass"}, "`tests` are there for metric 'pass' and no other"),
        ({**RIGHT, "metric": "f1", "tests": "assert 1"}, "`tests` are there for metric 'pass'"),
        ({**RIGHT, "choices": ["a"]}, r"`choices >= 2` must hold, but got \('a',\)"),
        ({**RIGHT, "choices": ["a", "a"]}, "`choices` differ, and none is empty"),
        ({**RIGHT, "choices": ["b", "c"]}, "`references` hold one of the choices, but got"),
        ({"prompt": "", "references": "a", "choices": ["a", "b"]}, "a choice needs a `prompt`"),
        ({**RIGHT, "whole": 1}, "`whole` is true or false, but got 1"),
        ({**RIGHT, "whole": True}, "`whole` is for metric 'pass'"),
        ({**RIGHT, "stop": [""]}, "`stop` ends an answer by texts that are not empty"),
        ({**RIGHT, "metric": "python:own:f"}, "a metric of Python is `python:FILE.py:function`"),
        ({**RIGHT, "metric": "python:no.py:f"}, "there is no file no.py"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused_by_its_place(
    tmp_path: Path, line: object, why: str
) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    file = tmp_path / "tasks.jsonl"
    file.write_text(f"{json.dumps(RIGHT)}\n\n{text}\n")

    with pytest.raises(TextError, match=rf"(?i)^{file}:3:? .*{why}") as caught:
        read_tasks(str(file), allow_python=True)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def g(): pass", "has no function f"),
        ("1 / 0", "does not run: division by zero"),
        ("f = 3", "has no function f"),
    ],
)
def test_a_users_function_that_is_not_there_is_refused(
    tmp_path: Path, text: str, why: str
) -> None:
    own = tmp_path / "own.py"
    own.write_text(text)
    path = write(tmp_path / "tasks.jsonl", {**RIGHT, "metric": f"python:{own}:f"})

    with pytest.raises(TextError, match=f"^{path}:1: Metric .*{why}"):
        read_tasks(path, allow_python=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"tests": "assert True"},
        {"metric": "python:own.py:f"},
        {"metric": "pass"},
        {"metric": "pass@9"},
    ],
)
def test_python_does_not_run_unless_it_is_allowed(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    path = write(tmp_path / "tasks.jsonl", {**RIGHT, **fields})

    with pytest.raises(TextError, match=f"^{path}:1: metric '.*' runs Python, which is off"):
        read_tasks(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    empty, latin = tmp_path / "empty.jsonl", tmp_path / "latin.txt"
    empty.write_text("\n")
    latin.write_bytes(b"\xe9")
    (tmp_path / "folder").mkdir()

    for path, why in [
        (str(tmp_path / "none.jsonl"), "^Cannot read tasks .*: No such file"),
        ("a\0b", "^Cannot read tasks 'a.*b': "),
        ("~nobody-of-that-name/tasks", "^Cannot read tasks "),
        (str(tmp_path / "folder"), "the folder holds no file"),
        (str(empty), "^Tasks .* are empty"),
        (str(latin), "^Tasks .* are not UTF-8"),
    ]:
        with pytest.raises(TextError, match=why):
            read_tasks(path)


sourced = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(["", "x", "y", "z", "w"])),
    min_size=40,
    max_size=160,
    unique=True,
).map(
    lambda pairs: [
        Item(f"{number} in {source}", ("a",), source=source and f"{source}{number % 12}")
        for number, source in pairs
    ]
)


@given(sourced, st.integers(0, 3), st.randoms())
def test_splits_share_nothing_and_hold_all_whatever_the_order(
    items: list[Item], seed: int, random: Random
) -> None:
    dealt = split_items(items, seed)

    shuffled = list(items)
    random.shuffle(shuffled)
    places = [(split, item) for split in Split for item in dealt[split]]
    by_source = {(item.source, split) for split, item in places if item.source}
    assert sorted(item.key for _, item in places) == sorted(item.key for item in items)
    assert len(by_source) == len({source for source, _ in by_source})
    assert split_items(shuffled + items[:5], seed) == dealt


def test_the_shares_are_those_of_the_calibration_text() -> None:
    dealt = split_items(questions(100))

    assert {split: len(items) for split, items in dealt.items()} == {
        Split.SEARCH: 40,
        Split.SELECTION: 20,
        Split.REPORT: 40,
    }


def test_another_seed_splits_otherwise() -> None:
    items = questions(100)

    assert split_items(items, 1)[Split.SEARCH] != split_items(items, 2)[Split.SEARCH]


def test_one_prompt_is_in_one_split_though_it_is_asked_for_twice() -> None:
    items = questions(100) + questions(100, metric="f1")

    dealt = split_items(items)

    prompts = [{item.prompt for item in dealt[split]} for split in Split]
    assert sum(map(len, prompts)) == len(set[str]().union(*prompts)) == 100


@pytest.mark.parametrize(
    "items", [questions(20), questions(100, source="one")], ids=["few", "one"]
)
def test_too_few_items_or_sources_are_refused(items: list[Item]) -> None:
    with pytest.raises(TextError, match=f"`items >= {FEWEST_ITEMS}` must hold for each split"):
        split_items(items)
