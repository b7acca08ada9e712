"""Structured optimal brain surgeon: removes the units whose loss is least, compensating the rest.

ZipLM (arXiv:2302.04089), Algorithm 1: for Y = WX with H = XXᵀ, removing the columns S costs
Σ_rows W_S (H⁻¹_SS)⁻¹ W_Sᵀ; what is left is updated by W ← W − W_S (H⁻¹_SS)⁻¹ H⁻¹_S: and
H⁻¹ ← H⁻¹ − H⁻¹_:S (H⁻¹_SS)⁻¹ H⁻¹_S:. A unit is a whole KV group with its query heads, or a column.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autocompress.models.linear_parts import places_of
from autocompress.models.surgery import Level
from autocompress.operators.base import Group, Statistics

# One unit at a time is exact; a wide FFN is done in at most so many joint removals.
MOST_REMOVALS = 1024


class StructuredObs:
    """All widths of a site from one pass.

    Args:
        damping: Share of the mean diagonal that is added to the Hessian's diagonal.
    """

    version = "structured-obs-1"

    def __init__(self, damping: float = 0.01) -> None:
        self._damping = damping

    def build(
        self, group: Group, statistics: Statistics, settings: Sequence[int]
    ) -> Mapping[int, Level]:
        """Build the widths `settings` (units that stay, each from 1 to units - 1).

        Cost: one rank-`S` update of (columns, columns) and (hidden, columns) for each removal.
        """
        weight = group.output.to(torch.float64, copy=True)  # (hidden, columns)
        inverse = _inverse(statistics.hessian.double(), self._damping)  # (columns, columns)
        left = torch.ones(group.units, dtype=torch.bool, device=weight.device)
        levels: dict[int, Level] = {}
        at_once = max(1, group.units // MOST_REMOVALS)
        n_left = group.units
        for target in sorted(settings, reverse=True):
            while n_left > target:
                scores = _scores(weight, inverse, group.unit_columns)  # (units,)
                scores[~left] = torch.inf
                n = min(at_once, n_left - target)
                gone = torch.topk(scores, n, largest=False).indices
                _remove(weight, inverse, places_of(gone, group.unit_columns))
                left[gone] = False
                n_left -= n
            kept = left.nonzero().flatten()
            columns = places_of(kept, group.unit_columns)
            levels[target] = Level(kept, weight[:, columns].to(group.output.dtype))
        return levels


def _inverse(hessian: Tensor, damping: float) -> Tensor:
    """Return the inverse of the damped Hessian; inputs that are always 0 get a unit diagonal."""
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += damping * diagonal.mean()
    return torch.cholesky_inverse(torch.linalg.cholesky(hessian))


def _scores(weight: Tensor, inverse: Tensor, size: int) -> Tensor:
    """Return what removing each unit alone would cost, shape (units,)."""
    if size == 1:
        return weight.square().sum(0) / inverse.diagonal().clamp_min(1e-300)
    units = weight.shape[1] // size
    index = torch.arange(units, device=weight.device)
    blocks = inverse.view(units, size, units, size)[index, :, index, :]  # (units, size, size)
    parts = weight.view(-1, units, size).permute(1, 2, 0)  # (units, size, hidden)
    # A removed unit's block is zero: any regular matrix does, its score is overwritten.
    dead = blocks.diagonal(dim1=1, dim2=2).sum(1) == 0
    blocks = torch.where(dead[:, None, None], torch.eye(size).to(blocks), blocks)
    solved: Tensor = torch.linalg.solve(blocks, parts)
    return (parts * solved).sum((1, 2))


def _remove(weight: Tensor, inverse: Tensor, columns: Tensor) -> None:
    """Remove columns jointly, in place, and let the others compensate.

    The removed columns become exactly zero: rounding must not leave anything of them.
    """
    rows = inverse[columns]  # (S, columns)
    step = torch.linalg.solve(rows[:, columns], rows)  # (S, columns)
    weight.addmm_(weight[:, columns], step, alpha=-1)
    inverse.addmm_(rows.T, step, alpha=-1)
    weight[:, columns] = 0.0
    inverse[columns] = 0.0
    inverse[:, columns] = 0.0
