"""A KV cache that holds keys and values in 8 or 4 bits, layer by layer, for transformers' models.

It saves memory, not time: the codes are read back into the model's number format at every step.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from autocompress.errors import EngineError
from autocompress.models.cache_codes import Codes, encode_keys, encode_values
from autocompress.spaces.settings import CACHE_BITS, CACHE_GROUP, CacheSetting


class QuantizedCacheLayer(CacheLayerMixin):
    """Keys and values of one attention; every 32 tokens, counted from the first, become codes.

    Attention comes first: the token that completes a group still sees it in full precision, the
    next token sees codes. KIVI (arXiv:2402.02750, algorithm 1) with a residual of one group;
    unlike it, values become codes with the keys of their group, not when 32 tokens have followed.

    Several tokens in one update see each other in full precision, whatever groups they complete,
    as in KIVI's prefill. Fed in chunks that end where groups end, or before, they see what they
    would see one by one.

    Args:
        bits: Of a code.

    Raises:
        EngineError: If there are no codes of so many bits.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if bits not in CACHE_BITS:
            known = ", ".join(map(str, CACHE_BITS))
            raise EngineError(f"`bits` of a KV cache must be one of {known}, but got {bits}.")
        self.bits = bits
        # (B, kv heads, tokens of the group that is not yet complete, head size) each.
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self._codes: tuple[Codes, Codes] | None = None

    @property
    def bytes(self) -> int:
        """What all that is held takes."""
        held = 0 if self._codes is None else sum(codes.bytes for codes in self._codes)
        return held + sum(recent.nbytes for recent in self._recent())

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start empty, for keys and values of these shapes."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0].clone(), value_states[:, :, :0].clone()
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add tokens; return what their queries see, (B, kv heads, T, head size) each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        added = zip(self._recent(), (key_states, value_states), strict=True)
        keys, values = (torch.cat(pair, dim=2) for pair in added)
        seen = keys, values
        if self._codes is not None:
            old_keys, old_values = (codes.numbers(self.dtype) for codes in self._codes)
            seen = torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
        whole = keys.shape[2] // CACHE_GROUP * CACHE_GROUP
        if whole:
            self._keep(keys[:, :, :whole], values[:, :, :whole])
        # A slice would hold the memory of the whole.
        self.keys, self.values = keys[:, :, whole:].clone(), values[:, :, whole:].clone()
        return seen

    def get_seq_length(self) -> int:
        """Return how many tokens of a sequence are held."""
        coded = 0 if self._codes is None else self._codes[0].tokens
        return coded + (0 if self.keys is None else self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next queries see, and the position of the first."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1

    def reset(self) -> None:
        """Forget all tokens."""
        self.keys = self.values = self._codes = None
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the sequences into the order that a beam search gives."""
        self._each(lambda held: held.index_select(0, beam_idx.to(held.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Hold each sequence so many times, copies side by side."""
        self._each(lambda held: held.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Hold only some sequences."""
        self._each(lambda held: held[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: what became codes cannot be read back in full precision.

        Raises:
            EngineError: Always.
        """
        raise EngineError(
            f"A KV cache of {self.bits} bits cannot take back {abs(tokens_to_remove)} tokens: "
            f"their group is in codes. Decode without an assistant, or with a dense cache."
        )

    def _keep(self, keys: Tensor, values: Tensor) -> None:
        """Hold whole groups as codes, behind those there are."""
        new_keys, new_values = encode_keys(keys, self.bits), encode_values(values, self.bits)
        if self._codes is None:
            self._codes = new_keys, new_values
        else:
            old_keys, old_values = self._codes
            self._codes = old_keys.followed_by(new_keys), old_values.followed_by(new_values)

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change all tensors alike."""
        if not self.is_initialized:
            return
        self.keys, self.values = map(change, self._recent())
        if self._codes is not None:
            keys, values = self._codes
            self._codes = keys.each(change), values.each(change)

    def _recent(self) -> tuple[Tensor, ...]:
        """Return keys and values of the group that is not yet complete; nothing before a token."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)


def make_cache(model: PreTrainedModel, settings: Sequence[CacheSetting]) -> Cache:
    """Return an empty cache for a model.

    Args:
        settings: Of each attention that the model has left, in the order of its layers: as
            `number_caches` counts them.

    Raises:
        EngineError: If there are more or fewer, or one of unknown bits.
    """
    left = _attentions_left(model)
    if len(settings) != left:
        raise EngineError(
            f"A KV cache needs one setting for each of the {left} attentions that are left, but "
            f"got {len(settings)}."
        )
    return Cache(
        layers=[
            DynamicLayer() if setting.bits is None else QuantizedCacheLayer(setting.bits)
            for setting in settings
        ]
    )


def uniform_cache(model: PreTrainedModel, setting: CacheSetting) -> Cache:
    """Return an empty cache for a model, all of whose attentions that are left have one setting.

    It holds all tokens, whatever window a model sees, so that a dense one can be cropped.
    """
    return make_cache(model, [setting] * _attentions_left(model))


def held_bytes(cache: Cache) -> int:
    """Return the bytes of the keys and values that a cache of `make_cache` holds."""
    return sum(
        layer.bytes if isinstance(layer, QuantizedCacheLayer) else _dense_bytes(layer)
        for layer in cast("list[CacheLayerMixin]", cache.layers)
    )


def _attentions_left(model: PreTrainedModel) -> int:
    return sum(getattr(layer, "self_attn", None) is not None for layer in model.model.layers)


def _dense_bytes(layer: CacheLayerMixin) -> int:
    return sum(held.nbytes for held in (layer.keys, layer.values) if held is not None)
