"""Steps that lead away from a candidate, out of what its neighbours lose.

Where genes have many levels that differ by little, the way to a better candidate is a small step
of most genes at once, which mutations of a few genes take long to find. Reading every gene some
levels up and down, the others as they are, tells what each step of each gene would change. The
additive problem around the candidate, kept to a trust region where those parabolas hold, gives all
steps at once (Conn, Gould and Toint, Trust-Region Methods, 2000).
"""

import bisect
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from autocompress.errors import UnreachableTarget
from autocompress.search.base import Task
from autocompress.search.single_changes import Losses, additive_solution
from autocompress.spaces.base import GeneKind, Levels
from autocompress.trial import Genotype

FEW_LEVELS = 8
"""Genes with no more are crossed by mutations soon enough."""

POWERS = (1.2, 1.5, 2.0, 3.0)
DISTANCE = 1 / 7
"""Between a candidate and the neighbours that are read, as a share of the levels of a gene."""
REACHES = (0.5, 1.0, 1.5)
"""How far a step may take a gene, in that distance: a level at least."""


def is_fine(task: Task) -> bool:
    """Whether some genes decide on zeros in more than a few levels, and losses add up over genes.

    Not where widths or drops share out what others store, nor under two limits, which the
    knapsack meets only roughly.
    """
    if len(task.constraint.limits) > 1 or task.space.has_widths:
        return False
    return any(
        gene.kind is GeneKind.SPARSITY and len(allowed) > FEW_LEVELS
        for gene, allowed in zip(task.space.genes, task.allowed, strict=True)
    )


def tempered_solutions(task: Task, losses: Losses) -> list[Genotype]:
    """Return additive solutions of powers of the losses, which spread what is lost more evenly.

    What is compressed in all layers loses more than the sum of what it loses in each alone, and
    more so the more each loses: the additive solution compresses some layers too far.
    """
    found = (
        _solution(task, [[loss**power for loss in row] for row in losses]) for power in POWERS
    )
    return [genotype for genotype in found if genotype is not None]


def neighbours(task: Task, centre: Genotype) -> list[Genotype]:
    """Return the candidates that differ in one gene, some levels up or down.

    At an end of its levels a gene goes as far as there are any. Limits are not minded.
    """
    found: dict[Genotype, None] = {}
    pairs = zip(task.allowed, _distances(task), strict=True)
    for gene, (allowed, distance) in enumerate(pairs):
        rank = _rank(allowed, centre.levels[gene])
        for at in (max(rank - distance, 0), min(rank + distance, len(allowed) - 1)):
            found[centre.with_level(gene, allowed[at])] = None
    found.pop(centre, None)
    return list(found)


def steps_around(
    task: Task, centre: Genotype, loss_of: Callable[[Genotype], float]
) -> list[Genotype]:
    """Return for each reach the feasible candidate of least loss around one, by parabolas.

    Args:
        loss_of: Tells what the centre and its neighbours lost; infinite is what failed or was not
            measured: to that side no gene steps.
    """
    curves = list(_curves(task, centre, loss_of))
    distances = _distances(task)
    found = []
    for share in REACHES:
        reaches = [max(1, round(share * distance)) for distance in distances]
        near = [
            np.where(np.abs(steps) <= reach, added, math.inf)
            for (steps, added), reach in zip(curves, reaches, strict=True)
        ]
        found.append(_solution(task, _losses(task, [own - own.min() for own in near])))
    return [own for own in dict.fromkeys(found) if own is not None and own != centre]


def middle(task: Task, genotypes: Sequence[Genotype]) -> Genotype | None:
    """Return the feasible candidate nearest to the mean of several, by squares of levels.

    What noise added to each of them is mostly gone from it (as in the recombination of CMA-ES;
    Hansen, arXiv:1604.00772, section 3).
    """
    mean = np.asarray([genotype.levels for genotype in genotypes]).mean(axis=0)
    pairs = zip(task.allowed, mean, strict=True)
    return _solution(task, _losses(task, [(np.asarray(own) - at) ** 2 for own, at in pairs]))


def _losses(task: Task, of_allowed: Sequence[np.ndarray]) -> Losses:
    """Return losses by level out of those of the levels that may be taken."""
    losses = [[math.inf] * len(gene.settings) for gene in task.space.genes]
    for row, allowed, own in zip(losses, task.allowed, of_allowed, strict=True):
        for level, loss in zip(allowed, own, strict=True):
            row[level] = float(loss)
    return losses


def _solution(task: Task, losses: Losses) -> Genotype | None:
    """Return the additive solution, None if there is none without a level of infinite loss.

    The knapsack rounds costs up: where only what is hardly within the limit may be taken, it may
    find nothing, and what `additive_solution` then returns is no step.
    """
    try:
        found = additive_solution(task, losses)
    except UnreachableTarget:
        return None
    taken = (row[level] for row, level in zip(losses, found.levels, strict=True))
    return found if all(map(math.isfinite, taken)) else None


def _distances(task: Task) -> list[int]:
    """Return how many levels a neighbour is away in each gene, alike for all genes of a kind."""
    kinds = [gene.kind for gene in task.space.genes]
    levels: dict[GeneKind, list[int]] = {}
    for kind, allowed in zip(kinds, task.allowed, strict=True):
        levels.setdefault(kind, []).append(len(allowed))
    return [max(1, round(DISTANCE * sum(levels[kind]) / len(levels[kind]))) for kind in kinds]


def _rank(allowed: Levels, level: int) -> int:
    """Return the place of the first allowed level that compresses as much, at most the last."""
    return min(bisect.bisect_left(allowed, level), len(allowed) - 1)


def _curves(
    task: Task, centre: Genotype, loss_of: Callable[[Genotype], float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each gene how far its allowed levels are from the centre's, and what they add.

    By the parabola through the centre and what was read of the gene beside it, or its tangent at
    the centre where it would open downwards; by a line where there is but one; infinite to a side
    of which nothing was read.
    """
    base = loss_of(centre)
    for gene, allowed in enumerate(task.allowed):
        rank = _rank(allowed, centre.levels[gene])
        places, added = [0], [0.0]
        for at, level in enumerate(allowed):
            loss = math.inf if at == rank else loss_of(centre.with_level(gene, level))
            if math.isfinite(loss):
                places.append(at - rank)
                added.append(loss - base)
        fitted = np.polyfit(places, added, min(2, len(places) - 1))
        if len(fitted) == 3:
            fitted[0] = max(fitted[0], 0.0)
        steps = np.arange(len(allowed)) - rank
        curve = np.polyval(fitted, steps)
        curve[(steps < 0) & (min(places) == 0)] = math.inf
        curve[(steps > 0) & (max(places) == 0)] = math.inf
        yield steps, curve
