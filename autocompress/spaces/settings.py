"""What a level stands for: how the weights of a linear group, or a KV cache, are stored.

Settings are names and numbers; how a tensor is brought into one is an operator's business.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

SCALE_BITS: Final = 16
DENSE_BITS: Final = 16
"""Of what is not quantized, where bits are no more than an order, or a scale."""
SHARE_DIGITS: Final = 12
"""Of a share of zeros: enough to tell the weights of any group apart."""
INTEGER_BITS: Final = (2, 3, 4, 5, 6, 8)
GROUP_SIZES: Final = (128, 64, 32)
"""Columns that may share a scale, the largest first."""
KERNEL_GROUPS: Final = (32, 64, 128, 256)
"""Columns that share a scale in torch's kernels for codes of 4 bits on a CPU."""
CACHE_BITS: Final = (8, 4)
CACHE_GROUP: Final = 32
"""Tokens of a KV cache that become codes together, and channels of a value that share a scale.

KIVI's own size (arXiv:2402.02750); scale and lowest number then cost 1 bit a number.
"""

_WORD_BITS: Final = 32
_SHAPE_BITS: Final = 2 * 64

_SPARSE: Final = re.compile(r"s(0\.\d+|\d+:\d+)")
_INTEGER: Final = re.compile(r"w(\d+)(?:g(\d+))?(sym)?")


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """A floating-point format with scales, as engines know it.

    Args:
        bits: Of a weight's code.
        block: Columns that share a scale; None shares it along a whole row.
        scale_bits: Of one such scale.
        tensor_bits: Of what is stored once for a tensor.
    """

    bits: int
    block: int | None
    scale_bits: int
    tensor_bits: int = 0


BLOCK_FORMATS: Final[dict[str, BlockFormat]] = {
    "fp8": BlockFormat(8, None, 32),
    "mxfp4": BlockFormat(4, 32, 8),
    "nvfp4": BlockFormat(4, 16, 8, tensor_bits=32),
}
"""By the names of compressed-tensors: OCP FP8 E4M3 a row, OCP MXFP4, NVIDIA's NVFP4."""

GGUF_TYPES: Final[dict[str, BlockFormat]] = {
    "q8_0": BlockFormat(8, 32, 16),
    "q6_k": BlockFormat(6, 256, 144),
    "q5_k": BlockFormat(5, 256, 128),
    "q5_0": BlockFormat(5, 32, 16),
    "q4_k": BlockFormat(4, 256, 128),
    "q4_0": BlockFormat(4, 32, 16),
    "q3_k": BlockFormat(3, 256, 112),
    "q2_k": BlockFormat(2, 256, 160),
}
"""Formats of GGUF files, by GGUF's names in small letters; scales within a block count as its."""


