"""Finds a weight operator by its name; the table is read without importing torch."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

from autocompress.errors import SpecError
from autocompress.spec_rules import METRIC_VARIABLES

if TYPE_CHECKING:
    from autocompress.operators.base import WeightOperator

WEIGHT_OPERATORS: Final[Mapping[str, str]] = {
    "ggml": "autocompress.operators.ggml_rounding:GgmlRounding",
    "gptq": "autocompress.operators.gptq:Gptq",
    "magnitude": "autocompress.operators.pruning:Magnitude",
    "round-to-nearest": "autocompress.operators.round_to_nearest:RoundToNearest",
    "sparsegpt": "autocompress.operators.sparse_gpt:SparseGpt",
    "wanda": "autocompress.operators.pruning:Wanda",
}
"""Operators that need no argument; a metric needs its formula, told by its variables."""

METRIC: Final = "autocompress.operators.expressions:SymbolicMetric"
GRADIENTS: Final = "G"
"""Of `METRIC_VARIABLES`, the one that takes a backward pass through the whole model."""


def load_weight_operator(name: str) -> "WeightOperator":
    """Return an operator with its defaults, or the metric that a formula such as `abs(W)` makes.

    Raises:
        SpecError: If there is none of this name, or the formula is none.
    """
    if any(variable in name for variable in METRIC_VARIABLES):
        return _load(METRIC)(name)
    if name not in WEIGHT_OPERATORS:
        near = difflib.get_close_matches(name, WEIGHT_OPERATORS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise SpecError(
            f"Unknown operator {name!r}{hint} Known: {', '.join(sorted(WEIGHT_OPERATORS))}."
        )
    return _load(WEIGHT_OPERATORS[name])()


def reads_gradients(name: str) -> bool:
    """Whether an operator of this name is a formula that reads gradients."""
    return GRADIENTS in name


def _load(path: str) -> "Callable[..., WeightOperator]":
    module, _, member = path.partition(":")
    return cast("Callable[..., WeightOperator]", getattr(importlib.import_module(module), member))
