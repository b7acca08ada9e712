"""Brings trees of one ranking to one form: what undoes itself goes, and so does what ranks alike.

Opposing operations cancel as in Pruner-Zero (arXiv:2406.02924, Opposing Operation Simplification);
beyond it sums and products are sorted, numbers are folded, and of the whole tree nothing is left
but what decides on the order of a row's weights.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from autocompress.spaces.expression_trees import (
    MOST,
    NEGATION,
    REDUCING,
    Apply,
    Combine,
    Extent,
    Number,
    Tree,
    extent,
    to_text,
)
from autocompress.spaces.signs import Sign, sign

ROUNDS: Final = 20
"""What one rewriting brings about another one may shorten; each shortens, so few are needed."""

_FOLDED: Final[Mapping[str, Callable[[float], float]]] = {
    "abs": abs,
    "exp": math.exp,
    "sqrt": lambda x: math.sqrt(abs(x)),
    "square": lambda x: x * x,
    "tanh": math.tanh,
}
_EXPONENTS: Final[Mapping[str, Fraction]] = {"square": Fraction(2), "sqrt": Fraction(1, 2)}
_EVEN: Final = ("abs", "square", "sqrt", "log", "norm")
"""Functions of their argument's magnitude."""


def simplified(tree: Tree) -> Tree:
    """Return a tree of the same values, up to rounding, without what undoes itself."""
    for _ in range(ROUNDS):
        shorter = _once(tree)
        if shorter == tree:
            break
        tree = shorter
    return tree


def canonical(tree: Tree) -> Tree:
    """Return the form that stands for all trees which rank the weights of every row alike.

    Not for all of them: what a few rules do not see, a fingerprint of ranks on numbers does.
    """
    tree = simplified(tree)
    for _ in range(ROUNDS):
        shorter = simplified(_ranked(tree))
        if shorter == tree:
            break
        tree = shorter
    return tree


def _once(tree: Tree) -> Tree:
    match tree:
        case Apply(function, argument):
            shorter = _once(argument)
            # A norm or a sum counts values, which are fewer where none differs any more.
            if function in REDUCING and extent(shorter) is not extent(argument):
                shorter = argument
            return _applied(function, shorter)
        case Combine(operation, left, right):
            both = Combine(operation, _once(left), _once(right))
            return _Sum.of(both).tree() if operation in "+-" else _Product.of(both).tree()
    return tree


def _applied(function: str, argument: Tree) -> Tree:
    """Return a function of a simplified argument, shortened if a rule fits."""
    if function in _EVEN:
        argument = _magnitude(argument)
    match function, argument:
        case "-", Apply("-", inner):
            return inner
        case "-", Number(0):
            return argument
        case "-", Combine("-", left, right):
            return Combine("-", right, left)
        case "abs", _ if sign(argument):
            return argument
        case "abs", Combine("*" | "/" as operation, left, right):
            return Combine(operation, _applied("abs", left), _applied("abs", right))
        case ("square", Apply("sqrt", inner)) | ("sqrt", Apply("square", inner)):
            return _applied("abs", inner)
        case "log", Apply("exp", inner):
            return inner
        case "exp", Apply("log", inner):
            return _applied("abs", inner)
        case "rowsum", _ if Extent.COLUMNS not in extent(argument):
            return argument
        case "columnsum", _ if Extent.ROWS not in extent(argument):
            return argument
        case "norm", _ if extent(argument) is Extent.NUMBER:
            return _applied("abs", argument)
        case "minmax" | "normalize", _ if extent(argument) is Extent.NUMBER:
            return Number(0.0)
        case "minmax" | "normalize", Apply("minmax" | "normalize", inner):
            return Apply(function, inner)
        case "minmax" | "normalize", _:
            # Both undo a shift and a stretch of all of their argument.
            return Apply(function, _stripped(argument, Extent.MATRIX))
        case _, Number(value) if function in _FOLDED:
            folded = _number(_FOLDED[function], value)
            return Apply(function, argument) if folded is None else folded
    return Apply(function, argument)


def _magnitude(argument: Tree) -> Tree:
    """Return what has the same magnitude without what changes signs alone."""
    while isinstance(argument, Apply) and argument.function in (NEGATION, "abs"):
        argument = argument.argument
    if isinstance(argument, Combine) and argument.operation == "-":
        left, right = sorted((argument.left, argument.right), key=to_text)
        return Combine("-", left, right)
    return argument


def _number(function: Callable[[float], float], value: float) -> Tree | None:
    try:
        return _constant(function(value))
    except OverflowError:
        return None


def _constant(value: float) -> Tree | None:
    """Return a number, perhaps negated; None if there is none of this value."""
    if not abs(value) < MOST:
        return None
    return Number(value) if value >= 0 else Apply(NEGATION, Number(-value))


