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
from autocompress.models.packed_weights import (
    code_bits,
    decode,
    read_codes,
    read_mask,
    spread,
    unpack_bits,
)
from autocompress.operators.bit_stream import pack_bits
from autocompress.operators.ggml_blocks import dequantize
from autocompress.spaces.settings import BLOCK_FORMATS, GGUF_TYPES, WeightSetting


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
            values are those of the weights that are not masked, row by row. Of GGUF's types there
            are `blocks` alone, (rows, bytes of a row) uint8.
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

    @property
    def stored(self) -> int:
        """Weights that are not masked."""
        mask = self.mask()
        return math.prod(self.shape) if mask is None else int(mask.sum())

    def mask(self) -> Tensor | None:
        """Return which weights are stored, (rows, columns) bool; None if all are."""
        return read_mask(self.shape, self.tensors)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """Return the (rows, columns) weight; what is masked is exactly 0."""
        if self.setting.is_gguf:
            return dequantize(self.tensors["blocks"], str(self.setting)).to(dtype)
        return decode(str(self.setting), self.shape, self.tensors).to(dtype)

    def to(self, device: torch.device) -> "PackedWeight":
        """Return the weight to be decoded on a device; GGUF's types are decoded on the CPU."""
        if self.setting.is_gguf:
            return self
        moved = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return PackedWeight(self.setting, self.shape, moved)

    def take_rows(self, rows: Tensor) -> "PackedWeight":
        """Return some rows, in the order given, exactly as they are; no tensor is shared.

        Rows of a matrix that is sparse as a whole need not hold the setting's share of zeros.

        Args:
            rows: (rows taken,) indices.
        """
        if self.setting.is_gguf:
            blocks = {"blocks": self.tensors["blocks"][rows]}
            return PackedWeight(self.setting, (len(rows), self.shape[1]), blocks)
        mask = self.mask()
        own = None if mask is None else mask[rows]
        taken = _masks(own)
        if "values" in self.tensors:
            values = spread(self.tensors["values"], mask, self.shape)[rows]
            taken["values"] = _stored(values, own)
        else:
            codes = read_codes(str(self.setting), self.shape, self.tensors)[rows]
            taken["codes"] = pack_bits(_stored(codes, own), code_bits(str(self.setting)))
            taken |= self._grid_of(rows)
        return PackedWeight(self.setting, (len(rows), self.shape[1]), taken)

    def _grid_of(self, rows: Tensor) -> dict[str, Tensor]:
        """Return what is stored of the grid of some rows."""
        scales = self.tensors["scales"]
        taken = {"scales": scales[rows]}
        if "zeros" in self.tensors:
            bits = code_bits(str(self.setting))
            zeros = unpack_bits(self.tensors["zeros"], bits, scales.numel()).view(scales.shape)
            taken["zeros"] = pack_bits(zeros[rows], bits)
        if "tensor_scale" in self.tensors:
            taken["tensor_scale"] = self.tensors["tensor_scale"].clone()
        return taken


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
    return PackedWeight(setting, (rows, columns), _masks(mask) | {"values": _stored(weight, mask)})


def pack_codes(
    codes: Tensor, setting: WeightSetting, grid: Grid, mask: Tensor | None = None
) -> PackedWeight:
    """Return a weight whose (rows, columns) uint8 codes on a grid are chosen already."""
    rows, columns = codes.shape
    stored = pack_bits(_stored(codes, mask), grid.bits)
    return PackedWeight(
        setting, (rows, columns), _masks(mask) | {"codes": stored} | grid.tensors()
    )


def _masks(mask: Tensor | None) -> dict[str, Tensor]:
    return {} if mask is None else {"mask": pack_bits(mask.to(torch.uint8), 1)}


def _stored(entries: Tensor, mask: Tensor | None) -> Tensor:
    """Return a matrix's entries that stay, row by row, in one dimension."""
    return entries.flatten().clone() if mask is None else entries[mask]


def _sizes(setting: WeightSetting, shape: tuple[int, int]) -> dict[str, int]:
    """Return how many elements each tensor of a setting has."""
    rows, columns = shape
    if setting.block in GGUF_TYPES:
        return {"blocks": setting.stored_bits(rows, columns, 0) // 8}
    stored = setting.stored_weights(rows, columns)
    sizes = {"mask": math.ceil(rows * columns / 8)} if setting.is_sparse else {}
    bits = code_bits(str(setting))
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
