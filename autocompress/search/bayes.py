"""Bayesian optimisation by Optuna's samplers, of what a knapsack makes candidates of.

Points are asked for and told a batch at a time, so that workers share its candidates. All read
the first sequences of one draw of the text; there and at each further rung a pruner stops most.
What it stopped is told as if it had read to the end: with its loss so far, times what the best
candidate lost in the end over what that had lost by then.
"""

import enum
import math
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from autocompress.search.base import Batch, Standing, Task
from autocompress.search.coordinates import (
    Coordinates,
    Factors,
    RawLevels,
    profile_shares,
    site_shares,
)
from autocompress.search.ledger import Ledger
from autocompress.search.proposals import (
    Halving,
    Proposal,
    Proposals,
    Sampler,
    check_packages,
)
from autocompress.search.single_changes import Losses, measure_single_changes
from autocompress.search.steps import Conversation, Conversing, Steps, read
from autocompress.spaces.moves import Moves
from autocompress.trial import Genotype

DRAW: Final = 0
ASKS: Final = 4
"""Points asked for at most, for each candidate of a batch: many stand for one that is known."""
HALVING: Final = Halving()


class Axes(enum.Enum):
    """What the dimensions of a point are."""

    SITES = "a factor on the losses of each site"
    PROFILE = "factors on the losses over the depth"
    LEVELS = "levels"


@dataclass(frozen=True, slots=True)
class BayesSettings:
    """How a Bayesian search spends its tokens.

    Args:
        batch: New candidates of a batch.
        batches_after: After a correction: the winner before it is known.
        single_sequences: Sequences read for each single change, where losses are scaled.
    """

    sampler: Sampler = Sampler.CMAES
    axes: Axes = Axes.SITES
    batch: int = 8
    batches: int = 48
    batches_after: int = 12
    halving: Halving = HALVING
    single_sequences: int = 4


WAYS: Final[Mapping[str, BayesSettings]] = {
    "bayes": BayesSettings(),
    "bayes-tpe": BayesSettings(Sampler.TPE),
    "bayes-gp": BayesSettings(Sampler.GP, batches=24),
    "bayes-profile": BayesSettings(axes=Axes.PROFILE),
    "tpe": BayesSettings(Sampler.TPE, Axes.LEVELS),
}
"""By the names of strategies. `tpe`, without a knapsack, is what the others are held against.

`bayes` goes by CMA-ES over sites: in benchmarks/bayes.py its median and its worst seed are best.

A batch of eight reads 60 to 80 sequences: all of it 4, what the pruner lets go on 12 and 36. So 48
batches read some 3,500, and single changes 4 each before them: of the reference model in depth and
width a million tokens in all at 256 a sequence.
"""


