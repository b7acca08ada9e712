"""Moves of symbolic metrics: trees that are grown, crossed and mutated, each typed by extent.

Pruner-Zero (arXiv:2406.02924) crosses subtrees and mutates nodes; a part is put here only where
one of the same extent was, so that a row's worth of numbers never stands for a matrix.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np

from autocompress.spaces.expression_trees import (
    ELEMENTWISE,
    NEGATION,
    OPERATIONS,
    REDUCING,
    VARIABLES,
    Apply,
    Combine,
    Extent,
    Number,
    Tree,
    Variable,
    arguments,
    extent,
    nodes,
    replaced,
)

NUMBERS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 10.0)
"""Where numbers start from; mutations stretch them."""
STRETCHES: Final = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)
_FUNCTIONS: Final = (*ELEMENTWISE, NEGATION)
JOINTS: Final = ("*", "*", "+", "/")
"""Of whole trees; a product is the geometric mean of two opinions, whatever their sizes."""
_LARGEST: Final = 1e6
_LEAF_SHARE: Final = 0.3
_UNARY_SHARE: Final = 0.45

T = TypeVar("T")


def grow(rng: np.random.Generator, depth: int, wanted: Extent = Extent.MATRIX) -> Tree:
    """Return a random tree of an extent, at most so many nodes deep below its first."""
    if depth <= 0 or rng.random() < _LEAF_SHARE:
        return _leaf(rng, wanted)
    if rng.random() < _UNARY_SHARE:
        return Apply(_picked(rng, _FUNCTIONS), grow(rng, depth - 1, wanted))
    both = [grow(rng, depth - 1, wanted), grow(rng, depth - 1, _part_of(rng, wanted))]
    if rng.random() < 0.5:
        both.reverse()
    return Combine(_picked(rng, OPERATIONS), *both)


def cross(first: Tree, second: Tree, rng: np.random.Generator) -> Tree:
    """Return the first tree with a part of the second in place of one of the same extent."""
    place, old = _part(rng, first)
    fitting = [own for own in nodes(second) if extent(own) is extent(old)]
    return replaced(first, place, _picked(rng, fitting)) if fitting else first


def join(first: Tree, second: Tree, rng: np.random.Generator) -> Tree:
    """Return two whole trees in one: what each of them tells apart, the other may not."""
    return Combine(_picked(rng, JOINTS), first, second)


def mutate(tree: Tree, rng: np.random.Generator) -> Tree:
    """Return a tree that differs in one node, in one part, or by one node more or fewer."""
    place, old = _part(rng, tree)
    moves = (_other_part, _other_node, _other_node, _wrapped, _joined, _hoisted)
    return replaced(tree, place, _picked(rng, moves)(old, rng))


def _other_part(old: Tree, rng: np.random.Generator) -> Tree:
    return grow(rng, 2, extent(old))


def _other_node(old: Tree, rng: np.random.Generator) -> Tree:
    """Return the same arguments under another node; of a number, another number."""
    match old:
        case Number(value):
            return Number(min(float(f"{(value or 1.0) * _picked(rng, STRETCHES):.3g}"), _LARGEST))
        case Variable():
            return _leaf(rng, extent(old))
        case Apply(function, argument):
            # Sums and norms alone have another extent than their argument.
            return old if function in REDUCING else Apply(_picked(rng, _FUNCTIONS), argument)
        case Combine(_, left, right):
            return Combine(_picked(rng, OPERATIONS), left, right)


def _wrapped(old: Tree, rng: np.random.Generator) -> Tree:
    return Apply(_picked(rng, _FUNCTIONS), old)


def _joined(old: Tree, rng: np.random.Generator) -> Tree:
    """Return a tree combined with a small other one."""
    other = grow(rng, 1, _part_of(rng, extent(old)))
    return Combine(_picked(rng, OPERATIONS), old, other)


def _hoisted(old: Tree, rng: np.random.Generator) -> Tree:
    """Return an argument of a tree in its own place."""
    fitting = [own for own in arguments(old) if extent(own) is extent(old)]
    return _picked(rng, fitting) if fitting else old


def _leaf(rng: np.random.Generator, wanted: Extent) -> Tree:
    """Return the smallest tree of an extent: a variable, a number, or what a function makes."""
    named = [Variable(name) for name, own in VARIABLES.items() if own is wanted]
    if wanted is Extent.NUMBER:
        place = int(rng.integers(len(NUMBERS) + 1))
        return Number(NUMBERS[place]) if place < len(NUMBERS) else Apply("norm", Variable("W"))
    if wanted is Extent.ROWS or (wanted is Extent.COLUMNS and rng.random() < 0.3):
        function = "rowsum" if wanted is Extent.ROWS else "columnsum"
        return Apply(function, Apply("abs", Variable(_picked(rng, ("W", "G")))))
    return _picked(rng, named)


def _part_of(rng: np.random.Generator, whole: Extent) -> Extent:
    """Return an extent that combines with a whole one to the whole one."""
    weights = {Extent.NUMBER: 2, Extent.ROWS: 1, Extent.COLUMNS: 3, Extent.MATRIX: 4}
    fitting = {own: n for own, n in weights.items() if own | whole == whole}
    n = rng.integers(sum(fitting.values()))
    for own, weight in fitting.items():
        n -= weight
        if n < 0:
            return own
    return whole


def _part(rng: np.random.Generator, tree: Tree) -> tuple[int, Tree]:
    """Return a node of a tree with its place."""
    all_nodes = list(nodes(tree))
    place = int(rng.integers(len(all_nodes)))
    return place, all_nodes[place]


def _picked(rng: np.random.Generator, among: Sequence[T]) -> T:
    return among[int(rng.integers(len(among)))]
