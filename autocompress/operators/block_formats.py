"""Floating-point grids with scales as engines know them: fp8, mxfp4 and nvfp4.

Scales and rounding agree with compressed-tensors 0.20, which is no dependency: on a CPU it rounds
to four bits by `torch.compile`, and so wants a C++ compiler where a search runs.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from autocompress.models.packed_weights import E8M0_BIAS, block_steps, block_values
from autocompress.spaces.settings import BLOCK_FORMATS

E2M1_LARGEST: Final = 6.0
E4M3_LARGEST: Final = 448.0
# The exponent of E2M1's largest value: a block's largest one is brought to it.
E2M1_EXPONENT: Final = 2
# Half-way between neighbours; those that fall to the even one above are lowered to include it.
_E2M1_ENDS: Final = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_TIES_UP: Final = (0.75, 1.75, 3.5)


@dataclass(frozen=True, slots=True, eq=False)
class BlockGrid:
    """The values that each weight of a matrix can take in a block format.

    Args:
        name: Of `BLOCK_FORMATS`.
        scales: (rows, blocks): float32 for fp8, E8M0 exponents as uint8 for mxfp4, E4M3 for nvfp4.
        tensor_scale: (1,) float32 by which nvfp4's scales are divided; None in other formats.
        columns: Of the weight.
    """

    name: str
    scales: Tensor
    tensor_scale: Tensor | None
    columns: int

    @property
    def bits(self) -> int:
        """Of a code."""
        return BLOCK_FORMATS[self.name].bits

    def codes(self, weight: Tensor) -> Tensor:
        """Return the codes nearest to weights, (rows, columns) uint8; ties go to even codes."""
        steps = block_steps(self.scales, self.tensor_scale)
        scaled = weight.float().reshape(*steps.shape[:2], -1) / steps
        if self.bits == 8:
            narrow = scaled.clamp_(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn)
            return narrow.view(torch.uint8).flatten(1)
        return _e2m1_codes(scaled).flatten(1)

    def values(self, codes: Tensor) -> Tensor:
        """Return what codes stand for, (rows, columns) float32."""
        return block_values(codes, self.scales, self.tensor_scale, self.bits)

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored of the grid."""
        if self.tensor_scale is None:
            return {"scales": self.scales}
        return {"scales": self.scales, "tensor_scale": self.tensor_scale}


def fit_block_grid(weight: Tensor, name: str) -> BlockGrid:
    """Return the grid of a block format for a (rows, columns) weight."""
    rows, columns = weight.shape
    size = BLOCK_FORMATS[name].block or columns
    largest = weight.float().view(rows, -1, size).abs().amax(2)  # (rows, blocks)
    if name == "fp8":
        scales = torch.where(largest > 0, largest / E4M3_LARGEST, 1.0)
        return BlockGrid(name, scales, None, columns)
    if name == "mxfp4":
        return BlockGrid(name, _e8m0_scales(largest), None, columns)
    tiny = torch.finfo(torch.float32).tiny
    whole = (E4M3_LARGEST * E2M1_LARGEST / largest.max().clamp_min(tiny)).view(1)
    # A weight without any value would divide by infinity.
    whole = torch.where(whole.isfinite(), whole, 1.0)
    scales = (largest / E2M1_LARGEST * whole).to(torch.float8_e4m3fn)
    # Blocks whose scale is lost are rounded to 0, and must not divide by it.
    scales = torch.where(scales.float() > 0, scales.float(), 0.125).to(torch.float8_e4m3fn)
    return BlockGrid(name, scales, whole, columns)


def _e8m0_scales(largest: Tensor) -> Tensor:
    """Return the exponents of powers of two that bring blocks' largest values near 6.

    A value from 1.75 times a power of two on rounds to the next power: it would exceed 7.
    """
    mantissa, exponent = torch.frexp(largest)  # mantissa in [0.5, 1)
    power = exponent - 1 + (mantissa >= 0.875).int()
    return (power - E2M1_EXPONENT + E8M0_BIAS).clamp_(0, 254).to(torch.uint8)


def _e2m1_codes(scaled: Tensor) -> Tensor:
    """Return the nearest E2M1 codes: the sign's bit, then an index of its values."""
    ends = torch.tensor(_E2M1_ENDS, device=scaled.device)
    up = torch.isin(ends, torch.tensor(_TIES_UP, device=scaled.device))
    ends = torch.where(up, torch.nextafter(ends, torch.zeros_like(ends)), ends)
    index = torch.bucketize(scaled.abs(), ends).to(torch.uint8)
    # Nothing stays of the sign of what rounds to 0.
    return torch.where((scaled < 0) & (index > 0), index + 8, index)
