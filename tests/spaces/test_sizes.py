"""Sizes count what is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.base import SearchSpace, SiteKind
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.sizes import nominal_bits, parameters, served_bytes, stored_bytes
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

    codes, decoded = (
        served_bytes(SPACE, 16, tokens, 1000, is_decoded=is_decoded)
        for is_decoded in (False, True)
    )

    assert codes.dense == decoded.dense == stored_bytes(SPACE, 16, 1000).dense + cached
    narrow_coded = SPACE.entries(Genotype((1, 2, 0, 0, 0) + (0,) * 5))
    stored = stored_bytes(SPACE, 16, 1000)
    saved = cached / 2 / 2
    assert codes.of(narrow_coded) == stored.of(narrow_coded) + cached - saved
    narrow = SPACE.entries(Genotype((1, 0, 0, 0, 0) + (0,) * 5))
    assert decoded.of(narrow_coded) == decoded.of(narrow) == stored.of(narrow) + cached - saved


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
