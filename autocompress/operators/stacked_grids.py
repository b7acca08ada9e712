"""Rounds whole columns of weights that are stacked by setting, each on its setting's own grid."""

from collections.abc import Sequence

import torch
from torch import Tensor

from autocompress.operators.grids import IntegerGrid


class StackedGrids:
    """The integer grids of several settings of one weight, read column by column.

    Args:
        grids: In the order in which their rows are stacked.
        order: (columns,) the stored column that each swept column is.
        dtype: Of the weights.
    """

    def __init__(self, grids: Sequence[IntegerGrid], order: Tensor, dtype: torch.dtype) -> None:
        self._order = order
        self._sizes = [grid.group_size for grid in grids]
        self._scales = [grid.scales.T.to(dtype) for grid in grids]  # (groups, rows)
        self._lowest = [-grid.zeros.T.to(dtype) for grid in grids]
        highest = [torch.full_like(grid.scales[:, 0], 2**grid.bits - 1) for grid in grids]
        self._spans = torch.cat(highest).to(dtype) if highest else torch.empty(0)
        self._first = 0
        self.codes = torch.empty(len(order), len(self._spans), dtype=torch.uint8).to(order.device)
        """(columns, rows of all), in the order of the sweep; filled by `round`."""

    def begin(self, first: int, n: int) -> None:
        """Gather what n columns from `first` on are rounded by."""
        self._first = first
        columns = self._order[first : first + n]
        groups = [columns // size for size in self._sizes]
        self._step = _side_by_side(self._scales, groups)  # (n, rows of all)
        self._low = _side_by_side(self._lowest, groups)
        self._high = self._low + self._spans

    def round(self, column: int, weights: Tensor) -> Tensor:
        """Return the weights of a column, shape (rows of all,), on their grids; keep the codes."""
        place = column - self._first
        step = self._step[place]
        low = self._low[place]
        steps = (weights / step).round_().clamp_(low, self._high[place])
        self.codes[column] = steps - low
        return steps.mul_(step)


def _side_by_side(tables: Sequence[Tensor], groups: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.index_select(0, g) for t, g in zip(tables, groups, strict=True)], 1)
