"""OWL's sparsities: their mean is the target, and outliers lower them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.operators.owl import outlier_share, owl_sparsities

LAYERS = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10**9)), min_size=1, max_size=40)


@given(LAYERS, st.floats(0.2, 0.8), st.floats(0, 0.1))
def test_the_mean_is_the_target_and_outliers_are_spared(
    layers: list[tuple[float, int]], sparsity: float, spread: float
) -> None:
    shares, sizes = [share for share, _ in layers], [size for _, size in layers]

    found = owl_sparsities(shares, sizes, sparsity, spread)

    mean = sum(own * size for own, size in zip(found, sizes, strict=True)) / sum(sizes)
    # Sums of forty numbers in double precision.
    assert mean == pytest.approx(sparsity, abs=1e-12)
    assert max(found) - min(found) <= 2 * spread + 1e-12
    ordered = [own for _, own in sorted(zip(shares, found, strict=True), key=lambda p: p[0])]
    assert ordered == sorted(ordered, reverse=True)


def test_a_known_answer() -> None:
    found = owl_sparsities([0.0, 0.02, 0.04], [1, 1, 2], 0.7, 0.08)

    # Offsets 0, 0.08 and 0.16, of which the mean by size is 0.1.
    assert found == pytest.approx((0.8, 0.72, 0.64))


def test_layers_alike_are_pruned_alike() -> None:
    assert owl_sparsities([0.1, 0.1], [3, 5], 0.5) == (0.5, 0.5)


def test_a_spread_too_wide_is_refused() -> None:
    with pytest.raises(SpecError, match=r"every layer, but got 0.750 to 1.050. Take a spread be"):
        owl_sparsities([0.0, 1.0], [1, 1], 0.9, 0.15)


def test_outliers_are_counted_from_a_multiple_of_the_mean() -> None:
    scores = torch.ones(10, 10)
    scores[0, :3] = 100.0

    assert outlier_share(scores, 5.0) == pytest.approx(0.03)
