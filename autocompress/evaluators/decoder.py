"""Lets a model answer prompts by a decoding, and tells what each answer cost."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autocompress.errors import EvaluationError, ModelError
from autocompress.evaluators.candidates import SELECTORS, mean_log_likelihood
from autocompress.evaluators.generated_batch import GeneratedBatch, generate_batch, static_length
from autocompress.evaluators.likelihood import common_length, log_likelihoods
from autocompress.models.drafts import first_layers, spread_layers
from autocompress.models.endings import Ending
from autocompress.models.generation_settings import (
    Settings,
    end_of_text_ids,
    logits_processors,
)
from autocompress.models.kv_cache import held_bytes
from autocompress.models.proposers import DraftModel, LookupFirst, make_proposer
from autocompress.models.speculation import Choosing, speak
from autocompress.spaces.decoding import UNTUNED, Decoding


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a prompt, and what it cost.

    Args:
        tokens: Generated for it, those of rejected candidates and beams included, those that a
            draft proposed in vain left out.
        seconds: From its batch's prompts to its batch's texts, over the batch's items; what is
            compiled for it, once for each shape, is left out.
        first_seconds: Until its batch's first token was known; of several candidates or beams,
            until all was said.
        proposed: Tokens of a draft, and `accepted` how many of them were held.
        said: Tokens of the text alone, and `token_ids` which ones.
        candidates: All texts that this one was picked from, itself among them.
        cache_bytes: Of the KV cache that its batch held at the end, a draft model's included.
        weight_bytes: Of the model, and of a draft that is another one.
    """

    text: str
    tokens: int
    seconds: float
    first_seconds: float
    proposed: int
    accepted: int
    said: int
    token_ids: tuple[int, ...]
    cache_bytes: int
    weight_bytes: int
    candidates: tuple[str, ...]