@dataclass(frozen=True, slots=True, order=True)
class WeightSetting:
    """How the weights of one linear group are stored; as text `dense`, `w4g128`, `s0.5+w3`.

    Args:
        bits: Of an integer code; None keeps the model's number format.
        group_size: Columns that share a scale; None shares it along a whole row.
        symmetric: Codes around 0, without a zero point.
        sparsity: Share of the weights that is zero.
        pattern: (n, m): of m weights side by side in a row n stay.
        block: A name of `BLOCK_FORMATS` or `GGUF_TYPES`, instead of integers.
    """

    bits: int | None = None
    group_size: int | None = None
    symmetric: bool = False
    sparsity: float = 0.0
    pattern: tuple[int, int] | None = None
    block: str | None = None

    @property
    def is_dense(self) -> bool:
        """Whether the weights are left as they are."""
        return self.bits is None and self.block is None and not self.is_sparse

    @property
    def is_gguf(self) -> bool:
        """Whether it is a type of GGUF files."""
        return self.block in GGUF_TYPES

    @property
    def is_sparse(self) -> bool:
        """Whether some weights are zero, told by a bit mask."""
        return self.sparsity > 0

    def with_setting(self, other: "WeightSetting") -> "WeightSetting":
        """Return this setting with what another one says of codes, or of zeros, in addition."""
        if other.is_dense:
            return self
        if other.is_sparse:
            return dataclasses.replace(self, sparsity=other.sparsity, pattern=other.pattern)
        return dataclasses.replace(other, sparsity=self.sparsity, pattern=self.pattern)

    def nominal_bits(self, dense_bits: int) -> float:
        """Return the bits of a weight as the field counts them: codes only, zeros at no cost."""
        block = block_format(self.block) if self.block else None
        code = block.bits if block else self.bits or dense_bits
        return code * (1 - self.sparsity)

    def stored_bits(self, rows: int, columns: int, dense_bits: int) -> int:
        """Return the bits of a whole (rows, columns) weight, scales, zero points and mask too."""
        total = 0
        weights = rows * columns
        if self.is_sparse:
            total += weights
            weights = self.stored_weights(rows, columns)
        if self.block:
            block = block_format(self.block)
            scales = rows * math.ceil(columns / (block.block or columns))
            return total + weights * block.bits + scales * block.scale_bits + block.tensor_bits
        if self.bits is None:
            return total + weights * dense_bits
        groups = rows * math.ceil(columns / (self.group_size or columns))
        zeros = 0 if self.symmetric else self.bits
        return total + weights * self.bits + groups * (SCALE_BITS + zeros)

    def stored_weights(self, rows: int, columns: int) -> int:
        """Return how many weights are not zero."""
        if self.pattern is not None:
            n, m = self.pattern
            return rows * columns * n // m
        return rows * columns - round(rows * columns * self.sparsity)

    def __str__(self) -> str:
        parts = []
        if self.pattern is not None:
            parts.append(f"s{self.pattern[0]}:{self.pattern[1]}")
        elif self.is_sparse:
            parts.append(f"s{self.sparsity:.{SHARE_DIGITS}f}".rstrip("0"))
        if self.block:
            parts.append(self.block)
        elif self.bits is not None:
            group = f"g{self.group_size}" if self.group_size else ""
            parts.append(f"w{self.bits}{group}{'sym' if self.symmetric else ''}")
        return "+".join(parts) or "dense"

    @classmethod
    def parse(cls, text: str) -> "WeightSetting":
        """Read what `str` writes.

        Raises:
            ValueError: If it is no setting.
        """
        if text == "dense":
            return cls()
        if _SPARSE.fullmatch(text):
            sparsity, pattern = _read_sparsity(text)
            return cls(sparsity=sparsity, pattern=pattern)
        sparse, plus, rest = text.rpartition("+")
        sparsity, pattern = _read_sparsity(sparse) if plus else (0.0, None)
        if rest in BLOCK_FORMATS or (rest in GGUF_TYPES and not plus):
            return cls(sparsity=sparsity, pattern=pattern, block=rest)
        integer = _INTEGER.fullmatch(rest)
        if integer and int(integer[1]) in INTEGER_BITS and integer[2] != "0":
            return cls(
                bits=int(integer[1]),
                group_size=int(integer[2]) if integer[2] else None,
                symmetric=integer[3] is not None,
                sparsity=sparsity,
                pattern=pattern,
            )
        raise ValueError(
            "a setting such as w4g128, w4sym, s0.5, s2:4, s0.5+w4g128, mxfp4 or q4_k, with bits "
            f"of {', '.join(map(str, INTEGER_BITS))}, must hold, but got {text!r}"
        )


def _read_sparsity(text: str) -> tuple[float, tuple[int, int] | None]:
    """Read `s0.5` or `s2:4`."""
    match = _SPARSE.fullmatch(text)
    if match is None:
        raise ValueError(f"a sparsity such as s0.5 or s2:4 must hold, but got {text!r}")
    if ":" not in match[1]:
        sparsity, pattern = float(match[1]), None
    else:
        n, m = map(int, match[1].split(":"))
        sparsity, pattern = (1 - n / m if m else 0.0), (n, m)
    if not 0 < sparsity < 1:
        raise ValueError(f"`0 < sparsity < 1` must hold, but got {text!r}")
    return sparsity, pattern


DENSE: Final = WeightSetting()


