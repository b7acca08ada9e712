"""The sweep that GPTQ and SparseGPT share: fix column after column, compensating the later ones.

For H = the damped mean of x xᵀ and H⁻¹ = UᵀU with U upper triangular, fixing w_c at q adds
(w_c - q)/U_cc · U_cj to the error that column j > c makes up for: w_j ← w_j - e·U_cj (GPTQ,
arXiv:2210.17323, Algorithm 1). Rows never meet, so weights of any number are swept side by side.
"""

from typing import Final, Protocol

import torch
from torch import Tensor

BLOCK_COLUMNS: Final = 128
# Within so many columns errors are passed on one by one, beyond them by matrix products.
PART_COLUMNS: Final = 32


class ColumnRule(Protocol):
    """Decides what a column becomes; sees weights that make up for all earlier errors."""

    def begin(self, first: int, block: Tensor) -> None:
        """Look at a block before it is swept.

        Args:
            first: The block's first column.
            block: (columns of the block, rows) weights, not to be changed.
        """

    def fix(self, column: int, weights: Tensor) -> Tensor:
        """Return what a column becomes, shape (rows,).

        Args:
            weights: (columns, rows), the column first, then those up to the end of its part.
        """


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Return upper triangular U with H⁻¹ = UᵀU for the damped Hessian, float64.

    With J the reversal, JHJ = LLᵀ gives U = JL⁻¹J: one factorisation, not an inverse and two.
    Damping, a share of the mean diagonal, also stands for inputs that calibration never saw: they
    take part in nothing. Double precision, for single fails on the Hessians
    of wide layers; it is the smaller part of a sweep.
    """
    reversed_ = hessian.double().flip(0, 1)
    mean = reversed_.diagonal().mean()
    # A group that never had an input is rounded to nearest.
    reversed_.diagonal().add_(torch.where(mean > 0, damping * mean, 1.0))
    lower = torch.linalg.cholesky(reversed_)
    eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    inverse: Tensor = torch.linalg.solve_triangular(lower, eye, upper=False)
    return inverse.flip(0, 1)


def sweep(
    weight: Tensor,
    factor: Tensor,
    rule: ColumnRule,
    block_columns: int = BLOCK_COLUMNS,
    multiple: int = 1,
) -> None:
    """Fix all columns of a weight in place, in their order.

    Args:
        weight: (columns, rows), transposed, so that a column is contiguous.
        factor: U of `inverse_factor`, in the number format of `weight`.
        block_columns: Of a block, at most; no less than a part has.
        multiple: Columns of which a part holds a multiple, so that N:M groups stay whole.
    """
    n = len(weight)
    part = multiple * max(1, PART_COLUMNS // multiple)
    size = part * max(1, block_columns // part)
    for first in range(0, n, size):
        end = min(first + size, n)
        rule.begin(first, weight[first:end])
        errors = torch.empty_like(weight[first:end])
        for start in range(first, end, part):
            stop = min(start + part, end)
            own = errors[start - first : stop - first]
            _sweep_part(weight[start:stop], factor[start:stop, start:stop], own, rule, start)
            weight[stop:end].addmm_(factor[start:stop, stop:end].T, own, alpha=-1)
        weight[end:].addmm_(factor[first:end, end:].T, errors, alpha=-1)


def _sweep_part(
    weight: Tensor, factor: Tensor, errors: Tensor, rule: ColumnRule, first: int
) -> None:
    """Fix the columns of one part, writing their errors over U's diagonal into `errors`."""
    pivots = factor.diagonal().tolist()
    for place, pivot in enumerate(pivots):
        fixed = rule.fix(first + place, weight[place:])
        error = torch.sub(weight[place], fixed, out=errors[place]).div_(pivot)
        weight[place + 1 :].addr_(factor[place, place + 1 :], error, alpha=-1)
        weight[place] = fixed


def working_copies(weight: Tensor, n: int) -> Tensor:
    """Return (columns, n, rows): n copies, in float32 or the weight's own format if finer."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    columns = weight.T.to(dtype).contiguous()[:, None].expand(-1, n, -1)
    return columns.clone(memory_format=torch.contiguous_format)