class Decoder:
    """Answers by any decoding of the space; its models are the caller's and stay as they are.

    Args:
        draft: What the decodings with `draft=model` propose by.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        draft: PreTrainedModel | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._draft = draft
        self._end_of_text = end_of_text_ids(model, tokenizer)
        # A model needs a token to begin with: before an empty prompt stands what ends a text.
        self._first_token = self._end_of_text[0] if self._end_of_text else 0
        self._positions = int(model.config.max_position_embeddings)
        self._compiled: set[tuple[int, int]] = set()
        self._made_of_model: dict[tuple[str, int], PreTrainedModel] = {}
        self._held: dict[tuple[int, ...], int] = {}

    def answer(
        self, prompts: Sequence[str], decoding: Decoding, seeds: Sequence[int]
    ) -> list[Answer]:
        """Return an answer to each prompt, in batches in their order.

        Args:
            seeds: Of each prompt; a batch is drawn by its first one's. A prompt that leaves the
                model no positions for the answer loses its front.

        Raises:
            EvaluationError: If the model cannot be decoded so.
        """
        if len(seeds) != len(prompts):
            raise EvaluationError(
                f"A seed for each prompt is needed, but got {len(seeds)} of {len(prompts)}."
            )
        unknown = sorted(decoding.keys() - UNTUNED.keys())
        if unknown:
            raise EvaluationError(f"{', '.join(unknown)}: no parameter of decoding.")
        own = Settings(decoding)
        if own.text("draft") == "none":
            run = functools.partial(self._generated, decoding)
        elif own.whole("batch") > 1 or own.whole("num_beams") > 1 or own.whole("best_of") > 1:
            raise EvaluationError(
                "A draft proposes for one text at a time: `batch`, `num_beams` and `best_of` must "
                "be 1 beside one."
            )
        else:
            self._draft_model(own)  # made before any time is taken
            run = functools.partial(self._speculated, decoding)
        size = own.whole("batch")
        answers: list[Answer] = []
        for first in range(0, len(prompts), size):
            batch = prompts[first : first + size]
            try:
                answers += run(batch, seeds[first])
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                said = " ".join(str(error).split())[:300]
                raise EvaluationError(f"The model cannot be decoded so: {said}") from error
        return answers

    def choose(
        self, prompts: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Return the log-likelihood, in nats, of each choice after its prompt.

        Prompt and choice are tokenised as one text. All that is not common to the texts of one
        prompt is summed, so that a choice which melts into the prompt's last token is compared
        with the others over the same characters. A prompt that leaves the model no positions for
        its longest choice loses its front.
        """
        return [self._choose(prompt, own) for prompt, own in zip(prompts, choices, strict=True)]

    def _choose(self, prompt: str, choices: Sequence[str]) -> list[float]:
        texts = [self._encode(prompt + choice) for choice in choices]
        shared = common_length(self._encode(prompt), *texts)
        rests = [text[shared:] for text in texts]
        room = self._positions - max(map(len, rests), default=0)
        if room < 1:
            raise EvaluationError(
                f"The model has {self._positions} positions: too few for one of the choices."
            )
        # A text must begin with a token that is not judged.
        prefix = texts[0][:shared][-room:] if shared else [self._first_token]
        return log_likelihoods(self._model, prefix, rests)

    def _speculated(self, decoding: Decoding, prompts: Sequence[str], seed: int) -> list[Answer]:
        """Answer one prompt by our own loop."""
        own = Settings(decoding)
        n_tokens = own.whole("max_new_tokens")
        started = time.perf_counter()
        prompt = self._prompt(prompts[0], n_tokens)
        generator = None
        if own.is_on("do_sample"):
            generator = torch.Generator(self._model.device).manual_seed(seed)
        choosing = Choosing(logits_processors(decoding), generator)
        ending = self._ending(own)
        proposer = make_proposer(decoding, choosing, self._draft_model(own))
        spoken = speak(self._model, prompt, n_tokens, choosing, ending.is_over, proposer)
        text, kept = ending.shown(spoken.tokens)
        seconds = time.perf_counter() - started
        drafts = (
            held_bytes(proposer.cache) if isinstance(proposer, DraftModel | LookupFirst) else 0
        )
        return [
            Answer(
                text=text,
                tokens=len(spoken.tokens),
                seconds=seconds,
                first_seconds=spoken.first_seconds,
                proposed=spoken.proposed,
                accepted=spoken.accepted,
                said=len(kept),
                token_ids=kept,
                cache_bytes=spoken.cache_bytes + drafts,
                weight_bytes=self._weight_bytes(self._draft_model(own)),
                candidates=(text,),
            )
        ]

    def _draft_model(self, own: Settings) -> PreTrainedModel | None:
        """Return the model that proposes, if it is one."""
        kind = own.text("draft")
        if kind == "lookup":
            return None
        if kind in ("model", "both"):
            return self._checked_draft(kind)
        key = kind, own.whole("draft_layers")
        if key not in self._made_of_model:
            make = {"exit": first_layers, "skip": spread_layers}[kind]
            try:
                self._made_of_model[key] = make(self._model, key[1])
            except ModelError as error:
                raise EvaluationError(str(error)) from error
        return self._made_of_model[key]

    def _checked_draft(self, kind: str) -> PreTrainedModel:
        if self._draft is None:
            raise EvaluationError(f"`draft={kind}` needs a draft model, and none was given.")
        ours, theirs = self._model.config.vocab_size, self._draft.config.vocab_size
        if ours != theirs:
            raise EvaluationError(
                f"A draft must have the model's vocabulary of {ours} tokens, but got {theirs}."
            )
        return self._draft

    def _generated(self, decoding: Decoding, prompts: Sequence[str], seed: int) -> list[Answer]:
        """Answer a batch by transformers' own loop."""
        own = Settings(decoding)
        ending = self._ending(own)
        if own.is_on("compiled"):
            self._compile(decoding, prompts, ending)
        started = time.perf_counter()
        ids, mask = self._padded(prompts, own.whole("max_new_tokens"))
        found = generate_batch(self._model, ids, mask, decoding, ending, seed)
        best_of, beams = own.whole("best_of"), own.whole("num_beams")
        groups = [range(first, first + best_of) for first in range(0, len(found.rows), best_of)]
        shown = [ending.shown(row) for row in found.rows]
        picks = [self._pick(own, shown, found, group) for group in groups]
        total = time.perf_counter() - started
        is_shown_at_once = best_of == beams == 1
        return [
            Answer(
                text=shown[pick][0],
                tokens=beams * sum(len(found.rows[row]) for row in group),
                seconds=total / len(prompts),
                first_seconds=found.first_at - started if is_shown_at_once else total,
                proposed=0,
                accepted=0,
                said=len(shown[pick][1]),
                token_ids=shown[pick][1],
                cache_bytes=found.cache_bytes,
                weight_bytes=self._weight_bytes(None),
                candidates=tuple(shown[row][0] for row in group),
            )
            for pick, group in zip(picks, groups, strict=True)
        ]

    def _weight_bytes(self, draft: PreTrainedModel | None) -> int:
        """Return what the weights hold; those that a draft shares with the model count once."""
        models = [self._model] if draft is None else [self._model, draft]
        key = tuple(map(id, models))
        if key not in self._held:
            tensors = {
                id(tensor): tensor.nbytes
                for model in models
                for tensor in (*model.parameters(), *model.buffers())
            }
            self._held[key] = sum(tensors.values())
        return self._held[key]

    def _pick(
        self,
        own: Settings,
        shown: Sequence[tuple[str, tuple[int, ...]]],
        found: GeneratedBatch,
        group: range,
    ) -> int:
        """Return which of the rows of one prompt's candidates is its answer."""
        if found.logits is None:
            return group[0]
        likelihoods = [
            mean_log_likelihood(found.rows[row], [step[row] for step in found.logits])
            for row in group
        ]
        texts = [shown[row][0] for row in group]
        return group[SELECTORS[own.text("selector")](texts, likelihoods)]

    def _compile(self, decoding: Decoding, prompts: Sequence[str], ending: Ending) -> None:
        """Have all that a batch runs compiled before its time is taken, once for each shape."""
        own = Settings(decoding)
        ids, mask = self._padded(prompts, own.whole("max_new_tokens"))
        rows = len(ids) * own.whole("best_of") * own.whole("num_beams")
        shape = rows, static_length(ids.shape[1], decoding)
        if shape not in self._compiled:
            self._compiled.add(shape)
            generate_batch(self._model, ids, mask, decoding, ending, 0)

    def _ending(self, own: Settings) -> Ending:
        return Ending(own.text("stop"), self._tokenizer, self._end_of_text)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def _prompt(self, text: str, n_tokens: int) -> list[int]:
        """Return a prompt's last tokens that leave the model positions for an answer."""
        room = self._positions - n_tokens
        if room < 1:
            raise EvaluationError(
                f"The model has {self._positions} positions: too few for an answer of {n_tokens} "
                f"tokens to any prompt."
            )
        return self._encode(text)[-room:] or [self._first_token]

    def _padded(self, prompts: Sequence[str], n_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the prompts, padded at the left, and which tokens are theirs: (B, T) each."""
        rows = [self._prompt(prompt, n_tokens) for prompt in prompts]
        longest = max(map(len, rows))
        ids = [[self._first_token] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        device = self._model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
