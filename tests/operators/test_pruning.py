"""Masks hold the highest scores; Wanda and magnitude are what they are called."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.operators.base import Statistics
from autocompress.operators.masks import mask_by_pattern, mask_in_matrix, mask_in_rows
from autocompress.operators.pruning import Magnitude, Wanda
from autocompress.spaces.settings import WeightSetting
from tests.operators.layers import error_of, random_layer, settings

SPARSITIES = st.integers(1, 999).map(lambda n: n / 1000)


@given(st.integers(1, 12), st.integers(1, 40), SPARSITIES, st.integers(0, 99))
def test_masks_keep_the_highest_and_exactly_as_many(
    rows: int, columns: int, sparsity: float, seed: int
) -> None:
    # Few distinct scores, so that there are ties.
    scores = torch.randint(9, (rows, columns), generator=torch.Generator().manual_seed(seed))
    setting = WeightSetting(sparsity=sparsity)
    count = setting.stored_weights(rows, columns)

    whole, by_row = mask_in_matrix(scores, setting), mask_in_rows(scores, setting)

    best = scores.flatten().sort(descending=True).values[:count].sum()
    assert int(whole.sum()) == int(by_row.sum()) == count
    assert (scores * whole).sum() == best
    counts = by_row.sum(1)
    assert int(counts.max() - counts.min()) <= 1
    for own, kept in zip(scores, by_row, strict=True):
        best = own.sort(descending=True).values[: int(kept.sum())].sum()
        assert (own * kept).sum() == best


@given(st.sampled_from([(1, 2), (2, 4), (4, 8), (3, 5)]), st.integers(1, 9), st.integers(0, 99))
def test_a_pattern_keeps_the_highest_of_every_group(
    pattern: tuple[int, int], rows: int, seed: int
) -> None:
    n, m = pattern
    scores = torch.randn(rows, 3 * m, generator=torch.Generator().manual_seed(seed))

    mask = mask_by_pattern(scores, n, m).view(-1, m)

    groups = scores.view(-1, m)
    kept = groups.masked_fill(~mask, torch.inf).amin(1)
    gone = groups.masked_fill(mask, -torch.inf).amax(1)
    assert mask.sum(1).unique().tolist() == [n]
    assert bool((kept >= gone).all())


@pytest.mark.parametrize("text", ["s0.5", "s2:4", "s0.7"])
def test_with_equal_inputs_wanda_ranks_a_row_by_magnitude(text: str) -> None:
    weight, _ = random_layer(1, 128)
    statistics = Statistics(3 * torch.eye(128))
    (setting,) = settings(text)

    wanda = Wanda().build(weight, statistics, [setting])[setting]

    magnitude = Magnitude().build(weight, statistics, [setting])[setting]
    assert torch.equal(wanda.decode(weight.dtype), magnitude.decode(weight.dtype))


def test_wanda_keeps_small_weights_of_large_inputs() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    statistics = Statistics(torch.diag(torch.tensor([100.0, 1.0, 1.0, 0.01])))
    (setting,) = settings("s0.5")

    found = Wanda().build(weight, statistics, [setting])[setting].decode(torch.float32)

    assert found.tolist() == [[1.0, 0.0, 3.0, 0.0], [4.0, 3.0, 0.0, 0.0]]


@pytest.mark.parametrize("seed", range(3))
def test_wanda_loses_less_where_inputs_differ(seed: int) -> None:
    weight, statistics = random_layer(32, 128, seed)
    # Inputs over three orders of magnitude, as of a language model's outlier features.
    sizes = torch.logspace(0, 1.5, 128)
    uneven = Statistics(sizes[:, None] * statistics.hessian * sizes)
    (setting,) = settings("s0.5")

    wanda = error_of(Wanda().build(weight, uneven, [setting])[setting], weight, uneven)

    magnitude = Magnitude().build(weight, uneven, [setting])[setting]
    assert wanda < error_of(magnitude, weight, uneven)


def test_values_that_stay_are_the_models_own() -> None:
    weight, statistics = random_layer(8, 64, dtype=torch.bfloat16)
    (setting,) = settings("s0.5")

    packed = Wanda().build(weight, statistics, [setting])[setting]

    mask = packed.mask()
    assert mask is not None
    assert torch.equal(packed.decode(torch.bfloat16)[mask], weight[mask])


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=8, max_size=8), min_size=1, max_size=5),
    st.floats(0.05, 0.95),
)
def test_of_equal_scores_the_first_of_a_row_stay(rows: list[list[int]], sparsity: float) -> None:
    scores, setting = torch.tensor(rows).float(), WeightSetting(sparsity=sparsity)
    each, more = divmod(setting.stored_weights(*scores.shape), len(rows))
    order = scores.argsort(dim=1, descending=True, stable=True)

    kept = mask_in_rows(scores, setting)

    for row, places in enumerate(order.tolist()):
        n = each + (row < more)
        assert sorted(kept[row].nonzero().flatten().tolist()) == sorted(places[:n])
