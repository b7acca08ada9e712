"""Symbolic pruning metrics: a score written as a formula of weights, inputs and gradients.

abs(W) * X              Wanda
square(W) * minmax(G)   the best of Pruner-Zero (arXiv:2406.02924)
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from autocompress.errors import SpecError
from autocompress.operators.base import Statistics, check
from autocompress.operators.database import address
from autocompress.operators.masks import mask_in_rows
from autocompress.operators.packed import PackedWeight
from autocompress.operators.pruning import PRUNES, column_norms, pruned
from autocompress.operators.weight_operators import GRADIENTS
from autocompress.spaces.expression_trees import (
    NEGATION,
    Apply,
    Combine,
    Number,
    Tree,
    Variable,
    nodes,
    parse,
    to_text,
)
from autocompress.spaces.settings import WeightSetting

_SMALL: Final = 1e-12


def _minmax(x: Tensor) -> Tensor:
    """Return x shifted and scaled to [0, 1]."""
    low, high = x.aminmax()
    return (x - low) / (high - low).clamp_min(_SMALL)


def _normalize(x: Tensor) -> Tensor:
    """Return x less its mean over its standard deviation."""
    return (x - x.mean()) / x.std(correction=0).clamp_min(_SMALL)


PRIMITIVES: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "abs": torch.abs,
    "columnsum": lambda x: x.sum(dim=0, keepdim=True),
    "exp": torch.exp,
    "log": lambda x: torch.log(x.abs() + _SMALL),
    "minmax": _minmax,
    "norm": lambda x: x.square().sum().sqrt()[None, None],
    "normalize": _normalize,
    "rowsum": lambda x: x.sum(dim=1, keepdim=True),
    "sqrt": lambda x: x.abs().sqrt(),
    "square": torch.square,
    "tanh": torch.tanh,
    NEGATION: torch.neg,
}
"""Functions of one argument; `log` and `sqrt` are of its magnitude, so that all are defined.

`minmax` brings to [0, 1] and `normalize` to mean 0 and deviation 1, over all of the argument;
`norm` is the root of the sum of its squares, `rowsum` and `columnsum` are sums along each row and
each column.
"""

_BINARY: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class SymbolicMetric:
    """The highest scores of every row stay, by a formula; integers are rounded to nearest.

    Args:
        expression: Of `METRIC_VARIABLES`, `FUNCTIONS`, numbers, + - * / and brackets.

    Raises:
        SpecError: If it is no such expression.
    """

    def __init__(self, expression: str) -> None:
        self._tree = parse(expression)
        self._text = to_text(self._tree)
        self.version = f"symbolic-2-{address(self._text)}"  # part of a file's name

    @property
    def reads_gradients(self) -> bool:
        """Whether `scores` wants gradients among the statistics."""
        return Variable(GRADIENTS) in nodes(self._tree)

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build sparse settings; only the Hessian's diagonal is read, and gradients if named.

        Raises:
            SpecError: If the expression is not a number for some weight, or gradients are named
                that nobody gathered.
        """
        check(weight, statistics, settings, PRUNES)
        scores = self.scores(weight, column_norms(statistics), statistics.gradients)
        return pruned(weight, statistics, {own: mask_in_rows(scores, own) for own in settings})

    def scores(self, weight: Tensor, inputs: Tensor, gradients: Tensor | None) -> Tensor:
        """Return the (rows, columns) scores, float32.

        Args:
            inputs: (columns,) root mean squares.
            gradients: (rows, columns); None where nobody gathered them.

        Raises:
            SpecError: As `build`.
        """
        values = {"W": weight.float(), "X": inputs[None]}
        if gradients is not None:
            values[GRADIENTS] = gradients
        elif self.reads_gradients:
            raise SpecError(f"Gradients must be gathered for {self._text}, which reads G.")
        scores = evaluate(self._tree, values).expand(weight.shape)
        if bool(scores.isnan().any()):
            raise SpecError(
                f"`score is a number` must hold of every weight, but got "
                f"{int(scores.isnan().sum())} without one from {self._text}. Divide by what "
                f"cannot be 0."
            )
        return scores


def evaluate(tree: Tree, values: Mapping[str, Tensor]) -> Tensor:
    """Return the value of a tree, two-dimensional, each side 1 where it does not differ along it.

    Args:
        values: Of the variables: W and G (rows, columns), X (1, columns).
    """
    match tree:
        case Variable(name):
            return values[name]
        case Number(value):
            return values["W"].new_full((1, 1), value)
        case Apply(function, argument):
            return PRIMITIVES[function](evaluate(argument, values))
        case Combine(operation, left, right):
            return _BINARY[operation](evaluate(left, values), evaluate(right, values))
