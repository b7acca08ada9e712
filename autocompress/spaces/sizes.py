"""What the sites of a space take to store, as costs that a search may limit."""

import math
from collections.abc import Callable, Iterator

from autocompress.spaces.base import Choice, SearchSpace, Site
from autocompress.spaces.cost import AdditiveCost, sum_of_sites
from autocompress.spaces.settings import DENSE, Stored, WeightSetting, as_packed, torch_kernel_bits

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


def held_decoded(_setting: WeightSetting, rows: int, columns: int, dense_bits: int) -> int:
    """Return the bits of a weight that is decoded when it is loaded, and not kept as stored."""
    return rows * columns * dense_bits


def stored_bytes(
    space: SearchSpace, dense_bits: int, other_bytes: int, stored: Stored = as_packed
) -> AdditiveCost:
    """Return the bytes of a whole model: codes, scales, zero points, masks, norms and biases.

    Args:
        dense_bits: Of a number in the model's own format.
        other_bytes: Of what no site holds: embedding, head and last norm.
        stored: What the format of the files holds of weights.
    """
    return sum_of_sites(
        space, other_bytes, lambda site, choice: site_bytes(site, choice, dense_bits, stored)
    )


def site_bytes(site: Site, choice: Choice, dense_bits: int, stored: Stored = as_packed) -> float:
    """Return the bytes of one site: its share of `stored_bytes`."""
    if choice.is_dropped:
        return 0.0
    linear = _linear(site, choice, dense_bits, stored)
    return dense_bits * _uncompressed(site, choice) / 8 + linear


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
        linear = sum(held(s, *shape, dense_bits) for s, shape in matrices(site, choice))
        return (cache + dense_bits * _uncompressed(site, choice) + linear) / 8

    return sum_of_sites(space, other_bytes, of)


def linear_bytes(space: SearchSpace, dense_bits: int, stored: Stored = as_packed) -> AdditiveCost:
    """Return the bytes of the searched linear layers alone, biases left out."""
    return sum_of_sites(space, 0.0, lambda site, choice: _linear(site, choice, dense_bits, stored))


def parameters(space: SearchSpace, other_parameters: int) -> AdditiveCost:
    """Return the numbers that a whole model keeps; a weight that is zero under a mask is gone.

    Args:
        other_parameters: What no site holds: embedding, head and last norm.
    """

    def of(site: Site, choice: Choice) -> float:
        stored = (s.stored_weights(*shape) for s, shape in matrices(site, choice))
        return _uncompressed(site, choice) + sum(stored)

    return sum_of_sites(space, other_parameters, of)


def nominal_bits(space: SearchSpace, dense_bits: int) -> AdditiveCost:
    """Return the bits of codes for each weight of the dense model's searched linear layers.

    What is dropped, narrowed away or zero counts nothing, scales and zero points neither: the
    field's convention.
    """
    total = sum(group.weights for site in space.sites for group in site.groups)

    def of(site: Site, choice: Choice) -> float:
        held = matrices(site, choice)
        return sum(s.nominal_bits(dense_bits) * math.prod(shape) for s, shape in held) / total

    return sum_of_sites(space, 0.0, of)


def _linear(site: Site, choice: Choice, dense_bits: int, stored: Stored) -> float:
    """Return the bytes of a site's linear layers; each tensor is padded by less than a byte."""
    settings = choice.weights or (DENSE,) * len(site.groups)
    bits = (
        stored(setting, *group.shapes(choice.kept, choice.total), dense_bits)
        for group, setting in zip(site.groups, settings, strict=True)
    )
    return sum(bits) / 8


def matrices(site: Site, choice: Choice) -> Iterator[tuple[WeightSetting, tuple[int, int]]]:
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
