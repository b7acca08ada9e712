"""Integer grids hold what they must, and a searched range never loses more."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autocompress.operators.grids import (
    FULL_RANGE,
    SHRINKAGES,
    SMALLEST_FP16_SCALE,
    IntegerGrid,
    fit_integer_grid,
)
from autocompress.spaces.settings import INTEGER_BITS, WeightSetting
from tests.operators.layers import random_layer

TEXTS = [f"w{b}{rest}" for b in INTEGER_BITS for rest in ("", "sym", "g64", "g32sym")]
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


def lost(grid: IntegerGrid, weight: Tensor, importance: Tensor) -> Tensor:
    """Return Σ importance · (w - ŵ)² of every group."""
    squared = (grid.values(grid.codes(weight)) - weight.double()).square() * importance
    return squared.view(len(weight), -1, grid.group_size).sum(2)


@given(st.sampled_from(TEXTS), st.integers(0, 1000), DTYPES)
def test_a_searched_range_never_loses_more(text: str, seed: int, dtype: torch.dtype) -> None:
    weight, statistics = random_layer(3, 64, seed, dtype)
    importance = statistics.hessian.diagonal()
    setting = WeightSetting.parse(text)

    searched = lost(fit_integer_grid(weight, setting, importance, SHRINKAGES), weight, importance)
    whole = lost(fit_integer_grid(weight, setting, importance, FULL_RANGE), weight, importance)

    # Losses are compared in single precision, where equal ones may change places.
    assert bool((searched <= whole * (1 + 1e-5)).all())


@pytest.mark.parametrize("text", ["w2g32", "w3", "w4g64sym"])
def test_a_searched_range_gains_on_gaussian_weights(text: str) -> None:
    weight, _ = random_layer(16, 64)
    setting, ones = WeightSetting.parse(text), torch.ones(64)

    searched = lost(fit_integer_grid(weight, setting, ones), weight, ones).sum()

    assert searched < lost(fit_integer_grid(weight, setting, ones, FULL_RANGE), weight, ones).sum()


@given(st.sampled_from(INTEGER_BITS), st.integers(0, 1000))
def test_the_whole_range_loses_half_a_step_at_most(bits: int, seed: int) -> None:
    weight, _ = random_layer(3, 64, seed)

    grid = fit_integer_grid(weight, WeightSetting(bits=bits), torch.ones(64), FULL_RANGE)

    steps = (grid.values(grid.codes(weight)) - weight).abs() / grid.scales.float()
    # The zero point is rounded by half a step, and 11 bits of a scale move the range's end.
    assert float(steps.max()) <= 1 + 2**bits * 2.0**-11


@given(st.sampled_from(TEXTS), DTYPES)
def test_zero_is_on_every_grid(text: str, dtype: torch.dtype) -> None:
    weight, _ = random_layer(3, 64, dtype=dtype)
    weight = weight.abs() + 1
    weight[0] = 0

    grid = fit_integer_grid(weight, WeightSetting.parse(text), torch.ones(64))

    zeros = torch.zeros_like(weight)
    assert torch.equal(grid.values(grid.codes(zeros)), zeros.float())
    assert not grid.values(grid.codes(weight))[0].any()


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("text", ["w8", "w4g32sym"])
def test_small_and_large_scales_are_kept(factor: float, text: str) -> None:
    weight, _ = random_layer(4, 64)
    setting, ones = WeightSetting.parse(text), torch.ones(64)

    grid = fit_integer_grid(weight * factor, setting, ones)

    found = grid.values(grid.codes(weight * factor)) / factor
    assert float((found - weight).norm() / weight.norm()) < 0.15


def test_scales_have_the_number_format_that_engines_expect() -> None:
    weight, _ = random_layer(4, 64)
    setting, ones = WeightSetting.parse("w4"), torch.ones(64)

    dtypes = [
        fit_integer_grid(weight.to(dtype), setting, ones).scales.dtype
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    ]

    assert dtypes == [torch.bfloat16, torch.float16, torch.float16]


@pytest.mark.parametrize("text", ["w8g128sym", "w4g128", "w2"])
def test_scales_of_an_fp16_model_are_fp16_however_faint_a_group_is(text: str) -> None:
    weight, _ = random_layer(64, 256, dtype=torch.float16)
    weight[3, 128:] *= 0.0005 / weight[3, 128:].abs().max()
    weight[5] *= 1e-5

    grid = fit_integer_grid(weight, WeightSetting.parse(text), torch.ones(256), FULL_RANGE)

    lost = (grid.values(grid.codes(weight)) - weight.float()).abs()
    assert grid.scales.dtype is torch.float16
    assert float(grid.scales.min()) >= SMALLEST_FP16_SCALE
    # As above: of a whole step at most, and the rounding of scales.
    steps = lost.view(64, -1, grid.group_size) / grid.scales[..., None].float()
    assert float(steps.max()) <= 1 + 2**grid.bits * 2.0**-11


def test_what_is_on_a_grid_stays() -> None:
    weight, _ = random_layer(4, 64)
    grid = fit_integer_grid(weight, WeightSetting.parse("w5g32"), torch.ones(64))
    codes = grid.codes(weight)

    assert torch.equal(grid.codes(grid.values(codes)), codes)
