"""Task sets: the items of files, of lm-evaluation-harness or of the sample, and their split."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from autocompress.errors import SpecError, TextError
from autocompress.evaluators import lm_eval_tasks, sample_tasks, user_metric
from autocompress.evaluators.task_item import METRICS, USER_METRIC
from autocompress.evaluators.task_item import Item as Item  # where its readers look for it
from autocompress.models.text import SHARES
from autocompress.spec_values import one_of
from autocompress.trial import Split

FEWEST_ITEMS = 8
FEWEST_CHOICES = 2
FIELDS: Final = (
    "prompt",
    "references",
    "choices",
    "tests",
    "metric",
    "source",
    "whole",
    "stop",
)


def read_tasks(path: str | None, allow_python: bool = False) -> list[Item]:
    """Return the items of a task set, each once, in the order in which they are there.

    Args:
        path: A file of JSON Lines, or a folder of such (`.jsonl`), or `lm-eval:NAME,NAME` for
            tasks of lm-evaluation-harness; None for the built-in sample.
        allow_python: Whether an item's metric may run code that the file or a model wrote.

    Raises:
        TextError: If it cannot be read, or an item cannot be meant.
    """
    if path is None:
        return sample_tasks.sample_items()
    if path.startswith(lm_eval_tasks.PREFIX):
        names = path.removeprefix(lm_eval_tasks.PREFIX)
        return _distinct(lm_eval_tasks.read_lm_eval(names, allow_python))
    items = [item for file in _files(path) for item in _items(file, allow_python)]
    if not items:
        raise TextError(f"Tasks {path} are empty.")
    return _distinct(items)


def to_line(item: Item) -> str:
    """Return the line of JSON that `read_tasks` reads as this item."""
    fields = {name: getattr(item, name) for name in FIELDS}
    return json.dumps({name: value for name, value in fields.items() if value or name == "prompt"})


def split_items(items: Sequence[Item], seed: int = 0) -> dict[Split, list[Item]]:
    """Deal the items out, each source to the split that lacks most of its share of items.

    Items without a source go by their prompt. The order is that of digests, as documents are
    dealt: it depends on the seed and on the items alone, not on their order.

    Raises:
        TextError: If a split gets fewer than 8 items.
    """
    sources: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(_distinct(items), key=lambda item: item.key):
        sources[origin(item)].append(item)
    dealt: dict[Split, list[Item]] = {split: [] for split in Split}
    for name in sorted(sources, key=lambda name: _digest(f"{seed}:{name}")):
        split = min(Split, key=lambda split: len(dealt[split]) / SHARES[split])
        dealt[split] += sources[name]
    if any(len(found) < FEWEST_ITEMS for found in dealt.values()):
        sizes = ", ".join(f"{split.value} {len(found)}" for split, found in dealt.items())
        raise TextError(
            f"`items >= {FEWEST_ITEMS}` must hold for each split of the tasks, but got {sizes} "
            f"(of {len(sources)} sources). Give more tasks, or tasks of more sources."
        )
    return dealt


def origin(item: Item) -> str:
    """Return what an item shares with all that must be in one split with it."""
    return f"source {item.source}" if item.source else f"prompt {item.prompt}"


def located(item: Item) -> Item:
    """Return an item that is scored alike from any working folder."""
    if not item.metric.startswith(USER_METRIC):
        return item
    return dataclasses.replace(item, metric=user_metric.located(item.metric))


def needs_generation(item: Item) -> bool:
    """Whether a model has to write an answer; a choice is read off likelihoods."""
    return item.metric != "choice"


def _files(path: str) -> list[Path]:
    try:
        given = Path(path).expanduser()
        if not given.is_dir():
            return [given]
        found = sorted(given.glob("*.jsonl"))
    except (OSError, RuntimeError, ValueError) as error:  # an unknown `~user`, a NUL in the path
        raise TextError(f"Cannot read tasks {path!r}: {error}.") from error
    if not found:
        raise TextError(f"Tasks {path}: the folder holds no file `*.jsonl`.")
    return found


def _items(file: Path, allow_python: bool) -> list[Item]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"Tasks {file} are not UTF-8: {error.reason}.") from error
    except OSError as error:
        raise TextError(f"Cannot read tasks {file}: {error.strerror}.") from error
    except ValueError as error:  # a NUL in the path
        raise TextError(f"Cannot read tasks {str(file)!r}: {error}.") from error
    return [
        _item(line, f"{file}:{number}", allow_python)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def _item(line: str, where: str, allow_python: bool) -> Item:
    """Return the item of one line, every law of it held.

    Raises:
        TextError: If one does not hold; it begins with where the line is.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{where} is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise TextError(f"{where}: an object must hold, but got {_short(fields)}.")
    try:
        item = _of_fields(fields)
        _check(item, allow_python)
    except (SpecError, ValueError) as error:
        raise TextError(f"{where}: {str(error).removesuffix('.')}.") from error
    return item


