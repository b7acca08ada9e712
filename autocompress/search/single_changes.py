"""Losses of single changes and what follows from them alone: the warm start of a search."""

import itertools
import math
from collections.abc import Generator, Sequence

import numpy as np

from autocompress.errors import UnreachableTarget
from autocompress.search.base import Batch, Task
from autocompress.search.ledger import Ledger
from autocompress.search.steps import read
from autocompress.spaces import knapsack
from autocompress.spaces.base import Entries, Gene, GeneKind, SearchSpace
from autocompress.spaces.even import even_candidates
from autocompress.spaces.moves import Moves
from autocompress.spaces.settings import DENSE_BITS, CacheSetting, WeightSetting
from autocompress.trial import Genotype

MOST_MEASURED = 8
"""Levels of a gene, about."""

Losses = list[list[float]]
"""`losses[gene][level]`, all other genes dense; 0 for dense."""


def measure_single_changes(
    task: Task, ledger: Ledger, sequences: int
) -> Generator[Batch, None, Losses]:
    """Measure changes of one gene each, coarsely: every second level, the others interpolated.

    Of many levels fewer: some eight of a gene.

    Levels that are not allowed lose infinitely much. Where the candidate that changes nothing
    loses something, only what a change adds to that counts: sums over genes would count it again
    and again.

    Raises:
        EvaluationError: If all of them failed.
    """
    space = task.space
    changes = {
        (gene, level): space.dense.with_level(gene, level)
        for gene, levels in enumerate(map(_coarse, task.allowed))
        for level in levels
    }
    n = task.end(sequences)
    start = [space.dense] if task.start_loses else []
    yield from read([*start, *changes.values()], 0, n, ledger)
    ledger.best(changes.values(), 0, n, 1)  # raises if every one of them failed
    losses: Losses = [[math.inf] * len(gene.settings) for gene in space.genes]
    for row in losses:
        row[0] = 0.0
    at_start = loss_at_start(task, ledger, n)
    for (gene, level), genotype in changes.items():
        losses[gene][level] = max(0.0, ledger.loss(genotype, 0, n) - at_start)
    for row, own, allowed in zip(losses, space.genes, task.allowed, strict=True):
        _interpolate(row, own, allowed)
    return losses


def loss_at_start(task: Task, ledger: Ledger, end: int | None = None) -> float:
    """Return what every candidate loses, on the first draw; 0 where that was not measured.

    Args:
        end: Sequences from this one on are left out.
    """
    loss = ledger.loss(task.space.dense, 0, end) if task.start_loses else 0.0
    return loss if math.isfinite(loss) else 0.0


def entry_losses(
    space: SearchSpace, losses: Sequence[Sequence[float] | np.ndarray]
) -> list[np.ndarray]:
    """Return the losses of each menu's entries: of its genes, summed.

    What is stored otherwise loses in proportion to the units that a width leaves of it.
    """
    found = []
    for bundle, menu, rows in zip(
        space.bundles, space.menus, space.by_bundle(losses), strict=True
    ):
        own = [np.asarray(row, dtype=float) for row in rows]
        kept = np.ones(1)
        total = np.zeros(1)
        genes = bundle.genes
        if genes and genes[0].kind is GeneKind.WIDTH:
            kept = np.asarray(genes[0].units) / bundle.units
            total = own.pop(0)
        rest = np.zeros(1)
        for row in own:
            rest = np.add.outer(rest, row).ravel()
        with np.errstate(invalid="ignore"):  # what is not allowed, of a dropped bundle: left out
            combined = total[:, None] + kept[:, None] * rest[None]
        found.append(combined.ravel()[: len(menu)])
    return found


def gene_losses(space: SearchSpace, scores: Sequence[Sequence[float]]) -> Losses:
    """Return the losses of single changes out of scores for the entries of each menu."""
    return [
        [
            scores[menu][min(level * stride, len(scores[menu]) - 1)]
            for level in range(len(gene.settings))
        ]
        for gene, menu, stride in zip(space.genes, space.gene_bundles, space.strides, strict=True)
    ]


def additive_solution(task: Task, losses: Losses) -> Genotype:
    """Return the candidate of least summed loss under the constraint.

    Raises:
        UnreachableTarget: If no candidate meets the constraint.
    """
    space = task.space
    by_entry = [row.tolist() for row in entry_losses(space, losses)]
    solution = knapsack.solve_under(by_entry, task.constraint, _allowed_entries(task))
    if solution is None:
        # The knapsack rounds costs up: it misses a limit that only the least candidate meets.
        solution = tuple(own[-1] for own in _allowed_entries(task))
    if task.constraint.violation_of(solution) > 0:
        raise UnreachableTarget("No candidate of the space meets the constraint.")
    levels = np.asarray([space.genotype(solution).levels])
    filled = Moves(task.constraint, task.allowed).fill(levels, task.rng(0))
    return Genotype(tuple(map(int, filled[0])))


