"""Strategies that make a list of candidates at once and measure which of them is best."""

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.search.base import Batch, Standing, Task
from autocompress.search.ledger import Ledger
from autocompress.search.single_changes import (
    Losses,
    additive_solution,
    greedy_solution,
    measure_single_changes,
    random_candidates,
    uniform_candidates,
)
from autocompress.search.steps import Conversation, Conversing, Rung, Steps, read
from autocompress.trial import Genotype

MOST_ENUMERATED = 100_000
READ_ONCE = (Rung(32, 1),)
RANDOM_CANDIDATES = 32
SINGLE_SEQUENCES = 4
CHUNK_SEQUENCES = 256
"""Read between two looks at the limits of a search: a few seconds of a small model's."""

Windows = Sequence[tuple[int, int]]
"""Runs of layers as (how many, the first one), shortest first."""

List = Callable[[Task, Ledger], Generator[Batch, None, list[Genotype]]]
"""Makes the candidates, asking for measurements where it needs them."""


@dataclass(frozen=True, slots=True)
class ListSettings:
    """How the candidates of a list are told apart.

    Args:
        heeds_limits: Whether tokens or time may end the reading, which is then done by parts.
    """

    rungs: tuple[Rung, ...] = READ_ONCE
    heeds_limits: bool = False


class ListedStrategy(Conversing):
    """Measures a list of candidates, rung by rung, and ends.

    Where a limit may end it, candidates come in a random order: what was read until then is a fair
    part of the list.
    """

    def __init__(self, task: Task, make: List, settings: ListSettings) -> None:
        self._task = task
        self._make = make
        self._settings = settings
        self._ledger = Ledger(task.context, task.tokens_of_rules)
        self._ranked: list[Genotype] = []
        self._chunks = 0
        self._stopped_because = ""
        self._talk = Conversation(self._run(), self._ledger)

    def standing(self) -> Standing:
        """Return where the search stands."""
        best = self._ranked[0] if self._ranked else None
        loss = math.inf if best is None else self._ledger.loss(best, 0)
        return Standing(0, 0, self._ledger.tokens, loss, best)

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
        return self._stopped_because

    def finalists(self, n: int) -> list[Genotype]:
        """Return the best of the list: those that read furthest, then those of the rung before."""
        return self._ranked[:n]

    def _run(self) -> Steps:
        task, limited = self._task, self._settings.heeds_limits and self._task.is_limited
        pool = yield from self._make(task, self._ledger)
        n = len(pool)
        if limited:
            pool = [pool[index] for index in task.rng(0).permutation(n)]
        for rung in self._settings.rungs:
            end = task.end(rung.sequences)
            if limited:
                yield from self._read_within_limits(pool, end)
            else:
                yield from read(pool, 0, end, self._ledger)
            done = {genotype for genotype in pool if self._ledger.read(genotype, 0) >= end}
            if done:
                others = [genotype for genotype in self._ranked if genotype not in done]
                self._ranked = self._ledger.best(done, 0, end, len(done)) + others
            if self._stopped_because:
                self._stopped_because += f", {len(done):,} of {len(pool):,} candidates read so far"
                return
            pool = self._ranked[: rung.survivors]
        self._stopped_because = "every candidate of the list was measured"

    def _read_within_limits(self, pool: Sequence[Genotype], end: int) -> Steps:
        """Read by parts, of which the first of all is read whatever the limits say."""
        size = max(1, CHUNK_SEQUENCES // end)
        for first in range(0, len(pool), size):
            if self._chunks:
                spent = self._task.out_of_tokens(self._ledger.tokens)
                self._stopped_because = spent or self._task.stop(self._chunks) or ""
                if self._stopped_because:
                    return
            yield from read(pool[first : first + size], 0, end, self._ledger)
            self._chunks += 1


def additive(task: Task, ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
    """List the knapsack's solution over the losses of single changes."""
    losses = yield from measure_single_changes(task, ledger, SINGLE_SEQUENCES)
    return [additive_solution(task, losses)]


def leave_one_out(task: Task, ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
    """List what is left when the sites that lose least by themselves are compressed most.

    Shortened LLaMA (arXiv:2402.02834) with the divergence in place of the perplexity.
    """
    losses = yield from measure_single_changes(task, ledger, SINGLE_SEQUENCES)
    return [greedy_solution(task, losses)]


def random(task: Task, _ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
    """List random candidates."""
    yield from ()
    return list(dict.fromkeys(random_candidates(task, RANDOM_CANDIDATES)))


def uniform(task: Task, _ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
    """List what compresses all sites alike.

    Raises:
        UnreachableTarget: If no even one meets the constraint.
    """
    yield from ()
    even = uniform_candidates(task)
    if not even:
        raise UnreachableTarget("No evenly compressed candidate meets the constraint.")
    return even


def given(task: Task, _ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
    """List the candidate that is known from elsewhere, whether or not it meets the constraint."""
    yield from ()
    return [task.extra[0]]


def by_losses(losses: Losses) -> List:
    """List the greedy solution over losses that a rule gave, such as ShortGPT's."""

    def make(task: Task, _ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
        yield from ()
        return [greedy_solution(task, losses)]

    return make


def by_knapsack(losses: Losses) -> List:
    """List the knapsack's solution over losses that a rule gave: an ILP within one bucket."""

    def make(task: Task, _ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
        yield from ()
        return [additive_solution(task, losses)]

    return make


def by_windows(windows: Windows) -> List:
    """List the shortest run of layers whose drop meets the constraint (arXiv:2403.17887)."""

    def make(task: Task, _ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
        yield from ()
        space = task.space
        for n_layers, start in windows:
            dropped = range(start, start + n_layers)
            entries = [
                len(menu) - 1 if bundle.layer in dropped and menu[-1].is_dropped else 0
                for bundle, menu in zip(space.bundles, space.menus, strict=True)
            ]
            if task.constraint.violation_of(entries) <= 0:
                return [space.genotype(entries)]
        raise UnreachableTarget("Dropping a run of whole layers does not meet the constraint.")

    return make


def check_countable(task: Task) -> None:
    """Make sure that a space can be counted out.

    Raises:
        SpecError: If it is too large.
    """
    n = math.prod(map(len, task.allowed))
    if n > 50 * MOST_ENUMERATED:
        raise SpecError(
            f"`candidates <= {50 * MOST_ENUMERATED:,}` must hold for brute-force, but the space "
            f"has {n:,}. Take another --strategy."
        )


def brute_force(task: Task, _ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
    """List every candidate that meets the constraint and leaves nothing of it unused.

    Raises:
        SpecError: If the space is too large to be counted out.
    """
    yield from ()
    check_countable(task)
    everyone = (task.space.canonical(Genotype(g)) for g in itertools.product(*task.allowed))
    found = [
        genotype
        for genotype in dict.fromkeys(everyone)
        if task.constraint.violation(genotype) <= 0 and _is_full(task, genotype)
    ]
    if not found:
        raise UnreachableTarget("No candidate of the space meets the constraint.")
    if len(found) > MOST_ENUMERATED:
        raise SpecError(
            f"`feasible candidates <= {MOST_ENUMERATED:,}` must hold for brute-force, but there "
            f"are {len(found):,}. Take another --strategy."
        )
    return found


def _is_full(task: Task, genotype: Genotype) -> bool:
    """Whether no gene can be given back one level within the constraint."""
    for gene, allowed in enumerate(task.allowed):
        lighter = [level for level in allowed if level < genotype.levels[gene]]
        if lighter and task.constraint.violation(genotype.with_level(gene, lighter[-1])) <= 0:
            return False
    return True
