"""What is packed is unpacked as it was, in no more bytes than a setting says."""

import math
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autocompress.errors import EvaluationError
from autocompress.models.packed_weights import code_bits, unpack_bits
from autocompress.operators.bit_stream import pack_bits
from autocompress.operators.database import LevelDatabase
from autocompress.operators.grids import SHRINKAGES
from autocompress.operators.masks import mask_in_matrix
from autocompress.operators.packed import PackedWeight, pack
from autocompress.operators.round_to_nearest import fit_grid
from autocompress.spaces.settings import BLOCK_FORMATS, INTEGER_BITS, WeightSetting
from tests.operators.layers import random_layer

SPARSITIES = ["", "s0.1+", "s0.5+", "s0.731+", "s2:4+", "s1:8+"]
CODES = [
    *(f"w{bits}{rest}" for bits in INTEGER_BITS for rest in ("", "g128", "g32", "sym", "g64sym")),
    *BLOCK_FORMATS,
]
ALL = ["dense", *(s.removesuffix("+") for s in SPARSITIES[1:])] + [
    s + code for s in SPARSITIES for code in CODES
]
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def packed(setting: WeightSetting, weight: Tensor) -> PackedWeight:
    grid = fit_grid(weight, setting, torch.ones(weight.shape[1]), SHRINKAGES)
    masks = [mask_in_matrix(weight.abs(), setting)] * setting.is_sparse
    return pack(weight, setting, grid, *masks)


@given(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]), st.integers(0, 200), st.integers(0, 2**32))
def test_a_stream_gives_back_its_codes_in_the_fewest_bytes(bits: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (n,), generator=generator, dtype=torch.uint8)

    stream = pack_bits(codes, bits)

    assert len(stream) == math.ceil(n * bits / 8)
    assert torch.equal(unpack_bits(stream, bits, n), codes)


def test_the_first_of_two_codes_of_four_bits_is_the_lower_half() -> None:
    assert pack_bits(torch.tensor([1, 2, 3], dtype=torch.uint8), 4).tolist() == [0x21, 0x03]


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_that_the_setting_counts(text: str, dtype: torch.dtype) -> None:
    setting = WeightSetting.parse(text)
    weight, _ = random_layer(128, 256, dtype=dtype)

    size = packed(setting, weight).bytes

    counted = setting.stored_bits(128, 256, 8 * dtype.itemsize) / 8
    # Three streams end in a byte that is not full.
    assert counted <= size <= counted + 3


@pytest.mark.parametrize("text", ALL)
def test_a_level_takes_at_most_a_fiftieth_more_on_disk_than_its_setting_counts(
    text: str, tmp_path: Path
) -> None:
    setting = WeightSetting.parse(text)
    weight, _ = random_layer(512, 512, dtype=torch.bfloat16)

    LevelDatabase(tmp_path).write("level", packed(setting, weight).tensors)

    (file,) = tmp_path.iterdir()
    counted = setting.stored_bits(512, 512, 16) / 8
    assert counted <= file.stat().st_size <= 1.02 * counted


@given(st.sampled_from(ALL), st.integers(1, 9), st.sampled_from([128, 256]), DTYPES)
def test_what_is_decoded_is_packed_again_as_it_was(
    text: str, rows: int, columns: int, dtype: torch.dtype
) -> None:
    setting = WeightSetting.parse(text)
    weight, _ = random_layer(rows, columns, seed=rows, dtype=dtype)
    first = packed(setting, weight)

    read = PackedWeight.from_tensors(setting, (rows, columns), dict(first.tensors))

    assert torch.equal(read.decode(torch.float64), first.decode(torch.float64))
    assert read.decode(dtype).dtype is dtype
    assert read.decode(dtype).shape == (rows, columns)


@given(st.sampled_from(ALL), st.integers(1, 9), DTYPES)
def test_what_is_decoded_is_what_was_rounded(text: str, rows: int, dtype: torch.dtype) -> None:
    setting = WeightSetting.parse(text)
    weight, _ = random_layer(rows, 128, seed=rows, dtype=dtype)
    masks = [mask_in_matrix(weight.abs(), setting)] * setting.is_sparse
    grid = fit_grid(weight, setting, torch.ones(128), SHRINKAGES)
    rounded = [grid.values(grid.codes(weight)) for grid in [grid] if grid is not None]
    expected = [*rounded, weight.float()][0]
    for mask in masks:
        expected = expected.where(mask, 0.0)

    found = pack(weight, setting, grid, *masks).decode(torch.float32)

    assert torch.equal(found, expected)


@given(st.sampled_from(ALL), st.integers(2, 9), st.randoms(use_true_random=False), DTYPES)
def test_rows_that_are_taken_are_those_that_were_packed(
    text: str, rows: int, random: Random, dtype: torch.dtype
) -> None:
    setting = WeightSetting.parse(text)
    weight, _ = random_layer(rows, 128, seed=rows, dtype=dtype)
    whole = packed(setting, weight)
    taken = torch.tensor(random.choices(range(rows), k=random.randint(1, 2 * rows)))

    found = whole.take_rows(taken)

    expected = whole.decode(torch.float64)[taken]
    assert torch.equal(found.decode(torch.float64), expected)
    assert found.shape == (len(taken), 128)
    assert {n: t.dtype for n, t in found.tensors.items()} == {
        n: t.dtype for n, t in whole.tensors.items()
    }


@pytest.mark.parametrize("text", ALL)
def test_all_rows_taken_are_the_weight_itself(text: str) -> None:
    weight, _ = random_layer(6, 128)
    whole = packed(WeightSetting.parse(text), weight)

    found = whole.take_rows(torch.arange(6))

    assert found.stored == whole.stored == whole.setting.stored_weights(6, 128)
    assert found.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(found.tensors[name], whole.tensors[name]) for name in found.tensors)


@pytest.mark.parametrize("text", ALL)
def test_the_reader_of_a_checkpoint_knows_the_bits_of_a_setting(text: str) -> None:
    setting = WeightSetting.parse(text)
    codes = WeightSetting(bits=setting.bits, block=setting.block)

    assert code_bits(str(setting)) == codes.nominal_bits(0)


def test_a_masked_weight_is_exactly_zero_even_where_no_code_is() -> None:
    setting = WeightSetting.parse("s0.5+w2g32sym")
    weight = torch.full((4, 32), 3.0)
    mask = torch.arange(128).view(4, 32) % 2 == 0

    found = packed_by(setting, weight, mask).decode(torch.bfloat16)

    assert bool((found[~mask] == 0).all())
    assert bool((found[mask] != 0).all())


def packed_by(setting: WeightSetting, weight: Tensor, mask: Tensor) -> PackedWeight:
    return pack(weight, setting, fit_grid(weight, setting, torch.ones(32), SHRINKAGES), mask)


def test_tensors_of_another_setting_are_refused() -> None:
    weight, _ = random_layer(8, 128)
    tensors = packed(WeightSetting.parse("w4g128"), weight).tensors

    with pytest.raises(EvaluationError, match=r"8x128 weight in w3g128 must hold codes of 384"):
        PackedWeight.from_tensors(WeightSetting.parse("w3g128"), (8, 128), tensors)
