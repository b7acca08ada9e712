"""What is proposed: near the untuned at first, then what helped alone, joined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.decoding_proposals import (
    MOST_MOVES,
    first_proposal,
    next_proposal,
)
from autocompress.spaces.decoding import PARAMETERS, DecodingSpace, Value
from autocompress.trial import Genotype

SPACE = DecodingSpace(PARAMETERS)
UNTUNED = SPACE.genotype({})
GOOD: dict[str, Value] = {"stop": "line", "batch": 8, "cache": "static"}


def score(genotype: Genotype) -> float:
    """Return a product of what each parameter is worth: three help, sampling and beams harm."""
    values = SPACE.values(genotype)
    helped = sum(values.get(name) == value for name, value in GOOD.items())
    harmed = int(bool(values["do_sample"])) + int(values.get("num_beams", 1) != 1)
    return float(0.4**helped * 2.0**harmed)


@given(st.integers(0, 2**32))
def test_the_first_change_few_parameters(seed: int) -> None:
    found = SPACE.values(first_proposal(SPACE, np.random.default_rng(seed)))
    before = SPACE.values(UNTUNED)

    changed = [name for name in before.keys() & found.keys() if before[name] != found[name]]
    assert len(changed) <= MOST_MOVES


@pytest.mark.parametrize("seed", range(5))
def test_what_helped_alone_is_joined(seed: int) -> None:
    alone = [SPACE.genotype({name: value}) for name, value in GOOD.items()]
    known = {own: score(own) for own in [UNTUNED, *alone, SPACE.genotype({"do_sample": True})]}
    rng = np.random.default_rng(seed)

    for _ in range(6):
        leader = min(known, key=lambda own: known[own])
        found = next_proposal(SPACE, known, [leader], rng)
        assert found is not None
        known[found] = score(found)

    best = SPACE.values(min(known, key=lambda own: known[own]))
    assert all(best.get(name) == value for name, value in GOOD.items())


@given(st.integers(0, 2**32))
def test_what_is_known_is_not_proposed_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = {SPACE.draw(rng): 1.0 for _ in range(5)} | {UNTUNED: 0.5}

    assert next_proposal(SPACE, known, [UNTUNED], rng) not in known


def test_a_space_that_is_all_known_has_nothing_to_propose() -> None:
    two = SPACE.only(
        {own.name: own.menu[:2] if own.name == "batch" else own.menu[:1] for own in PARAMETERS}
    )
    known = dict.fromkeys(two.all(), 1.0)

    assert next_proposal(two, known, list(known), np.random.default_rng(0)) is None
