"""What points stand for: always candidates that meet the constraint."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.base import Task
from autocompress.search.coordinates import (
    KNOTS,
    MOST_FACTORS,
    Factors,
    RawLevels,
    profile_shares,
    site_shares,
)
from autocompress.search.single_changes import additive_solution
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.making import make_space
from tests.search.synthetic import SPACE, constraint_at

RULE = [
    [0.0, *(0.3 * (site % 4) + entry for entry in range(1, len(menu)))]
    for site, menu in enumerate(SPACE.menus)
]
DEEP = make_space(40, 2, 256, depth=True, width=True)
LAYERS = make_space(12, 2, 256, depth=True, width=True, whole_layers=True)
every_space = pytest.mark.parametrize("space", [SPACE, DEEP, LAYERS])
SHARES = st.sampled_from([site_shares(SPACE), profile_shares(SPACE)])


def task(speedup: float) -> Task:
    return Task(constraint_at(speedup), 0, 16, 64)


def points(n: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(st.floats(-1, 1), min_size=n, max_size=n).map(tuple)


@given(st.data(), SHARES, st.sampled_from([1.2, 2.0, 3.0]))
def test_factors_stand_for_what_meets_the_constraint(
    data: st.DataObject, shares: np.ndarray, speedup: float
) -> None:
    factors = Factors(task(speedup), RULE, shares)
    point = data.draw(points(len(factors.dimensions)))

    candidate = factors.candidate(point, 0)

    assert constraint_at(speedup).violation(candidate) <= 0
    assert SPACE.canonical(candidate) == candidate


@given(st.data(), st.integers(0, 100))
def test_raw_levels_are_repaired(data: st.DataObject, number: int) -> None:
    own = task(2.0)
    ranks = st.tuples(*(st.integers(0, len(levels) - 1) for levels in own.allowed))

    candidate = RawLevels(own).candidate(data.draw(ranks), number)

    assert constraint_at(2.0).violation(candidate) <= 0


@given(SHARES, st.sampled_from([1.2, 2.0, 3.0]))
def test_equal_factors_stand_for_the_additive_solution(shares: np.ndarray, speedup: float) -> None:
    factors = Factors(task(speedup), RULE, shares)

    (first,) = factors.first

    assert factors.candidate(first, 0) == additive_solution(task(speedup), RULE)


def test_a_site_that_loses_more_is_compressed_less() -> None:
    factors = Factors(task(2.0), RULE, site_shares(SPACE))
    sites = range(len(SPACE.sites))

    def kept(site: int, factor: float) -> int:
        point = tuple(factor * (site == other) for other in sites)
        return SPACE.choices(factors.candidate(point, 0))[site].kept

    assert all(kept(site, -1.0) <= kept(site, 1.0) for site in sites)
    assert any(kept(site, -1.0) < kept(site, 1.0) for site in sites)


@every_space
def test_site_factors_are_few_and_leave_no_gene_out(space: SearchSpace) -> None:
    shares = site_shares(space)

    assert shares.shape[1] == len(space.genes)
    assert len(shares) <= MOST_FACTORS
    assert (shares.sum(axis=0) >= 1).all()
    assert (shares.sum(axis=1) >= 1).all()


def test_neighbouring_layers_share_a_factor_where_there_are_many() -> None:
    shares = site_shares(DEEP)

    attention = shares[:, ::2].argmax(axis=0)
    assert len(shares) == MOST_FACTORS
    assert (np.diff(attention) >= 0).all()
    assert np.bincount(attention, minlength=len(shares)).max() == 3


@every_space
def test_a_profile_is_linear_between_its_knots(space: SearchSpace) -> None:
    shares = profile_shares(space)

    np.testing.assert_allclose(shares.sum(axis=0), 1)
    assert len(shares) % KNOTS == 0
    assert ((shares > 0).sum(axis=0) <= 2).all()
    assert (shares.sum(axis=1) > 0).all()
