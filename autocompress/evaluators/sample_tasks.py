"""The built-in task set: lines of the standard library's held-out modules, to end or to choose.

The reference model under `examples/` is trained without these modules. As most lines of code
cannot be foreseen, only those are asked for whose every word is in the prompt or is Python's own,
and of a line to end the first half is given: small models foresee next to no whole line.
"""

import ast
import builtins
import hashlib
import itertools
import keyword
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from autocompress.evaluators.task_item import Item
from autocompress.models import sample_text

N_LINES: Final = 400
N_CHOICES: Final = 200
N_WRONG: Final = 3
"""Choices that are wrong, beside the right one."""
PROMPT_CHARACTERS: Final = 400
"""At most: even of tables fewer tokens than the reference model reads, an answer included."""
FEWEST_PROMPT_CHARACTERS: Final = 150
FEWEST_LINE_CHARACTERS: Final = 8
"""Of a line that is asked for, beside blanks."""
FEWEST_ANSWER_CHARACTERS: Final = 5

_WORD: Final = re.compile(r"[^\W\d]\w*")
# Not behind a space: tokenizers join it to the word that follows.
_WORD_BOUNDARY: Final = re.compile(r"\b(?<! )")
_PYTHON_WORDS: Final = frozenset((*keyword.kwlist, *dir(builtins), "self", "cls"))


def sample_items(n_lines: int = N_LINES) -> list[Item]:
    """Return the lines to end and then those to choose, both spread evenly over the modules."""
    names = sample_text.HELD_OUT_FOR_VALIDATION + sample_text.HELD_OUT_FOR_TEST
    root = sample_text.standard_library()
    modules = [
        _Module(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8"))
        for file in sample_text.module_files(names)
    ]
    ended = _dealt([module.lines_to_end() for module in modules], n_lines)
    chosen = _dealt([module.lines_to_choose() for module in modules], N_CHOICES)
    return ended + chosen


def code_lines(text: str) -> list[int]:
    """Return which lines, from 0, hold a whole statement or a whole head of one, no docstring."""
    lines = text.split("\n")
    found = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.stmt | ast.excepthandler) or _is_prose(node):
            continue
        # A head that goes on has its colon on a later line.
        is_head = hasattr(node, "body") and lines[node.lineno - 1].endswith(":")
        if node.lineno == node.end_lineno or is_head:
            found.add(node.lineno - 1)
    return sorted(found)


@dataclass(frozen=True)
class _Question:
    """A line of which the first part is given."""

    number: int
    prompt: str
    rest: str

    @property
    def is_foreseeable(self) -> bool:
        """Whether the prompt is not short and holds every word that is to come."""
        known = _PYTHON_WORDS.union(_WORD.findall(self.prompt))
        is_long = len(self.prompt) >= FEWEST_PROMPT_CHARACTERS
        return is_long and known.issuperset(_WORD.findall(self.rest))


class _Module:
    """One source file, and what may be asked of it."""

    def __init__(self, source: str, text: str) -> None:
        self._source = source
        self._lines = [line.rstrip() for line in text.split("\n")]
        self._code = [
            number
            for number in code_lines(text)
            if len("".join(self._lines[number].split())) >= FEWEST_LINE_CHARACTERS
        ]

    def lines_to_end(self) -> Iterator[Item]:
        """Yield lines whose first half is given, in an order without meaning."""
        for number in self._shuffled("end"):
            question = self._question(number, _half(self._lines[number]))
            if question.is_foreseeable and len(question.rest) >= FEWEST_ANSWER_CHARACTERS:
                yield Item(question.prompt, (question.rest,), metric="line", source=self._source)

    def lines_to_choose(self) -> Iterator[Item]:
        """Yield lines beside others of the same indentation, in an order without meaning.

        It is given but for its last space: the reference model, as others, never saw a line break
        alone before a line that is indented.
        """
        for number in self._shuffled("choose"):
            given = max(_indentation(self._lines[number]) - 1, 0)
            question = self._question(number, given)
            wrong = self._others(question)[:N_WRONG]
            if question.is_foreseeable and len(wrong) == N_WRONG:
                yield Item(
                    question.prompt,
                    (question.rest,),
                    choices=tuple(self._sorted(question, [question.rest, *wrong], "mixed")),
                    metric="choice",
                    source=self._source,
                )

    def _question(self, number: int, given: int) -> _Question:
        """Ask for a line but for its first characters: before it are as many lines as fit."""
        line = self._lines[number]
        first, size = number, given
        while first > 0 and size + len(self._lines[first - 1]) + 1 <= PROMPT_CHARACTERS:
            first -= 1
            size += len(self._lines[first]) + 1
        prompt = "\n".join((*self._lines[first:number], line[:given]))
        return _Question(number, prompt, line[given:])

    def _shuffled(self, purpose: str) -> list[int]:
        return sorted(self._code, key=lambda number: self._rank(number, purpose))

    def _others(self, question: _Question) -> list[str]:
        """Return what other lines of code of the same indentation hold, each once."""
        width = _indentation(self._lines[question.number])
        lines = (self._lines[number] for number in self._code)
        alike = {line[max(width - 1, 0) :] for line in lines if _indentation(line) == width}
        return self._sorted(question, alike - {question.rest}, "wrong")

    def _sorted(self, question: _Question, lines: Iterable[str], salt: str) -> list[str]:
        """Sort lines for no reason, which is another one for each salt.

        The wrong lines come first in their order; in the same order the right one would be last.
        """
        return sorted(lines, key=lambda line: self._rank(question.number, f"{salt}:{line}"))

    def _rank(self, number: int, salt: str) -> bytes:
        """Return what sorts alike everywhere, and for no reason."""
        content = f"{self._source}:{number}:{salt}"
        return hashlib.blake2b(content.encode(), digest_size=8).digest()


def _is_prose(node: ast.stmt | ast.excepthandler) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _half(line: str) -> int:
    """Return the first place at a word's start or end in the second half of a line's code."""
    least = (_indentation(line) + len(line) + 1) // 2
    boundary = _WORD_BOUNDARY.search(line, least)
    return boundary.start() if boundary is not None else len(line)


def _dealt(stacks: Sequence[Iterator[Item]], total: int) -> list[Item]:
    """Take one item of each stack in turn, stacks without any left out, until there are enough."""
    rounds = itertools.zip_longest(*stacks)
    taken = (item for turn in rounds for item in turn if item is not None)
    return list(itertools.islice(taken, total))
