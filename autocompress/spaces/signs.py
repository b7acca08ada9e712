"""What is known of the sign of a metric's values, whatever its variables hold.

Variables are taken to be what they nearly always are: weights not 0, inputs and gradients above.
"""

import enum

from autocompress.spaces.expression_trees import Apply, Combine, Number, Tree, Variable


class Sign(enum.IntEnum):
    """What is known of a value: the higher, the more."""

    ANY = 0
    NOT_NEGATIVE = 1
    POSITIVE = 2


def sign(tree: Tree) -> Sign:
    """Return what is known of the sign of all of a tree's values."""
    match tree:
        case Variable(name):
            return Sign.ANY if name == "W" else Sign.POSITIVE
        case Number(value):
            return Sign.POSITIVE if value else Sign.NOT_NEGATIVE
        case Apply("abs" | "square" | "sqrt" | "norm", argument):
            is_nonzero = argument == Variable("W") or sign(argument) is Sign.POSITIVE
            return Sign.POSITIVE if is_nonzero else Sign.NOT_NEGATIVE
        case Apply("exp", _):
            return Sign.POSITIVE
        case Apply("minmax", _):
            return Sign.NOT_NEGATIVE
        case Apply("tanh" | "rowsum" | "columnsum", argument):
            return sign(argument)
        case Combine("+", left, right):
            least = min(sign(left), sign(right))
            return max(sign(left), sign(right)) if least else least
        case Combine("*" | "/", left, right):
            return min(sign(left), sign(right))
    return Sign.ANY