class BayesStrategy(Conversing):
    """One Bayesian search under one constraint.

    Args:
        start: Losses of single changes, of any scale, known beforehand; None measures them.

    Raises:
        SpecError: If the sampler's package is missing.
    """

    def __init__(self, task: Task, settings: BayesSettings, start: Losses | None = None) -> None:
        check_packages(settings.sampler)
        self._task = task
        self._settings = settings
        self._start = start
        self._ledger = Ledger(task.context, task.tokens_of_rules)
        ends = map(task.end, settings.halving.ends)
        self._ends = tuple(dict.fromkeys(ends))
        self._batches = settings.batches_after if task.phase else settings.batches
        self._seen: dict[Genotype, None] = {}
        self._ranked: list[Genotype] = []
        self._batch = 0
        self._stopped_because = ""
        self._talk = Conversation(self._run(), self._ledger)

    def standing(self) -> Standing:
        """Return where the search stands; its generations are batches."""
        best = self._ranked[0] if self._ranked else None
        loss = math.inf if best is None else self._ledger.loss(best, DRAW)
        return Standing(self._batch, self._batches, self._ledger.tokens, loss, best)

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
        return self._stopped_because

    def finalists(self, n: int) -> list[Genotype]:
        """Return the best of those that read to the end."""
        return self._ranked[:n]

    def _run(self) -> Steps:
        settings = self._settings
        coordinates = yield from self._coordinates()
        seed = int(self._task.rng(0).integers(2**31))
        proposals = Proposals(settings.sampler, coordinates.dimensions, settings.halving, seed)
        for point in coordinates.first:
            proposals.begin_with(point)
        yield from self._measure_extra()
        for batch in range(1, self._batches + 1):
            spent = self._task.out_of_tokens(self._ledger.tokens)
            self._stopped_because = spent or self._task.stop(batch) or ""
            if self._stopped_because:
                return
            asked = self._ask(proposals, coordinates)
            if not asked:
                self._stopped_because = "nothing new was proposed"
                return
            yield from self._race(asked, proposals)
            self._batch = batch
        self._stopped_because = f"all {self._batches} batches done"

    def _coordinates(self) -> Generator[Batch, None, Coordinates]:
        task, settings = self._task, self._settings
        if settings.axes is Axes.LEVELS:
            return RawLevels(task)
        losses = self._start
        if losses is None:
            losses = yield from measure_single_changes(
                task, self._ledger, settings.single_sequences
            )
        shares = site_shares if settings.axes is Axes.SITES else profile_shares
        return Factors(task, losses, shares(task.space))

    def _measure_extra(self) -> Steps:
        """Read to the end what is known from elsewhere; no point stands for it."""
        if not self._task.extra:
            return
        levels = np.asarray([genotype.levels for genotype in self._task.extra])
        moves = Moves(self._task.constraint, self._task.allowed)
        repaired = moves.repair(levels, self._task.rng(0))
        known = [Genotype(tuple(row)) for row in repaired.tolist()]
        self._seen |= dict.fromkeys(known)
        yield from read(known, DRAW, self._ends[-1], self._ledger)
        self._rank()

    def _ask(
        self, proposals: Proposals, coordinates: Coordinates
    ) -> dict[Genotype, list[Proposal]]:
        """Return new candidates, each with the points that stand for it.

        Points that stand for what is known are told at once, and another asked for.
        """
        asked: dict[Genotype, list[Proposal]] = {}
        for _ in range(ASKS * self._settings.batch):
            proposal = proposals.ask()
            genotype = coordinates.candidate(proposal.point, proposal.number)
            if genotype in self._seen:
                proposals.tell(proposal, self._log_loss(genotype))
                continue
            asked.setdefault(genotype, []).append(proposal)
            if len(asked) == self._settings.batch:
                break
        self._seen |= dict.fromkeys(asked)
        return asked

    def _race(self, asked: Mapping[Genotype, Sequence[Proposal]], proposals: Proposals) -> Steps:
        """Read on with those that the pruner lets, and tell of all."""
        pool = list(asked)
        for end in self._ends:
            yield from read(pool, DRAW, end, self._ledger)
            losses = {genotype: self._ledger.loss(genotype, DRAW, end) for genotype in pool}
            # The best first: the pruner knows of those that were shown to it before.
            pool = [
                genotype
                for genotype in sorted(pool, key=lambda g: (losses[g], g.levels))
                if math.isfinite(losses[genotype])
                and proposals.goes_on(asked[genotype][0], end, losses[genotype])
            ]
        self._rank()
        while not self._ranked:
            # All that went on failed there. Raises if all of them failed.
            alive = self._ledger.best(self._seen, DRAW, self._ends[0], 1)
            yield from read(alive, DRAW, self._ends[-1], self._ledger)
            self._rank()
        for genotype, own in asked.items():
            for proposal in own:
                proposals.tell(proposal, self._log_loss(genotype))

    def _rank(self) -> None:
        """Order those that read to the end and did not fail, the best first."""
        losses = {
            genotype: self._ledger.loss(genotype, DRAW)
            for genotype in self._seen
            if self._ledger.read(genotype, DRAW) == self._ends[-1]
        }
        finished = [genotype for genotype, loss in losses.items() if math.isfinite(loss)]
        self._ranked = sorted(finished, key=lambda g: (losses[g], g.levels))

    def _log_loss(self, genotype: Genotype) -> float:
        """Return the logarithm of what a candidate loses, or would if it had read to the end."""
        loss, end = self._ledger.loss(genotype, DRAW), self._ledger.read(genotype, DRAW)
        best = self._ranked[0] if self._ranked else genotype
        by_then = self._ledger.loss(best, DRAW, end)
        if by_then > 0:
            loss *= self._ledger.loss(best, DRAW) / by_then
        return math.log(max(loss, sys.float_info.min))
