"""Lets a model answer prompts by a decoding, and tells what each answer cost."""

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import (
    Cache,
    CompileConfig,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from autocompress.errors import EvaluationError, ModelError
from autocompress.evaluators.candidates import SELECTORS, mean_log_likelihood
from autocompress.evaluators.likelihood import common_length, log_likelihoods
from autocompress.models.drafts import first_layers, spread_layers
from autocompress.models.endings import Ending, EndingCriteria
from autocompress.models.generation_settings import (
    Settings,
    custom_processors,
    end_of_text_ids,
    logits_processors,
    to_generation_config,
)
from autocompress.models.kv_cache import held_bytes, uniform_cache
from autocompress.models.proposers import DraftModel, Lookup
from autocompress.models.speculation import Choosing, Proposer, speak
from autocompress.spaces.decoding import UNTUNED, Decoding
from autocompress.spaces.settings import CACHE_GROUP, CacheSetting

STATIC_STEP = 128
"""Tokens by which static caches differ in length: each length is compiled anew."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a prompt, and what it cost.

    Args:
        tokens: Generated for it, those of rejected candidates and beams included, those that a
            draft proposed in vain left out.
        seconds: From its batch's prompts to its batch's texts, over the batch's items.
        first_seconds: Until its batch's first token was known; of several candidates or beams,
            until all was said.
        proposed: Tokens of a draft, and `accepted` how many of them were held.
        said: Tokens of the text alone, and `token_ids` which ones.
        cache_bytes: Of the KV cache that its batch held at the end, a draft model's included.
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


class _Generated(Protocol):
    sequences: Tensor
    logits: tuple[Tensor, ...] | None
    past_key_values: Cache


class _Generator(Protocol):
    """`GenerationMixin`, as it is called here: `PreTrainedModel` does not declare it."""

    def generate(
        self,
        inputs: Tensor,
        *,
        attention_mask: Tensor,
        generation_config: GenerationConfig,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        past_key_values: Cache | None,
    ) -> _Generated: ...


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
        self._made_of_model: dict[tuple[str, int], PreTrainedModel] = {}

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
        proposer = self._proposer(own, choosing)
        spoken = speak(self._model, prompt, n_tokens, choosing, ending.is_over, proposer)
        text, kept = ending.shown(spoken.tokens)
        seconds = time.perf_counter() - started
        drafts = held_bytes(proposer.cache) if isinstance(proposer, DraftModel) else 0
        return [
            Answer(
                text,
                len(spoken.tokens),
                seconds,
                spoken.first_seconds,
                spoken.proposed,
                spoken.accepted,
                len(kept),
                kept,
                spoken.cache_bytes + drafts,
            )
        ]

    def _proposer(self, own: Settings, choosing: Choosing) -> Proposer:
        model = self._draft_model(own)
        if model is None:
            return Lookup(own.whole("draft_tokens"), own.whole("draft_ngram"))
        return DraftModel(
            model,
            choosing,
            own.whole("draft_tokens"),
            own.text("draft_length"),
            own.number("draft_threshold"),
        )

    def _draft_model(self, own: Settings) -> PreTrainedModel | None:
        """Return the model that proposes, if it is one."""
        kind = own.text("draft")
        if kind == "lookup":
            return None
        if kind == "model":
            return self._checked_draft()
        key = kind, own.whole("draft_layers")
        if key not in self._made_of_model:
            make = {"exit": first_layers, "skip": spread_layers}[kind]
            try:
                self._made_of_model[key] = make(self._model, key[1])
            except ModelError as error:
                raise EvaluationError(str(error)) from error
        return self._made_of_model[key]

    def _checked_draft(self) -> PreTrainedModel:
        if self._draft is None:
            raise EvaluationError("`draft=model` needs a draft model, and none was given.")
        ours, theirs = self._model.config.vocab_size, self._draft.config.vocab_size
        if ours != theirs:
            raise EvaluationError(
                f"A draft must have the model's vocabulary of {ours} tokens, but got {theirs}."
            )
        return self._draft

    def _generated(self, decoding: Decoding, prompts: Sequence[str], seed: int) -> list[Answer]:
        """Answer a batch by transformers' own loop."""
        own = Settings(decoding)
        config = to_generation_config(decoding, self._end_of_text)
        config.return_dict_in_generate = True
        config.output_logits = own.whole("best_of") > 1
        started = time.perf_counter()
        ids, mask = self._padded(prompts, own.whole("max_new_tokens"))
        ending = self._ending(own)
        clock = _FirstToken(self._model.device)
        if own.text("cache") == "static":
            length = ids.shape[1] + own.whole("max_new_tokens")
            config.max_cache_len = -(-length // STATIC_STEP) * STATIC_STEP
            if own.is_on("compiled"):
                config.compile_config = _compiled_anywhere()
        criteria: list[StoppingCriteria] = [clock]
        if own.text("stop") != "none":
            criteria.append(EndingCriteria(ending, ids.shape[1]))
        cache = self._quantized_cache(own)
        if cache is not None:
            # A prompt then sees itself as it would token by token.
            config.prefill_chunk_size = CACHE_GROUP
        with self._seeded(own, seed), torch.inference_mode():
            found = cast("_Generator", self._model).generate(
                ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=custom_processors(decoding),
                stopping_criteria=StoppingCriteriaList(criteria),
                past_key_values=cache,
            )
        rows = [row[: ending.length(row)] for row in found.sequences[:, ids.shape[1] :].tolist()]
        best_of = own.whole("best_of")
        groups = [range(first, first + best_of) for first in range(0, len(rows), best_of)]
        picked = [group[0] for group in groups]
        if found.logits is not None:
            likelihoods = [
                mean_log_likelihood(rows[own_row], [step[own_row] for step in found.logits])
                for own_row in range(len(rows))
            ]
            texts = [ending.shown(row)[0] for row in rows]
            pick = SELECTORS[own.text("selector")]
            picked = [
                group[
                    pick(
                        [texts[row] for row in group],
                        [likelihoods[row] for row in group],
                    )
                ]
                for group in groups
            ]
        shown = [ending.shown(rows[row]) for row in picked]
        total = time.perf_counter() - started
        is_alone = best_of == 1 and own.whole("num_beams") == 1
        held = held_bytes(found.past_key_values)
        beams = own.whole("num_beams")
        spent = [beams * sum(len(rows[row]) for row in group) for group in groups]
        return [
            Answer(
                text,
                tokens,
                total / len(prompts),
                clock.at - started if is_alone else total,
                0,
                0,
                len(kept),
                kept,
                held,
            )
            for (text, kept), tokens in zip(shown, spent, strict=True)
        ]

    def _ending(self, own: Settings) -> Ending:
        return Ending(own.text("stop"), self._tokenizer, self._end_of_text)

    def _quantized_cache(self, own: Settings) -> Cache | None:
        bits = own.whole("cache_bits")
        if bits == UNTUNED["cache_bits"]:
            return None
        return uniform_cache(self._model, CacheSetting(bits))

    def _seeded(self, own: Settings, seed: int) -> AbstractContextManager[object]:
        """Return a context with random numbers of its own; `generate` takes the global ones."""
        return _seeded(self._model.device, seed) if own.is_on("do_sample") else nullcontext()

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


class _FirstToken(StoppingCriteria):
    """Ends nothing; notes when it was first asked."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.at = 0.0

    def __call__(self, input_ids: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        if not self.at:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.at = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _compiled_anywhere() -> CompileConfig:
    """Return a config that compiles on a CPU too, where transformers does not by itself."""
    config = CompileConfig()
    setattr(config, "_compile_all_devices", True)  # noqa: B010  # a private one, without a type
    return config


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Have the global random numbers come from a seed, and afterwards be as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
