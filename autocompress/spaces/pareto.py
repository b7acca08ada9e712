"""The Pareto front of cost and loss, and how much it dominates. Knows only numbers."""

from collections.abc import Sequence

Point = tuple[float, float]
"""What a candidate costs and what it loses: finite, lower is better in both."""


def dominates(one: Point, other: Point) -> bool:
    """Return whether a point is nowhere worse than another, and somewhere better."""
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Return the positions of the points that none dominates, lowest cost first.

    Equal points do not dominate each other: they stay or go together.
    """
    front: list[int] = []
    # By cost, then by loss: only the last member can dominate the next point.
    for position in sorted(range(len(points)), key=points.__getitem__):
        point = points[position]
        if not front or not dominates(points[front[-1]], point):
            front.append(position)
    return front


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the area that points dominate within a reference point.

    A point that is somewhere no better than the reference adds nothing (Zitzler and Thiele, IEEE
    Transactions on Evolutionary Computation 3(4), 1999, in two dimensions).
    """
    area, lowest = 0.0, reference[1]
    for cost, loss in sorted(points):
        if cost < reference[0] and loss < lowest:
            area += (reference[0] - cost) * (lowest - loss)
            lowest = loss
    return area
