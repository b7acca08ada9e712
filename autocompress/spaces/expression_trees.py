"""Symbolic metrics as typed trees: what they are made of, how they are written and read.

A tree has no values: what its functions compute is an operator's business.
"""

import ast
import difflib
import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from autocompress.errors import SpecError
from autocompress.spec_rules import METRIC_VARIABLES

# Text that nests deeper is no metric, and would exhaust the stack.
MOST_NODES: Final = 200
MOST: Final = 1e30
"""Single precision holds every number below it."""


class Extent(enum.Flag):
    """What a value differs along: its type. Values of two extents combine to their union."""

    NUMBER = 0
    ROWS = 1
    """One value a row, (rows, 1)."""
    COLUMNS = 2
    """One value a column, (1, columns)."""
    MATRIX = 3


VARIABLES: Final[Mapping[str, Extent]] = {
    "W": Extent.MATRIX,
    "X": Extent.COLUMNS,
    "G": Extent.MATRIX,
}
"""By the names that spec rules tell metrics by, in their order."""

ELEMENTWISE: Final = ("abs", "exp", "log", "minmax", "normalize", "sqrt", "square", "tanh")
"""Functions whose value has their argument's extent."""
REDUCING: Final[Mapping[str, Extent]] = {
    "norm": Extent.NUMBER,
    "rowsum": Extent.ROWS,
    "columnsum": Extent.COLUMNS,
}
"""Functions, and what of their argument's extent their value keeps."""
FUNCTIONS: Final = (*ELEMENTWISE, *REDUCING)
NEGATION: Final = "-"
"""The function that is written without brackets."""
OPERATIONS: Final = ("+", "-", "*", "/")

_OPERATIONS: Final[Mapping[type[ast.operator], str]] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_PRECEDENCE: Final[Mapping[str, int]] = {"+": 1, "-": 1, "*": 2, "/": 2}
_NEGATED: Final = 3
_WHOLE: Final = 4


@dataclass(frozen=True, slots=True)
class Variable:
    """One of `VARIABLES`."""

    name: str


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number of at least 0: one below is the negation of another, as it is written."""

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value < MOST:
            raise ValueError(f"a number must lie in [0, {MOST}), but got {self.value}")


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of one argument: one of `FUNCTIONS`, or `NEGATION`."""

    function: str
    argument: "Tree"


@dataclass(frozen=True, slots=True)
class Combine:
    """One of `OPERATIONS` of two arguments."""

    operation: str
    left: "Tree"
    right: "Tree"


Tree = Variable | Number | Apply | Combine


def extent(tree: Tree) -> Extent:
    """Return what the value of a tree differs along."""
    match tree:
        case Variable(name):
            return VARIABLES[name]
        case Number():
            return Extent.NUMBER
        case Apply(function, argument):
            return extent(argument) & REDUCING.get(function, Extent.MATRIX)
        case Combine(_, left, right):
            return extent(left) | extent(right)


def ranks(tree: Tree) -> bool:
    """Whether a tree can tell the weights of a row apart."""
    return Extent.COLUMNS in extent(tree)


def nodes(tree: Tree) -> Iterator[Tree]:
    """Yield a tree and all trees within it, each before its own arguments."""
    yield tree
    for argument in arguments(tree):
        yield from nodes(argument)


def arguments(tree: Tree) -> tuple[Tree, ...]:
    """Return the arguments of a tree's first node."""
    match tree:
        case Apply(_, argument):
            return (argument,)
        case Combine(_, left, right):
            return (left, right)
    return ()


def size(tree: Tree) -> int:
    """Return how many nodes a tree has."""
    return sum(1 for _ in nodes(tree))


def replaced(tree: Tree, place: int, other: Tree) -> Tree:
    """Return a tree with another one in place of a node, counted as `nodes` yields them."""
    if place == 0:
        return other
    match tree:
        case Apply(function, argument):
            return Apply(function, replaced(argument, place - 1, other))
        case Combine(operation, left, right):
            within = size(left)
            if place <= within:
                return Combine(operation, replaced(left, place - 1, other), right)
            return Combine(operation, left, replaced(right, place - 1 - within, other))
    raise ValueError(f"a tree of fewer nodes has none at {place}")


def to_text(tree: Tree) -> str:
    """Return a tree as it is written; `parse` reads the same tree back."""
    return _written(tree)[0]


def _written(tree: Tree) -> tuple[str, int]:
    """Return a tree's text, and how strongly it holds together."""
    match tree:
        case Variable(name):
            return name, _WHOLE
        case Number(value):
            return (str(int(value)) if value.is_integer() else repr(value)), _WHOLE
        case Apply(function, argument):
            if function == NEGATION:
                return f"-{_bracketed(argument, _WHOLE)}", _NEGATED
            return f"{function}({_written(argument)[0]})", _WHOLE
        case Combine(operation, left, right):
            own = _PRECEDENCE[operation]
            # What follows is bracketed at equal strength too: operations are read from the left.
            return f"{_bracketed(left, own)} {operation} {_bracketed(right, own + 1)}", own


def _bracketed(tree: Tree, least: int) -> str:
    text, strength = _written(tree)
    return text if strength >= least else f"({text})"


def parse(expression: str) -> Tree:
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
    found = list(ast.walk(tree))
    if len(found) > MOST_NODES:
        raise SpecError(f"`nodes <= {MOST_NODES}` must hold, but got {len(found)}. Simplify it.")
    read = _read(tree, expression)
    if not any(isinstance(node, Variable) for node in nodes(read)):
        raise SpecError(f"A metric must read W, X or G, but got {expression!r}.")
    return read


def _read(node: ast.expr, expression: str) -> Tree:
    """Return what a node of Python's grammar means; refuse one that no metric has."""
    match node:
        case ast.Name(id=name):
            return Variable(_known(name, METRIC_VARIABLES))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return Apply(_known(name, FUNCTIONS), _read(argument, expression))
        case ast.Constant(value=int() | float() as number) if _is_usual(number):
            return Number(float(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Apply(NEGATION, _read(operand, expression))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            named = _OPERATIONS[type(operation)]
            return Combine(named, _read(left, expression), _read(right, expression))
    raise SpecError(
        f"An expression of {', '.join(METRIC_VARIABLES)}, numbers, + - * / and functions "
        f"of one argument must hold, but got {expression!r}."
    )


def _is_usual(number: float) -> bool:
    """Whether a literal is a number, not True, that single precision holds."""
    return not isinstance(number, bool) and number < MOST and not math.isnan(number)


def _known(name: str, known: Sequence[str]) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise SpecError(f"Unknown name {name!r}{hint} Known: {', '.join(sorted(known))}.")
    return name
