"""Tells metrics apart by how they rank weights within rows, on one fixed random layer."""

import hashlib
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from autocompress.operators.expressions import evaluate
from autocompress.spaces.expression_trees import Tree

ROWS: Final = 32
COLUMNS: Final = 64
"""Two different metrics agree on the order of 32 rows of 64 weights by accident only where they
differ by less than the gaps between 2,048 scores."""
_SEED: Final = 0


class Rankings:
    """Names metrics, equal names for those that keep the same weights of every row.

    The layer is as real ones are: weights around 0, inputs and gradients of very different sizes
    that are never below 0. Double precision, so that what is equal but for rounding ranks alike.
    """

    def __init__(self) -> None:
        self._values = random_values(ROWS, COLUMNS, _SEED)

    def __call__(self, tree: Tree) -> str | None:
        """Return a metric's name; None if it ranks nothing: no numbers, or the same in a row."""
        scores = evaluate(tree, self._values).expand(ROWS, COLUMNS)
        if not bool(scores.isfinite().all()):
            return None
        ordered, places = scores.sort(dim=1, stable=True)
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            return None
        return hashlib.blake2b(places.to(torch.uint8).numpy().tobytes()).hexdigest()


def random_values(rows: int, columns: int, seed: int) -> Mapping[str, Tensor]:
    """Return values of the variables of metrics, in double precision."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "W": 0.05 * normal(rows, columns),
        "X": normal(1, columns).exp(),
        "G": (normal(rows, columns) + 0.5 * normal(1, columns) - 1).exp(),
    }