@dataclass(frozen=True, slots=True, order=True)
class CacheSetting:
    """How an attention's KV cache is stored; as text `dense`, `kv8`, `kv4`.

    Args:
        bits: Of an integer code; None keeps the model's number format.
    """

    bits: int | None = None

    @property
    def is_dense(self) -> bool:
        """Whether the cache is left as it is."""
        return self.bits is None

    def token_bits(self, kv_heads: int, head_size: int, dense_bits: int) -> float:
        """Return the bits of a token's keys and values in a long text.

        Scales and lowest numbers count; the last tokens, not yet in codes, do not.
        """
        numbers = kv_heads * head_size
        if self.bits is None:
            return 2 * numbers * dense_bits
        shared = 2 * SCALE_BITS  # a scale and the lowest number
        keys = numbers * (self.bits + shared / CACHE_GROUP)
        values = numbers * (self.bits + shared / value_group_size(head_size))
        return keys + values

    def __str__(self) -> str:
        return "dense" if self.bits is None else f"kv{self.bits}"


DENSE_CACHE: Final = CacheSetting()


def value_group_size(head_size: int) -> int:
    """Return how many channels of a head's value share a scale: 32 if that divides it, or all."""
    return head_size if head_size % CACHE_GROUP else CACHE_GROUP


def torch_kernel_bits(setting: WeightSetting, rows: int, columns: int) -> int | None:
    """Return what a weight takes as torch's CPU kernels read it; None if none reads its codes.

    Codes of at most 4 bits in groups take 4 bits each, those of whole rows 8; one of the rows of
    several linear layers that a group joins may have none by itself.
    """
    if setting.bits is None or setting.is_sparse:
        return None
    if setting.group_size is not None:
        fits = setting.bits <= 4 and setting.group_size in KERNEL_GROUPS and rows % 16 == 0
        groups = columns // setting.group_size
        return rows * (4 * columns + 2 * SCALE_BITS * groups) if fits else None
    fits = columns % 32 == 0 and (setting.bits < 8 or setting.symmetric)
    return rows * (8 * columns + SCALE_BITS) if fits else None


Stored = Callable[[WeightSetting, Sequence[int], int, int], int]
"""The bits that a file holds of linear layers that share a setting.

From the setting, the rows of each, their columns and the bits of a number left dense.
"""


def as_packed(setting: WeightSetting, rows: Sequence[int], columns: int, dense_bits: int) -> int:
    """Return what the level database and our own checkpoints hold, and GGUF files."""
    return setting.stored_bits(sum(rows), columns, dense_bits)


def as_compressed_tensors(
    setting: WeightSetting, rows: Sequence[int], columns: int, dense_bits: int
) -> int:
    """Return what compressed-tensors holds: rows of whole words, and scales as dense numbers."""
    if setting.is_dense or setting.block:
        return sum(setting.stored_bits(own, columns, dense_bits) for own in rows)
    groups = math.ceil(columns / (setting.group_size or columns))
    words = math.ceil(columns * (setting.bits or 0) / _WORD_BITS)
    row = words * _WORD_BITS + groups * dense_bits
    return sum(own * row + _SHAPE_BITS for own in rows)


def as_gptq(setting: WeightSetting, rows: Sequence[int], columns: int, dense_bits: int) -> int:
    """Return what GPTQ holds: words of codes and of zeros, dense scales, a group each column."""
    if setting.bits is None:
        return sum(setting.stored_bits(own, columns, dense_bits) for own in rows)
    groups = math.ceil(columns / (setting.group_size or columns))
    row = columns * setting.bits + groups * (dense_bits + setting.bits)
    return sum(own * row + columns * _WORD_BITS for own in rows)


def block_format(name: str) -> BlockFormat:
    """Return what a name of `BLOCK_FORMATS` or `GGUF_TYPES` stands for."""
    return BLOCK_FORMATS[name] if name in BLOCK_FORMATS else GGUF_TYPES[name]


def fitting_group_size(*columns: int) -> int | None:
    """Return the largest size of a group that divides all of these columns; None if none does."""
    return next((size for size in GROUP_SIZES if not any(n % size for n in columns)), None)
