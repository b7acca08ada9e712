"""Which linear layers of a candidate are stored packed, each with the tensors of its own rows."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from autocompress.models.architecture import LINEAR_NAMES
from autocompress.models.linear_parts import places_of
from autocompress.operators.base import PackedSource
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.base import Choice, LinearGroup, SearchSpace, Site

PackedLayers = dict[int, dict[str, PackedWeight]]
"""For each layer of the dense model its packed weights, by the names of their linear layers."""


def packed_layers(
    space: SearchSpace, choices: Sequence[Choice], levels: PackedSource
) -> PackedLayers:
    """Return what the choices store otherwise than in the model's number format.

    Raises:
        EvaluationError: If a level was never built, or is broken.
    """
    found: PackedLayers = {}
    for site, choice in zip(space.sites, choices, strict=True):
        if choice.weights and not choice.is_dropped:
            found.setdefault(site.layer, {}).update(_linears(site, choice, levels))
    return found


def _linears(
    site: Site, choice: Choice, levels: PackedSource
) -> Iterator[tuple[str, PackedWeight]]:
    names = iter(LINEAR_NAMES[site.kind])
    for index, group in enumerate(site.groups):
        own = [next(names) for _ in group.linears]
        if choice.weights[index].is_dense:
            continue
        packed = levels.packed(site, choice, index)
        for name, rows in zip(own, _rows(site, choice, group, levels), strict=True):
            yield name, packed.take_rows(rows)


def _rows(
    site: Site, choice: Choice, group: LinearGroup, levels: PackedSource
) -> Iterator[Tensor]:
    """Yield the rows of the group's matrix that each of its linear layers keeps."""
    takes_all = choice.is_whole or group.narrows_columns
    units = torch.arange(site.units) if takes_all else levels.level(site, choice).kept.cpu()
    start = 0
    for rows in group.rows:
        if takes_all:
            yield torch.arange(start, start + rows)
        else:
            size = rows // site.units
            yield start + places_of(units, size)
        start += rows
