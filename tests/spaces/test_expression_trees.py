"""Trees of symbolic metrics: they are read as they are written, and every part has its extent."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autocompress.spaces.expression_trees import (
    Combine,
    Extent,
    Number,
    Tree,
    Variable,
    extent,
    nodes,
    parse,
    replaced,
    size,
    to_text,
)
from autocompress.spaces.simplification import canonical, simplified
from autocompress.spaces.tree_moves import cross, grow, join, mutate
from tests.spaces.random_trees import TREES


def reads_something(tree: Tree) -> bool:
    return any(isinstance(node, Variable) for node in nodes(tree))


@given(TREES)
def test_what_is_written_is_read_back(tree: Tree) -> None:
    assume(reads_something(tree))

    assert parse(to_text(tree)) == tree


@pytest.mark.parametrize(
    "text",
    ["abs(W) * X", "W - (X - G)", "(W - X) - G", "-(W * X)", "-W * X", "W / (X * G)", "W + 0.5"],
)
def test_brackets_stay_where_they_mean_something(text: str) -> None:
    assert parse(to_text(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X", Extent.COLUMNS),
        ("square(X) * 2", Extent.COLUMNS),
        ("W + X", Extent.MATRIX),
        ("columnsum(abs(W))", Extent.COLUMNS),
        ("rowsum(G)", Extent.ROWS),
        ("rowsum(X)", Extent.NUMBER),
        ("rowsum(W) * X", Extent.MATRIX),
        ("norm(G) / 2", Extent.NUMBER),
    ],
)
def test_extents_follow_from_those_of_the_parts(text: str, expected: Extent) -> None:
    assert extent(parse(text)) is expected


@given(TREES, st.data())
def test_a_part_put_back_in_its_place_changes_nothing(tree: Tree, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, size(tree) - 1))

    assert replaced(tree, place, list(nodes(tree))[place]) == tree


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_are_written_without_a_sign(value: float) -> None:
    with pytest.raises(ValueError, match="a number must lie in"):
        Number(value)


@given(st.integers(0, 2**32), st.integers(0, 4), st.sampled_from(Extent))
def test_what_grows_has_the_extent_asked_for(seed: int, depth: int, wanted: Extent) -> None:
    tree = grow(np.random.default_rng(seed), depth, wanted)

    assert extent(tree) is wanted
    assert size(tree) <= 2 ** (depth + 3)


@given(TREES, TREES, st.integers(0, 2**32))
def test_moves_keep_the_extent_of_whatever_is_a_matrix(
    first: Tree, second: Tree, seed: int
) -> None:
    assume(extent(first) is Extent.MATRIX)
    rng = np.random.default_rng(seed)

    assert extent(mutate(first, rng)) is Extent.MATRIX
    assert extent(cross(first, second, rng)) is Extent.MATRIX
    assert extent(join(first, second, rng)) is Extent.MATRIX


@given(TREES)
def test_simplifying_ends_and_makes_nothing_longer_to_read(tree: Tree) -> None:
    once = simplified(tree)

    assert simplified(once) == once
    assert canonical(canonical(tree)) == canonical(tree)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("W * X", "W * X"),
        ("exp(log(abs(W)))", "abs(W)"),
        ("sqrt(square(W)) * X", "abs(W) * X"),
        ("(W + X) - X", "W"),
        ("W - (W - X)", "X"),
        ("W * G / G", "W"),
        ("abs(-W)", "abs(W)"),
        ("--W", "W"),
        ("2 * 3 * G * W", "6 * G * W"),
        ("minmax(normalize(3 * G + 1)) * W", "W * minmax(G)"),
        ("square(X - G)", "square(G - X)"),
        ("rowsum(rowsum(W)) * X", "X * rowsum(W)"),
        ("rowsum(norm(W)) * W", "W * norm(W)"),
    ],
)
def test_opposing_operations_go(text: str, expected: str) -> None:
    assert to_text(simplified(parse(text))) == to_text(simplified(parse(expected)))


@pytest.mark.parametrize(
    "text",
    [
        "abs(W) * X",
        "X * abs(W)",
        "log(abs(W) * X) / 2 + 1",
        "square(W * X)",
        "sqrt(W) * sqrt(X)",
        "exp(X * abs(-W))",
        "minmax(tanh(abs(W * X)))",
        "abs(W) * X / rowsum(abs(W))",
        "3 * (abs(W) * X - norm(G))",
        "abs(W) * X * G / G",
        "square(square(W)) * square(X) * square(X)",
    ],
)
def test_all_that_ranks_like_wanda_is_written_alike(text: str) -> None:
    assert to_text(canonical(parse(text))) == "X * abs(W)"


@given(TREES, TREES)
def test_the_order_of_arguments_does_not_matter(left: Tree, right: Tree) -> None:
    for operation in "+*":
        first, second = Combine(operation, left, right), Combine(operation, right, left)

        assert canonical(first) == canonical(second)
