"""What the sites of a space take to store, as costs that a search may limit."""

import math
from collections.abc import Callable, Iterator

from autocompress.spaces.base import Choice, SearchSpace, Site
from autocompress.spaces.cost import AdditiveCost
from autocompress.spaces.settings import DENSE, WeightSetting, torch_kernel_bits

Held = Callable[[WeightSetting, int, int, int], int]
"""The bits that an engine holds of a (rows, columns) weight, and of a number left dense."""


def held_by_torch(setting: WeightSetting, rows: int, columns: int, dense_bits: int) -> int:
    """Return what is stored, and besides the form that it is multiplied in if that is another."""
    stored = setting.stored_bits(rows, columns, dense_bits)
    if setting.is_dense:
        return stored
    # Numbers of 16 bits are bfloat16: torch has kernels for nothing else.
    read = torch_kernel_bits(setting, rows, columns) if dense_bits == 16 else None
    return stored + (rows * columns * dense_bits if read is None else read)


def stored_bytes(space: SearchSpace, dense_bits: int, other_bytes: int) -> AdditiveCost:
    """Return the bytes of a whole model: codes, scales, zero points, masks, norms and biases.

    Args:
        dense_bits: Of a number in the model's own format.
        other_bytes: Of what no site holds: embedding, head and last norm.
    """

    def of(site: Site, choice: Choice) -> float:
        return dense_bits * _uncompressed(site, choice) / 8 + _linear(site, choice, dense_bits)

    return _cost(space, other_bytes, of)


def served_bytes(
    space: SearchSpace, dense_bits: int, tokens: int, other_bytes: float, held: Held
) -> AdditiveCost:
    """Return the bytes that serving holds: weights, and the KV cache of so many tokens.

    A cache of fewer bits counts as dense: no engine was seen to keep one.

    Args:
        tokens: Of all sequences together, when the last is generated.
        other_bytes: What is held beside the sites.
        held: What the engine holds of a weight.
    """

    def of(site: Site, choice: Choice) -> float:
        cache = dense_bits * site.cached(choice) * tokens
        linear = sum(held(s, *shape, dense_bits) for s, shape in _matrices(site, choice))
        return (cache + dense_bits * _uncompressed(site, choice) + linear) / 8

    return _cost(space, other_bytes, of)


def linear_bytes(space: SearchSpace, dense_bits: int) -> AdditiveCost:
    """Return the bytes of the searched linear layers alone, biases left out."""
    return _cost(space, 0.0, lambda site, choice: _linear(site, choice, dense_bits))


def parameters(space: SearchSpace, other_parameters: int) -> AdditiveCost:
    """Return the numbers that a whole model keeps; a weight that is zero under a mask is gone.

    Args:
        other_parameters: What no site holds: embedding, head and last norm.
    """

    def of(site: Site, choice: Choice) -> float:
        stored = (s.stored_weights(*shape) for s, shape in _matrices(site, choice))
        return _uncompressed(site, choice) + sum(stored)

    return _cost(space, other_parameters, of)


def nominal_bits(space: SearchSpace, dense_bits: int) -> AdditiveCost:
    """Return the bits of codes for each weight of the dense model's searched linear layers.

    What is dropped, narrowed away or zero counts nothing, scales and zero points neither: the
    field's convention.
    """
    total = sum(group.weights for site in space.sites for group in site.groups)

    def of(site: Site, choice: Choice) -> float:
        matrices = _matrices(site, choice)
        return sum(s.nominal_bits(dense_bits) * math.prod(shape) for s, shape in matrices) / total

    return _cost(space, 0.0, of)


def _linear(site: Site, choice: Choice, dense_bits: int) -> float:
    """Return the bytes of a site's linear layers; each tensor is padded by less than a byte."""
    return sum(s.stored_bits(*shape, dense_bits) for s, shape in _matrices(site, choice)) / 8


def _matrices(site: Site, choice: Choice) -> Iterator[tuple[WeightSetting, tuple[int, int]]]:
    """Yield the setting and the (rows, columns) of each linear group that a choice leaves."""
    settings = choice.weights or (DENSE,) * len(site.groups)
    for group, setting in zip(site.groups, settings, strict=True):
        yield setting, group.shape(choice.kept, choice.total)


def _uncompressed(site: Site, choice: Choice) -> int:
    """Return the norms and biases that a choice leaves."""
    biases = sum(
        group.shape(choice.kept, choice.total)[0] for group in site.groups if group.has_bias
    )
    return site.other_parameters + biases


def _cost(space: SearchSpace, fixed: float, of: Callable[[Site, Choice], float]) -> AdditiveCost:
    made: dict[object, tuple[float, ...]] = {}
    sites = []
    for site, menu in zip(space.sites, space.menus, strict=True):
        key = (site.kind, site.units, site.genes, site.groups, site.other_parameters)
        if key not in made:
            made[key] = tuple(
                0.0 if entry.choice.is_dropped else of(site, entry.choice) for entry in menu
            )
        sites.append(made[key])
    return AdditiveCost(float(fixed), tuple(sites))
