"""A search without a model: losses by formula, a pool in this process, a space to count out."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from _pytest.mark import ParameterSet

from autocompress.errors import EvaluationError
from autocompress.search.base import Batch, Strategy
from autocompress.search.bayes import WAYS
from autocompress.search.proposals import Sampler, missing_packages
from autocompress.spaces.cost import AdditiveCost, Constraint, under
from autocompress.spaces.making import make_space
from autocompress.trial import Fidelity, Genotype, Measurement, Trial
from autocompress.workers.base import BuildJob, Measured, Shard, Utilisation

SPACE = make_space(3, 2, 192, depth=True, width=True, ffn_step=64, ffn_levels=2)
# Attention goes from two groups to one to none, an MLP from 192 columns to 128, 64 and 0.
COST = AdditiveCost(2.0, ((3.0, 2.0, 0.0), (8.0, 6.0, 3.0, 0.0)) * 3)
WEIGHTS = (0.9, 0.5, 0.3, 0.8, 0.6, 0.4)

Objective = Callable[[Genotype, Fidelity], Measurement | None]


def strategy_named(name: str) -> ParameterSet:
    """Return a strategy's name as a parameter; without its packages it says why it is skipped."""
    sampler = WAYS[name].sampler if name in WAYS else None
    lacks = [] if sampler is None else missing_packages(sampler)
    marks = [pytest.mark.skipif(bool(lacks), reason=f"{' and '.join(lacks)} is not installed")]
    # A Gaussian process thinks for about a second a proposal.
    slow = [pytest.mark.slow] if sampler is Sampler.GP else []
    return pytest.param(name, marks=marks + slow)


def constraint_at(speedup: float) -> Constraint:
    """Return the limit that a speedup stands for."""
    return under(SPACE, COST, COST.dense / speedup)


def loss_of(genotype: Genotype) -> float:
    """Return a loss that grows with the square of what is cut, and more where neighbours are cut.

    The neighbours' part is what the additive solution does not see.
    """
    cut = [1 - choice.kept / choice.total for choice in SPACE.choices(genotype)]
    alone = sum(weight * share**2 for weight, share in zip(WEIGHTS, cut, strict=True))
    together = sum(first * second for first, second in itertools.pairwise(cut))
    return alone + 1.5 * together


def measure(genotype: Genotype, fidelity: Fidelity) -> Measurement:
    """Return losses that differ from sequence to sequence, alike for all candidates."""
    loss = loss_of(genotype)
    kl = tuple(
        loss * (1 + 0.3 * math.sin(7 * fidelity.draw + position))
        for position in range(fidelity.first, fidelity.end)
    )
    return Measurement(kl, tuple(2 + value for value in kl), 15)


def feasible_candidates(constraint: Constraint) -> list[Genotype]:
    """Count out all candidates that meet the limit."""
    everyone = itertools.product(*(range(len(menu)) for menu in SPACE.menus))
    return [SPACE.genotype(e) for e in everyone if constraint.violation_of(e) <= 0]


def optimum(constraint: Constraint) -> Genotype:
    """Return the candidate of least loss within the limit."""
    return min(feasible_candidates(constraint), key=loss_of)


def run(strategy: Strategy, objective: Objective = measure) -> list[Batch]:
    """Answer a strategy until it is done and return what it asked."""
    batches = []
    while (batch := strategy.ask()) is not None:
        batches.append(batch)
        strategy.tell([trial_of(genotype, batch, objective) for genotype in batch.candidates])
    return batches


def trial_of(genotype: Genotype, batch: Batch, objective: Objective) -> Trial:
    """Return the trial of one candidate of a batch."""
    found = objective(genotype, batch.fidelity)
    return Trial(genotype, batch.fidelity, found, "it failed" if found is None else None)


@dataclass
class SynchronousPool:
    """Measures in this process, the last shard first; a pool owes nobody an order.

    Args:
        fails: Whether a shard fails.
        nonsense: A candidate whose losses are no numbers.
        patience: Shards measured before Ctrl-C.
    """

    fails: Callable[[Shard], bool] = lambda shard: False
    nonsense: Genotype | None = None
    patience: int = 10**9
    asked: list[Shard] = field(default_factory=list)

    @property
    def n_workers(self) -> int:
        """One: the caller."""
        return 1

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[int, int | Exception]]:
        """Build nothing."""
        yield from ((index, 0) for index, _ in enumerate(jobs))

    def measure(self, shards: Sequence[Shard]) -> Iterator[tuple[int, Measured | Exception]]:
        """Measure by formula."""
        for index, shard in reversed(list(enumerate(shards))):
            if len(self.asked) == self.patience:
                raise KeyboardInterrupt
            self.asked.append(shard)
            if self.fails(shard):
                yield index, EvaluationError("the shard broke")
            else:
                yield index, tuple(self._measured(g, shard.fidelity) for g in shard.genotypes)

    def _measured(self, genotype: Genotype, fidelity: Fidelity) -> Measurement:
        known = measure(genotype, fidelity)
        if genotype != self.nonsense:
            return known
        return Measurement((math.nan,) * len(known.kl), known.nll, known.tokens)

    def utilisation(self) -> tuple[Utilisation, ...]:
        """Tell of no workers."""
        return ()

    def close(self) -> None:
        """Nothing is held."""
