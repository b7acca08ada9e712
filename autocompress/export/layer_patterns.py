"""Regular expressions of linear layers' names, collapsed over layers: thousands load slowly."""

import re
from collections.abc import Mapping, Sequence


def module_patterns(names: Mapping[str, Sequence[int]], n_layers: int) -> list[str]:
    """Return patterns of modules' names, as compressed-tensors marks them.

    Args:
        names: Of linear layers within a layer, each with the numbers of its layers.
        n_layers: Of the whole model.
    """
    escaped = {re.escape(name): layers for name, layers in names.items()}
    return [
        rf"re:^model\.layers\.{one_of(layers, n_layers)}\.({'|'.join(own)})$"
        for layers, own in by_layers(escaped)
    ]


def by_layers(names: Mapping[str, Sequence[int]]) -> list[tuple[tuple[int, ...], list[str]]]:
    """Return the names that have the same layers, by these."""
    found: dict[tuple[int, ...], list[str]] = {}
    for name, layers in names.items():
        found.setdefault(tuple(layers), []).append(name)
    return sorted(found.items())


def one_of(layers: Sequence[int], n_layers: int) -> str:
    """Return what matches the numbers of some layers of all."""
    return r"\d+" if len(layers) == n_layers else f"({'|'.join(map(str, layers))})"
