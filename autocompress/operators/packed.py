"""How one weight matrix is kept in one setting: small tensors, and the way back.

Knows nothing of how weights were chosen.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from autocompress.errors import EvaluationError
from autocompress.operators.bit_stream import pack_bits, unpack_bits
from autocompress.operators.block_formats import read_block_grid
from autocompress.operators.grids import read_integer_grid
from autocompress.spaces.settings import BLOCK_FORMATS, WeightSetting


class Grid(Protocol):
    """The values that each weight of a matrix can take."""

    @property
    def bits(self) -> int:
        """Of a code."""

    def codes(self, weight: Tensor) -> Tensor:
        """Return the codes nearest to weights, (rows, columns) uint8."""

    def values(self, codes: Tensor) -> Tensor:
        """Return what codes stand for, (rows, columns) float32."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored of the grid."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """One weight matrix in one setting.

    Args:
        shape: (rows, columns).
        tensors: `mask` of 1 bit where the setting is sparse; then `values` in the model's number
            format, or `codes` with `scales` and, by format, `zeros` or `tensor_scale`. Codes and
            values are those of the weights that are not masked, row by row.
    """

    setting: WeightSetting
    shape: tuple[int, int]
    tensors: Mapping[str, Tensor]

    @classmethod
    def from_tensors(
        cls, setting: WeightSetting, shape: tuple[int, int], tensors: Mapping[str, Tensor]
    ) -> "PackedWeight":
        """Return what `tensors` were stored of.

        Raises:
            EvaluationError: If they are not those of the setting and shape.
        """
        expected = _sizes(setting, shape)
        found = {name: tensor.numel() for name, tensor in tensors.items()}
        if found != expected:
            raise EvaluationError(
                f"A {shape[0]}x{shape[1]} weight in {setting} must hold {_listed(expected)}, "
                f"but got {_listed(found)}. Build it anew."
            )
        return cls(setting, shape, tensors)

    @property
    def bytes(self) -> int:
        """Of all tensors together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def mask(self) -> Tensor | None:
        """Return which weights are stored, (rows, columns) bool; None if all are."""
        if not self.setting.is_sparse:
            return None
        bits = unpack_bits(self.tensors["mask"], 1, math.prod(self.shape))
        return bits.bool().view(self.shape)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """Return the (rows, columns) weight; what is masked is exactly 0."""
        mask = self.mask()
        if "values" in self.tensors:
            return _spread(self.tensors["values"], mask, self.shape).to(dtype)
        count = math.prod(self.shape) if mask is None else int(mask.sum())
        stored = unpack_bits(self.tensors["codes"], _code_bits(self.setting), count)
        grid = read_grid(self.setting, self.shape, self.tensors)
        values = grid.values(_spread(stored, mask, self.shape))
        if mask is not None:
            values = values.masked_fill_(~mask, 0.0)
        return values.to(dtype)


def pack(
    weight: Tensor, setting: WeightSetting, grid: Grid | None = None, mask: Tensor | None = None
) -> PackedWeight:
    """Return a (rows, columns) weight in a setting, rounded to the nearest values of its grid.

    Args:
        grid: None keeps the weight's number format.
        mask: (rows, columns) bool, the weights that stay; None keeps all.
    """
    if grid is not None:
        return pack_codes(grid.codes(weight), setting, grid, mask)
    rows, columns = weight.shape
    kept = weight.flatten().clone() if mask is None else weight[mask]
    return PackedWeight(setting, (rows, columns), _masks(mask) | {"values": kept})


def pack_codes(
    codes: Tensor, setting: WeightSetting, grid: Grid, mask: Tensor | None = None
) -> PackedWeight:
    """Return a weight whose (rows, columns) uint8 codes on a grid are chosen already."""
    rows, columns = codes.shape
    stored = pack_bits(codes if mask is None else codes[mask], grid.bits)
    return PackedWeight(
        setting, (rows, columns), _masks(mask) | {"codes": stored} | grid.tensors()
    )


def read_grid(
    setting: WeightSetting, shape: tuple[int, int], tensors: Mapping[str, Tensor]
) -> Grid:
    """Return the grid of a setting with codes."""
    if setting.block is not None:
        return read_block_grid(setting.block, shape[1], tensors)
    return read_integer_grid(setting, shape[1], tensors)


def _masks(mask: Tensor | None) -> dict[str, Tensor]:
    return {} if mask is None else {"mask": pack_bits(mask.to(torch.uint8), 1)}


def _spread(stored: Tensor, mask: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """Return stored entries in their places, the others 0."""
    if mask is None:
        return stored.view(shape)
    return torch.zeros(shape, dtype=stored.dtype, device=stored.device).masked_scatter_(
        mask, stored
    )


def _code_bits(setting: WeightSetting) -> int:
    """Return the bits of a code; a dense or only sparse setting has none."""
    from_zero = WeightSetting(bits=setting.bits, block=setting.block)
    return int(from_zero.nominal_bits(0))


def _sizes(setting: WeightSetting, shape: tuple[int, int]) -> dict[str, int]:
    """Return how many elements each tensor of a setting has."""
    rows, columns = shape
    stored = setting.stored_weights(rows, columns)
    sizes = {"mask": math.ceil(rows * columns / 8)} if setting.is_sparse else {}
    bits = _code_bits(setting)
    if not bits:
        return sizes | {"values": stored}
    sizes["codes"] = math.ceil(stored * bits / 8)
    if setting.block is not None:
        return sizes | _block_sizes(setting.block, shape)
    sizes["scales"] = rows * (columns // (setting.group_size or columns))
    if not setting.symmetric:
        sizes["zeros"] = math.ceil(sizes["scales"] * bits / 8)
    return sizes


def _block_sizes(name: str, shape: tuple[int, int]) -> dict[str, int]:
    block = BLOCK_FORMATS[name]
    sizes = {"scales": shape[0] * (shape[1] // (block.block or shape[1]))}
    return sizes | {"tensor_scale": 1} if block.tensor_bits else sizes


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} of {n}" for name, n in sorted(sizes.items()))