def _of_fields(fields: Mapping[str, object]) -> Item:
    for name in fields:
        one_of(FIELDS)(name)
    if "prompt" not in fields:
        raise ValueError("there is no `prompt`")
    choices, tests = _texts(fields, "choices"), _text(fields, "tests")
    standard = "choice" if choices else "pass" if tests else "match"
    whole = fields.get("whole", False)
    if not isinstance(whole, bool):
        raise ValueError(f"`whole` is true or false, but got {_short(whole)}")
    return Item(
        prompt=_text(fields, "prompt"),
        references=_texts(fields, "references"),
        choices=choices,
        tests=tests,
        metric=_text(fields, "metric", standard),
        source=_text(fields, "source"),
        whole=whole,
        stop=_texts(fields, "stop"),
    )


def _check(item: Item, allow_python: bool) -> None:
    """Hold an item to the laws of its metric."""
    if item.runs_python and not allow_python:
        raise ValueError(f"metric {item.metric!r} runs Python, which is off; see `--allow-python`")
    if item.metric.startswith(USER_METRIC):
        user_metric.load(item.metric)
    elif not item.tries:
        one_of(METRICS)(item.metric)
    is_choice, is_program = item.metric == "choice", item.tries > 0
    for name, metric, is_it in (("choices", "choice", is_choice), ("tests", "pass", is_program)):
        if bool(getattr(item, name)) != is_it:
            raise ValueError(
                f"`{name}` are there for metric {metric!r} and no other, but the metric is "
                f"{item.metric!r} and they are {_short(getattr(item, name))}"
            )
    if item.whole and not is_program:
        raise ValueError(f"`whole` is for metric 'pass', but the metric is {item.metric!r}")
    if not item.prompt and item.metric == "choice":
        raise ValueError("a choice needs a `prompt` that is not empty")
    if not item.references and not is_program:
        raise ValueError("there are no `references`")
    if "" in item.stop:
        raise ValueError("`stop` ends an answer by texts that are not empty, but got ''")
    if item.metric == "choice":
        _check_choices(item)


def _check_choices(item: Item) -> None:
    if len(item.choices) < FEWEST_CHOICES:
        raise ValueError(
            f"`choices >= {FEWEST_CHOICES}` must hold, but got {_short(item.choices)}"
        )
    if len(set(item.choices)) < len(item.choices) or "" in item.choices:
        raise ValueError(f"`choices` differ, and none is empty, but got {_short(item.choices)}")
    if len(item.references) != 1 or item.references[0] not in item.choices:
        raise ValueError(
            f"`references` hold one of the choices, but got {_short(item.references)}"
        )


def _text(fields: Mapping[str, object], name: str, standard: str = "") -> str:
    value = fields.get(name, standard)
    if not isinstance(value, str):
        raise ValueError(f"`{name}` is a text, but got {_short(value)}")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"`{name}` holds half a character (a lone surrogate)")
    return value


def _texts(fields: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = fields.get(name, [])
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"`{name}` is a text or a list of texts, but got {_short(value)}")
    return tuple(_text({name: text}, name) for text in given)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _distinct(items: Iterable[Item]) -> list[Item]:
    """Keep the first of items that ask the same."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.key, item)
    return list(found.values())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode()).digest()
