"""Lets a pass without a KV cache see the keys and values that a quantized cache would hold.

Exact for every query at once, as if the text had been generated token by token: the measure of a
candidate's KV settings needs no generation.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autocompress.models.cache_codes import encode_keys, encode_values
from autocompress.spaces.settings import CACHE_GROUP, CacheSetting


def cached_attention_arguments(
    setting: CacheSetting, context: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return what to call an attention with, so that it computes as with a cache of this setting.

    The attention is handed each key and value twice, from codes and in full precision, and a mask
    by which a query sees its own group of 32 tokens in full and the groups before it from codes:
    what `QuantizedCacheLayer` gives it. Up to 32 tokens nothing is ever read from codes, and the
    context is returned as it is.

    The result is stateless: it serves any number of calls, layers, batch sizes and head counts.
    For attention by `sdpa` or `eager`; flash attention takes no such mask.

    Args:
        context: What a decoder layer is called with beside the states, without a cache; its
            `position_embeddings` are (1, T, head size) each, its `attention_mask` (1, 1, T, T),
            boolean or to be added, or None for a causal one.
    """
    cosines: Tensor = context["position_embeddings"][0]
    length = cosines.shape[-2]
    if setting.bits is None or _coded(length) == 0:
        return context
    mask: Tensor | None = context["attention_mask"]
    if mask is None:
        causal = torch.ones((1, 1, length, length), dtype=torch.bool, device=cosines.device)
        mask = causal.tril()
    return {
        **context,
        "past_key_values": _TwoReadings(setting.bits),
        "attention_mask": _mask_of_two(mask),
    }


class _TwoReadings:
    """What an attention takes for its cache: gives keys and values from codes, then in full."""

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def update(
        self, keys: Tensor, values: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Return (B, kv heads, coded + T, head size) each."""
        n = _coded(keys.shape[2])
        old_keys = encode_keys(keys[:, :, :n], self._bits).numbers(keys.dtype)
        old_values = encode_values(values[:, :, :n], self._bits).numbers(values.dtype)
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)


def _coded(length: int) -> int:
    """Return how many tokens some query reads from codes: all groups but the last query's."""
    return (length - 1) // CACHE_GROUP * CACHE_GROUP


def _mask_of_two(mask: Tensor) -> Tensor:
    """Return the mask for both readings, (1, 1, T, coded + T), of the one without a cache."""
    length = mask.shape[-1]
    n = _coded(length)
    group = torch.arange(length, device=mask.device) // CACHE_GROUP  # (T,)
    from_codes = group[:, None] > group[None, :n]  # (T, coded)
    in_full = group[:, None] == group[None, :]  # (T, T)
    is_seen = torch.cat([from_codes, in_full], dim=1)
    both = torch.cat([mask[..., :n], mask], dim=-1)
    if both.dtype == torch.bool:
        return both & is_seen
    return both.masked_fill(~is_seen, torch.finfo(both.dtype).min)
