"""Keys and values as integer codes, packed into bytes and read back.

KIVI (arXiv:2402.02750): keys have channels that are large at every token, so their scales are per
channel; values have none, so theirs are per token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.spaces.settings import CACHE_GROUP, value_group_size

TOKENS_DIMENSION = 3
"""Of grouped keys and values: (B, kv heads, groups, tokens of a group, ...)."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Keys or values of whole groups of tokens, each number `low + scale * code`.

    Args:
        bits: Of a code.
        packed: (B, kv heads, groups, CACHE_GROUP * bits / 8, ...) uint8.
        scale: float16, (B, kv heads, groups, 1, head size) of keys; of values (B, kv heads,
            groups, CACHE_GROUP, value groups, 1).
        low: Alike: the lowest number of those that share a scale.
    """

    bits: int
    packed: Tensor
    scale: Tensor
    low: Tensor

    @property
    def bytes(self) -> int:
        """What the tensors take."""
        return sum(held.nbytes for held in self.tensors())

    @property
    def tokens(self) -> int:
        """How many tokens a sequence has here."""
        return self.packed.shape[TOKENS_DIMENSION - 1] * CACHE_GROUP

    def followed_by(self, later: "Codes") -> "Codes":
        """Return these groups of tokens with later ones behind them."""
        pairs = zip(self.tensors(), later.tensors(), strict=True)
        joined = [torch.cat(pair, dim=TOKENS_DIMENSION - 1) for pair in pairs]
        return Codes(self.bits, *joined)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Codes":
        """Return the codes with all tensors changed alike, such as their sequences reordered."""
        return Codes(self.bits, *map(change, self.tensors()))

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """Return what the codes stand for, (B, kv heads, T, head size)."""
        codes = unpack(self.packed, self.bits).float()
        exact = self.low.float() + self.scale.float() * codes
        return exact.flatten(4).flatten(2, 3).to(dtype)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return all that is held; the sequences are the first dimension of each."""
        return self.packed, self.scale, self.low


def encode_keys(keys: Tensor, bits: int) -> Codes:
    """Return keys as codes, a scale for each channel of each group of tokens.

    Args:
        keys: (B, kv heads, T, head size), T a positive multiple of CACHE_GROUP.
    """
    return _encode(keys.unflatten(2, (-1, CACHE_GROUP)), bits, shared=TOKENS_DIMENSION)


def encode_values(values: Tensor, bits: int) -> Codes:
    """Return values as codes, scales for each token: one for 32 channels, or for a whole head.

    Args:
        values: (B, kv heads, T, head size), T a positive multiple of CACHE_GROUP.
    """
    channels = value_group_size(values.shape[-1])
    grouped = values.unflatten(3, (-1, channels)).unflatten(2, (-1, CACHE_GROUP))
    return _encode(grouped, bits, shared=-1)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return uint8 codes 8 / bits to a byte: a group's first tokens in the lowest bits."""
    parts = codes.chunk(8 // bits, dim=TOKENS_DIMENSION)
    packed = parts[0]
    for place, part in enumerate(parts[1:], 1):
        packed = packed | part << place * bits
    return packed


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Return the codes that `pack` was given."""
    parts = [packed >> place * bits & 2**bits - 1 for place in range(8 // bits)]
    return torch.cat(parts, dim=TOKENS_DIMENSION)


def _encode(numbers: Tensor, bits: int, shared: int) -> Codes:
    """Round to the nearest code; numbers along one dimension share a scale.

    The scale and the lowest number are rounded to 16 bits first, so that codes are the nearest to
    what will be read. What float16 cannot hold, above 65504, is read as no finite number: the
    candidate fails, and is not silently wrong.
    """
    exact = numbers.float()
    lowest, highest = exact.aminmax(dim=shared, keepdim=True)
    low = lowest.half()
    scale = ((highest - low.float()) / (2**bits - 1)).half()
    step = torch.where(scale == 0, 1.0, scale.float())  # all equal: code 0
    codes = ((exact - low.float()) / step).round().clamp(0, 2**bits - 1).to(torch.uint8)
    return Codes(bits, pack(codes, bits), scale, low)
