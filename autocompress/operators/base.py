"""The contract of a compression method: functions on the tensors of one site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from autocompress.models.surgery import Level


@dataclass(frozen=True, slots=True)
class Group:
    """The tensors of one site that an operator reads.

    Args:
        output: (hidden, columns) weight of the output projection.
        unit_columns: Columns of `output` that belong to one unit; the units lie side by side.
    """

    output: Tensor
    unit_columns: int

    @property
    def units(self) -> int:
        """Units of the dense site."""
        return self.output.shape[1] // self.unit_columns


@dataclass(frozen=True, slots=True)
class Statistics:
    """What calibration tells about a site.

    Args:
        hessian: (columns, columns) mean of x xᵀ over inputs x of the output projection, float32.
    """

    hessian: Tensor


class Operator(Protocol):
    """A compression method for one site."""

    version: str
    """Changes whenever the same inputs would give other levels: part of a level's address."""

    def build(
        self, group: Group, statistics: Statistics, settings: Sequence[int]
    ) -> Mapping[int, Level]:
        """Build every setting (units that stay) of a site in one pass over shared statistics."""
