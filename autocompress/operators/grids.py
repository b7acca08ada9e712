"""Integer grids: which values a weight of so many bits can take, group by group.

A value is (code - zero) · scale, with a scale and a zero point for each row and group of columns
that lie side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from autocompress.models.packed_weights import integer_values, middle_zeros
from autocompress.operators.bit_stream import pack_bits
from autocompress.spaces.settings import WeightSetting

FULL_RANGE: Final = (1.0,)
SHRINKAGES: Final = (1.0, 0.9, 0.8, 0.7, 0.6)
"""Shares of a group's range that are tried; a Gaussian's best at 2 bits is near the last.

The loss is flat around its least, and time goes with their number.
"""

# From so many bits on steps are so short that to cut off more than a tenth does not pay.
FINE_BITS: Final = 6
FINE_SHRINKAGES: Final = 2

# Below it fp16 keeps fewer than the 7 bits after the first one that bf16 always keeps.
SMALLEST_FP16_SCALE: Final = 2.0**-17
LARGEST_FP16_SCALE: Final = 65504.0
# A part of the weight that stays in a core's cache while all ranges are tried on it.
ENTRIES_AT_ONCE: Final = 2**18


@dataclass(frozen=True, slots=True, eq=False)
class IntegerGrid:
    """The values that each weight of a matrix can take.

    Args:
        scales: (rows, groups), fp16 or bf16.
        zeros: (rows, groups), uint8: the code of 0.
        symmetric: Zero points are all 2**(bits - 1), and not stored.
    """

    scales: Tensor
    zeros: Tensor
    bits: int
    symmetric: bool
    columns: int

    @property
    def group_size(self) -> int:
        """Columns that share a scale."""
        return self.columns // self.scales.shape[1]

    def codes(self, weight: Tensor) -> Tensor:
        """Return the codes nearest to weights, (rows, columns) uint8."""
        groups = _groups(_working(weight), self.group_size)
        zeros = self.zeros[..., None].to(groups)
        steps = (groups / self.scales[..., None].to(groups)).round_().add_(zeros)
        return steps.clamp_(0, 2**self.bits - 1).to(torch.uint8).flatten(1)

    def values(self, codes: Tensor) -> Tensor:
        """Return what codes stand for, (rows, columns) float32."""
        return integer_values(codes, self.scales, self.zeros)

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored of the grid."""
        if self.symmetric:
            return {"scales": self.scales}
        return {"scales": self.scales, "zeros": pack_bits(self.zeros, self.bits)}


def fit_integer_grid(
    weight: Tensor,
    setting: WeightSetting,
    importance: Tensor,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> IntegerGrid:
    """Return the grid of a setting for a (rows, columns) weight.

    Of each group's range the share is taken that loses least in Σ importance·(w - ŵ)²: with a
    Hessian's diagonal, the output error if inputs were uncorrelated. Scales are rounded to 16 bits
    before anything is rounded on them: to the model's own format where that has 16, in which
    engines hold them; else to fp16, which keeps more digits, but bf16 where fp16 would lose small
    scales. Those of an fp16 model are never too small: its faintest groups take a longer step.

    Args:
        importance: (columns,), at least 0.
        shrinkages: Shares of the range to try, from 6 bits on the first two of them;
            `FULL_RANGE` does not search.
    """
    bits = _bits(setting)
    shrinkages = shrinkages[:FINE_SHRINKAGES] if bits >= FINE_BITS else shrinkages
    size = setting.group_size or weight.shape[1]
    groups = _groups(_working(weight), size)  # (rows, groups, size)
    low, high = (side.clamp_(max=0) for side in (groups.amin(2), -groups.amax(2)))
    high = -high
    if setting.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    full = (high - low) / (2**bits - 1)
    full = torch.where(full > 0, full, 1.0)
    dtype = _scale_dtype(weight.dtype, full, min(shrinkages))
    # An input that calibration never saw still counts a little, or its groups would be random.
    floor = importance.mean() * 1e-3 + torch.finfo(torch.float32).tiny
    roots = importance.to(groups).clamp_min(floor).sqrt().view(-1, size)
    least = SMALLEST_FP16_SCALE if dtype is torch.float16 else 0.0
    candidates = [(full * share).clamp_min(least).to(dtype) for share in shrinkages]
    zeros = [
        _zeros(low * s, c, setting, bits) for s, c in zip(shrinkages, candidates, strict=True)
    ]
    if len(candidates) == 1:
        return IntegerGrid(candidates[0], zeros[0], bits, setting.symmetric, weight.shape[1])
    best = _least(groups, roots, candidates, zeros, bits)
    return IntegerGrid(
        _pick(candidates, best), _pick(zeros, best), bits, setting.symmetric, weight.shape[1]
    )


def _least(
    groups: Tensor, roots: Tensor, scales: Sequence[Tensor], zeros: Sequence[Tensor], bits: int
) -> Tensor:
    """Return which candidate loses least, the first of equals, shape (rows, groups)."""
    at_once = max(1, ENTRIES_AT_ONCE // (groups.shape[1] * groups.shape[2]))
    best = torch.zeros(groups.shape[:2], dtype=torch.int64, device=groups.device)
    for start in range(0, len(groups), at_once):
        part = slice(start, start + at_once)
        own = groups[part]
        exact, lost = torch.empty_like(own), torch.empty_like(own)
        least = torch.full_like(own[:, :, 0], torch.inf)
        for place, (scale, zero) in enumerate(zip(scales, zeros, strict=True)):
            step = scale[part, :, None].to(groups)
            torch.div(own, step, out=exact).add_(zero[part, :, None].to(groups))
            torch.round(exact, out=lost).clamp_(0, 2**bits - 1).sub_(exact).mul_(roots)
            loss = torch.linalg.vector_norm(lost, dim=2) * step[..., 0]
            best[part].masked_fill_(loss < least, place)
            least = torch.minimum(least, loss)
    return best


def _pick(candidates: Sequence[Tensor], best: Tensor) -> Tensor:
    return torch.stack(list(candidates)).gather(0, best[None])[0]


def _zeros(low: Tensor, scales: Tensor, setting: WeightSetting, bits: int) -> Tensor:
    if setting.symmetric:
        return middle_zeros(scales, bits)
    return (-low / scales.to(low)).round_().clamp_(0, 2**bits - 1).to(torch.uint8)


def _scale_dtype(dtype: torch.dtype, scales: Tensor, least_share: float) -> torch.dtype:
    """Return a model's own format of 16 bits, else bf16 where fp16 would lose scales, or fp16."""
    if dtype in (torch.bfloat16, torch.float16):
        return dtype
    smallest, largest = (float(end) for end in scales.aminmax())
    if smallest * least_share < SMALLEST_FP16_SCALE or largest > LARGEST_FP16_SCALE:
        return torch.bfloat16
    return torch.float16


def _bits(setting: WeightSetting) -> int:
    if setting.bits is None:
        raise ValueError(f"`bits is not None` must hold of an integer grid, but got {setting}")
    return setting.bits


def _working(weight: Tensor) -> Tensor:
    """Return a weight in float32, or its own format if that is finer."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _groups(matrix: Tensor, size: int) -> Tensor:
    """Return a view (rows, groups, size) of a (rows, columns) matrix."""
    return matrix.reshape(len(matrix), -1, size)
