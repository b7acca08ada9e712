"""GPTQ against the textbook: one row, one column at a time, with explicit inverses."""

import pytest
import torch
from torch import Tensor

from autocompress.operators.base import Statistics
from autocompress.operators.gptq import ColumnOrder, Gptq
from autocompress.operators.grids import FULL_RANGE, fit_integer_grid
from autocompress.operators.round_to_nearest import RoundToNearest
from autocompress.spaces.settings import INTEGER_BITS, WeightSetting
from tests.operators.layers import error_of, output_error, random_layer, settings

DAMPING = 0.01
TEXTS = ("w2g32", "w3", "w4g32sym", "w5", "w6g64", "w8")
SHAPES = [(6, 64), (5, 192)]
orders = pytest.mark.parametrize("order", list(ColumnOrder), ids=lambda order: order.value)


def damped(hessian: Tensor) -> Tensor:
    whole = hessian.double()
    return whole + DAMPING * whole.diagonal().mean() * torch.eye(len(whole)).double()


def textbook(
    weight: Tensor, statistics: Statistics, setting: WeightSetting, order: ColumnOrder
) -> Tensor:
    """Return the rounded weight: optimal brain quantization with columns in a fixed order.

    After a column the inverse Hessian of those left is recomputed from scratch.
    """
    diagonal = statistics.hessian.diagonal()
    grid = fit_integer_grid(weight, setting, diagonal)
    places = {
        ColumnOrder.STORED: list(range(len(diagonal))),
        ColumnOrder.LARGEST_INPUT_FIRST: sorted(
            range(len(diagonal)), key=lambda column: -float(diagonal[column])
        ),
    }[order]
    hessian = damped(statistics.hessian)
    left = weight.double().clone()
    for done, column in enumerate(places):
        remaining = places[done:]
        inverse = torch.linalg.inv(hessian[remaining][:, remaining])
        scale = grid.scales[:, column // grid.group_size].double()
        zero = grid.zeros[:, column // grid.group_size].double()
        code = (left[:, column] / scale).round() + zero
        rounded = (code.clamp(0, 2**grid.bits - 1) - zero) * scale
        error = (left[:, column] - rounded) / inverse[0, 0]
        left[:, remaining] -= error[:, None] * inverse[0]
        left[:, column] = rounded
    return left


@orders
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sweep_is_the_textbooks_in_double_precision(
    order: ColumnOrder, shape: tuple[int, int]
) -> None:
    weight, statistics = random_layer(*shape, dtype=torch.float64)

    built = Gptq(DAMPING, order).build(weight, statistics, settings(*TEXTS))

    for setting, packed in built.items():
        expected = textbook(weight, statistics, setting, order)
        # Both are exact products of 16-bit scales and small integers.
        torch.testing.assert_close(packed.decode(torch.float64), expected, rtol=0.0, atol=1e-12)


@orders
@pytest.mark.parametrize("seed", range(2))
def test_single_precision_loses_as_little_as_the_textbook(order: ColumnOrder, seed: int) -> None:
    weight, statistics = random_layer(32, 192, seed)

    built = Gptq(DAMPING, order).build(weight, statistics, settings(*TEXTS))

    for setting, packed in built.items():
        expected = output_error(textbook(weight, statistics, setting, order), weight, statistics)
        # A weight within rounding of a tie may go the other way, and some others after it.
        assert error_of(packed, weight, statistics) == pytest.approx(expected, rel=0.02)


@orders
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", INTEGER_BITS)
def test_compensation_beats_rounding_alone(order: ColumnOrder, seed: int, bits: int) -> None:
    weight, statistics = random_layer(48, 128, seed)
    setting = WeightSetting(bits=bits, group_size=32)

    swept = Gptq(order=order).build(weight, statistics, [setting])[setting]

    alone = RoundToNearest().build(weight, statistics, [setting])[setting]
    assert error_of(swept, weight, statistics) < error_of(alone, weight, statistics)


@orders
def test_more_bits_lose_less(order: ColumnOrder) -> None:
    weight, statistics = random_layer(32, 128)
    wanted = [WeightSetting(bits=bits) for bits in INTEGER_BITS]

    built = Gptq(order=order).build(weight, statistics, wanted)

    errors = [error_of(built[setting], weight, statistics) for setting in wanted]
    assert errors == sorted(errors, reverse=True)


@orders
def test_rows_are_what_they_are_alone(order: ColumnOrder) -> None:
    weight, statistics = random_layer(24, 128, dtype=torch.float64)
    wanted = settings("w3g32", "w4")
    whole = Gptq(order=order).build(weight, statistics, wanted)

    for rows in (slice(0, 1), slice(5, 17), slice(17, 24)):
        part = Gptq(order=order).build(weight[rows], statistics, wanted)
        for setting, packed in part.items():
            expected = whole[setting].decode(torch.float64)[rows]
            # Products of another shape may sum in another order.
            torch.testing.assert_close(
                packed.decode(torch.float64), expected, rtol=0.0, atol=1e-12
            )


def test_groups_lie_side_by_side_in_any_order() -> None:
    weight, statistics = random_layer(8, 128)
    (setting,) = settings("w3g32")
    operator = Gptq(order=ColumnOrder.LARGEST_INPUT_FIRST, shrinkages=FULL_RANGE)

    packed = operator.build(weight, statistics, [setting])[setting]

    grid = fit_integer_grid(weight, setting, statistics.hessian.diagonal(), FULL_RANGE)
    steps = packed.decode(torch.float64).view(8, 4, 32) / grid.scales[..., None].double()
    assert torch.equal(steps, steps.round())
    assert len(steps[0, 0].unique()) <= 8
    assert torch.equal(packed.tensors["scales"], grid.scales)


def test_uncorrelated_inputs_leave_nothing_to_compensate() -> None:
    weight, _ = random_layer(8, 64)
    statistics = Statistics(torch.diag(torch.arange(1.0, 65.0)))
    wanted = settings("w3g32", "w4")

    swept = Gptq().build(weight, statistics, wanted)

    for setting, packed in RoundToNearest().build(weight, statistics, wanted).items():
        assert torch.equal(swept[setting].decode(weight.dtype), packed.decode(weight.dtype))
