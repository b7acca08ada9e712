"""SparseGPT: zeros, and integers with zeros, from one sweep in which later columns compensate.

SparseGPT (arXiv:2301.00774), Algorithm 1. A weight's score is w²/[H⁻¹]²_cc, with H⁻¹ of the
columns not yet fixed. Masks are chosen when the sweep reaches a block of columns, by one
threshold for all its rows, so that every block has its share of the zeros; N:M masks when it
reaches the first of m columns. Unlike the paper's, blocks have 32 columns, not 128: the later a
mask is chosen the more it knows, and a few hundred columns are few blocks of 128.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from autocompress.operators.base import Statistics, check
from autocompress.operators.column_sweep import inverse_factor, sweep, working_copies
from autocompress.operators.grids import SHRINKAGES, IntegerGrid, fit_integer_grid
from autocompress.operators.masks import highest, mask_by_pattern
from autocompress.operators.packed import PackedWeight, pack, pack_codes
from autocompress.operators.pruning import PRUNES
from autocompress.operators.stacked_grids import StackedGrids
from autocompress.spaces.settings import WeightSetting

# Settings are swept together up to so many entries: 1 GiB in single precision.
MOST_ENTRIES: Final = 2**28


class SparseGpt:
    """Sparse settings of a weight; those without a pattern, and those of one m, in one pass.

    Arithmetic is float32, or the weight's own format if that is finer; the Hessian's is float64.

    Args:
        damping: Share of the mean diagonal that is added to the Hessian's diagonal.
        block_columns: Columns whose masks are chosen together, a multiple of 32.
        shrinkages: Shares of a group's range to try (`grids.fit_integer_grid`).
    """

    version = "sparsegpt-2"

    def __init__(
        self,
        damping: float = 0.01,
        block_columns: int = 32,
        shrinkages: Sequence[float] = SHRINKAGES,
    ) -> None:
        self._damping = damping
        self._block_columns = block_columns
        self._shrinkages = tuple(shrinkages)

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build sparse settings, with integers or in the model's number format.

        Integers are rounded in the same sweep, on grids of the weight as it is before.
        Cost: one factorisation of (columns, columns), then rows · columns² for each setting.
        """
        check(weight, statistics, settings, PRUNES)
        factor = inverse_factor(statistics.hessian, self._damping)
        importance = statistics.hessian.diagonal()
        by_m: dict[int, list[WeightSetting]] = {}
        for setting in dict.fromkeys(settings):
            by_m.setdefault(setting.pattern[1] if setting.pattern else 1, []).append(setting)
        built: dict[WeightSetting, PackedWeight] = {}
        at_once = max(1, MOST_ENTRIES // weight.numel())
        for m, alike in by_m.items():
            # Integers first: a sweep rounds the first of the stacked rows.
            ordered = sorted(alike, key=lambda setting: setting.bits is None)
            for start in range(0, len(ordered), at_once):
                part = ordered[start : start + at_once]
                grids = [
                    fit_integer_grid(weight, setting, importance, self._shrinkages)
                    for setting in part
                    if setting.bits is not None
                ]
                built |= _swept(weight, factor, part, grids, (self._block_columns, m))
        return built


def _swept(
    weight: Tensor,
    factor: Tensor,
    settings: Sequence[WeightSetting],
    grids: Sequence[IntegerGrid],
    columns_together: tuple[int, int],
) -> dict[WeightSetting, PackedWeight]:
    """Sweep settings of one m; the first of them have grids.

    Args:
        columns_together: Of a block, and m.
    """
    copies = working_copies(weight, len(settings))  # (columns, settings, rows)
    rule = _Pruning(copies, settings, grids, factor.diagonal().to(copies.dtype))
    sweep(copies.flatten(1), factor.to(copies.dtype), rule, *columns_together)
    masks = rule.masks.permute(1, 2, 0)  # (settings, rows, columns)
    built = {}
    for place, setting in enumerate(settings):
        if place < len(grids):
            codes = rule.grids.codes.view(len(copies), len(grids), -1)[:, place].T
            built[setting] = pack_codes(codes, setting, grids[place], masks[place])
        else:
            kept = copies[:, place].T.to(weight.dtype)
            built[setting] = pack(kept, setting, mask=masks[place])
    return built


class _Pruning:
    """Chooses masks as the sweep arrives, and rounds the settings that have grids."""

    def __init__(
        self,
        copies: Tensor,
        settings: Sequence[WeightSetting],
        grids: Sequence[IntegerGrid],
        pivots: Tensor,
    ) -> None:
        self._settings = settings
        self._squared = pivots.square()
        self._n_columns, _, self._n_rows = copies.shape
        order = torch.arange(self._n_columns, device=copies.device)
        self.grids = StackedGrids(grids, order, copies.dtype)
        self._rounded_rows = len(grids) * self._n_rows
        self.masks = torch.empty(copies.shape, dtype=torch.bool, device=copies.device)

    def begin(self, first: int, block: Tensor) -> None:
        end = first + len(block)
        scores = self._scores(first, block)  # (block's columns, settings, rows)
        for place, setting in enumerate(self._settings):
            if setting.pattern is None:
                kept = self._kept(setting, end) - self._kept(setting, first)
                own = scores[:, place]
                self.masks[first:end, place] = highest(own.flatten(), kept).view(own.shape)

    def fix(self, column: int, weights: Tensor) -> Tensor:
        pattern = self._settings[0].pattern
        if pattern is not None and column % pattern[1] == 0:
            self._choose_by_pattern(column, weights[: pattern[1]])
        fixed = weights[0] * self.masks[column].flatten()
        if self._rounded_rows:
            n = self._rounded_rows
            fixed[:n] = self.grids.round(column, fixed[:n])
        return fixed

    def _choose_by_pattern(self, first: int, weights: Tensor) -> None:
        """Choose n of m for every setting; each has a pattern, and all the same m."""
        scores = self._scores(first, weights).permute(1, 2, 0)  # (settings, rows, m)
        for place, setting in enumerate(self._settings):
            if setting.pattern is not None:
                mask = mask_by_pattern(scores[place], *setting.pattern)
                self.masks[first : first + len(weights), place] = mask.T

    def _scores(self, first: int, weights: Tensor) -> Tensor:
        own = weights.view(len(weights), len(self._settings), self._n_rows)
        return own.square() / self._squared[first : first + len(weights), None, None]

    def _kept(self, setting: WeightSetting, columns: int) -> int:
        """Return how many weights stay in the first columns: their share, to the nearest one."""
        total = setting.stored_weights(self._n_rows, self._n_columns)
        return round(total * columns / self._n_columns)