def greedy_solution(task: Task, losses: Losses) -> Genotype:
    """Compress the gene that loses least as far as it goes, then the next, until it suffices.

    Raises:
        UnreachableTarget: If no candidate meets the constraint.
    """
    space, constraint = task.space, task.constraint
    levels = [0] * len(space.genes)
    order = sorted(range(len(levels)), key=lambda gene: losses[gene][task.allowed[gene][-1]])
    for gene in order:
        entries = space.entries(Genotype(tuple(levels)))
        violated = [limit for limit in constraint.limits if limit.violation_of(entries) > 0]
        deeper = [*levels[:gene], task.allowed[gene][-1], *levels[gene + 1 :]]
        lower = space.entries(Genotype(tuple(deeper)))
        if any(limit.cost.of(lower) < limit.cost.of(entries) for limit in violated):
            levels = deeper
    if constraint.violation(Genotype(tuple(levels))) > 0:
        raise UnreachableTarget("No candidate of the space meets the constraint.")
    filled = Moves(constraint, task.allowed).fill(np.asarray([levels]), task.rng(0))
    return space.canonical(Genotype(tuple(map(int, filled[0]))))


def uniform_candidates(task: Task) -> list[Genotype]:
    """Return candidates that compress all sites alike; none if none of them suffices."""
    return [Genotype(levels) for levels in even_candidates(task.constraint, task.rng(0))]


def random_candidates(task: Task, n: int) -> tuple[Genotype, ...]:
    """Return n random candidates, the same for every strategy of a task.

    Raises:
        UnreachableTarget: If no candidate meets the constraint.
    """
    drawn = Moves(task.constraint, task.allowed).random(n, task.rng(0))
    found = tuple(Genotype(tuple(map(int, levels))) for levels in drawn)
    if any(task.constraint.violation(genotype) > 0 for genotype in found):
        raise UnreachableTarget("No candidate of the space meets the constraint.")
    return found


def _allowed_entries(task: Task) -> list[Entries]:
    """Return for each menu the entries whose levels may all be taken."""
    found = []
    for menu, own in zip(task.space.menus, task.space.by_bundle(task.allowed), strict=True):
        levels = set(itertools.product(*own))
        found.append(
            tuple(
                index
                for index, entry in enumerate(menu)
                # Of a dropped bundle only the first level counts.
                if entry.levels in levels or (entry.is_dropped and entry.levels[0] in own[0])
            )
        )
    return found


def _coarse(allowed: Sequence[int]) -> list[int]:
    """Return the last level and every second one before it, or further apart, dense left out."""
    apart = max(2, round(len(allowed) / MOST_MEASURED))
    return sorted(level for level in list(allowed[::-1])[::apart] if level)


def _interpolate(losses: list[float], gene: Gene, allowed: Sequence[int]) -> None:
    """Fill in what was not measured between two levels that were; a failure spreads to it.

    A loss is linear in the units that a width keeps. Rounding's error falls by a constant factor
    a bit, so losses of bits, and of sparsities alike, are linear in their logarithm; milder than
    the mildest that was measured they fall on as fast as between the two mildest.
    """
    left = [_left(gene, level) for level in range(len(losses))]
    known = [level for level in allowed if not math.isinf(losses[level])]
    for level in allowed:
        if level in known:
            continue
        below = max(other for other in known if other < level)
        above = [other for other in known if other > level]
        if not above:
            continue
        ends = (below, above[0])
        if gene.kind is not GeneKind.WIDTH and not below and len(above) > 1:
            ends = (above[0], above[1])
        losses[level] = _between(
            [left[end] for end in ends],
            [losses[end] for end in ends],
            left[level],
            in_logarithm=gene.kind is not GeneKind.WIDTH,
        )


def _between(x: Sequence[float], y: Sequence[float], at: float, *, in_logarithm: bool) -> float:
    """Return the value of the line through two points."""
    share = (x[0] - at) / (x[0] - x[1])
    if in_logarithm and min(y) > 0:
        return math.exp(math.log(y[0]) + share * (math.log(y[1]) - math.log(y[0])))
    return max(0.0, y[0] + share * (y[1] - y[0]))


def _left(gene: Gene, level: int) -> float:
    """Return how much a level leaves: units, or bits a number."""
    setting = gene.settings[level]
    if isinstance(setting, WeightSetting):
        return setting.nominal_bits(DENSE_BITS)
    if isinstance(setting, CacheSetting):
        return float(setting.bits or DENSE_BITS)
    return float(setting)
