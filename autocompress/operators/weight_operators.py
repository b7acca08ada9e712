"""Finds a weight operator by its name; the table is read without importing torch."""

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from autocompress.errors import SpecError

if TYPE_CHECKING:
    from autocompress.operators.base import WeightOperator

WEIGHT_OPERATORS: Final[Mapping[str, str]] = {
    "gptq": "autocompress.operators.gptq:Gptq",
    "magnitude": "autocompress.operators.pruning:Magnitude",
    "round-to-nearest": "autocompress.operators.round_to_nearest:RoundToNearest",
    "sparsegpt": "autocompress.operators.sparse_gpt:SparseGpt",
    "wanda": "autocompress.operators.pruning:Wanda",
}
"""Operators that need no argument; `expressions.SymbolicMetric` needs its expression."""


def load_weight_operator(name: str) -> "WeightOperator":
    """Return an operator with its defaults.

    Raises:
        SpecError: If there is none of this name.
    """
    if name not in WEIGHT_OPERATORS:
        near = difflib.get_close_matches(name, WEIGHT_OPERATORS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise SpecError(
            f"Unknown operator {name!r}{hint} Known: {', '.join(sorted(WEIGHT_OPERATORS))}."
        )
    module, _, member = WEIGHT_OPERATORS[name].partition(":")
    return cast("WeightOperator", getattr(importlib.import_module(module), member)())
