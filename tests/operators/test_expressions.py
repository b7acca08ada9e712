"""Symbolic metrics: known formulas are known operators, and nothing but formulas is read."""

import pytest
import torch

from autocompress.errors import SpecError
from autocompress.operators.base import Statistics
from autocompress.operators.expressions import SymbolicMetric
from autocompress.operators.pruning import Wanda
from autocompress.spaces.expression_trees import FUNCTIONS
from tests.operators.layers import random_layer, settings

SPARSE = settings("s0.5", "s2:4", "s0.7+w4g64")


@pytest.mark.parametrize(
    "expression",
    ["abs(W) * X", " X*abs( W )", "square(W * X)", "log(abs(W) * X) / 2 + 1", "sqrt(W) * sqrt(X)"],
)
def test_what_ranks_like_wanda_is_wanda(expression: str) -> None:
    weight, statistics = random_layer(16, 128)

    found = SymbolicMetric(expression).build(weight, statistics, SPARSE)

    for setting, packed in Wanda().build(weight, statistics, SPARSE).items():
        # Scores that are equal to rounding may change places.
        same = found[setting].decode(weight.dtype) == packed.decode(weight.dtype)
        assert float(same.float().mean()) > 0.999


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_primitive_scores_every_weight(name: str) -> None:
    weight, statistics = random_layer(16, 128)
    weight[0] = 0.0

    built = SymbolicMetric(f"{name}(W) - {name}(X)").build(weight, statistics, SPARSE)

    assert set(built) == set(SPARSE)


def test_an_expression_is_part_of_the_version_however_it_is_spaced() -> None:
    first, second = SymbolicMetric("abs(W)*X"), SymbolicMetric(" (abs(W)) *  X")

    assert first.version == second.version
    assert first.version != SymbolicMetric("abs(W)+X").version


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("ab(W) * X", r"Unknown name 'ab'; did you mean 'abs'\? Known: abs, columnsum, exp, log,"),
        ("abs(w)", r"Unknown name 'w'. Known: G, W, X."),
        ("abs(abs)", r"Unknown name 'abs'. Known: G, W, X."),
        ("W(X)", r"Unknown name 'W'. Known: abs,"),
        ("__import__('os')", r"Unknown name '__import__'. Known: abs,"),
        ("", r"such as `abs\(W\) \* X` must hold, but got ''"),
        ("abs(W", r"such as `abs\(W\) \* X` must hold, but got 'abs\(W'"),
        ("W\0", r"such as `abs\(W\) \* X` must hold"),
        ("W ** 9999", r"numbers, \+ - \* / and functions of one argument must hold"),
        ("W.data", r"functions of one argument must hold, but got 'W.data'"),
        ("W[0]", r"functions of one argument must hold"),
        ("(lambda: W)()", r"functions of one argument must hold"),
        ("abs(W, X)", r"functions of one argument must hold"),
        ("abs(input=W)", r"functions of one argument must hold"),
        ("W if X else W", r"functions of one argument must hold"),
        ("W < X", r"functions of one argument must hold"),
        ("W * 'a'", r"functions of one argument must hold"),
        ("W * True", r"functions of one argument must hold"),
        ("W * 1" + "0" * 99, r"functions of one argument must hold"),
        ("1 + 2", r"A metric must read W, X or G, but got '1 \+ 2'"),
        ("W" + "+W" * 200, r"`nodes <= 200` must hold, but got"),
        ("(" * 500 + "W" + ")" * 500, r"such as `abs\(W\) \* X` must hold"),
    ],
)
def test_what_is_no_formula_is_refused(expression: str, answer: str) -> None:
    with pytest.raises(SpecError, match=answer):
        SymbolicMetric(expression)


def test_a_score_that_is_no_number_is_refused() -> None:
    weight, statistics = random_layer(4, 128)

    with pytest.raises(SpecError, match=r"`score is a number` must hold .* 512 without one"):
        SymbolicMetric("(W - W) / (W - W)").build(weight, statistics, SPARSE)


def test_a_formula_of_gradients_without_any_is_refused() -> None:
    weight, statistics = random_layer(4, 128)

    with pytest.raises(SpecError, match=r"must be gathered for abs\(W\) \* G, which reads G"):
        SymbolicMetric("abs(W) * G").build(weight, statistics, SPARSE)


def test_weights_of_the_highest_gradients_stay() -> None:
    weight, statistics = random_layer(4, 128)
    gradients = torch.rand(4, 128)
    (half,) = settings("s0.5")

    built = SymbolicMetric("G").build(weight, Statistics(statistics.hessian, gradients), [half])

    kept = built[half].decode(torch.float32) != 0
    assert torch.equal(kept, gradients > gradients.sort(dim=1).values[:, 63:64])


def test_a_metric_of_inputs_alone_keeps_whole_columns() -> None:
    weight, statistics = random_layer(4, 128)

    built = SymbolicMetric("X").build(weight, statistics, SPARSE[:1])[SPARSE[0]]

    kept = built.decode(torch.float32) != 0
    assert kept.sum(0).unique().tolist() == [0, 4]
