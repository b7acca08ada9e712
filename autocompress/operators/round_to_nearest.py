"""Round to nearest: every weight to the nearest value of its grid, alone."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from autocompress.operators.base import Law, Statistics, check
from autocompress.operators.block_formats import fit_block_grid
from autocompress.operators.grids import SHRINKAGES, fit_integer_grid
from autocompress.operators.packed import Grid, PackedWeight, pack
from autocompress.spaces.settings import WeightSetting

_ROUNDS = Law(
    "sparsity == 0 and not dense",
    lambda setting: not setting.is_sparse and not setting.is_dense,
    "Rounding alone builds integers and block formats: take sparsegpt for zeros.",
)


class RoundToNearest:
    """Integers and block formats, without any compensation.

    Args:
        shrinkages: Shares of an integer group's range to try (`grids.fit_integer_grid`).
    """

    version = "round-to-nearest-2"

    def __init__(self, shrinkages: Sequence[float] = SHRINKAGES) -> None:
        self._shrinkages = tuple(shrinkages)

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build settings without zeros; only the Hessian's diagonal is read."""
        check(weight, statistics, settings, _ROUNDS)
        importance = statistics.hessian.diagonal()
        return {
            setting: pack(weight, setting, fit_grid(weight, setting, importance, self._shrinkages))
            for setting in settings
        }


def fit_grid(
    weight: Tensor, setting: WeightSetting, importance: Tensor, shrinkages: Sequence[float]
) -> Grid | None:
    """Return the grid of a setting for a weight; None if it keeps the model's number format."""
    if setting.block is not None:
        return fit_block_grid(weight, setting.block)
    if setting.bits is None:
        return None
    return fit_integer_grid(weight, setting, importance, shrinkages)
