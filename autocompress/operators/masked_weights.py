"""Prunes a dense model by one metric at a time, to be measured and forgotten."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress.models.surgery import Level, ShapedModel
from autocompress.operators.expressions import SymbolicMetric
from autocompress.operators.gradients import gather_gradients
from autocompress.operators.masks import mask_in_rows
from autocompress.operators.pruning import column_norms
from autocompress.operators.statistics import gather
from autocompress.spaces.base import Choice, Site, SiteKind
from autocompress.spaces.settings import WeightSetting


@dataclass(frozen=True, slots=True)
class _Group:
    """What metrics read of one linear group of the dense model.

    Args:
        weights: Of its linear layers, the model's own.
        inputs: (columns,) root mean squares.
        gradients: (rows, columns).
    """

    weights: tuple[Tensor, ...]
    inputs: Tensor
    gradients: Tensor

    @property
    def weight(self) -> Tensor:
        """The (rows, columns) weight of all layers together, in the model's number format."""
        return torch.cat(self.weights)


@dataclass(slots=True)
class _Scored:
    """The scores of one site's groups, as long as it is the last one asked for."""

    place: tuple[int, SiteKind] | None = None
    scores: dict[int, Tensor] = dataclasses.field(default_factory=dict)


class MaskedWeights:
    """Linear groups with the zeros that a metric places; the source of a shaped model's levels.

    All that metrics read is of the dense model, gathered once: pruning is one-shot, and no layer
    sees the error of those before it.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[int, SiteKind], list[_Group]] = {}
        self._metric: SymbolicMetric | None = None
        self._scored = _Scored()

    def gather(self, shaped: ShapedModel, sequences: Tensor) -> None:
        """Read a model's inputs and gradients on (sequences, T) token ids.

        Raises:
            SpecError: If the model is streamed.
            EvaluationError: If a gradient is no finite number.
        """
        sites = range(len(shaped.space.sites))
        gradients = gather_gradients(shaped, sites, sequences)
        for index, statistics in gather(shaped, sites, sequences):
            if statistics.inputs is None:
                raise ValueError("a space of sparsity stores all linear groups otherwise")
            site = shaped.space.sites[index]
            linears, own, first = shaped.linears(index), gradients.pop(index), 0
            for group in site.groups:
                part = slice(first, first + len(group.linears))
                read = statistics.output if group.narrows_columns else statistics.inputs
                weights = tuple(linear.weight for linear in linears[part])
                self._groups.setdefault((site.layer, site.kind), []).append(
                    _Group(weights, column_norms(read), torch.cat(own[part]))
                )
                first = part.stop

    def use(self, metric: SymbolicMetric, shaped: ShapedModel) -> None:
        """Let a model be pruned by a metric from now on."""
        self._metric, self._scored = metric, _Scored()
        shaped.forget()

    def level(self, site: Site, choice: Choice) -> Level:
        """Refuse: nothing is narrowed here."""
        raise ValueError(f"no widths are built here, but got {choice} at layer {site.layer}")

    def weight(self, site: Site, choice: Choice, group: int) -> Tensor:
        """Return a group's weight with the zeros of a choice, (rows, columns).

        Raises:
            SpecError: If the metric is not a number for some weight.
        """
        own = self._groups[site.layer, site.kind][group]
        mask = mask_in_rows(self._scores(site, group), choice.weights[group])
        return own.weight.where(mask, 0.0)

    def kept(self, metric: SymbolicMetric, setting: WeightSetting) -> Sequence[Tensor]:
        """Return which weights of each group a metric keeps, (rows, columns) each."""
        return [
            mask_in_rows(metric.scores(own.weight, own.inputs, own.gradients), setting)
            for groups in self._groups.values()
            for own in groups
        ]

    def _scores(self, site: Site, group: int) -> Tensor:
        """Return the scores of a group: computed once for all sparsities of a site in turn."""
        if self._metric is None:
            raise ValueError("no metric is in use")
        place = site.layer, site.kind
        if self._scored.place != place:
            self._scored = _Scored(place)
        if group not in self._scored.scores:
            own = self._groups[place][group]
            scores = self._metric.scores(own.weight, own.inputs, own.gradients)
            self._scored.scores[group] = scores
        return self._scored.scores[group]
