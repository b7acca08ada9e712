"""Runs a causal LM one sub-block at a time, so that callers decide what is computed once."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.models.cached_attention import cached_attention_arguments
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SiteKind
from autocompress.spaces.settings import DENSE_CACHE, CacheSetting


class _Caught(Exception):  # No error: it ends a forward pass that has told enough.
    pass


class Stepper:
    """Embeds tokens, runs single sites as they are set now, and reads out predictions.

    A pass over all sites in order equals the model's own forward pass without a KV cache; with
    cache settings, what the model computes token by token with such a cache.
    """

    def __init__(self, shaped: ShapedModel) -> None:
        self._shaped = shaped
        self._contexts: dict[int, dict[str, Any]] = {}
        self._cached: dict[tuple[int, CacheSetting], Mapping[str, Any]] = {}

    def embed(self, ids: Tensor) -> Tensor:
        """Return the residual stream before the first site, (B, T, hidden)."""
        states: Tensor = self._shaped.model.model.embed_tokens(ids)
        return states

    def run(self, index: int, states: Tensor, cache: CacheSetting = DENSE_CACHE) -> Tensor:
        """Return the residual stream after a site; all sequences have one length.

        Args:
            cache: How an attention's keys and values are held; nothing to an MLP.
        """
        site = self._shaped.space.sites[index]
        layer = self._shaped.layers[site.layer]
        if site.kind is SiteKind.MLP:
            return layer.add_mlp(states)
        return layer.add_attention(states, **self._cached_context(states.shape[1], cache))

    def finish(self, states: Tensor) -> Tensor:
        """Return what the head reads, (B, T, hidden)."""
        normed: Tensor = self._shaped.model.model.norm(states)
        return normed

    def logits(self, finished: Tensor) -> Tensor:
        """Return float32 logits, (..., V)."""
        logits: Tensor = self._shaped.model.lm_head(finished)
        return logits.float()

    def _cached_context(self, length: int, cache: CacheSetting) -> Mapping[str, Any]:
        """Return what is handed to an attention whose cache is held so, for one length."""
        key = length, cache
        if key not in self._cached:
            self._cached[key] = cached_attention_arguments(cache, self._context(length))
        return self._cached[key]

    def _context(self, length: int) -> dict[str, Any]:
        """Return what the model hands to its layers beside the states, for one length.

        Masks and positions differ from family to family: they are caught on their way into the
        first layer. Sequences are never padded, so one sequence's serve any batch.
        """
        if length not in self._contexts:
            model = self._shaped.model.model
            caught: dict[str, Any] = {}

            def catch(_layer: nn.Module, _inputs: object, kwargs: dict[str, Any]) -> None:
                caught.update(kwargs)
                raise _Caught

            handle = model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
            ids = torch.zeros((1, length), dtype=torch.long, device=self._shaped.model.device)
            try:
                model(ids, use_cache=False)
            except _Caught:
                pass
            finally:
                handle.remove()
            self._contexts[length] = caught
        return self._contexts[length]
