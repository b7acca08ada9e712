"""Spaces are made from a model's shape and what may be compressed."""

import itertools

import pytest

from autocompress.errors import SpecError
from autocompress.spaces.base import LinearGroup, SiteKind
from autocompress.spaces.making import Weights, equal_count_sparsities, make_space
from autocompress.spaces.settings import WeightSetting
from tests.spaces.problems import GROUPS


def names(weights: Weights, *, width: bool = False) -> list[list[str]]:
    """Return the settings of each gene of one layer."""
    space = make_space(1, 2, 96, depth=False, width=width, weights=weights, groups=GROUPS)
    return [[str(setting) for setting in gene.settings] for gene in space.genes]


def test_every_linear_group_has_genes_of_its_own() -> None:
    weights = Weights(bits=(2, 4), sparsities=(WeightSetting.parse("s2:4"),), cache_bits=(8, 4))

    assert names(weights) == [
        ["dense", "w4g64", "w2g64"],
        ["dense", "s2:4"],
        ["dense", "kv8", "kv4"],
        ["dense", "w4g64", "w2g64"],
        ["dense", "s2:4"],
        ["dense", "w4g32", "w2g32"],
        ["dense", "s2:4"],
    ]


def test_levels_go_from_the_most_bits_stored_to_the_fewest() -> None:
    assert names(Weights(bits=(2, 8, 4), blocks=("nvfp4", "fp8")))[0] == [
        "dense",
        "fp8",
        "w8g64",
        "nvfp4",
        "w4g64",
        "w2g64",
    ]


def test_a_default_group_divides_every_width() -> None:
    assert names(Weights(bits=(4,)), width=True)[-1] == ["dense", "w4g32"]


def test_whole_rows_are_asked_for_by_0() -> None:
    assert names(Weights(bits=(4,), group_size=0))[0] == ["dense", "w4"]


def test_settings_with_a_group_size_of_their_own_stand_beside_the_others() -> None:
    own = tuple(map(WeightSetting.parse, ("w8sym", "w4g32")))

    genes = names(Weights(bits=(4,), settings=own))

    assert genes[0] == ["dense", "w8sym", "w4g32", "w4g64"]


def test_a_setting_that_is_also_a_default_is_there_once() -> None:
    group = WeightSetting.parse("w4g32")

    assert names(Weights(bits=(4,), settings=(group,)), width=True)[-1] == ["dense", "w4g32"]


def test_a_setting_whose_group_does_not_divide_is_refused() -> None:
    with pytest.raises(SpecError, match=r"but 64 does not divide down \(96 columns\), in each"):
        names(Weights(settings=(WeightSetting.parse("w4g64"),)))


def test_a_step_in_weights_is_equal_in_all_groups() -> None:
    weights = Weights(sparsities=(WeightSetting.parse("s0.5"),), sparsity_step=1024)
    space = make_space(1, 2, 96, depth=False, width=False, weights=weights, groups=GROUPS)

    for gene, site in zip(space.genes, space.gene_bundles, strict=True):
        group = next(g for g in space.sites[site].groups if g.name == gene.group)
        shares = [s.sparsity for s in gene.settings[1:] if isinstance(s, WeightSetting)]
        assert 0.5 in shares
        steps = {round((b - a) * group.weights) for a, b in itertools.pairwise(shares)}
        assert steps == {1024}


def test_a_group_size_that_does_not_divide_is_refused_with_all_offenders() -> None:
    with pytest.raises(SpecError) as refused:
        names(Weights(bits=(4,), group_size=128))

    assert str(refused.value) == (
        "`columns % group_size == 0` must hold for every linear layer, but 128 does not divide "
        "q (64 columns), k (64 columns), v (64 columns), gate (64 columns), up (64 columns), "
        "down (96 columns), in each of 1 layers. Leave the size out, or take one of 128, 64, 32 "
        "that does."
    )


def test_a_block_that_does_not_divide_is_refused_with_all_offenders() -> None:
    groups = {SiteKind.MLP: (LinearGroup("down", ("down",), (64,), 48, True),)}

    with pytest.raises(SpecError) as refused:
        make_space(
            5,
            2,
            48,
            depth=False,
            width=False,
            weights=Weights(blocks=("fp8", "mxfp4", "nvfp4")),
            groups=groups,
        )

    assert str(refused.value) == (
        "`columns % block == 0` must hold for every linear layer, but the 32 of mxfp4 does not "
        "divide down (48 columns), in each of 5 layers. Leave mxfp4 out of the bits."
    )


def test_patterns_that_do_not_divide_are_refused_with_all_offenders() -> None:
    patterns = tuple(map(WeightSetting.parse, ("s3:7", "s2:4", "s4:5")))

    with pytest.raises(SpecError) as refused:
        names(Weights(sparsities=patterns))

    sixty_four = ", ".join(f"{linear} (64 columns)" for linear in ("q", "k", "v", "gate", "up"))
    assert str(refused.value) == " ".join(
        f"`columns % m == 0` must hold for every linear layer, but the {pattern[-1]} of {pattern} "
        f"does not divide {sixty_four}, down (96 columns), in each of 1 layers. Take a pattern "
        "n:m that does, or a share such as 0.5."
        for pattern in ("3:7", "4:5")
    )


def test_a_block_that_does_not_divide_a_width_is_refused() -> None:
    with pytest.raises(SpecError, match=r"the 16 of nvfp4 does not divide o \(24 columns\)"):
        make_space(
            1,
            2,
            96,
            depth=False,
            width=True,
            weights=Weights(blocks=("nvfp4",)),
            groups={SiteKind.ATTENTION: (LinearGroup("o", ("o",), (48,), 48, True),)},
        )


def test_equal_counts_differ_by_as_many_weights_in_every_group() -> None:
    small, large = GROUPS[next(iter(GROUPS))][0], list(GROUPS.values())[1][0]

    for group in (small, large):
        total = sum(group.rows) * group.columns
        settings = equal_count_sparsities(group, 0.5, 512, 3)
        zeros = [total - s.stored_weights(sum(group.rows), group.columns) for s in settings]

        assert [zero - total // 2 for zero in zeros] == [512 * n for n in range(-3, 4)]


def test_equal_counts_are_so_in_groups_of_billions() -> None:
    for rows in (2048, 3072, 16384, 131072):
        group = LinearGroup("o", ("o",), (rows,), 8192, False)
        settings = equal_count_sparsities(group, 0.6, 1_000_000, 8)
        zeros = [rows * 8192 - s.stored_weights(rows, 8192) for s in settings]

        # One that is no whole number is rounded.
        assert all(abs(b - a - 1_000_000) <= 1 for a, b in itertools.pairwise(zeros))
        assert [WeightSetting.parse(str(own)) for own in settings] == list(settings)
