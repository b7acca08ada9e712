"""One question of a task set, and what its answer is held against."""

import hashlib
import json
import re
from dataclasses import dataclass

METRICS = ("choice", "exact", "f1", "line", "match", "pass", "rouge-l")
"""What scores an answer, beside `pass@K` and a user's own `python:FILE.py:function`."""
USER_METRIC = "python:"


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt, and the answers that count.

    Args:
        prompt: What a model continues.
        references: Each of them is a right answer; none for `pass`. Of a choice there is one.
        choices: Continuations, of which `choice` takes the likeliest for the model's answer.
        tests: Python that `pass` runs after the program: the prompt and then the answer.
        metric: One of `METRICS`, `pass@K`, or `python:FILE.py:function`.
        source: Where it was taken from; items of one source stay in one split.
        whole: Whether the answer is the whole program, and replaces the prompt.
        stop: What ends an answer: the first of these in it, and what follows, is not read.
    """

    prompt: str
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    tests: str = ""
    metric: str = "match"
    source: str = ""
    whole: bool = False
    stop: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A short name, equal for items that ask the same, wherever they were taken from."""
        content = (
            self.prompt,
            self.references,
            self.choices,
            self.tests,
            self.metric,
            self.whole,
            self.stop,
        )
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=12).hexdigest()

    @property
    def runs_python(self) -> bool:
        """Whether scoring it runs code that a file or a model wrote."""
        return self.tries > 0 or self.metric.startswith(USER_METRIC)

    @property
    def tries(self) -> int:
        """How many programs count as one answer: K of `pass@K`, 1 of `pass`, else 0."""
        found = re.fullmatch("pass(?:@([1-9][0-9]{0,3}))?", self.metric)
        return 0 if found is None else int(found[1] or 1)