@dataclass(slots=True)
class _Sum:
    """Terms, each so many times, and a number."""

    terms: Counter[Tree] = field(default_factory=Counter)
    number: float = 0.0

    @classmethod
    def of(cls, tree: Tree) -> "_Sum":
        found = cls()
        found._add(tree, 1)
        return found

    def _add(self, tree: Tree, times: int) -> None:
        match tree:
            case Number(value) if abs(self.number + times * value) < MOST:
                self.number += times * value
            case Apply("-", argument):
                self._add(argument, -times)
            case Combine("+", left, right):
                self._add(left, times)
                self._add(right, times)
            case Combine("-", left, right):
                self._add(left, times)
                self._add(right, -times)
            case _:
                self.terms[tree] += times

    def tree(self) -> Tree:
        """Return the sum, its terms sorted, those that are taken away last."""
        added = [_times(term, n) for term, n in _sorted(self.terms) if n > 0]
        taken = [_times(term, -n) for term, n in _sorted(self.terms) if n < 0]
        if self.number:
            (added if self.number > 0 else taken).append(Number(abs(self.number)))
        if not added and not taken:
            return Number(0.0)
        if not added:
            return Apply(NEGATION, functools.reduce(functools.partial(Combine, "+"), taken))
        return functools.reduce(functools.partial(Combine, "-"), taken, _joined("+", added))


@dataclass(slots=True)
class _Product:
    """Factors, each so many times, those that divide less than 0 times, and a number."""

    factors: Counter[Tree] = field(default_factory=Counter)
    number: float = 1.0

    @classmethod
    def of(cls, tree: Tree) -> "_Product":
        found = cls()
        found._multiply(tree, 1)
        return found

    def _multiply(self, tree: Tree, times: int) -> None:
        match tree:
            case Number(value) if value and 1 / MOST < abs(self.number) * value**times < MOST:
                self.number *= value**times
            case Apply("-", argument):
                self.number = -self.number
                self._multiply(argument, times)
            case Combine("*", left, right):
                self._multiply(left, times)
                self._multiply(right, times)
            case Combine("/", left, right):
                self._multiply(left, times)
                self._multiply(right, -times)
            case _:
                self.factors[tree] += times

    def tree(self) -> Tree:
        """Return the product, its factors sorted, those that divide it last."""
        if self.factors[Number(0.0)] > 0:
            return Number(0.0)
        over = [p for factor, n in _sorted(self.factors) for p in _powers(factor, n)]
        under = [p for factor, n in _sorted(self.factors) for p in _powers(factor, -n)]
        if abs(self.number) != 1 or not over:
            over.insert(0, Number(abs(self.number)))
        whole = functools.reduce(functools.partial(Combine, "/"), under, _joined("*", over))
        return Apply(NEGATION, whole) if self.number < 0 else whole


def _sorted(counted: Counter[Tree]) -> list[tuple[Tree, int]]:
    return sorted(counted.items(), key=lambda item: to_text(item[0]))


def _joined(operation: str, trees: Iterable[Tree]) -> Tree:
    return functools.reduce(functools.partial(Combine, operation), trees)


def _times(term: Tree, n: int) -> Tree:
    return term if n == 1 else Combine("*", Number(float(n)), term)


def _powers(factor: Tree, n: int) -> list[Tree]:
    """Return the trees whose product is a factor n times: it, its square and so on."""
    found = []
    while n > 0:
        if n % 2:
            found.append(factor)
        factor = _applied("square", factor)
        n //= 2
    return found


def _ranked(tree: Tree) -> Tree:
    """Return a tree without an outermost part that leaves the order within every row."""
    match tree:
        case Apply("exp" | "tanh" | "minmax" | "normalize", argument):
            return argument
        case Apply("square" | "sqrt" | "log", argument):
            return _applied("abs", argument)
        case Apply("-", argument):
            return Apply(NEGATION, _ranked(argument))
        case Combine(operation, _, _):
            # What is the same all along a row shifts or stretches it as one.
            left = _stripped(tree, Extent.COLUMNS)
            return _rooted(left) if operation in "*/" else left
    return tree


def _stripped(tree: Tree, differs: Extent) -> Tree:
    """Return a sum without terms, or a product without positive factors, that do not differ.

    Args:
        differs: What values that stay differ along, at least one way.
    """
    match tree:
        case Apply("-", argument):
            return Apply(NEGATION, _stripped(argument, differs))
        case Combine("+" | "-", _, _):
            terms = _Sum.of(tree).terms
            kept = {term: n for term, n in terms.items() if extent(term) & differs}
            return _Sum(Counter(kept)).tree() if kept else tree
        case Combine("*" | "/", _, _):
            product = _Product.of(tree)
            left = {
                factor: n
                for factor, n in product.factors.items()
                if extent(factor) & differs or sign(factor) is not Sign.POSITIVE
            }
            number = math.copysign(1.0, product.number)
            return _Product(Counter(left), number).tree() if left else tree
    return tree


def _rooted(tree: Tree) -> Tree:
    """Return a product of nothing negative with its powers as small whole numbers."""
    factors = _Product.of(tree).factors
    if not sign(tree) or not all(map(sign, factors)):
        return tree
    exponents: dict[Tree, Fraction] = {}
    for factor, n in factors.items():
        base, exponent = _power(factor)
        exponents[base] = exponents.get(base, Fraction(0)) + n * exponent
    common = math.lcm(*(own.denominator for own in exponents.values()))
    whole = {base: int(own * common) for base, own in exponents.items()}
    shared = math.gcd(*whole.values()) or 1
    return _Product(Counter({base: n // shared for base, n in whole.items()})).tree()


def _power(factor: Tree) -> tuple[Tree, Fraction]:
    """Return what a factor that is not negative is a power of, and which."""
    if isinstance(factor, Apply) and factor.function in _EXPONENTS:
        base, exponent = _power(_applied("abs", factor.argument))
        return base, exponent * _EXPONENTS[factor.function]
    return factor, Fraction(1)
