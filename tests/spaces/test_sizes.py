"""Sizes count what is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.base import SearchSpace, SiteKind
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting, as_compressed_tensors
from autocompress.spaces.sizes import (
    held_by_torch,
    nominal_bits,
    parameters,
    served_bytes,
    stored_bytes,
)
from autocompress.trial import Genotype
from tests.spaces.problems import GROUPS, genotypes, spaces

NORMS = {SiteKind.ATTENTION: 64, SiteKind.MLP: 64}
ATTENTION_WEIGHTS, MLP_WEIGHTS = 128 * 64, 192 * 64 + 64 * 96
SPACE = make_space(
    2,
    2,
    96,
    depth=True,
    width=True,
    ffn_step=48,
    weights=Weights(bits=(4, 2), group_size=0),
    groups=GROUPS,
    other_parameters=NORMS,
)
CASES = spaces().flatmap(lambda s: st.tuples(st.just(s), genotypes(s)))


def test_the_dense_model_keeps_everything() -> None:
    count = 2 * (ATTENTION_WEIGHTS + MLP_WEIGHTS + 2 * 64)

    assert parameters(SPACE, 1000).dense == 1000 + count
    assert stored_bytes(SPACE, 16, 2000).dense == 2000 + 2 * count
    assert nominal_bits(SPACE, 16).dense == pytest.approx(16)


def test_a_drop_leaves_nothing_of_a_site() -> None:
    no_mlp = SPACE.entries(Genotype((0, 0, 2, 0, 0) * 2))

    assert parameters(SPACE, 0).of(no_mlp) == 2 * (ATTENTION_WEIGHTS + 64)


def test_bits_of_a_narrower_site_take_fewer_bytes() -> None:
    dense, narrow, coded, both = (
        stored_bytes(SPACE, 16, 0).of(SPACE.entries(Genotype((*levels, 0, 0, 0, 0, 0, 0, 0, 0))))
        for levels in ((0, 0), (1, 0), (0, 2), (1, 2))
    )

    assert dense - narrow == ATTENTION_WEIGHTS / 2 * 2
    assert dense - coded == ATTENTION_WEIGHTS * (16 - 2) / 8 - 128 * (16 + 2) / 8
    assert narrow - both == (dense - coded) / 2


def test_serving_holds_weights_and_what_every_token_caches() -> None:
    tokens = 100
    cached = 2 * (32 + 32) * tokens * 2  # keys and values of two layers, 2 bytes each

    codes, torch = (
        served_bytes(SPACE, 16, tokens, 1000, held)
        for held in (WeightSetting.stored_bits, held_by_torch)
    )

    assert codes.dense == torch.dense == stored_bytes(SPACE, 16, 1000).dense + cached
    narrow_coded = SPACE.entries(Genotype((1, 2, 0, 0, 0) + (0,) * 5))
    stored = stored_bytes(SPACE, 16, 1000)
    saved = cached / 2 / 2
    assert codes.of(narrow_coded) == stored.of(narrow_coded) + cached - saved
    narrow = SPACE.entries(Genotype((1, 0, 0, 0, 0) + (0,) * 5))
    assert torch.of(narrow) == stored.of(narrow) + cached - saved
    # The codes of whole rows, here of two bits, are read as bytes, with a scale for each row.
    read = ATTENTION_WEIGHTS / 2 + 64 * 2
    assert torch.of(narrow_coded) == stored.of(narrow_coded) + cached - saved + read


@pytest.mark.parametrize("text", ["w8", "w5g32", "w4g16", "mxfp4", "s0.5", "s0.5+w4g32"])
def test_torch_holds_what_it_decodes_twice(text: str) -> None:
    setting = WeightSetting.parse(text)

    assert held_by_torch(setting, 64, 64, 16) == setting.stored_bits(64, 64, 16) + 64 * 64 * 16


@pytest.mark.parametrize("text", ["w4g32", "w2g64sym", "w3g32"])
def test_torch_reads_codes_in_groups_as_four_bits(text: str) -> None:
    setting = WeightSetting.parse(text)
    groups = 64 // (setting.group_size or 64)

    held = held_by_torch(setting, 64, 64, 16) - setting.stored_bits(64, 64, 16)

    assert held == 64 * (64 * 4 + groups * 2 * 16)
    stored = setting.stored_bits(64, 64, 32)
    assert held_by_torch(setting, 64, 64, 32) == stored + 64 * 64 * 32


def test_nominal_bits_are_a_mean_over_all_weights() -> None:
    even = SPACE.entries(Genotype((0, 1, 0, 1, 1) * 2))

    assert nominal_bits(SPACE, 16).of(even) == pytest.approx(4)


@given(CASES)
def test_no_candidate_takes_more_than_the_dense_model(
    case: tuple[SearchSpace, Genotype],
) -> None:
    space, genotype = case
    entries = space.entries(genotype)

    for cost in (stored_bytes(space, 16, 10), parameters(space, 10)):
        assert cost.fixed <= cost.of(entries) <= cost.dense + cost.dense / 8


def test_compressed_tensors_hold_whole_words_and_a_shape() -> None:
    setting = WeightSetting.parse("w3g8sym")

    # 48 codes of 3 bits are 4.5 words; 6 scales a row; two numbers of 64 bits a layer.
    row = 5 * 32 + 6 * 16
    assert as_compressed_tensors(setting, (10, 20), 48, 16) == 30 * row + 2 * 128
    assert as_compressed_tensors(WeightSetting(), (10, 20), 48, 16) == 30 * 48 * 16
    fp8 = WeightSetting.parse("fp8")
    assert as_compressed_tensors(fp8, (10, 20), 48, 16) == 30 * (48 * 8 + 32)
