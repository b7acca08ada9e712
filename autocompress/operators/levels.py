"""Builds the levels of sites, keeps them in the database, and brings them back.

Widths come first: structured OBS rewrites the output projection. How the weights of a whole site
are stored is built beforehand; of a narrowed output projection it is built when it is first asked
for, from the width's own weight and the Hessian of the columns that it keeps.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.errors import EvaluationError
from autocompress.models.linear_parts import places_of
from autocompress.models.surgery import Level
from autocompress.operators.base import Group, Operator, Statistics, WeightOperator
from autocompress.operators.database import LevelDatabase, address
from autocompress.operators.expressions import SymbolicMetric
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.base import Choice, GeneKind, LinearGroup, Site
from autocompress.spaces.settings import DENSE, WeightSetting


@dataclass(frozen=True, slots=True)
class Operators:
    """Which method builds what.

    Args:
        widths: Narrower sites.
        codes: Integers without zeros.
        zeros: Settings with zeros, with or without codes.
        blocks: Block formats.
        gguf: GGUF's types.
    """

    widths: Operator
    codes: WeightOperator
    zeros: WeightOperator
    blocks: WeightOperator
    gguf: WeightOperator

    @property
    def reads_gradients(self) -> bool:
        """Whether zeros are placed by a formula that reads gradients."""
        return isinstance(self.zeros, SymbolicMetric) and self.zeros.reads_gradients

    def of(self, setting: WeightSetting) -> WeightOperator:
        """Return what builds a setting."""
        if setting.is_sparse:
            return self.zeros
        if setting.is_gguf:
            return self.gguf
        return self.blocks if setting.block else self.codes


@dataclass(frozen=True, slots=True)
class SiteStatistics:
    """What calibration tells about the inputs of a site's linear layers.

    Args:
        inputs: Of those that read the residual stream; None where nobody asked.
        output: Of the output projection.
        gradients: Of each linear layer, (rows, columns), the output's last; None where nobody
            asked.
    """

    inputs: Statistics | None
    output: Statistics
    gradients: tuple[Tensor, ...] | None = None


class Levels:
    """The levels of one model, as `LevelSource` gives them to a `ShapedModel`.

    Args:
        device: Where stored weights are decoded, and those of narrowed outputs built.
    """

    def __init__(
        self, database: LevelDatabase, operators: Operators, device: torch.device
    ) -> None:
        self._database = database
        self._operators = operators
        self._device = device

    def lacks(self, site: Site) -> bool:
        """Whether anything of a site has to be built, because it is absent or broken."""
        if widths_of(site) and self._widths(site) is None:
            return True
        if _keeps_hessian(site) and self._output_hessian(site) is None:
            return True
        reads_gradients = self._operators.reads_gradients and _keeps_gradients(site)
        if reads_gradients and self._output_gradients(site) is None:
            return True
        return any(
            self._packed(site, group, site.units, setting) is None
            for index, group in enumerate(site.groups)
            for setting in settings_of(site, index)
        )

    def build(self, site: Site, weights: Sequence[Tensor], statistics: SiteStatistics) -> int:
        """Build what is absent or broken of a site; return how many levels.

        Args:
            weights: The dense (rows, columns) weight of each linear layer, the output's last.
        """
        built = 0
        widths = widths_of(site)
        if widths and self._widths(site) is None:
            group = Group(weights[-1], weights[-1].shape[1] // site.units)
            levels = self._operators.widths.build(group, statistics.output, widths)
            self._write_widths(site, levels)
            built += len(levels)
        if _keeps_hessian(site):
            self._database.write(
                f"{_name(site)}.output-inputs", {"hessian": statistics.output.hessian}
            )
        if statistics.gradients is not None and _keeps_gradients(site):
            self._database.write(_gradients_name(site), {"gradients": statistics.gradients[-1]})
        for index, own, read in _by_group(site, weights, statistics):
            linear = site.groups[index]
            missing = [
                setting
                for setting in settings_of(site, index)
                if self._packed(site, linear, site.units, setting) is None
            ]
            if missing and read is not None:
                self._build_weights(site, linear, site.units, torch.cat(own), read, missing)
                built += len(missing)
        return built

    def put_width(self, site: Site, choice: Choice, level: Level) -> None:
        """Keep a width that was trained after it was built; there is no other of the site then."""
        self._write_widths(site, {choice.kept: level})

    def build_choice(
        self, site: Site, choice: Choice, weights: Sequence[Tensor], statistics: SiteStatistics
    ) -> None:
        """Build what one choice stores of a site whose width, if it has one, was put.

        Args:
            weights: The (rows, columns) weight of each linear layer, all rows of those that read
                the residual stream, the kept columns of the output's, which is the last.
            statistics: Of the site in the choice's width.
        """
        for index, own, read in _by_group(site, weights, statistics):
            group = site.groups[index]
            setting = choice.weights[index] if choice.weights else DENSE
            if not setting.is_dense and read is not None:
                kept = choice.kept if group.narrows_columns else site.units
                self._build_weights(site, group, kept, torch.cat(own), read, [setting])

    def level(self, site: Site, choice: Choice) -> Level:
        """Return one built width of a site.

        Raises:
            EvaluationError: If it was never built, or its file is gone or broken.
        """
        tensors = self._widths(site)
        if tensors is None or f"kept.{choice.kept}" not in tensors:
            raise _lost(site, f"width {choice.kept}/{choice.total}")
        return Level(tensors[f"kept.{choice.kept}"], tensors[f"output.{choice.kept}"])

    def weight(self, site: Site, choice: Choice, group: int) -> Tensor:
        """Return what a linear group computes with: (rows, columns) in float32.

        Packed tensors are moved and then decoded: a worker has one thread of a CPU, and less is
        copied so.

        Raises:
            EvaluationError: If it was never built, or its file is gone or broken.
        """
        return self.packed(site, choice, group).to(self._device).decode(torch.float32)

    def packed(self, site: Site, choice: Choice, group: int) -> PackedWeight:
        """Return a linear group as it is stored, built now if its width was never visited.

        Raises:
            EvaluationError: If it was never built, or its file is gone or broken.
        """
        linear, setting = site.groups[group], choice.weights[group]
        kept = choice.kept if linear.narrows_columns else site.units
        found = self._packed(site, linear, kept, setting)
        if found is None and kept < site.units:
            level = self.level(site, choice)
            hessian = self._output_hessian(site)
            if hessian is None:
                raise _lost(site, "the Hessian of the output projection")
            columns = places_of(level.kept, linear.columns // site.units)
            gradients = self._output_gradients(site) if self._operators.reads_gradients else None
            part = Statistics(
                hessian[columns][:, columns].to(self._device),
                None if gradients is None else gradients[:, columns].to(self._device),
            )
            output = level.output.to(self._device)
            self._build_weights(site, linear, kept, output, part, settings_of(site, group))
            found = self._packed(site, linear, kept, setting)
        if found is None:
            raise _lost(site, f"{linear.name} in {setting}")
        return found

    def _build_weights(
        self,
        site: Site,
        group: LinearGroup,
        kept: int,
        weight: Tensor,
        statistics: Statistics,
        settings: Sequence[WeightSetting],
    ) -> None:
        for operator in dict.fromkeys(self._operators.of(setting) for setting in settings):
            own = [s for s in settings if self._operators.of(s) is operator]
            for setting, packed in operator.build(weight, statistics, own).items():
                name = self._weight_name(site, group, kept, setting)
                self._database.write(name, packed.tensors)

    def _packed(
        self, site: Site, group: LinearGroup, kept: int, setting: WeightSetting
    ) -> PackedWeight | None:
        tensors = self._database.read(self._weight_name(site, group, kept, setting))
        if tensors is None:
            return None
        shape = group.shape(kept, site.units)
        return PackedWeight.from_tensors(setting, shape, tensors)

    def _weight_name(
        self, site: Site, group: LinearGroup, kept: int, setting: WeightSetting
    ) -> str:
        version = self._operators.of(setting).version
        return f"{_name(site)}.{group.name}.{kept}of{site.units}.{setting}.{version}"

    def _widths(self, site: Site) -> dict[str, Tensor] | None:
        return self._database.read(self._widths_name(site))

    def _write_widths(self, site: Site, levels: Mapping[int, Level]) -> None:
        tensors = {}
        for kept, level in levels.items():
            tensors[f"kept.{kept}"] = level.kept
            tensors[f"output.{kept}"] = level.output
        self._database.write(self._widths_name(site), tensors)

    def _widths_name(self, site: Site) -> str:
        # A width may depend on the wider ones that the same pass stops at.
        stops = address(*map(str, widths_of(site)))[:8]
        return f"{_name(site)}.widths-{stops}.{self._operators.widths.version}"

    def _output_hessian(self, site: Site) -> Tensor | None:
        tensors = self._database.read(f"{_name(site)}.output-inputs")
        return None if tensors is None else tensors["hessian"]

    def _output_gradients(self, site: Site) -> Tensor | None:
        tensors = self._database.read(_gradients_name(site))
        return None if tensors is None else tensors["gradients"]


def _by_group(
    site: Site, weights: Sequence[Tensor], statistics: SiteStatistics
) -> Iterator[tuple[int, list[Tensor], Statistics | None]]:
    """Yield each linear group's index, the weights of its layers, and what tells of its inputs.

    Args:
        weights: Of each linear layer of the site, the output's last.
    """
    first = 0
    for index, group in enumerate(site.groups):
        own = slice(first, first + len(group.linears))
        read = statistics.output if group.narrows_columns else statistics.inputs
        if read is not None and statistics.gradients is not None:
            read = Statistics(read.hessian, torch.cat(statistics.gradients[own]))
        yield index, list(weights[own]), read
        first = own.stop


def widths_of(site: Site) -> tuple[int, ...]:
    """Return the widths of a site that have to be built: all but dense and dropped."""
    widths = {units for gene in site.genes for units in gene.units}
    return tuple(sorted(widths - {0, site.units}, reverse=True))


def settings_of(site: Site, group: int) -> tuple[WeightSetting, ...]:
    """Return the settings that a linear group of a site can be stored in, dense left out."""
    own = [gene for gene in site.genes if gene.group == site.groups[group].name]
    combined = []
    for settings in itertools.product(*(gene.settings for gene in own)):
        total = DENSE
        for setting in settings:
            if isinstance(setting, WeightSetting):
                total = total.with_setting(setting)
        combined.append(total)
    return tuple(dict.fromkeys(setting for setting in combined if not setting.is_dense))


def stored_as(site: Site, setting: WeightSetting) -> Choice:
    """Return a whole site stored alike, in groups of whatever size its layers have.

    What cannot be stored so is left dense.
    """
    plain = dataclasses.replace(setting, group_size=None, symmetric=False)
    found = [
        next(
            (
                own
                for own in settings_of(site, index)
                if dataclasses.replace(own, group_size=None, symmetric=False) == plain
            ),
            DENSE,
        )
        for index in range(len(site.groups))
    ]
    stored = tuple(found) if any(not own.is_dense for own in found) else ()
    return Choice(site.units, site.units, stored)


def _keeps_hessian(site: Site) -> bool:
    """Whether a narrower output projection may be stored otherwise, when it is asked for.

    Of whole sites alone nothing is built later, and (columns, columns) in single precision are
    more than the weights of a large model's MLP.
    """
    return bool(widths_of(site)) and any(gene.group for gene in site.genes)


def _keeps_gradients(site: Site) -> bool:
    """Whether zeros may be placed in a narrower output projection, when it is asked for."""
    is_sparse = any(gene.kind is GeneKind.SPARSITY for gene in site.genes)
    return is_sparse and bool(widths_of(site))


def _gradients_name(site: Site) -> str:
    return f"{_name(site)}.output-gradients"


def _name(site: Site) -> str:
    return f"layer{site.layer:04d}.{site.kind}"


def _lost(site: Site, what: str) -> EvaluationError:
    return EvaluationError(
        f"The level database lacks layer {site.layer} {site.kind}, {what}, or it is broken: "
        "`autocompress resume` builds it anew."
    )
