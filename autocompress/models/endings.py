"""Where an answer ends before its tokens do: the rules that the decoding space calls `stop`.

One rule serves our own loop, which asks after every token, and transformers' `generate`, which
asks a `StoppingCriteria`.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

SPANS = range(4, 33)
"""Lengths of what an answer may say three times in a row before the rule `repeat` ends it."""
TIMES = 3


class Ending:
    """Tells after each token whether an answer is over, and what of it is shown.

    Args:
        stop: `none`; `line`, at the first newline behind something that is not blank; `repeat`,
            as soon as the same 4 to 32 tokens stand three times in a row.
        end_of_text: Tokens that end every answer.
    """

    def __init__(
        self, stop: str, tokenizer: PreTrainedTokenizerBase, end_of_text: Sequence[int]
    ) -> None:
        self.stop = stop
        self.end_of_text = tuple(end_of_text)
        self._tokenizer = tokenizer
        self._breaks: dict[int, bool] = {}

    def is_over(self, said: Sequence[int]) -> bool:
        """Whether an answer ends with its last token; it did not end before."""
        if said[-1] in self.end_of_text:
            return True
        if self.stop == "line":
            return self._breaks_line(said[-1]) and self._first_line(self._decode(said)) is not None
        return self.stop == "repeat" and repeats(said)

    def length(self, said: Sequence[int]) -> int:
        """Return how many of some tokens belong to the answer, what ended it included."""
        ends = (length for length in range(1, len(said) + 1) if self.is_over(said[:length]))
        return next(ends, len(said))

    def shown(self, answer: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Return an answer's text, and the tokens that it is made of, without an end of text."""
        kept = answer[:-1] if answer and answer[-1] in self.end_of_text else answer
        text = self._decode(kept)
        line = self._first_line(text) if self.stop == "line" else None
        return text if line is None else line, tuple(kept)

    def _breaks_line(self, token: int) -> bool:
        found = self._breaks.get(token)
        if found is None:
            found = self._breaks[token] = "\n" in self._decode([token])
        return found

    def _decode(self, tokens: Sequence[int]) -> str:
        decoded = self._tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return cast("str", decoded)

    @staticmethod
    def _first_line(text: str) -> str | None:
        """Return a text until its first line that is not blank ends; None where none does."""
        end = text.find("\n", len(text) - len(text.lstrip()))
        return None if end < 0 else text[:end]


def repeats(said: Sequence[int]) -> bool:
    """Whether some tokens end with one span of 4 to 32 said three times in a row."""
    last = said[-1]
    for span in SPANS:
        if TIMES * span > len(said):
            return False
        # Most spans are ruled out by one token.
        if said[-1 - span] == last and said[-2 * span :] == said[-3 * span : -span]:
            return True
    return False


class EndingCriteria(StoppingCriteria):
    """Ends the answers of `generate` where a rule ends them.

    Args:
        prompt_tokens: How many tokens each row begins with, padding included.
    """

    def __init__(self, ending: Ending, prompt_tokens: int) -> None:
        self._ending = ending
        self._prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        """Return of each row, (B,), whether its last token ends it."""
        said = input_ids[:, self._prompt_tokens :].tolist()
        return torch.tensor(
            [self._ending.is_over(row) for row in said], dtype=torch.bool, device=input_ids.device
        )
