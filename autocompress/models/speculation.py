"""Lossless speculative decoding of one text: what proposes tokens costs nothing but time.

Leviathan et al. (arXiv:2211.17192, algorithm 1) on distributions as they are decoded with, after
temperature, filters and penalties. Without a proposer the same loop decodes one by one, so that
both can be timed against each other. Not `generate`: its assisted generation prepares a whole
call anew in every round, which costs a small model more than it saves.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import LongTensor, Tensor
from transformers import Cache, LogitsProcessorList, PreTrainedModel
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from autocompress.models.kv_cache import held_bytes, uniform_cache
from autocompress.spaces.settings import DENSE_CACHE


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tokens that a text may go on with.

    Args:
        probabilities: Of each, the distribution, (V,), that it was drawn from. None where each
            was certain: nothing was drawn.
    """

    tokens: list[int]
    probabilities: list[Tensor] | None = None


class Proposer(Protocol):
    """Who proposes tokens; one for each text."""

    def propose(self, text: list[int], most: int) -> Proposal:
        """Return at most so many tokens after a text.

        Args:
            text: That of the call before, what of its proposal was held, and one token more.
        """


@dataclass(frozen=True, slots=True)
class Spoken:
    """What was generated after a prompt.

    Args:
        tokens: The answer, with the token that ended it.
        proposed: How many tokens were proposed, and `accepted` how many of them were held.
        first_seconds: Until the first token was known.
        cache: What the model holds of all but the last token.
    """

    tokens: list[int]
    proposed: int
    accepted: int
    first_seconds: float
    cache: Cache

    @property
    def cache_bytes(self) -> int:
        """What the model's keys and values take."""
        return held_bytes(self.cache)


class Choosing:
    """How a token is chosen from logits: the highest after some processors, or one drawn.

    Args:
        generator: Draws, on the model's device; None takes the highest.
    """

    def __init__(self, processors: LogitsProcessorList, generator: torch.Generator | None) -> None:
        self.generator = generator
        self._processors = processors
        # All others treat each row by itself, whatever the text.
        self._reads_text = any(
            isinstance(processor, RepetitionPenaltyLogitsProcessor) for processor in processors
        )

    def scores(self, text: list[int], proposed: list[int], logits: Tensor) -> "Scores":
        """Return the processed logits of positions in a row.

        Args:
            text: Before the first position.
            proposed: Follows it: each position sees those before it.
            logits: (proposed + 1, V).
        """
        if not self._processors:
            return Scores(lambda row: logits[row], self.generator, logits)
        if not self._reads_text:
            ids = cast("LongTensor", logits.new_empty((len(logits), 0), dtype=torch.long))
            processed = self._processors(ids, logits.float())
            return Scores(lambda row: processed[row], self.generator, processed)
        # What follows a rejected token is never looked at, so rows are processed when asked for.
        whole = torch.tensor([text + proposed], device=logits.device)

        def row_after(row: int) -> Tensor:
            seen = cast("LongTensor", whole[:, : len(text) + row])
            return self._processors(seen, logits[row : row + 1].float())[0]

        return Scores(row_after, self.generator, None)


class Scores:
    """Processed logits of some positions, (V,) each."""

    def __init__(
        self,
        row: Callable[[int], Tensor],
        generator: torch.Generator | None,
        rows: Tensor | None,
    ) -> None:
        self._row = row
        self._generator = generator
        self._best: list[int] | None = None
        if rows is not None and generator is None:
            self._best = rows.argmax(-1).tolist()

    def best(self, row: int) -> int:
        """Return the most probable token of a position."""
        return int(self._row(row).argmax()) if self._best is None else self._best[row]

    def probabilities(self, row: int) -> Tensor:
        """Return the distribution of a position, (V,)."""
        return self._row(row).softmax(-1, dtype=torch.float32)

    def choose(self, row: int) -> tuple[int, Tensor | None]:
        """Return a token for a position, and the distribution that it was drawn from if it was."""
        if self._generator is None:
            return self.best(row), None
        probabilities = self.probabilities(row)
        return draw(probabilities, self._generator), probabilities


