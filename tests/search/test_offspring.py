"""Which mutants are measured: those that promise most for what they cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.offspring import UNSHARED, cost, pick, shared_genes
from autocompress.search.surrogate import Observation, Surrogate
from tests.search.synthetic import SPACE

GENES = len(SPACE.genes)
LOSSES = [[0.1 * level for level in range(len(gene.settings))] for gene in SPACE.genes]
entries = st.tuples(*(st.integers(0, len(menu) - 1) for menu in SPACE.menus))
populations = st.lists(entries, min_size=1, max_size=12, unique=True)


def surrogate() -> Surrogate:
    rng = np.random.default_rng(0)
    rows = [tuple(int(rng.integers(len(menu))) for menu in SPACE.menus) for _ in range(30)]
    return Surrogate(
        SPACE,
        LOSSES,
        [Observation(row, (0, 4), float(rng.standard_normal()), 0.01) for row in rows],
    )


def mutants_of(parent: np.ndarray, sites: range) -> np.ndarray:
    rows = []
    for site in sites:
        for entry in range(len(SPACE.menus[site])):
            if entry != parent[site]:
                row = parent.copy()
                row[site] = entry
                rows.append(row)
    return np.asarray(rows)


@given(populations, entries)
def test_a_batch_costs_no_more_than_its_candidates_alone(
    population: list[tuple[int, ...]], parent: tuple[int, ...]
) -> None:
    own = np.asarray([row for row in population if row != parent]).reshape(-1, GENES)

    batch = cost(own, np.asarray(parent))

    assert UNSHARED * len(own) <= batch <= len(own) + 1e-9


@given(populations, entries)
def test_a_batch_costs_no_less_than_any_part_of_it(
    population: list[tuple[int, ...]], parent: tuple[int, ...]
) -> None:
    rows, first = np.asarray(population), np.asarray(parent)

    assert cost(rows[: len(rows) // 2 + 1], first) <= cost(rows, first) + 1e-9


def test_changes_behind_a_depth_cost_what_is_behind_it() -> None:
    parent = np.zeros(GENES, dtype=int)
    last = parent.copy()
    last[-1] = 1

    expected = UNSHARED + (1 - UNSHARED) / GENES
    assert cost(last[None], parent) == pytest.approx(expected)


@given(entries, entries)
def test_shared_genes_are_those_before_the_first_difference(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    (found,) = shared_genes(np.asarray([first]), np.asarray(second))

    assert first[:found] == second[:found]
    assert found == GENES or first[found] != second[found]


@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_what_is_picked_is_there_and_picked_once(n: int, seed: int) -> None:
    parent = np.zeros(GENES, dtype=int)
    mutants = mutants_of(parent, range(GENES))

    picked = pick(surrogate(), mutants, parent, n, np.random.default_rng(seed))

    assert len(picked) == len(set(picked)) == min(n, len(mutants))
    assert set(picked) <= set(range(len(mutants)))


def test_of_equal_gains_the_cheaper_are_picked() -> None:
    # Nothing is known but that all sites are alike: the later ones promise as much for less.
    alike = Surrogate(
        SPACE,
        [[0.1] * len(menu) for menu in SPACE.menus],
        [Observation((0,) * GENES, (0, 4), 0.0, 0.01)],
    )
    parent = np.zeros(GENES, dtype=int)
    mutants = mutants_of(parent, range(GENES))

    picked = pick(alike, mutants, parent, 4, np.random.default_rng(0))

    assert int(shared_genes(mutants[picked], parent).min()) >= GENES // 2


def test_a_large_gain_at_the_first_site_is_not_missed() -> None:
    rows = [tuple(int(i == site) for i in range(GENES)) for site in range(GENES)]
    better = (2,) + (0,) * (GENES - 1)
    known = Surrogate(
        SPACE,
        [[0.1] * len(menu) for menu in SPACE.menus],
        [Observation(row, (0, 4), 0.0, 1e-4) for row in rows]
        + [Observation(better, (0, 4), -5.0, 1e-4)],
    )
    parent = np.zeros(GENES, dtype=int)
    mutants = np.asarray([better, *rows])

    assert 0 in pick(known, mutants, parent, 4, np.random.default_rng(0))
