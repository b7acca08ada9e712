"""Structured optimal brain surgeon against its own definition: the least-squares refit."""

import itertools

import pytest
import torch
from torch import Tensor

from autocompress.models.surgery import Level
from autocompress.operators.base import Group, Operator, Statistics
from autocompress.operators.structured_obs import StructuredObs

DAMPING = 0.01
HIDDEN = 6
# Double precision through some tens of rank-one updates of matrices with a condition near 100.
EXACT = 1e-8

# (units, columns of a unit): MLP columns, and KV groups whose query heads lie side by side.
SHAPES = [(12, 1), (4, 6), (3, 8), (2, 5)]
all_shapes = pytest.mark.parametrize(
    ("units", "size"), SHAPES, ids=["columns", "four groups", "three groups", "two groups"]
)


def inputs(columns: int, seed: int = 0) -> Tensor:
    """Return correlated inputs, shape (tokens, columns)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, columns, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return x @ mixing.mul(0.4).add(torch.eye(columns))


def problem(units: int, size: int, seed: int = 0) -> tuple[Group, Statistics, Tensor]:
    """Return a site with its statistics, and its inputs."""
    generator = torch.Generator().manual_seed(100 + seed)
    x = inputs(units * size, seed)
    output = torch.randn(HIDDEN, units * size, generator=generator, dtype=torch.float64)
    return Group(output, size), Statistics(x.T @ x / len(x)), x


def damped(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """Return the Hessian whose quadratic form the operator minimises."""
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian)).double()


def columns_of(units: Tensor, size: int) -> Tensor:
    return torch.cat([torch.arange(size) + unit * size for unit in units.tolist()])


def refit(output: Tensor, hessian: Tensor, columns: Tensor) -> Tensor:
    """Return the weights on some columns whose outputs are nearest to the dense ones."""
    kept: Tensor = torch.linalg.solve(hessian[columns][:, columns], hessian[columns] @ output.T)
    return kept.T  # (hidden, columns kept)


def error(output: Tensor, hessian: Tensor, columns: Tensor, weights: Tensor) -> float:
    """Return the mean squared output error of weights on some columns."""
    difference = output.clone()
    difference[:, columns] -= weights
    return float(torch.trace(difference @ hessian @ difference.T))


def all_levels(
    group: Group, statistics: Statistics, operator: Operator | None = None
) -> dict[int, Level]:
    settings = range(1, group.units)
    return dict((operator or StructuredObs(DAMPING)).build(group, statistics, settings))


@all_shapes
def test_a_level_keeps_whole_units(units: int, size: int) -> None:
    group, statistics, _ = problem(units, size)

    levels = all_levels(group, statistics)

    assert sorted(levels) == list(range(1, units))
    for kept, level in levels.items():
        assert level.kept.tolist() == sorted(set(level.kept.tolist()))
        assert level.kept.shape == (kept,)
        assert level.output.shape == (HIDDEN, kept * size)
        assert 0 <= int(level.kept[0]) <= int(level.kept[-1]) < units


@all_shapes
def test_levels_are_nested(units: int, size: int) -> None:
    levels = all_levels(*problem(units, size)[:2])

    for fewer, more in itertools.pairwise(range(1, units)):
        assert set(levels[fewer].kept.tolist()) < set(levels[more].kept.tolist())


@all_shapes
@pytest.mark.parametrize("seed", range(3))
def test_every_level_is_the_least_squares_refit(units: int, size: int, seed: int) -> None:
    group, statistics, _ = problem(units, size, seed)
    hessian = damped(statistics.hessian)

    for level in all_levels(group, statistics).values():
        expected = refit(group.output, hessian, columns_of(level.kept, size))
        torch.testing.assert_close(level.output, expected, rtol=0.0, atol=EXACT)


@all_shapes
@pytest.mark.parametrize("seed", range(3))
def test_the_first_unit_removed_is_the_cheapest_of_all(units: int, size: int, seed: int) -> None:
    group, statistics, _ = problem(units, size, seed)
    hessian = damped(statistics.hessian)

    level = all_levels(group, statistics)[units - 1]

    costs = {}
    for gone in range(units):
        left = columns_of(torch.tensor([u for u in range(units) if u != gone]), size)
        weights = refit(group.output, hessian, left)
        costs[gone] = error(group.output, hessian, left, weights)
    assert set(range(units)) - set(level.kept.tolist()) == {min(costs, key=costs.__getitem__)}


@all_shapes
@pytest.mark.parametrize("seed", range(3))
def test_compensation_is_never_worse_than_slicing(units: int, size: int, seed: int) -> None:
    group, statistics, _ = problem(units, size, seed)
    hessian = damped(statistics.hessian)

    for level in all_levels(group, statistics).values():
        columns = columns_of(level.kept, size)
        sliced = error(group.output, hessian, columns, group.output[:, columns])
        compensated = error(group.output, hessian, columns, level.output)
        assert compensated <= sliced


@all_shapes
def test_compensation_helps_on_the_calibration_inputs(units: int, size: int) -> None:
    group, statistics, x = problem(units, size)
    operator = StructuredObs(damping=1e-6)
    dense = x @ group.output.T

    for level in all_levels(group, statistics, operator).values():
        columns = columns_of(level.kept, size)
        sliced = (x[:, columns] @ group.output[:, columns].T - dense).square().mean()
        compensated = (x[:, columns] @ level.output.T - dense).square().mean()
        # Damping of a millionth cannot outweigh what correlated inputs give back.
        assert compensated < sliced


@all_shapes
def test_fewer_units_never_lose_less(units: int, size: int) -> None:
    group, statistics, _ = problem(units, size)
    hessian = damped(statistics.hessian)

    levels = all_levels(group, statistics)

    errors = [
        error(group.output, hessian, columns_of(level.kept, size), level.output)
        for _, level in sorted(levels.items())
    ]
    assert errors == sorted(errors, reverse=True)


def test_one_of_two_equal_inputs_costs_nothing() -> None:
    x = inputs(8)
    x[:, 5] = x[:, 2]
    hessian = x.T @ x / len(x)
    output = torch.randn(HIDDEN, 8, generator=torch.Generator().manual_seed(3)).double()
    group, statistics = Group(output, 1), Statistics(hessian)

    level = all_levels(group, statistics, StructuredObs(damping=1e-8))[7]

    assert len({2, 5} & set(level.kept.tolist())) == 1
    position = next(i for i, unit in enumerate(level.kept.tolist()) if unit in {2, 5})
    lost = error(output, hessian, level.kept, level.output)
    # The damping is a hundred millionth of the Hessian: so is what is lost.
    assert lost < 1e-6 * float(torch.trace(output @ hessian @ output.T))
    torch.testing.assert_close(
        level.output[:, position], output[:, 2] + output[:, 5], rtol=0.0, atol=1e-5
    )


def test_one_of_two_equal_groups_costs_nothing() -> None:
    x = inputs(12)
    x[:, 8:12] = x[:, 0:4]
    output = torch.randn(HIDDEN, 12, generator=torch.Generator().manual_seed(3)).double()

    level = all_levels(
        Group(output, 4), Statistics(x.T @ x / len(x)), StructuredObs(damping=1e-8)
    )[2]

    assert 1 in level.kept.tolist()
    columns = columns_of(level.kept, 4)
    torch.testing.assert_close(x[:, columns] @ level.output.T, x @ output.T, rtol=0.0, atol=1e-4)


def test_a_dead_input_takes_part_in_nothing() -> None:
    x = inputs(6)
    x[:, 3] = 0.0
    output = torch.randn(HIDDEN, 6, generator=torch.Generator().manual_seed(3)).double()
    # Weights that small make it the cheapest: its own input is what it stands on, and that is 0.
    output[:, 3] = 1e-3

    level = all_levels(Group(output, 1), Statistics(x.T @ x / len(x)))[5]

    assert level.kept.tolist() == [0, 1, 2, 4, 5]
    torch.testing.assert_close(level.output, output[:, level.kept], rtol=0.0, atol=EXACT)


def test_a_site_without_any_input_is_still_built() -> None:
    output = torch.randn(HIDDEN, 6, generator=torch.Generator().manual_seed(3))

    levels = all_levels(Group(output, 2), Statistics(torch.zeros(6, 6)))

    assert all(bool(level.output.isfinite().all()) for level in levels.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_levels_have_the_number_format_of_the_weights(dtype: torch.dtype) -> None:
    group, statistics, _ = problem(6, 1)
    narrow = Group(group.output.to(dtype), 1)
    before = narrow.output.clone()

    levels = all_levels(narrow, Statistics(statistics.hessian.float()))

    assert all(level.output.dtype is dtype for level in levels.values())
    assert torch.equal(narrow.output, before)


def test_levels_do_not_depend_on_which_others_are_built() -> None:
    group, statistics, _ = problem(12, 1)
    operator = StructuredObs(DAMPING)

    whole = all_levels(group, statistics)
    some = operator.build(group, statistics, (3, 9))

    assert set(some) == {3, 9}
    for kept, level in some.items():
        assert torch.equal(level.kept, whole[kept].kept)
        assert torch.equal(level.output, whole[kept].output)


def test_joint_removals_of_a_wide_site_are_refits_too() -> None:
    # So wide that two columns go at a time.
    units = 2048
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(64, units, generator=generator, dtype=torch.float64)
    output = torch.randn(2, units, generator=generator, dtype=torch.float64)
    statistics = Statistics(x.T @ x / len(x))

    level = StructuredObs(DAMPING).build(Group(output, 1), statistics, (units - 3,))[units - 3]

    assert level.kept.shape == (units - 3,)
    expected = refit(output, damped(statistics.hessian), level.kept)
    torch.testing.assert_close(level.output, expected, rtol=0.0, atol=EXACT)
