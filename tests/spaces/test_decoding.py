"""The algebra of decodings: what acts, what is equal, and how many there are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.spaces.decoding import (
    PARAMETERS,
    UNTUNED,
    DecodingSpace,
    Parameter,
    to_text,
)
from autocompress.trial import Genotype

WHOLE = DecodingSpace(PARAMETERS)
genotypes = st.tuples(*(st.integers(0, len(parameter.menu) - 1) for parameter in PARAMETERS)).map(
    Genotype
)
small_spaces = st.builds(
    lambda draft, sampled, batch: WHOLE.only(
        {
            **{parameter.name: parameter.menu[:1] for parameter in PARAMETERS},
            "draft": draft,
            "draft_tokens": (2, 4),
            "do_sample": sampled,
            "temperature": (1.0, 0.5, 0.2),
            "batch": batch,
        }
    ),
    st.sampled_from([("none",), ("none", "lookup"), ("model", "exit", "none")]),
    st.sampled_from([(False,), (True, False)]),
    st.sampled_from([(1,), (1, 8)]),
)


@given(genotypes)
def test_what_acts_says_all_of_a_decoding(genotype: Genotype) -> None:
    canonical = WHOLE.canonical(genotype)

    assert WHOLE.values(canonical) == WHOLE.values(genotype)
    assert WHOLE.genotype(WHOLE.values(genotype)) == canonical
    assert WHOLE.canonical(canonical) == canonical


@given(genotypes)
def test_nothing_acts_without_what_it_needs(genotype: Genotype) -> None:
    values = WHOLE.values(genotype)

    for parameter in PARAMETERS:
        if parameter.name in values:
            for name, held in parameter.needs.items():
                assert values[name] in held


@given(small_spaces)
def test_a_space_holds_each_decoding_once_and_as_many_as_it_says(space: DecodingSpace) -> None:
    found = list(space.all())

    assert len(set(found)) == len(found) == len(space)
    assert all(space.canonical(genotype) == genotype for genotype in found)


@given(small_spaces, st.integers(0, 2**32))
def test_what_is_drawn_is_in_the_space(space: DecodingSpace, seed: int) -> None:
    drawn = space.draw(np.random.default_rng(seed))

    assert drawn in set(space.all())
    assert drawn == space.draw(np.random.default_rng(seed))


@given(genotypes, st.integers(0, 2**32))
def test_a_neighbour_differs_in_one_parameter_that_acts_in_both(
    genotype: Genotype, seed: int
) -> None:
    before = WHOLE.values(WHOLE.canonical(genotype))

    moved = WHOLE.neighbour(WHOLE.canonical(genotype), np.random.default_rng(seed))

    after = WHOLE.values(moved)
    assert moved == WHOLE.canonical(moved)
    assert sum(before[name] != after[name] for name in before.keys() & after.keys()) == 1
    assert all(after[name] == UNTUNED[name] for name in after.keys() - before.keys())


def test_a_space_of_one_decoding_has_no_neighbours() -> None:
    alone = WHOLE.only({own.name: own.menu[:1] for own in PARAMETERS})
    only = alone.genotype({})

    assert alone.neighbour(only, np.random.default_rng(0)) == only


def test_level_0_is_what_nobody_tuned() -> None:
    values = WHOLE.values(Genotype((0,) * len(PARAMETERS)))

    assert to_text(values) == "untuned"
    assert values.items() <= UNTUNED.items()


def test_a_decoding_reads_as_what_was_tuned() -> None:
    genotype = WHOLE.genotype({"draft": "lookup", "draft_tokens": 8})

    assert to_text(WHOLE.values(genotype)) == "draft=lookup draft_tokens=8"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"warmth": 2}, "warmth: no parameter"),
        ({"batch": 3}, "batch may be 1, 2, 4, 8, but got 3"),
        ({"batch": True}, "batch may be 1, 2, 4, 8, but got True"),
        ({"top_k": 5}, "top_k may be nothing beside the others, but got 5"),
        ({"draft": "lookup", "draft_layers": 2}, "draft_layers may be nothing"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, bool | int], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        WHOLE.genotype(values)


def test_a_space_without_what_one_of_its_parameters_needs_is_refused() -> None:
    with pytest.raises(SpecError, match="top_k needs do_sample"):
        DecodingSpace([Parameter("top_k", (0, 5), {"do_sample": (True,)})])


def test_other_menus_are_for_known_parameters() -> None:
    with pytest.raises(SpecError, match="warmth: no parameter"):
        WHOLE.only({"warmth": (1, 2)})
