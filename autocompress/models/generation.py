"""Lets a causal LM answer a prompt: greedy, with a KV cache, by transformers' own loop."""

from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel


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
    ) -> _Generated: ...


def generate(model: PreTrainedModel, prompt: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Return the prompt with its answer, (B, T + answer), and the answer's logits, (B, answer, V).

    Args:
        prompt: (B, T) token ids on the model's device, all of them text.
        n_tokens: Length of the answer at most; an end-of-text token ends it.
    """
    generated = cast("_Generator", model).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=n_tokens,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return generated.sequences, torch.stack(generated.logits, 1)
