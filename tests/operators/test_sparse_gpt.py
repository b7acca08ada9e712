"""SparseGPT against the textbook: blocks of masks, then one column at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autocompress.operators.base import Statistics, WeightOperator
from autocompress.operators.grids import fit_integer_grid
from autocompress.operators.pruning import Magnitude, Wanda
from autocompress.operators.sparse_gpt import SparseGpt
from autocompress.spaces.settings import WeightSetting
from tests.operators.layers import error_of, output_error, random_layer, settings

DAMPING = 0.01
BLOCK = 32
UNSTRUCTURED = ("s0.3", "s0.5", "s0.771", "s0.5+w4g64", "s0.25+w3", "s0.6+w8g32sym")
PATTERNED = ("s2:4", "s1:4", "s4:8", "s2:4+w4g64")
SHAPES = [(6, 64), (5, 192)]


def textbook(
    weight: Tensor, statistics: Statistics, setting: WeightSetting, block: int = BLOCK
) -> Tensor:
    """Return the swept weight; the inverse Hessian of the columns left is always from scratch."""
    rows, n = weight.shape
    hessian = statistics.hessian.double()
    hessian = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(n).double()
    inverses = [torch.linalg.inv(hessian[column:, column:]) for column in range(n)]
    pivots = torch.stack([inverse[0, 0] for inverse in inverses])
    project = projection(weight, statistics, setting)
    span, share = spans(setting, block)
    left = weight.double().clone()
    mask = torch.zeros(rows, n, dtype=torch.bool)
    for column in range(n):
        for first in [column] * (column % span == 0):
            part = slice(first, min(first + span, n))
            scores = left[:, part] ** 2 / pivots[part]
            mask[:, part] = share(scores, rows, n, first)
        fixed = project(left[:, column], column) * mask[:, column]
        error = (left[:, column] - fixed) / pivots[column]
        left[:, column:] -= error[:, None] * inverses[column][0]
        left[:, column] = fixed
    return left


def projection(
    weight: Tensor, statistics: Statistics, setting: WeightSetting
) -> Callable[[Tensor, int], Tensor]:
    """Return the rounding of one column: none where the setting has no bits."""

    def keep(values: Tensor, column: int) -> Tensor:
        return values

    def rounded(values: Tensor, column: int) -> Tensor:
        scale = grid.scales[:, column // grid.group_size].double()
        zero = grid.zeros[:, column // grid.group_size].double()
        code = (values / scale).round() + zero
        return (code.clamp(0, 2**grid.bits - 1) - zero) * scale

    if setting.bits is None:
        return keep
    grid = fit_integer_grid(weight, setting, statistics.hessian.diagonal())
    return rounded


def spans(
    setting: WeightSetting, block: int
) -> tuple[int, Callable[[Tensor, int, int, int], Tensor]]:
    """Return how many columns choose their mask together, and how they do."""

    kept_of_group, group = setting.pattern or (0, 0)

    def by_pattern(scores: Tensor, rows: int, n: int, first: int) -> Tensor:
        ranks = scores.argsort(1, descending=True).argsort(1)
        return ranks < kept_of_group

    def by_threshold(scores: Tensor, rows: int, n: int, first: int) -> Tensor:
        total = setting.stored_weights(rows, n)
        end = first + scores.shape[1]
        kept = round(total * end / n) - round(total * first / n)
        threshold = scores.flatten().sort(descending=True).values[kept - 1]
        return scores >= threshold

    return (group, by_pattern) if setting.pattern else (block, by_threshold)


@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sweep_is_the_textbooks_in_double_precision(shape: tuple[int, int], block: int) -> None:
    weight, statistics = random_layer(*shape, dtype=torch.float64)

    operator = SparseGpt(DAMPING, block)
    built = operator.build(weight, statistics, settings(*UNSTRUCTURED, *PATTERNED))

    for setting, packed in built.items():
        expected = textbook(weight, statistics, setting, block)
        # Sums of some hundred products; masks and codes are the same.
        torch.testing.assert_close(packed.decode(torch.float64), expected, rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("seed", range(2))
def test_single_precision_loses_as_little_as_the_textbook(seed: int) -> None:
    weight, statistics = random_layer(32, 192, seed)

    built = SparseGpt(DAMPING).build(weight, statistics, settings(*UNSTRUCTURED, *PATTERNED))

    for setting, packed in built.items():
        expected = output_error(textbook(weight, statistics, setting), weight, statistics)
        # A weight within rounding of a tie may go the other way, and some others after it.
        assert error_of(packed, weight, statistics) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("baseline", [Magnitude(), Wanda()], ids=["magnitude", "wanda"])
@pytest.mark.parametrize("seed", range(5))
def test_compensation_beats_pruning_alone(baseline: WeightOperator, seed: int) -> None:
    weight, statistics = random_layer(48, 128, seed)
    wanted = settings(*UNSTRUCTURED, *PATTERNED)

    swept = SparseGpt().build(weight, statistics, wanted)

    for setting, packed in baseline.build(weight, statistics, wanted).items():
        alone = error_of(packed, weight, statistics)
        assert error_of(swept[setting], weight, statistics) < alone


def test_more_zeros_lose_more() -> None:
    weight, statistics = random_layer(32, 128)
    wanted = settings("s0.9", "s0.7", "s0.5", "s0.3", "s0.1")

    built = SparseGpt().build(weight, statistics, wanted)

    errors = [error_of(built[setting], weight, statistics) for setting in wanted]
    assert errors == sorted(errors, reverse=True)


def test_integers_of_a_pruned_weight_lose_more_than_the_pruned_weight() -> None:
    weight, statistics = random_layer(32, 128)
    wanted = settings("s0.5", "s0.5+w8g64", "s0.5+w4g64", "s0.5+w2g64")

    built = SparseGpt().build(weight, statistics, wanted)

    errors = [error_of(built[setting], weight, statistics) for setting in wanted]
    assert errors == sorted(errors)