def draw(weights: Tensor, generator: torch.Generator) -> int:
    """Return a token drawn in proportion to some weights, (V,)."""
    return int(torch.multinomial(weights, 1, generator=generator))


def crop(cache: Cache, tokens: int) -> None:
    """Forget all but the first tokens."""
    surplus = cache.get_seq_length() - tokens
    if surplus > 0:
        cache.crop(-surplus)


@torch.inference_mode()
def speak(
    model: PreTrainedModel,
    prompt: list[int],
    n_tokens: int,
    choosing: Choosing,
    is_over: Callable[[list[int]], bool],
    proposer: Proposer | None = None,
) -> Spoken:
    """Generate an answer, as if the model alone were asked for each token.

    Greedy, the tokens are the same as without a proposer but for rounding where two logits are
    equal up to it; drawn, they are others of the same distribution.

    Args:
        prompt: At least one token.
        n_tokens: The answer's at most.
        is_over: Whether an answer, given whole, ends with its last token.
    """
    started = time.perf_counter()
    cache = uniform_cache(model, DENSE_CACHE)
    logits = read(model, prompt, cache, 1)
    text = list(prompt)
    first, _ = choosing.scores(text, [], logits).choose(0)
    first_seconds = time.perf_counter() - started
    answer = [first]
    text.append(first)
    proposed = accepted = 0
    while len(answer) < n_tokens and not is_over(answer):
        proposal = Proposal([])
        # The round ends with a token of the model's own, which must fit too.
        most = n_tokens - len(answer) - 1
        if proposer is not None and most > 0:
            proposal = proposer.propose(text, most)
        logits = read(model, [text[-1], *proposal.tokens], cache, 1 + len(proposal.tokens))
        held, following = verify(
            proposal, choosing.scores(text, proposal.tokens, logits), choosing
        )
        proposed += len(proposal.tokens)
        accepted += held
        crop(cache, len(text) + held)
        for token in (*proposal.tokens[:held], following):
            answer.append(token)
            text.append(token)
            if is_over(answer):
                break
    # An ending may cut a round short: the cache then knows tokens that were never said.
    crop(cache, len(text) - 1)
    return Spoken(answer, proposed, accepted, first_seconds, cache)


def verify(proposal: Proposal, scores: Scores, choosing: Choosing) -> tuple[int, int]:
    """Return how many of the proposed tokens are held, and the token that follows them."""
    generator = choosing.generator
    if generator is None:
        for row, token in enumerate(proposal.tokens):
            best = scores.best(row)
            if best != token:
                return row, best
        return len(proposal.tokens), scores.best(len(proposal.tokens))
    for row, token in enumerate(proposal.tokens):
        own = scores.probabilities(row)
        theirs = None if proposal.probabilities is None else proposal.probabilities[row]
        claimed = 1.0 if theirs is None else float(theirs[token])
        chance = float(torch.rand((), generator=generator, device=own.device))
        if chance * claimed < float(own[token]):
            continue
        if theirs is None:
            rest = own.clone()
            rest[token] = 0
        else:
            rest = (own - theirs).clamp(min=0)
        # Equal distributions reject nothing but by rounding, which may leave no rest.
        return row, draw(rest if float(rest.sum()) > 0 else own, generator)
    return len(proposal.tokens), draw(scores.probabilities(len(proposal.tokens)), generator)


def read(model: PreTrainedModel, tokens: list[int], cache: Cache, n_logits: int) -> Tensor:
    """Return the last tokens' logits, (n_logits, V), and add all of them to the cache."""
    ids = torch.tensor([tokens], device=model.device)
    outputs = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=n_logits)
    return cast("Tensor", outputs.logits)[0]
