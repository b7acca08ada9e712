"""The intervals of times: over processes that answered a share of the items each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.pipeline.intervals import MOST, cuts, ratio_over_processes


@given(n=st.integers(1, 200), processes=st.integers(1, 100))
def test_items_are_cut_into_shares_that_differ_by_one_at_most(n: int, processes: int) -> None:
    edges = cuts(n, processes)
    sizes = set(np.diff(edges))

    assert (edges[0], edges[-1]) == (0, n)
    assert len(edges) - 1 == min(n, processes)
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_the_ratio_is_that_of_the_sums() -> None:
    rng = np.random.default_rng(0)
    above, below = rng.uniform(1, 2, (2, 30))

    found, (low, high) = ratio_over_processes([above], [below], 4)

    assert found == pytest.approx(above.sum() / below.sum())
    assert low < found < high


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    true, processes, items, held = 2.0, 4, 40, 0
    for _ in range(400):
        # Answers take unlike times, and each process runs one of two models faster or slower.
        lengths = rng.lognormal(0, 0.5, items)
        by_process = np.repeat(rng.lognormal(0, 0.03, processes), items // processes)
        noise = rng.lognormal(0, 0.05, (2, items))
        slow, fast = true * lengths * by_process * noise[0], lengths * noise[1]
        _, (low, high) = ratio_over_processes([slow], [fast], processes)
        held += low <= true <= high

    assert 0.92 <= held / 400 <= 0.98


def test_one_process_tells_nothing_of_others() -> None:
    assert ratio_over_processes([np.ones(5)], [np.ones(5)], 1) == (1.0, (0.0, MOST))


def test_a_sum_of_nothing_leaves_all_open() -> None:
    right = np.array([1.0, 0.0, 0.0, 0.0])

    found, (low, high) = ratio_over_processes([np.ones(4)], [right], 4)

    assert found == pytest.approx(4.0)
    assert low < 1e-10
    assert high > 1e10
