"""The divergence over the likeliest tokens and the rest, against the full one."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional

from autocompress.evaluators.teacher import losses, summarize

POSITIONS, VOCABULARY = 7, 50


def logits(seed: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn((POSITIONS, VOCABULARY), generator=generator)


def full_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return functional.kl_div(
        student.double().log_softmax(-1),
        teacher.double().log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)


TARGETS = torch.arange(POSITIONS)
CASES = st.tuples(st.integers(0, 10_000), st.floats(0.1, 8.0), st.floats(0.1, 8.0))


# A student that leaves the last three tokens less than rounding takes from 1.
@example((1200, 1.0, 6.0), 47)
@given(CASES, st.integers(1, VOCABULARY))
def test_the_divergence_is_a_lower_bound_of_the_full_one(
    case: tuple[int, float, float], k: int
) -> None:
    seed, sharp, other = case
    dense, student = logits(seed, sharp), logits(seed + 1, other)

    kl, _ = losses(summarize(dense, k), student, TARGETS)

    # Single precision: sums of 50 terms.
    assert (kl <= full_kl(dense, student) * (1 + 1e-4) + 1e-5).all()
    assert (kl >= -1e-5).all()


@given(CASES)
def test_the_divergence_grows_with_k(case: tuple[int, float, float]) -> None:
    seed, sharp, other = case
    dense, student = logits(seed, sharp), logits(seed + 1, other)

    few, more = (losses(summarize(dense, k), student, TARGETS)[0] for k in (5, 20))

    assert (few <= more * (1 + 1e-4) + 1e-5).all()


@given(CASES)
def test_the_whole_vocabulary_gives_the_full_divergence(case: tuple[int, float, float]) -> None:
    seed, sharp, other = case
    dense, student = logits(seed, sharp), logits(seed + 1, other)

    kl, nll = losses(summarize(dense, VOCABULARY + 9), student, TARGETS)

    torch.testing.assert_close(kl.double(), full_kl(dense, student), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        nll, functional.cross_entropy(student, TARGETS, reduction="none"), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("k", [1, 10, VOCABULARY])
def test_equal_predictions_do_not_diverge(k: int) -> None:
    dense = logits(3, 2.0)

    kl, _ = losses(summarize(dense, k), dense, TARGETS)

    assert kl.abs().max() < 1e-6


def test_a_rest_of_almost_nothing_stays_finite() -> None:
    dense = torch.full((POSITIONS, VOCABULARY), -200.0)
    dense[:, 0] = 0.0

    kl, _ = losses(summarize(dense, 1), dense.flip(1), TARGETS)
    same, _ = losses(summarize(dense, 1), dense, TARGETS)

    assert torch.isfinite(kl).all()
    assert torch.equal(same, torch.zeros(POSITIONS))


def test_the_summary_says_what_it_takes_to_keep() -> None:
    assert summarize(logits(0, 1.0), 10).bytes == POSITIONS * (10 * 8 + 4)
    assert summarize(logits(0, 1.0), VOCABULARY).bytes == POSITIONS * VOCABULARY * 8
