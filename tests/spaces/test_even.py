"""Uniform baselines compress all sites alike, as little as suffices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.cost import AdditiveCost, under
from autocompress.spaces.even import (
    FILLS,
    even_candidates,
    evenly_narrow,
    evenly_spaced,
    spread,
)
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting
from autocompress.spaces.sizes import linear_bytes, nominal_bits
from autocompress.trial import Genotype
from tests.spaces.problems import GROUPS


@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_spread_gives_distinct_positions(pair: tuple[int, int]) -> None:
    n, total = pair

    positions = spread(n, total)

    assert len(set(positions)) == n
    assert positions == sorted(positions)
    assert all(0 <= position < total for position in positions)


def test_spread_stays_away_from_both_ends() -> None:
    assert spread(1, 9) == [4]
    assert spread(3, 9) == [1, 4, 7]


@given(st.integers(1, 8), st.floats(0.1, 5.0), st.floats(0.1, 5.0), st.floats(0.01, 1.0))
def test_evenly_spaced_drops_as_few_as_suffice(
    n_layers: int, attention: float, mlp: float, share: float
) -> None:
    space = make_space(n_layers, 2, 128, depth=True, width=False)
    cost = AdditiveCost(0.5, ((attention, 0.0), (mlp, 0.0)) * n_layers)
    constraint = under(space, cost, cost.least + share * (cost.dense - cost.least))

    found = evenly_spaced(constraint)

    assert found is not None
    assert constraint.violation(Genotype(found)) <= 0
    by_kind = sum(found[0::2]), sum(found[1::2])
    assert abs(by_kind[0] - by_kind[1]) <= 1
    cheaper_pairs = [
        (a, m)
        for a in range(n_layers + 1)
        for m in range(n_layers + 1)
        if abs(a - m) <= 1 and a + m < sum(by_kind)
    ]
    saved = [a * attention + m * mlp for a, m in cheaper_pairs]
    assert all(cost.dense - s > constraint.limits[0].most - 1e-9 for s in saved)


def test_evenly_spaced_gives_up_where_all_drops_do_not_suffice() -> None:
    space = make_space(3, 2, 128, depth=True, width=False)
    cost = AdditiveCost(5.0, ((1.0, 0.0),) * 6)

    assert evenly_spaced(under(space, cost, 4.9)) is None


def test_evenly_spaced_has_nothing_to_drop_in_the_width_space() -> None:
    space = make_space(2, 2, 128, depth=False, width=True)
    cost = AdditiveCost(1.0, ((1.0, 0.0), (1.0, 0.0)) * 2)

    assert evenly_spaced(under(space, cost, 3.0)) is None


@pytest.mark.parametrize("speedup", [1.0, 1.5, 2.0, 5.0])
def test_evenly_narrow_narrows_all_sites_alike(speedup: float) -> None:
    space = make_space(3, 4, 256, depth=False, width=True, ffn_step=64)
    cost = AdditiveCost(1.0, ((3.0, 2.0, 1.0, 0.0),) * 6)
    constraint = under(space, cost, cost.dense / speedup)

    found = evenly_narrow(constraint)

    assert found is not None
    assert constraint.violation(Genotype(found)) <= 0
    assert len(set(found)) == 1
    one_wider = tuple(max(0, level - 1) for level in found)
    assert constraint.violation(Genotype(one_wider)) > 0 or found == one_wider


def test_evenly_narrow_gives_up_where_the_narrowest_does_not_suffice() -> None:
    space = make_space(1, 2, 128, depth=False, width=True)
    cost = AdditiveCost(5.0, ((1.0, 0.0), (1.0, 0.0)))

    assert evenly_narrow(under(space, cost, 4.9)) is None


@given(st.integers(1, 6), st.sampled_from([0.4, 0.5, 0.75]), st.integers(0, 2**32 - 1))
def test_zeros_are_even_where_groups_have_other_numbers_of_levels(
    n_layers: int, share: float, seed: int
) -> None:
    space = make_space(
        n_layers,
        1,
        96,
        depth=False,
        width=False,
        weights=Weights(sparsities=(WeightSetting(sparsity=share),), sparsity_step=512),
        groups=GROUPS,
    )
    constraint = under(space, nominal_bits(space, 16), 16 * (1 - share))
    assert len({len(gene.settings) for gene in space.genes}) > 1

    found = even_candidates(constraint, np.random.default_rng(seed))

    for levels in found:
        settings = [g.settings[at] for g, at in zip(space.genes, levels, strict=True)]
        assert settings == [WeightSetting(sparsity=share)] * len(space.genes)
    assert found


def test_of_as_many_bits_all_settings_are_tried() -> None:
    several = tuple(map(WeightSetting.parse, ("w4g32", "w4")))
    space = make_space(
        2, 1, 96, depth=False, width=False, weights=Weights(settings=several), groups=GROUPS
    )
    whole = tuple(len(gene.settings) - 1 for gene in space.genes)
    cost = linear_bytes(space, 16)
    constraint = under(space, cost, cost.of(space.entries(Genotype(whole))))

    assert even_candidates(constraint, np.random.default_rng(0)) == [whole]


@pytest.mark.parametrize(("bits", "levels"), [(4.0, {1}), (2.0, {2}), (3.0, {1, 2})])
def test_a_number_of_bits_is_met_by_two_levels_at_most(bits: float, levels: set[int]) -> None:
    space = make_space(
        4, 1, 96, depth=False, width=False, weights=Weights(bits=(4, 2)), groups=GROUPS
    )
    constraint = under(space, nominal_bits(space, 16), bits)

    found = even_candidates(constraint, np.random.default_rng(0))

    assert {level for candidate in found for level in candidate} == levels
    assert (len(found) == 1) == (len(levels) == 1)
    assert len(found) <= FILLS
    assert all(constraint.violation(Genotype(candidate)) <= 0 for candidate in found)
