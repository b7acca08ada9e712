"""Text drawn by loss: more where more is lost, nothing twice, the same for the same seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autocompress.training.weighting import drawn_by_loss

TEXT = np.arange(3000).reshape(1000, 3)


def lost_at_the_end(rows: np.ndarray) -> float:
    """Return a loss that is nine times as large in the last quarter of the text."""
    return float(np.where(rows[:, 0] >= 2250, 9.0, 1.0).mean())


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_so_many_sequences_of_the_text_are_drawn_and_none_twice(
    n: int, size: int, seed: int
) -> None:
    text = TEXT[:size]

    drawn = drawn_by_loss(text, n, lost_at_the_end, seed)

    assert len(drawn) == min(n, size)
    assert {*drawn[:, 0]} <= {*text[:, 0]}
    assert len({*drawn[:, 0]}) == len(drawn)


@given(st.integers(0, 30))
def test_more_is_drawn_where_more_is_lost(seed: int) -> None:
    drawn = drawn_by_loss(TEXT, 100, lost_at_the_end, seed)

    # Three quarters in expectation, less what is not put back.
    assert (drawn[:, 0] >= 2250).mean() > 0.5


@given(st.integers(0, 30))
def test_losses_that_differ_in_their_last_bits_draw_the_same(seed: int) -> None:
    first = drawn_by_loss(TEXT, 50, lost_at_the_end, seed)
    second = drawn_by_loss(TEXT, 50, lambda rows: lost_at_the_end(rows) * (1 + 1e-12), seed)

    assert (first == second).all()


def test_a_model_that_lost_nothing_somewhere_is_trained_there_all_the_same() -> None:
    drawn = drawn_by_loss(TEXT, 999, lambda rows: float((rows[:, 0] >= 2250).mean()), 0)

    assert len(drawn) == 999
