"""Losses of single changes and what follows from them alone: the warm start of a search."""

import math
from collections.abc import Generator, Sequence

from autocompress.errors import UnreachableTarget
from autocompress.search.base import Batch, Task
from autocompress.search.ledger import Ledger
from autocompress.search.steps import read
from autocompress.spaces import knapsack, moves
from autocompress.spaces.base import SearchSpace
from autocompress.trial import Genotype

Losses = list[list[float]]
"""`losses[site][entry]`, as in `SearchSpace.menus`; 0 for dense."""


def measure_single_changes(
    task: Task, ledger: Ledger, sequences: int
) -> Generator[Batch, None, Losses]:
    """Measure changes of one site each, coarsely: every second entry, the others interpolated.

    A loss between two entries is taken as linear in the units kept. Entries that are not allowed
    lose infinitely much.

    Raises:
        EvaluationError: If all of them failed.
    """
    space = task.space
    picked = [_coarse(allowed) for allowed in task.allowed]
    changes = {
        (site, entry): single_change(space, site, entry)
        for site, entries in enumerate(picked)
        for entry in entries
    }
    n = min(sequences, task.available)
    yield from read(list(changes.values()), 0, n, ledger)
    ledger.best(changes.values(), 0, n, 1)  # raises if every one of them failed
    losses: Losses = [[math.inf] * len(menu) for menu in space.menus]
    for site, entries in enumerate(picked):
        losses[site][0] = 0.0
        for entry in entries:
            losses[site][entry] = ledger.loss(changes[site, entry], 0, n)
        _interpolate(losses[site], space, site, task.allowed[site])
    return losses


def single_change(space: SearchSpace, site: int, entry: int) -> Genotype:
    """Return the dense model with one site changed."""
    entries = [0] * len(space.menus)
    entries[site] = entry
    return space.genotype(entries)


def additive_solution(task: Task, losses: Sequence[Sequence[float]]) -> Genotype:
    """Return the candidate of least summed loss under the constraint.

    Raises:
        UnreachableTarget: If no candidate meets the constraint.
    """
    solution = knapsack.solve_under(losses, task.constraint, task.allowed)
    if solution is None:
        # The knapsack rounds costs up: it misses a limit that only the least candidate meets.
        solution = tuple(entries[-1] for entries in task.allowed)
    if task.constraint.violation_of(solution) > 0:
        raise UnreachableTarget("No candidate of the space meets the constraint.")
    return task.space.genotype(moves.fill(solution, task.constraint, task.allowed, task.rng(0)))


def greedy_solution(task: Task, losses: Sequence[Sequence[float]]) -> Genotype:
    """Compress the site that loses least as far as it goes, then the next, until it suffices.

    Raises:
        UnreachableTarget: If no candidate meets the constraint.
    """
    entries = [0] * len(task.space.menus)
    order = sorted(range(len(entries)), key=lambda site: losses[site][task.allowed[site][-1]])
    for site in order:
        violated = [limit for limit in task.constraint.limits if limit.violation_of(entries) > 0]
        last = task.allowed[site][-1]
        if any(limit.cost.sites[site][last] < limit.cost.sites[site][0] for limit in violated):
            entries[site] = last
    if task.constraint.violation_of(entries) > 0:
        raise UnreachableTarget("No candidate of the space meets the constraint.")
    return task.space.genotype(moves.fill(entries, task.constraint, task.allowed, task.rng(0)))


def uniform_candidate(task: Task) -> Genotype | None:
    """Return evenly spaced drops, or even narrowing where nothing can be dropped."""
    even = moves.evenly_spaced(task.constraint) or moves.evenly_narrow(task.constraint)
    return None if even is None else task.space.genotype(even)


def random_candidates(task: Task, n: int) -> tuple[Genotype, ...]:
    """Return n random candidates, the same for every strategy of a task.

    Raises:
        UnreachableTarget: If no candidate meets the constraint.
    """
    rng = task.rng(0)
    drawn = [moves.random_candidate(task.constraint, task.allowed, rng) for _ in range(n)]
    if any(task.constraint.violation_of(entries) > 0 for entries in drawn):
        raise UnreachableTarget("No candidate of the space meets the constraint.")
    return tuple(map(task.space.genotype, drawn))


def _coarse(allowed: Sequence[int]) -> list[int]:
    """Return the last entry and every second one before it, dense left out."""
    return sorted(entry for entry in list(allowed[::-1])[::2] if entry)


def _interpolate(
    losses: list[float], space: SearchSpace, site: int, allowed: Sequence[int]
) -> None:
    """Fill in what was not measured between two entries that were; a failure spreads to it."""
    kept = [entry.choice.kept for entry in space.menus[site]]
    known = [entry for entry in allowed if not math.isinf(losses[entry])]
    for entry in allowed:
        if entry in known:
            continue
        below = max(other for other in known if other < entry)
        above = [other for other in known if other > entry]
        if above:
            share = (kept[below] - kept[entry]) / (kept[below] - kept[above[0]])
            losses[entry] = losses[below] + share * (losses[above[0]] - losses[below])
