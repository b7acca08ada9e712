"""Pruning by a score, without compensation: magnitude and Wanda."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from autocompress.operators.base import Law, Statistics, check
from autocompress.operators.grids import SHRINKAGES
from autocompress.operators.masks import mask_in_matrix, mask_in_rows
from autocompress.operators.packed import PackedWeight, pack
from autocompress.operators.round_to_nearest import fit_grid
from autocompress.spaces.settings import WeightSetting

PRUNES = Law(
    "sparsity > 0 and block is None",
    lambda setting: setting.is_sparse and setting.block is None,
    "Take gptq for integers without zeros, round-to-nearest for block formats.",
)


class Magnitude:
    """The largest weights of the whole matrix stay; integers are rounded to nearest."""

    version = "magnitude-2"

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build sparse settings; the Hessian's diagonal chooses only the grids of integers."""
        check(weight, statistics, settings, PRUNES)
        masks = {setting: mask_in_matrix(weight.abs(), setting) for setting in settings}
        return pruned(weight, statistics, masks)


class Wanda:
    """The largest |W|·‖X‖₂ of every row stay (arXiv:2306.11695, equation 1).

    ‖X‖₂ is the norm of a column's inputs; here their root mean square, which ranks alike.
    """

    version = "wanda-2"

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build sparse settings; only the Hessian's diagonal is read."""
        check(weight, statistics, settings, PRUNES)
        scores = weight.float().abs() * column_norms(statistics)
        masks = {setting: mask_in_rows(scores, setting) for setting in settings}
        return pruned(weight, statistics, masks)


def column_norms(statistics: Statistics) -> Tensor:
    """Return the root mean square of every input, shape (columns,)."""
    return statistics.hessian.diagonal().clamp_min(0).sqrt()


def pruned(
    weight: Tensor, statistics: Statistics, masks: Mapping[WeightSetting, Tensor]
) -> dict[WeightSetting, PackedWeight]:
    """Return a weight under masks; what stays is rounded to nearest where settings say so."""
    importance = statistics.hessian.diagonal()
    built = {}
    for setting, mask in masks.items():
        kept = weight.where(mask, 0.0)
        grid = fit_grid(kept, setting, importance, SHRINKAGES)
        built[setting] = pack(weight, setting, grid, mask)
    return built
