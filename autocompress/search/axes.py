"""Where candidates lie on the axes of a front: what they cost and what they lose."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.search.base import Task
from autocompress.spaces.base import Board
from autocompress.spaces.cost import ROUNDING, Constraint, Limit, least_left
from autocompress.spaces.moves import Moves
from autocompress.spaces.pareto import pareto_front
from autocompress.trial import Genotype

BEYOND = 1.5
"""A front goes on to what costs so many times less than the constraint asks for."""
DENSE = 1.0
"""What the dense model costs, as a share of that."""
BINS = 24
"""Equal parts of an axis."""
CROWD = 2
STEP = 0.03
"""Standard deviation of how far a child may be from its parent, in shares of the dense cost."""
AIMED = 1 / 8
"""Share of the children that are made to meet the task's own constraint: its winner is one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a measured candidate lies.

    Args:
        shares: What it costs on each axis, as a share of the dense model's.
        log_loss: As estimated.
        is_feasible: Whether it meets the task's constraint.
    """

    shares: tuple[float, ...]
    log_loss: float
    is_feasible: bool


Places = Mapping[Genotype, Place]


class Axes:
    """The costs that a task limits, each of which is held against loss; iterates their numbers."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._board = Board(task.space)
        self._limits = task.constraint.limits
        self._dense = np.asarray([limit.cost.dense for limit in self._limits])
        self._most = np.asarray([limit.most for limit in self._limits])
        lows = [
            max(least_left(task.space, limit.cost), limit.most / BEYOND) for limit in self._limits
        ]
        self.lows = np.asarray(lows) / self._dense
        """The least share on each axis that is searched."""
        self._tables = [list(map(np.asarray, limit.cost.menus)) for limit in self._limits]
        self._moves = Moves(task.constraint, task.allowed)

    def __len__(self) -> int:
        return len(self._limits)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def shares(self, levels: np.ndarray) -> np.ndarray:
        """Return what is left of the dense costs, (axes, n), of (n, genes) levels."""
        entries = self._board.entries(levels)
        found = []
        for limit, tables, dense in zip(self._limits, self._tables, self._dense, strict=True):
            parts = [table[entries[:, menu]] for menu, table in enumerate(tables)]
            found.append((limit.cost.fixed + np.sum(parts, axis=0)) / dense)
        return np.asarray(found)

    def menus(self, axis: int) -> list[np.ndarray]:
        """Return what each menu's entries cost on an axis."""
        return self._tables[axis]

    def budgets(self, n: int) -> list[Constraint]:
        """Return n constraints an axis, at even distances, down to the least that is searched."""
        return [
            Constraint(self._task.space, (Limit(limit.cost, float(share * dense)),))
            for limit, dense, low in zip(self._limits, self._dense, self.lows, strict=True)
            for share in np.linspace(DENSE, low, n + 1)[1:]
        ]

    def moves_near(self, levels: np.ndarray, rng: np.random.Generator) -> Moves:
        """Return moves that keep each candidate about where it is on one of the axes.

        Args:
            levels: (n, genes).
        """
        n = len(levels)
        near = self.shares(levels) + STEP * rng.standard_normal((len(self), n))
        near = np.clip(near, self.lows[:, None], DENSE)
        most = np.full((len(self), n), np.inf)
        axis, columns = rng.integers(len(self), size=n), np.arange(n)
        most[axis, columns] = (near * self._dense[:, None])[axis, columns]
        aimed = rng.random(n) < AIMED
        most[:, aimed] = self._most[:, None]
        return self._moves.within(most)

    def places(
        self, genotypes: Sequence[Genotype], log_losses: np.ndarray
    ) -> dict[Genotype, Place]:
        """Return where candidates lie; `log_losses` are theirs, in their order."""
        levels = np.asarray([genotype.levels for genotype in genotypes], dtype=int)
        shares = self.shares(levels).T.tolist()
        return {
            genotype: Place(tuple(own), loss, self._task.constraint.violation(genotype) <= 0)
            for genotype, own, loss in zip(genotypes, shares, log_losses.tolist(), strict=True)
        }

    def front(self, axis: int, places: Places) -> list[Genotype]:
        """Return the candidates that none dominates on an axis, the least cost first."""
        genotypes = list(places)
        points = [(places[g].shares[axis], places[g].log_loss) for g in genotypes]
        return [genotypes[position] for position in pareto_front(points)]

    def ranked(self, places: Places) -> list[Genotype]:
        """Return candidates front by front; a front is of all axes, one after the other."""
        left = dict(places)
        found: list[Genotype] = []
        while left:
            front = dict.fromkeys(g for axis in self for g in self.front(axis, left))
            found += front
            left = {genotype: place for genotype, place in left.items() if genotype not in front}
        return found

    def curve(self, axis: int, places: Places) -> "Curve":
        """Return the line through a front's members on an axis."""
        members = [places[genotype] for genotype in self.front(axis, places)]
        return Curve(
            np.asarray([place.shares[axis] for place in members]),
            np.asarray([place.log_loss for place in members]),
        )

    def bins(self, axis: int, shares: np.ndarray) -> np.ndarray:
        """Return which of `BINS` equal parts of an axis each share lies in."""
        width = (DENSE - self.lows[axis]) / BINS
        return np.asarray(np.clip(((shares - self.lows[axis]) / width).astype(int), 0, BINS - 1))

    def mean_loss(self, shares: np.ndarray, log_losses: np.ndarray) -> float:
        """Return the log loss of the best candidate within a budget, its mean over budgets.

        Args:
            shares: (axes, n).
            log_losses: (n).
        """
        budgets = np.linspace(self.lows, DENSE, BINS, endpoint=False).T  # (axes, budgets)
        fits = shares[:, None] <= budgets[:, :, None] * (1 + ROUNDING)
        # What no candidate meets counts as the worst of them.
        best = np.where(fits, log_losses, log_losses.max()).min(axis=2)
        return float(best.mean())

    def pick(
        self,
        levels: np.ndarray,
        rows: Sequence[np.ndarray],
        places: Places,
    ) -> list[int]:
        """Return, row by row, what lies furthest below the front of what was measured.

        The axes take turns. No part of an axis gets more than `CROWD` times its even share of the
        picks, so that all of the front is worked on. Every eighth row picks the best within the
        task's constraint.

        Args:
            levels: (n, genes).
            rows: (n) log losses each: what a pick is made by.
        """
        shares = self.shares(levels)
        meets = (shares <= (self._most / self._dense)[:, None] * (1 + ROUNDING)).all(axis=0)
        curves = [self.curve(axis, places) for axis in self]
        bins = [self.bins(axis, shares[axis]) for axis in self]
        room = math.ceil(CROWD * len(rows) / BINS / len(self))
        taken = np.zeros((len(self), BINS), dtype=int)
        picked: list[int] = []
        for number, losses in enumerate(rows):
            axis = number % len(self)
            if number % round(1 / AIMED) == 0:
                below = np.where(meets, -losses, -np.inf)
            else:
                below = curves[axis].at(shares[axis]) - losses
                below[taken[axis][bins[axis]] >= room] = -np.inf
            below[picked] = -np.inf
            best = int(below.argmax())
            if np.isfinite(below[best]):
                picked.append(best)
                taken[axis, bins[axis][best]] += 1
        return picked


@dataclass(frozen=True, slots=True)
class Curve:
    """The line through the members of a front: what a candidate of some cost has to beat.

    A front's steps would call a candidate better that only costs something between two members.

    Args:
        shares: Ascending; `log_losses` descends with them.
    """

    shares: np.ndarray
    log_losses: np.ndarray

    def at(self, shares: np.ndarray) -> np.ndarray:
        """Return the log losses of the line, beyond its ends those of the ends."""
        return np.asarray(np.interp(shares, self.shares, self.log_losses))
