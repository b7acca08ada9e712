"""GPTQ: integers of every bit-width from one sweep that lets later columns make up for rounding.

GPTQ (arXiv:2210.17323), Algorithm 1. Unlike it, grids come from the weight as it is before the
sweep (static groups): the columns of a group then lie side by side in whatever order they are
swept, and an engine needs no index of groups.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from autocompress.operators.base import Law, Statistics, check
from autocompress.operators.column_sweep import inverse_factor, sweep, working_copies
from autocompress.operators.grids import SHRINKAGES, IntegerGrid, fit_integer_grid
from autocompress.operators.packed import PackedWeight, pack_codes
from autocompress.operators.stacked_grids import StackedGrids
from autocompress.spaces.settings import WeightSetting

# Settings are swept together up to so many entries: 1 GiB in single precision.
MOST_ENTRIES: Final = 2**28

_INTEGERS = Law(
    "bits is not None and sparsity == 0",
    lambda setting: setting.bits is not None and not setting.is_sparse,
    "Take round-to-nearest for block formats, sparsegpt for zeros.",
)


class ColumnOrder(enum.Enum):
    """The order in which columns are fixed."""

    STORED = "stored"
    LARGEST_INPUT_FIRST = "largest-input-first"
    """Act-order: what weighs most is rounded while most columns are left to make up for it."""


class Gptq:
    """All integer settings of a weight from one pass; rows do not depend on one another.

    Arithmetic is float32, or the weight's own format if that is finer; the Hessian's is float64.

    Args:
        damping: Share of the mean diagonal that is added to the Hessian's diagonal.
        shrinkages: Shares of a group's range to try (`grids.fit_integer_grid`).
    """

    version = "gptq-2"

    def __init__(
        self,
        damping: float = 0.01,
        order: ColumnOrder = ColumnOrder.LARGEST_INPUT_FIRST,
        shrinkages: Sequence[float] = SHRINKAGES,
    ) -> None:
        self._damping = damping
        self._order = order
        self._shrinkages = tuple(shrinkages)

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build integer settings without zeros.

        Cost: one factorisation of (columns, columns), then rows · columns² for each setting.
        """
        check(weight, statistics, settings, _INTEGERS)
        diagonal = statistics.hessian.diagonal()
        order = torch.arange(len(diagonal), device=diagonal.device)
        if self._order is ColumnOrder.LARGEST_INPUT_FIRST:
            order = torch.argsort(diagonal, descending=True, stable=True)
        hessian = statistics.hessian[order][:, order]
        factor = inverse_factor(hessian, self._damping)
        grids = {
            setting: fit_integer_grid(weight, setting, diagonal, self._shrinkages)
            for setting in settings
        }
        built = {}
        at_once = max(1, MOST_ENTRIES // weight.numel())
        ordered = list(grids)
        for start in range(0, len(ordered), at_once):
            part = ordered[start : start + at_once]
            swept = _swept(weight, factor, [grids[setting] for setting in part], order)
            for setting, codes in zip(part, swept, strict=True):
                built[setting] = pack_codes(codes, setting, grids[setting])
        return built


def _swept(
    weight: Tensor, factor: Tensor, grids: Sequence[IntegerGrid], order: Tensor
) -> list[Tensor]:
    """Return the codes of the weight on each grid, (rows, columns) in stored order."""
    copies = working_copies(weight[:, order], len(grids))  # (columns, settings, rows)
    stacked = StackedGrids(grids, order, copies.dtype)
    sweep(copies.flatten(1), factor.to(copies.dtype), _Rounding(stacked))
    return list(stacked.codes.T.contiguous().view(len(grids), *weight.shape))


class _Rounding:
    """Rounds every column on the grids of its stored place."""

    def __init__(self, grids: StackedGrids) -> None:
        self._grids = grids

    def begin(self, first: int, block: Tensor) -> None:
        """Have nothing to look at: grids are fixed before the sweep."""

    def fix(self, column: int, weights: Tensor) -> Tensor:
        return self._grids.round(column, weights[0])
