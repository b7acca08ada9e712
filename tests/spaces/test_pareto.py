"""The laws of dominance, of the Pareto front and of its hypervolume."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.pareto import Point, dominates, hypervolume, pareto_front

# Few values, so that points are often equal in one number or in both.
VALUES = st.integers(0, 6).map(float) | st.floats(-1e6, 1e6)
POINTS = st.lists(st.tuples(VALUES, VALUES), max_size=40)


def members(points: list[Point]) -> list[Point]:
    return [points[position] for position in pareto_front(points)]


@given(POINTS)
def test_no_member_is_dominated(points: list[Point]) -> None:
    front = members(points)

    assert not any(dominates(point, member) for member in front for point in points)


@given(POINTS)
def test_every_other_point_is_dominated_by_a_member(points: list[Point]) -> None:
    positions = pareto_front(points)

    others = [point for i, point in enumerate(points) if i not in positions]
    front = [points[position] for position in positions]
    assert all(any(dominates(member, point) for member in front) for point in others)


@given(POINTS.flatmap(lambda points: st.tuples(st.just(points), st.permutations(points))))
def test_the_order_of_the_points_does_not_matter(case: tuple[list[Point], list[Point]]) -> None:
    points, shuffled = case

    assert members(points) == members(shuffled)


@given(POINTS)
def test_the_front_of_a_front_is_itself(points: list[Point]) -> None:
    front = members(points)

    assert members(front) == front


@given(POINTS)
def test_members_go_from_least_cost_to_least_loss(points: list[Point]) -> None:
    front = members(points)

    assert front == sorted(front, key=lambda point: (point[0], -point[1]))


@given(st.tuples(VALUES, VALUES), st.tuples(VALUES, VALUES))
def test_points_never_dominate_each_other_both_ways(one: Point, other: Point) -> None:
    assert not (dominates(one, other) and dominates(other, one))


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1.0, 1.0)], [0]),
        ([(1.0, 1.0), (1.0, 1.0)], [0, 1]),
        ([(2.0, 1.0), (1.0, 2.0), (2.0, 2.0)], [1, 0]),
        ([(1.0, 2.0), (1.0, 1.0)], [1]),
        ([(2.0, 1.0), (1.0, 1.0)], [1]),
    ],
    ids=["none", "one", "equal", "trade", "same cost", "same loss"],
)
def test_the_front_of_a_few_points(points: list[Point], front: list[int]) -> None:
    assert pareto_front(points) == front


SIDE = 6
CELLS = st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)).map(
    lambda p: (float(p[0]), float(p[1]))
)
GRIDS = st.lists(CELLS, max_size=12)
REFERENCE = (5.0, 4.0)


@given(GRIDS)
def test_a_hypervolume_is_the_count_of_dominated_cells(points: list[Point]) -> None:
    # A cell of a whole grid is dominated where its lower left corner is.
    dominated = sum(
        any(cost <= x and loss <= y for cost, loss in points)
        for x in range(int(REFERENCE[0]))
        for y in range(int(REFERENCE[1]))
    )

    assert hypervolume(points, REFERENCE) == dominated


@given(GRIDS, CELLS)
def test_a_point_never_lessens_a_hypervolume(points: list[Point], more: Point) -> None:
    assert hypervolume([*points, more], REFERENCE) >= hypervolume(points, REFERENCE)


@given(GRIDS)
def test_the_front_alone_has_all_of_the_hypervolume(points: list[Point]) -> None:
    front = [points[position] for position in pareto_front(points)]

    assert hypervolume(front, REFERENCE) == hypervolume(points, REFERENCE)


@given(GRIDS)
def test_what_is_no_better_than_the_reference_adds_nothing(points: list[Point]) -> None:
    outside = [(REFERENCE[0], 0.0), (0.0, REFERENCE[1]), (SIDE + 1.0, SIDE + 1.0)]

    assert hypervolume([*points, *outside], REFERENCE) == hypervolume(points, REFERENCE)
