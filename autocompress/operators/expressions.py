"""Symbolic pruning metrics: a score written as a formula of weights and inputs.

abs(W) * X              Wanda
square(W) * minmax(X)   the best of Pruner-Zero (arXiv:2406.02924), with inputs for gradients
"""

import ast
import difflib
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
from autocompress.operators.weight_operators import METRIC_VARIABLES
from autocompress.spaces.settings import WeightSetting

_SMALL: Final = 1e-12
# Text that nests deeper is no metric, and would exhaust the stack.
MOST_NODES: Final = 200


def _minmax(x: Tensor) -> Tensor:
    """Return x shifted and scaled to [0, 1]."""
    low, high = x.aminmax()
    return (x - low) / (high - low).clamp_min(_SMALL)


def _normalize(x: Tensor) -> Tensor:
    """Return x less its mean over its standard deviation."""
    return (x - x.mean()) / x.std(correction=0).clamp_min(_SMALL)


PRIMITIVES: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "abs": torch.abs,
    "exp": torch.exp,
    "log": lambda x: torch.log(x.abs() + _SMALL),
    "minmax": _minmax,
    "normalize": _normalize,
    "sqrt": lambda x: x.abs().sqrt(),
    "square": torch.square,
}
"""Functions of one argument; `log` and `sqrt` are of its magnitude, so that all are defined.

`minmax` brings to [0, 1] and `normalize` to mean 0 and deviation 1, over all of the argument.
"""

_BINARY: Final[Mapping[type[ast.operator], Callable[[Tensor, Tensor], Tensor]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class SymbolicMetric:
    """The highest scores of every row stay, by a formula; integers are rounded to nearest.

    Args:
        expression: Of `METRIC_VARIABLES`, `PRIMITIVES`, numbers, + - * / and brackets.

    Raises:
        SpecError: If it is no such expression.
    """

    def __init__(self, expression: str) -> None:
        self._tree = parse(expression)
        self._text = ast.unparse(self._tree)
        self.version = f"symbolic-1-{address(self._text)}"  # part of a file's name

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build sparse settings; only the Hessian's diagonal is read.

        Raises:
            SpecError: If the expression is not a number for some weight.
        """
        check(weight, statistics, settings, PRUNES)
        values = {"W": weight.float(), "X": column_norms(statistics)[None]}
        scores = _evaluate(self._tree, values).expand(weight.shape)
        if bool(scores.isnan().any()):
            raise SpecError(
                f"`score is a number` must hold of every weight, but got "
                f"{int(scores.isnan().sum())} without one from {self._text}. Divide by what "
                f"cannot be 0."
            )
        return pruned(weight, statistics, {own: mask_in_rows(scores, own) for own in settings})


def parse(expression: str) -> ast.expr:
    """Return the tree of an expression, in which there is nothing but what is known.

    Raises:
        SpecError: If it is malformed, or holds an unknown name.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SpecError(
            f"An expression such as `abs(W) * X` must hold, but got {expression!r}."
        ) from error
    nodes = list(ast.walk(tree))
    if len(nodes) > MOST_NODES:
        raise SpecError(f"`nodes <= {MOST_NODES}` must hold, but got {len(nodes)}. Simplify it.")
    functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        _check(node, expression, is_function=id(node) in functions)
    if not any(isinstance(node, ast.Name) and node.id in METRIC_VARIABLES for node in nodes):
        raise SpecError(f"A metric must read W or X, but got {expression!r}.")
    return tree


def _check(node: ast.AST, expression: str, *, is_function: bool) -> None:
    """Refuse a node that no metric has."""
    match node:
        case ast.Name(id=name):
            _check_name(name, tuple(PRIMITIVES) if is_function else METRIC_VARIABLES)
        case ast.Call(func=ast.Name(), args=[_], keywords=[]):
            pass
        case ast.Constant(value=int() | float() as number) if _is_usual(number):
            pass
        case ast.UnaryOp(op=ast.USub()) | ast.USub() | ast.BinOp() | ast.Load():
            pass
        case ast.operator() if type(node) in _BINARY:
            pass
        case _:
            raise SpecError(
                f"An expression of {', '.join(METRIC_VARIABLES)}, numbers, + - * / and functions "
                f"of one argument must hold, but got {expression!r}."
            )


def _is_usual(number: float) -> bool:
    """Whether a literal is a number, not True, that single precision holds."""
    return not isinstance(number, bool) and number < 1e30


def _check_name(name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise SpecError(f"Unknown name {name!r}{hint} Known: {', '.join(sorted(known))}.")


def _evaluate(node: ast.expr, values: Mapping[str, Tensor]) -> Tensor:
    """Return the value of a checked tree, broadcast to (rows, columns) only where needed."""
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return PRIMITIVES[name](_evaluate(argument, values))
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.Constant(value=int() | float() as number):
            return values["X"].new_tensor(float(number))
    raise SpecError(f"An expression must hold, but got {ast.unparse(node)!r}.")
