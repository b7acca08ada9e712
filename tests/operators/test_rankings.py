"""Rankings of metrics: simplification keeps them, and equal rankings have equal names."""

import pytest
from hypothesis import assume, given, settings
from torch import Tensor

from autocompress.operators.expressions import evaluate
from autocompress.operators.rankings import Rankings, random_values
from autocompress.spaces.expression_trees import Tree, extent, nodes, parse, to_text
from autocompress.spaces.signs import Sign, sign
from autocompress.spaces.simplification import canonical, simplified
from tests.spaces.random_trees import TREES

ROWS, COLUMNS = 5, 7
VALUES = random_values(ROWS, COLUMNS, seed=1)
LARGEST = 1e9


def scores_of(tree: Tree) -> Tensor:
    return evaluate(tree, VALUES).expand(ROWS, COLUMNS)


def is_tame(tree: Tree) -> bool:
    """Whether double precision holds all that is computed on the way, with digits to spare."""
    values = [evaluate(node, VALUES).abs() for node in nodes(tree)]
    return all(
        bool(((own < LARGEST) & ((own > 1 / LARGEST) | (own == 0))).all()) for own in values
    )


@settings(max_examples=300)
@given(TREES)
def test_simplifying_keeps_all_values(tree: Tree) -> None:
    short = simplified(tree)
    assume(is_tame(tree) and is_tame(short))
    before, after = scores_of(tree), scores_of(short)

    # What cancels loses the digits of the largest number on the way; `log` adds 1e-12.
    largest = max(float(evaluate(node, VALUES).abs().max()) for node in nodes(tree))
    assert float((before - after).abs().max()) <= 1e-5 * max(largest, 1.0)


@settings(max_examples=300)
@given(TREES)
def test_no_pair_of_a_row_is_ordered_otherwise_by_the_canonical_form(tree: Tree) -> None:
    short = canonical(tree)
    assume(is_tame(tree) and is_tame(short))
    gaps = [own[:, :, None] - own[:, None, :] for own in (scores_of(tree), scores_of(short))]
    clear = [
        own.abs() > 1e-5 * max(float(evaluate(node, VALUES).abs().max()) for node in nodes(which))
        for own, which in zip(gaps, (tree, short), strict=True)
    ]

    is_reversed = clear[0] & clear[1] & (gaps[0].sign() != gaps[1].sign())

    assert not bool(is_reversed.any())


@given(TREES)
def test_signs_are_as_told(tree: Tree) -> None:
    scores = evaluate(tree, VALUES)
    assume(bool(scores.isfinite().all()))

    assert sign(tree) is Sign.ANY or bool((scores >= 0).all())


@given(TREES)
def test_a_value_has_the_sides_that_its_extent_tells(tree: Tree) -> None:
    rows, columns = evaluate(tree, VALUES).shape

    told = extent(tree)
    assert (rows, columns) == (
        ROWS if "ROWS" in str(told) or "MATRIX" in str(told) else 1,
        COLUMNS if "COLUMNS" in str(told) or "MATRIX" in str(told) else 1,
    )


@given(TREES)
def test_a_tree_and_its_canonical_form_have_one_name(tree: Tree) -> None:
    ranking = Rankings()
    short = canonical(tree)
    assume(is_tame(tree) and is_tame(short))
    before = ranking(tree)
    assume(before is not None and ranking(short) is not None)

    assert ranking(short) == before, to_text(short)


@pytest.mark.parametrize(
    "text", ["W - W", "rowsum(W)", "W / (W - W)", "norm(W)", "tanh(100 * abs(W) + 100)", "W * 0"]
)
def test_what_ranks_nothing_has_no_name(text: str) -> None:
    assert Rankings()(parse(text)) is None


def test_what_ranks_otherwise_has_another_name() -> None:
    ranking = Rankings()
    texts = ["abs(W)", "abs(W) * X", "square(W) * minmax(G)", "abs(W) * G", "W", "X", "-abs(W)"]

    assert len({ranking(parse(text)) for text in texts}) == len(texts)


def test_what_no_rule_sees_is_seen_by_ranks() -> None:
    ranking = Rankings()

    assert ranking(parse("abs(W) * X + abs(W)")) == ranking(parse("abs(W) * (X + 1)"))
    assert ranking(parse("log(W) + log(X)")) == ranking(parse("abs(W) * X"))
