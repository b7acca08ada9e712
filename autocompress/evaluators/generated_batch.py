"""Runs transformers' own loop on a batch of prompts by a decoding without a draft."""

import time
from collections.abc import Iterator
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
    StoppingCriteria,
    StoppingCriteriaList,
)

from autocompress.models.endings import Ending, EndingCriteria
from autocompress.models.generation_settings import (
    Settings,
    custom_processors,
    to_generation_config,
)
from autocompress.models.kv_cache import held_bytes, uniform_cache
from autocompress.spaces.decoding import UNTUNED, Decoding
from autocompress.spaces.settings import CACHE_GROUP, CacheSetting

STATIC_STEP = 128
"""Tokens by which static caches differ in length: each length is compiled anew."""


@dataclass(frozen=True, slots=True)
class GeneratedBatch:
    """What was generated, for each prompt as many rows in a row as it has candidates.

    Args:
        rows: Tokens of each, with what ended it, without what pads it.
        logits: Of each step, raw, (rows, V); None where there is one candidate alone.
        cache_bytes: Held at the end.
        first_at: When the first tokens were known, as `time.perf_counter` counts.
    """

    rows: list[list[int]]
    logits: tuple[Tensor, ...] | None
    cache_bytes: int
    first_at: float


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


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    decoding: Decoding,
    ending: Ending,
    seed: int,
) -> GeneratedBatch:
    """Return what a model says to prompts.

    Args:
        ids: (B, T), padded at the left, and `mask` which of them are text.
        seed: Of the whole batch.
    """
    own = Settings(decoding)
    config = to_generation_config(decoding, ending.end_of_text)
    config.return_dict_in_generate = True
    config.output_logits = own.whole("best_of") > 1
    if own.text("cache") == "static":
        config.max_cache_len = static_length(ids.shape[1], decoding)
        if own.is_on("compiled"):
            config.compile_config = _compiled_anywhere()
    cache = None
    if own.whole("cache_bits") != UNTUNED["cache_bits"]:
        cache = uniform_cache(model, CacheSetting(own.whole("cache_bits")))
        # A prompt then sees itself as it would token by token.
        config.prefill_chunk_size = CACHE_GROUP
    clock = _FirstToken(model.device)
    criteria: list[StoppingCriteria] = [clock]
    if own.text("stop") != "none":
        criteria.append(EndingCriteria(ending, ids.shape[1]))
    # `generate` draws by the global random numbers.
    seeded: AbstractContextManager[None] = nullcontext()
    if own.is_on("do_sample"):
        seeded = _seeded(model.device, seed)
    with seeded:
        found = cast("_Generator", model).generate(
            ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=custom_processors(decoding),
            stopping_criteria=StoppingCriteriaList(criteria),
            past_key_values=cache,
        )
    said = found.sequences[:, ids.shape[1] :].tolist()
    rows = [row[: ending.length(row)] for row in said]
    return GeneratedBatch(rows, found.logits, held_bytes(found.past_key_values), clock.at)


def static_length(prompt_tokens: int, decoding: Decoding) -> int:
    """Return of how many tokens a static cache is, rounded up so that lengths are few."""
    length = prompt_tokens + Settings(decoding).whole("max_new_tokens")
    return -(-length // STATIC_STEP) * STATIC_STEP


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
