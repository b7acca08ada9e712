"""What the numbers that a sampler proposes stand for: candidates that meet the constraint.

SPDY (arXiv:2201.13096, section 3.3): what a site's levels lose is scaled by a factor, unknown and
searched for, and a knapsack over the scaled losses makes the candidate. Unlike there the factors
scale measured losses and not a quadratic prior: with all of them 1 it is the additive solution.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from autocompress.errors import UnreachableTarget
from autocompress.search.base import Task
from autocompress.search.single_changes import Losses, additive_solution
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.moves import Moves
from autocompress.trial import Genotype

MOST_FACTORS: Final = 30
"""Beyond some thirty dimensions samplers learn little from a few hundred trials."""
KNOTS: Final = 4
SPAN: Final = 4.0
"""The most that one dimension multiplies losses by; the least is its inverse."""

Point = tuple[float, ...]
"""A number for each dimension."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """The numbers that may be proposed, both ends included."""

    low: float
    high: float
    is_whole: bool = False


class Coordinates(Protocol):
    """Turns points into candidates."""

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What a point holds."""

    @property
    def first(self) -> tuple[Point, ...]:
        """Points to begin with."""

    def candidate(self, point: Point, number: int) -> Genotype:
        """Return the candidate that a point stands for; it meets the constraint.

        Args:
            number: Of the proposal: random numbers go by it.

        Raises:
            UnreachableTarget: If no candidate meets the constraint.
        """


class Factors:
    """Logarithms of factors on the losses of single changes, -1 to 1 for 1/4 to 4.

    Args:
        losses: Of any scale.
        shares: (dimensions, genes) how much of each dimension goes into a gene's logarithm.
    """

    def __init__(self, task: Task, losses: Losses, shares: np.ndarray) -> None:
        self._task = task
        self._losses = losses
        self._shares = shares

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What a point holds."""
        return (Dimension(-1.0, 1.0),) * len(self._shares)

    @property
    def first(self) -> tuple[Point, ...]:
        """The additive solution's point."""
        return ((0.0,) * len(self._shares),)

    def candidate(self, point: Point, number: int) -> Genotype:  # noqa: ARG002  # Nothing random.
        """Return the knapsack's solution over the scaled losses."""
        factors = SPAN ** (np.asarray(point) @ self._shares)
        pairs = zip(self._losses, factors.tolist(), strict=True)
        return additive_solution(self._task, [[factor * x for x in row] for row, factor in pairs])


class RawLevels:
    """A level for each gene, repaired to the constraint: what is proposed without a knapsack."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._moves = Moves(task.constraint, task.allowed)

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The rank of a level among those that each gene may take."""
        return tuple(Dimension(0, len(own) - 1, is_whole=True) for own in self._task.allowed)

    @property
    def first(self) -> tuple[Point, ...]:
        """None: nothing is known beforehand."""
        return ()

    def candidate(self, point: Point, number: int) -> Genotype:
        """Return the levels, more of them compressed at random where they cost too much.

        Raises:
            UnreachableTarget: If no candidate meets the constraint.
        """
        pairs = zip(self._task.allowed, point, strict=True)
        levels = np.asarray([[own[round(rank)] for own, rank in pairs]])
        repaired = self._moves.repair(levels, self._task.rng(number))[0]
        candidate = Genotype(tuple(repaired.tolist()))
        if self._task.constraint.violation(candidate) > 0:
            raise UnreachableTarget("No candidate of the space meets the constraint.")
        return candidate


def site_shares(space: SearchSpace) -> np.ndarray:
    """Return a dimension for each bundle, and one for each decision where bundles take several.

    Where that would be too many, neighbouring layers share one.
    """
    decisions = _decisions(space)
    names = list(dict.fromkeys(decisions))
    n_kinds = len({bundle.kind for bundle in space.bundles})
    of_names = len(names) if len(names) > n_kinds else 0
    room = max(1, (MOST_FACTORS - of_names) // n_kinds)
    groups: dict[Hashable, int] = {}
    group_of = []
    for bundle, (place, n) in zip(space.bundles, _places(space), strict=True):
        group = place if n <= room else place * room // n
        group_of.append(groups.setdefault((bundle.kind, group), len(groups)))
    shares = np.zeros((len(groups) + of_names, len(space.genes)))
    for gene, (menu, decision) in enumerate(zip(space.gene_bundles, decisions, strict=True)):
        shares[group_of[menu], gene] = 1.0
        if of_names:
            shares[len(groups) + names.index(decision), gene] = 1.0
    return shares


def profile_shares(space: SearchSpace, knots: int = KNOTS) -> np.ndarray:
    """Return so many knots over the depth for each decision, linear in between."""
    decisions = _decisions(space)
    names = list(dict.fromkeys(decisions))
    places = _places(space)
    shares = np.zeros((len(names) * knots, len(space.genes)))
    for gene, (menu, decision) in enumerate(zip(space.gene_bundles, decisions, strict=True)):
        place, n = places[menu]
        depth = place / max(1, n - 1) * (knots - 1)
        first = names.index(decision) * knots
        hats = 1.0 - np.abs(np.arange(knots) - depth)
        shares[first : first + knots, gene] = np.maximum(hats, 0.0)
    return shares


def _decisions(space: SearchSpace) -> Sequence[Hashable]:
    """Return what each gene decides, equal for the genes that decide the same of alike bundles."""
    return [
        (bundle.kind, position, gene.name)
        for bundle in space.bundles
        for position, gene in enumerate(bundle.genes)
    ]


def _places(space: SearchSpace) -> Sequence[tuple[int, int]]:
    """Return for each bundle how many of its kind come before it, and how many there are."""
    totals = Counter(bundle.kind for bundle in space.bundles)
    seen: Counter[Hashable] = Counter()
    found = []
    for bundle in space.bundles:
        found.append((seen[bundle.kind], totals[bundle.kind]))
        seen[bundle.kind] += 1
    return found
