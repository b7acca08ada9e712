"""Block formats against their definitions, and rounding against a search of all codes."""

import pytest
import torch
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from autocompress.operators.block_formats import BlockGrid, fit_block_grid
from autocompress.spaces.settings import BLOCK_FORMATS
from tests.operators.layers import random_layer

all_formats = pytest.mark.parametrize("name", sorted(BLOCK_FORMATS))
SCHEMES = {"fp8": "FP8_DYNAMIC", "mxfp4": "MXFP4", "nvfp4": "NVFP4"}
"""What compressed-tensors calls them."""


@all_formats
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_weights_become_what_compressed_tensors_makes_of_them(name: str, factor: float) -> None:
    weight = random_layer(16, 64)[0] * factor
    grid = fit_block_grid(weight, name)
    args = preset_name_to_scheme(SCHEMES[name], ["Linear"]).weights
    assert args is not None
    blocks = weight.view(16, -1, BLOCK_FORMATS[name].block or 64)
    low, high = blocks.amin(2), blocks.amax(2)
    whole = None if grid.tensor_scale is None else generate_gparam(low.min(), high.max())

    scales, zeros = calculate_qparams(low, high, args, whole)
    # By itself it would compile how it rounds to four bits.
    with torch.compiler.set_stance("force_eager"):
        theirs = fake_quantize(weight, scales, zeros, args, whole)

    ours = grid.values(grid.codes(weight))
    assert torch.equal(ours, theirs.float())


@all_formats
def test_codes_are_those_of_the_nearest_values(name: str) -> None:
    weight, _ = random_layer(4, 64)
    grid = fit_block_grid(weight, name)

    found = grid.values(grid.codes(weight))

    every = [
        grid.values(torch.full((4, 64), code, dtype=torch.uint8))
        for code in range(2 ** BLOCK_FORMATS[name].bits)
    ]
    nearest = torch.stack(every).sub(weight).abs().nan_to_num(torch.inf).amin(0)
    assert torch.equal((found - weight).abs(), nearest)


@all_formats
def test_what_is_on_a_grid_stays(name: str) -> None:
    weight, _ = random_layer(4, 64)
    grid = fit_block_grid(weight, name)
    codes = grid.codes(weight)

    assert torch.equal(grid.codes(grid.values(codes)), codes)


@all_formats
@pytest.mark.parametrize("factor", [0.0, 1e-20, 1.0, 1e20])
def test_any_magnitude_is_kept(name: str, factor: float) -> None:
    weight, _ = random_layer(4, 64)
    grid = fit_block_grid(weight * factor, name)

    found = grid.values(grid.codes(weight * factor))

    assert float((found - weight * factor).norm()) <= 0.15 * float((weight * factor).norm())


def test_four_bits_round_ties_to_even_codes() -> None:
    row = [6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -0.75, -5.0, *[0.0] * 21]
    grid = BlockGrid("mxfp4", torch.full((1, 1), 127, dtype=torch.uint8), None, 32)

    found = grid.values(grid.codes(torch.tensor([row])))[0, :11].tolist()

    assert found == [6.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 0.0, -1.0, -4.0]


@pytest.mark.parametrize(("largest", "exponent"), [(6.0, 127), (6.9, 127), (7.0, 128), (4.0, 127)])
def test_mxfp4_scales_are_powers_of_two_near_the_largest(largest: float, exponent: int) -> None:
    weight = torch.zeros(1, 32)
    weight[0, 3] = largest

    assert fit_block_grid(weight, "mxfp4").scales.tolist() == [[exponent]]


def test_nvfp4_scales_use_the_whole_range_of_e4m3() -> None:
    weight, _ = random_layer(4, 64)

    grid = fit_block_grid(weight, "nvfp4")

    assert float(grid.scales.float().max()) == 448.0
