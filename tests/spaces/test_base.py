"""The vocabulary of choices: menus, genotypes and their canonical form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.spaces.base import Choice, SearchSpace, Site, SiteKind
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting
from autocompress.trial import Genotype
from tests.spaces.problems import GROUPS, everything, genotypes, spaces

SPARSITIES = [WeightSetting(sparsity=n / 10) for n in range(1, 10)]
SPACES_AND_GENOTYPES = spaces().flatmap(lambda s: st.tuples(st.just(s), genotypes(s)))


@given(SPACES_AND_GENOTYPES)
def test_canonical_preserves_choices(pair: tuple[SearchSpace, Genotype]) -> None:
    space, genotype = pair

    assert space.choices(space.canonical(genotype)) == space.choices(genotype)


@given(SPACES_AND_GENOTYPES)
def test_canonical_is_idempotent(pair: tuple[SearchSpace, Genotype]) -> None:
    space, genotype = pair
    canonical = space.canonical(genotype)

    assert space.canonical(canonical) == canonical
    assert space.genotype(space.entries(canonical)) == canonical


@given(spaces(most_layers=1))
def test_entries_and_genotypes_are_one_to_one(space: SearchSpace) -> None:
    everyone = list(everything([range(len(menu)) for menu in space.menus]))

    assert [space.entries(space.genotype(entries)) for entries in everyone] == everyone
    assert len({space.choices(space.genotype(entries)) for entries in everyone}) == len(everyone)


@given(spaces())
def test_menus_go_from_dense_to_the_fewest_units(space: SearchSpace) -> None:
    for bundle, menu in zip(space.bundles, space.menus, strict=True):
        assert len(menu[0].choices) == len(bundle.sites)
        for site, choices in zip(
            bundle.sites, zip(*(entry.choices for entry in menu), strict=True), strict=True
        ):
            kept = [choice.kept for choice in choices]

            assert choices[0].is_dense
            assert kept == sorted(kept, reverse=True)
            assert all(choice.total == site.units for choice in choices)


@given(spaces())
def test_the_dense_genotype_leaves_everything(space: SearchSpace) -> None:
    assert all(choice.is_dense for choice in space.choices(space.dense))
    assert space.canonical(space.dense) == space.dense
    assert space.entries(space.dense) == (0,) * len(space.menus)


@given(SPACES_AND_GENOTYPES)
def test_bytes_give_the_genotype_back(pair: tuple[SearchSpace, Genotype]) -> None:
    _, genotype = pair

    assert Genotype.from_bytes(genotype.to_bytes()) == genotype


def test_depth_alone_only_drops() -> None:
    space = make_space(2, 4, 256, depth=True, width=False)

    assert [[str(entry.choices[0]) for entry in menu] for menu in space.menus] == [
        ["dense", "drop"]
    ] * 4


def test_width_alone_keeps_a_unit() -> None:
    space = make_space(1, 3, 256, depth=False, width=True, ffn_step=64, ffn_levels=6)

    attention, mlp = space.menus
    assert [str(entry.choices[0]) for entry in attention] == ["dense", "width 2/3", "width 1/3"]
    assert [entry.choices[0].kept for entry in mlp] == [256, 192, 128, 64]


def test_widths_are_at_most_as_many_as_asked_and_evenly_spaced() -> None:
    space = make_space(1, 1, 1024, depth=False, width=True, ffn_step=64, ffn_levels=3)

    assert [entry.choices[0].kept for entry in space.menus[1]] == [1024, 704, 384, 64]


def test_a_drop_makes_the_other_genes_of_a_site_of_no_account() -> None:
    space = make_space(
        1, 2, 128, depth=True, width=True, weights=Weights(bits=(4, 2)), groups=GROUPS
    )
    dropped = Genotype((2, 0, 0, 0, 0))

    assert [gene.name for gene in space.genes[:2]] == ["width", "bits qkv"]
    assert space.canonical(Genotype((2, 1, 0, 0, 0))) == space.canonical(dropped) == dropped
    assert space.choices(dropped)[0] == Choice(0, 2)


def test_a_layer_goes_as_a_whole_and_what_stays_is_stored_site_by_site() -> None:
    space = make_space(
        3,
        2,
        128,
        depth=True,
        width=False,
        whole_layers=True,
        weights=Weights(bits=(4,)),
        groups=GROUPS,
    )

    assert [gene.name for gene in space.genes[:4]] == [
        "width", "bits qkv", "bits gate_up", "bits down",
    ]  # fmt: skip
    assert space.gene_bundles == (0,) * 4 + (1,) * 4 + (2,) * 4
    assert space.site_genes == ((1,), (2, 3), (5,), (6, 7), (9,), (10, 11))
    assert list(map(len, space.menus)) == [2**3 + 1] * 3
    genotype = Genotype((0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1))
    assert space.canonical(genotype).levels == (0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1)
    assert list(map(str, space.choices(genotype))) == [
        "w4g64", "dense", "drop", "drop", "dense", "dense w4g32",
    ]  # fmt: skip


@given(spaces())
def test_sites_are_told_with_all_that_their_menus_do(space: SearchSpace) -> None:
    told = list(space.site_choices())

    assert len(set(told)) == len(told)
    assert set(told) == {
        pair
        for bundle, menu in zip(space.bundles, space.menus, strict=True)
        for entry in menu
        for pair in zip(bundle.sites, entry.choices, strict=True)
    }


@pytest.mark.parametrize(
    ("choice", "name"),
    [(Choice(4, 4), "dense"), (Choice(0, 4), "drop"), (Choice(3, 4), "width 3/4")],
)
def test_a_choice_is_named(choice: Choice, name: str) -> None:
    assert str(choice) == name


def test_a_site_without_genes_has_one_entry() -> None:
    site = Site(0, SiteKind.ATTENTION, 1, ())

    assert [entry.choices[0] for entry in SearchSpace((site,)).menus[0]] == [Choice(1, 1)]


def test_the_genes_of_a_site_are_put_together() -> None:
    space = make_space(
        1,
        2,
        96,
        depth=True,
        width=True,
        weights=Weights(bits=(4,), sparsities=(WeightSetting(sparsity=0.5),), cache_bits=(8,)),
        groups=GROUPS,
    )

    attention = space.sites[0]
    assert str(attention.choice((1, 1, 1, 1))) == "width 1/2, s0.5+w4g64, kv8"
    assert str(attention.choice((0, 0, 1, 0))) == "s0.5"
    assert str(attention.choice((0, 0, 0, 1))) == "kv8"
    assert str(attention.choice((2, 1, 1, 1))) == "drop"


def test_a_menu_too_long_to_write_out_is_refused() -> None:
    bits = Weights(bits=(8, 6, 5, 4, 3, 2), sparsities=tuple(SPARSITIES), cache_bits=(8, 4))
    wide = {kind: own * 2 for kind, own in GROUPS.items()}

    with pytest.raises(SpecError, match="Search fewer bits, or fused groups"):
        make_space(1, 4, 96, depth=True, width=True, weights=bits, groups=wide)
