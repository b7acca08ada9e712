"""Rounds whole columns of weights that are stacked by setting, each on its setting's own grid."""

import math
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
        n_rows = sum(len(grid.scales) for grid in grids)
        self.codes = torch.empty(len(order), n_rows, dtype=torch.uint8, device=order.device)
        """(columns, rows of all), in stored order; filled by `round`."""
        if not grids:
            return
        # So many columns lie in one group of every grid: a row of each table serves all of them.
        size = math.gcd(*(grid.group_size for grid in grids))
        self._places = order.tolist()
        self._size = size
        self._steps = _side_by_side([grid.scales for grid in grids], grids, size, dtype)
        self._lowest = -_side_by_side([grid.zeros for grid in grids], grids, size, dtype)
        spans = [torch.full_like(grid.scales[:, 0], 2**grid.bits - 1) for grid in grids]
        self._highest = self._lowest + torch.cat(spans).to(dtype)

    def round(self, column: int, weights: Tensor) -> Tensor:
        """Return the weights of a column, shape (rows of all,), on their grids; keep the codes."""
        place = self._places[column]
        group = place // self._size
        step, low = self._steps[group], self._lowest[group]
        steps = (weights / step).round_().clamp_(low, self._highest[group])
        self.codes[place] = steps - low
        return steps.mul_(step)


def _side_by_side(
    tables: Sequence[Tensor], grids: Sequence[IntegerGrid], size: int, dtype: torch.dtype
) -> Tensor:
    """Return (rows, groups) tables as one, (groups of `size` columns, rows of all)."""
    return torch.cat(
        [
            table.T.to(dtype).repeat_interleave(grid.group_size // size, 0)
            for table, grid in zip(tables, grids, strict=True)
        ],
        1,
    )
