"""Lets a causal LM answer a prompt: greedy, with a KV cache, by transformers' own loop."""

from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from autocompress.spaces.settings import CACHE_GROUP


class _Generated(Protocol):
    sequences: Tensor
    logits: tuple[Tensor, ...]


class _Generator(Protocol):
    """`GenerationMixin`, as it is called here: `PreTrainedModel` does not declare it."""

    def generate(
        self,
        inputs: Tensor,
        *,
        attention_mask: Tensor,
        max_new_tokens: int,
        do_sample: bool,
        pad_token_id: int,
        output_logits: bool,
        return_dict_in_generate: bool,
        past_key_values: Cache | None,
        prefill_chunk_size: int | None,
    ) -> _Generated: ...


def generate(
    model: PreTrainedModel, prompt: Tensor, n_tokens: int, cache: Cache | None = None
) -> tuple[Tensor, Tensor]:
    """Return the prompt with its answer, (B, T + answer), and the answer's logits, (B, answer, V).

    Args:
        prompt: (B, T) token ids on the model's device, all of them text.
        n_tokens: Length of the answer at most; an end-of-text token ends it.
        cache: An empty one of `make_cache`, instead of transformers' own. The prompt is read in
            chunks of a group of tokens, so that it sees itself as it would token by token.
    """
    generated = cast("_Generator", model).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=n_tokens,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        past_key_values=cache,
        prefill_chunk_size=None if cache is None else CACHE_GROUP,
    )
    return generated.sequences, torch.stack(generated.logits, 1)
