"""The contracts of compression methods: functions on the tensors of one site or linear group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from autocompress.errors import SpecError
from autocompress.models.surgery import Level
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.base import Choice, Site
from autocompress.spaces.settings import WeightSetting, block_format


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
    """What calibration tells about the inputs of a site's output projection or a linear group.

    Args:
        hessian: (columns, columns) mean of x xᵀ over inputs x, float32.
        gradients: (rows, columns) of a group's weights, as `operators.gradients` measures them;
            None where nobody asked.
    """

    hessian: Tensor
    gradients: Tensor | None = None


class Operator(Protocol):
    """A compression method for one site."""

    version: str
    """Changes whenever the same inputs would give other levels: part of a level's address."""

    def build(
        self, group: Group, statistics: Statistics, settings: Sequence[int]
    ) -> Mapping[int, Level]:
        """Build every setting (units that stay) of a site in one pass over shared statistics."""


class WeightOperator(Protocol):
    """A compression method for the weight of one linear group."""

    version: str
    """Changes whenever the same inputs would give other levels: part of a level's address."""

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build every setting of a (rows, columns) weight over shared statistics.

        Raises:
            SpecError: If a setting is not one that the method builds, or does not fit the weight.
        """


class PackedSource(Protocol):
    """Where a candidate's levels come from as they are stored."""

    def level(self, site: Site, choice: Choice) -> Level:
        """Return the built width of a choice."""

    def packed(self, site: Site, choice: Choice, group: int) -> PackedWeight:
        """Return one of the site's linear groups in its setting of a choice.

        Of a group that loses columns with the width, those that the choice keeps are there; of
        any other all rows are, (rows, columns).
        """


@dataclass(frozen=True, slots=True)
class Law:
    """What must hold of a setting: as text, as a test, and the way out where it does not."""

    text: str
    holds: Callable[[WeightSetting], bool]
    way_out: str


def check(
    weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting], *laws: Law
) -> None:
    """Refuse what cannot be built: by an operator's own laws, then by those of all operators.

    Raises:
        SpecError: With all the settings that break the first law broken.
    """
    columns = weight.shape[1]
    if statistics.hessian.shape != (columns, columns):
        raise SpecError(
            f"`hessian.shape == (columns, columns)` must hold, but got "
            f"{tuple(statistics.hessian.shape)} for {columns} columns. Gather it at this weight's "
            f"own inputs."
        )
    for law in (*laws, *_laws_of_all(columns)):
        offenders = [str(setting) for setting in settings if not law.holds(setting)]
        if offenders:
            raise SpecError(
                f"`{law.text}` must hold, but got {', '.join(offenders)}. {law.way_out}"
            )


def _laws_of_all(columns: int) -> tuple[Law, ...]:
    return (
        Law(
            f"{columns} columns % group size == 0",
            lambda setting: columns % _shared_columns(setting, columns) == 0,
            "Take a group size that divides the columns, or none: w4.",
        ),
        Law(
            f"{columns} columns % m == 0",
            lambda setting: setting.pattern is None or columns % setting.pattern[1] == 0,
            "Take a pattern n:m that divides the columns, or a share: s0.5.",
        ),
    )


def _shared_columns(setting: WeightSetting, columns: int) -> int:
    """Return how many columns share a scale."""
    block = block_format(setting.block).block if setting.block else setting.group_size
    return block or columns
