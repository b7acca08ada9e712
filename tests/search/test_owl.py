"""OWL's sparsities: their mean is the target, outliers lower them, the constraint is met."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import UnreachableTarget
from autocompress.search.base import Task
from autocompress.search.ledger import Ledger
from autocompress.search.owl import SPREADS, by_owl, owl_sparsities
from autocompress.spaces.cost import under
from autocompress.spaces.sizes import nominal_bits
from autocompress.trial import Genotype
from tests.spaces.problems import sparse_space

SPACE = sparse_space(4, 20)
SHARES = {5.0: (0.01, 0.05, 0.02, 0.01)}


def task_at(sparsity: float) -> Task:
    return Task(under(SPACE, nominal_bits(SPACE, 16), 16 * (1 - sparsity)), 0, 16, 10)


def listed(sparsity: float) -> list[Genotype]:
    """Return what the strategy lists; it asks for no measurement."""
    task = task_at(sparsity)
    steps = by_owl(SHARES)(task, Ledger(task.context))
    with pytest.raises(StopIteration) as end:
        next(steps)
    found: list[Genotype] = end.value.value
    return found


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.2, 0.8), st.floats(0, 0.1))
def test_the_mean_is_the_target_and_outliers_are_spared(
    shares: list[float], sparsity: float, spread: float
) -> None:
    found = owl_sparsities(shares, sparsity, spread)

    # Sums of forty numbers in double precision.
    assert sum(found) / len(found) == pytest.approx(sparsity, abs=1e-12)
    assert max(found) - min(found) <= 2 * spread + 1e-12
    ordered = [own for _, own in sorted(zip(shares, found, strict=True), key=lambda p: p[0])]
    assert ordered == sorted(ordered, reverse=True)


def test_a_known_answer() -> None:
    found = owl_sparsities([0.0, 0.02, 0.04], 0.7, 0.08)

    assert found == pytest.approx((0.78, 0.70, 0.62))


@pytest.mark.parametrize("sparsity", [0.5, 0.6, 0.7])
def test_every_allocation_meets_the_constraint_and_spares_outliers(sparsity: float) -> None:
    found = listed(sparsity)

    task = task_at(sparsity)
    assert 1 <= len(found) <= len(SPREADS)
    assert all(task.constraint.violation(genotype) <= 0 for genotype in found)
    widest = found[-1].levels
    assert sum(widest[3:6]) < min(sum(widest[:3]), sum(widest[9:]))


def test_what_no_sparsity_reaches_is_refused() -> None:
    task = task_at(0.99)
    with pytest.raises(UnreachableTarget, match="No allocation by outliers"):
        next(by_owl(SHARES)(task, Ledger(task.context)))
