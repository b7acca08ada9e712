"""Settings are read back as they are written, and their sizes are those of what is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.settings import (
    BLOCK_FORMATS,
    DENSE,
    DENSE_CACHE,
    GROUP_SIZES,
    INTEGER_BITS,
    CacheSetting,
    WeightSetting,
    fitting_group_size,
)

PATTERNS = st.sampled_from([(2, 4), (4, 8), (1, 4)])
INTEGERS = st.builds(
    WeightSetting,
    bits=st.sampled_from(INTEGER_BITS),
    group_size=st.sampled_from([None, *GROUP_SIZES]),
    symmetric=st.booleans(),
    sparsity=st.integers(0, 999_999).map(lambda n: n / 1_000_000),
)
PATTERNED = PATTERNS.map(lambda p: WeightSetting(sparsity=1 - p[0] / p[1], pattern=p))
BLOCKS = st.sampled_from(sorted(BLOCK_FORMATS)).map(lambda name: WeightSetting(block=name))


@given(INTEGERS | PATTERNED | BLOCKS | st.just(DENSE))
def test_a_setting_is_read_back_as_it_is_written(setting: WeightSetting) -> None:
    assert WeightSetting.parse(str(setting)) == setting


@pytest.mark.parametrize(
    "text",
    ["", "w7", "w4g0", "w1g128", "s1.0", "s0.0", "s4:4", "s4:2", "s1:0", "s0.5+", "w4+s0.5"],
)
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must hold, but got"):
        WeightSetting.parse(text)


@pytest.mark.parametrize(
    ("text", "bits_a_weight"),
    [
        ("dense", 16.0),
        ("w4g128", 4 + (16 + 4) / 128),
        ("w4g128sym", 4 + 16 / 128),
        ("w3", 3 + (16 + 3) / 256),
        ("s0.5", 1 + 8.0),
        ("s2:4", 1 + 8.0),
        ("s0.5+w4g32", 1 + 2 + (16 + 4) / 32),
        ("fp8", 8 + 32 / 256),
        ("mxfp4", 4 + 8 / 32),
    ],
)
def test_stored_bits_count_scales_zero_points_and_masks(text: str, bits_a_weight: float) -> None:
    stored = WeightSetting.parse(text).stored_bits(64, 256, dense_bits=16)

    assert stored / (64 * 256) == bits_a_weight


def test_nominal_bits_are_those_of_the_codes_that_are_not_zero() -> None:
    assert WeightSetting.parse("w4g128").nominal_bits(16) == 4
    assert WeightSetting.parse("s0.25+w4g128").nominal_bits(16) == 3
    assert WeightSetting.parse("s0.25").nominal_bits(16) == 12
    assert DENSE.nominal_bits(16) == 16


def test_a_cache_setting_names_its_bits() -> None:
    assert [str(CacheSetting(bits)) for bits in (None, 8, 4)] == ["dense", "kv8", "kv4"]


@pytest.mark.parametrize(
    ("setting", "head_size", "bits_a_number"),
    [
        (DENSE_CACHE, 128, 16),
        (CacheSetting(8), 128, 8 + 32 / 32),
        (CacheSetting(4), 64, 4 + 32 / 32),
        (CacheSetting(4), 80, 4 + (32 / 32 + 32 / 80) / 2),
    ],
)
def test_the_bits_of_a_token_count_scales_and_lowest_numbers(
    setting: CacheSetting, head_size: int, bits_a_number: float
) -> None:
    found = setting.token_bits(kv_heads=3, head_size=head_size, dense_bits=16)

    assert found == pytest.approx(2 * 3 * head_size * bits_a_number, rel=1e-12)


def test_the_largest_fitting_group_divides_every_width() -> None:
    assert fitting_group_size(256, 768) == 128
    assert fitting_group_size(256, 192) == 64
    assert fitting_group_size(100) is None


def test_codes_and_zeros_are_put_together_in_either_order() -> None:
    codes, zeros = WeightSetting.parse("w4g128"), WeightSetting.parse("s0.5")

    assert str(codes.with_setting(zeros)) == str(zeros.with_setting(codes)) == "s0.5+w4g128"
    assert codes.with_setting(DENSE) == DENSE.with_setting(codes) == codes
