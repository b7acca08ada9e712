"""Moves on candidates: random ones, mutation, crossing and repair, many candidates at once.

Candidates are rows of an array, one level a gene. Every move returns feasible candidates that use
their budget: no gene can be given back to a less compressed level within the limits.
"""

import copy
from collections.abc import Sequence

import numpy as np

from autocompress.spaces.base import Board, GeneKind, SearchSpace
from autocompress.spaces.cost import ROUNDING, Constraint

MOST_MOVES = 3


class Moves:
    """The moves under one constraint.

    Args:
        allowed: For each gene the levels that may be taken, least compressed first.
    """

    def __init__(self, constraint: Constraint, allowed: Sequence[Sequence[int]]) -> None:
        space = constraint.space
        self._board = Board(space)
        self._bundles = self._board.bundles
        self._strides = self._board.strides
        # From here on a gene's level is told by its rank among those allowed.
        most = max(map(len, allowed), default=1)
        padded = [[*own, *[own[-1]] * (most - len(own))] for own in allowed]
        self._levels = np.asarray(padded, dtype=int).reshape(len(allowed), most)
        self._last = np.asarray([len(own) - 1 for own in allowed], dtype=int)
        self._genes = np.arange(len(allowed))
        self._drop, self._width = _drops(space, allowed)
        self._classes = _classes(space, allowed)
        self._first = np.searchsorted(self._bundles, np.arange(len(space.bundles)))
        self._counts = np.bincount(self._bundles, minlength=len(space.bundles))
        self._costs, self._fixed, most_of_limits = _tables(constraint)
        # Of each limit and candidate; one column stands for all candidates.
        self._most = most_of_limits[:, None]

    def within(self, most: np.ndarray) -> "Moves":
        """Return the same moves for candidates that have limits of their own.

        Args:
            most: (limits, candidates); the arrays that are moved must have as many rows.
        """
        own = copy.copy(self)
        own._most = most  # noqa: SLF001  # of this class
        return own

    def random(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Compress random genes of the dense model, by random levels, until it is feasible."""
        return self.repair(np.zeros((n, len(self._genes)), dtype=int), rng)

    def repair(self, levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Compress random genes to random deeper levels until it is feasible; give slack back.

        Args:
            levels: (candidates, genes); one that is not allowed is taken for the next that is.
        """
        ranks = self._ranks(levels)
        self._pay(ranks, np.zeros(ranks.shape, dtype=bool), rng, by_one=False)
        return self._filled(ranks, np.zeros(ranks.shape, dtype=bool), rng)

    def fill(self, levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Give every gene, in random order, the least compressed level that still fits."""
        ranks = self._ranks(levels)
        return self._filled(ranks, np.zeros(ranks.shape, dtype=bool), rng)

    def mutate(self, levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Move compression from some genes to others, `min(U1, U2)` times, U uniform on 1..3.

        Half of the moves exchange the levels of two genes that decide the same of two bundles: a
        drop goes to another layer, the cost stays. The others give a gene back one level or, as
        often, any number of them, and random genes of any kind pay one level at a time. EvoPress
        (arXiv:2410.14649) switches between equal shares of a parameter count; here the shares
        differ, so it is repaired.

        Args:
            levels: (candidates, genes).
        """
        ranks = self._ranks(levels)
        given = np.zeros(ranks.shape, dtype=bool)
        n = len(ranks)
        times = np.minimum(rng.integers(1, MOST_MOVES + 1, n), rng.integers(1, MOST_MOVES + 1, n))
        for turn in range(MOST_MOVES):
            self._give_back(ranks, given, np.flatnonzero(times > turn), rng)
        self._pay(ranks, given, rng, by_one=True)
        return self._filled(ranks, ~given, rng)

    def cross(self, first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Take each bundle from one of two candidates at random, and repair.

        Args:
            first: (candidates, genes); `second` alike.
        """
        from_first = rng.random((len(first), len(self._counts))) < 0.5
        return self.repair(np.where(from_first[:, self._bundles], first, second), rng)

    def _ranks(self, levels: np.ndarray) -> np.ndarray:
        """Return the rank of the first allowed level that compresses as much, at most the last."""
        less = self._levels[None] < np.asarray(levels)[:, :, None]  # (candidates, genes, ranks)
        return np.asarray(np.minimum(less.sum(axis=2), self._last))

    def _is_alive(self, ranks: np.ndarray) -> np.ndarray:
        """Return which genes mean something, (candidates, genes): none of a dropped bundle.

        What drops a bundle is alive itself.
        """
        dropped = (ranks == self._drop) & (self._drop >= 0)
        gone = np.zeros((len(ranks), len(self._counts)), dtype=bool)
        rows, genes = np.nonzero(dropped)
        gone[rows, self._bundles[genes]] = True
        return np.asarray(~gone[:, self._bundles] | self._width)

    def _entries(self, ranks: np.ndarray) -> np.ndarray:
        return self._board.entries(self._levels[self._genes, ranks])

    def _slack(self, entries: np.ndarray, most: np.ndarray) -> np.ndarray:
        """Return what is left of each limit, (limits, candidates)."""
        menus = np.arange(entries.shape[1])
        spent = self._costs[:, menus, entries].sum(axis=2) + self._fixed[:, None]
        return np.asarray(most - spent)

    def _give_back(
        self, ranks: np.ndarray, given: np.ndarray, rows: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Compress one gene of each row less, in place."""
        able = (ranks[rows] > 0) & ~given[rows]
        rows = rows[able.any(axis=1)]
        if not len(rows):
            return
        genes = _any_of(able[able.any(axis=1)], rng)
        own = ranks[rows, genes]
        partners = (
            (self._classes[None] == self._classes[genes][:, None])
            & (ranks[rows] < own[:, None])
            & self._is_alive(ranks[rows])
        )
        swaps = partners.any(axis=1) & (rng.random(len(rows)) < 0.5)
        others = _any_of(partners, rng)
        any_lighter = (rng.random(len(rows)) * own).astype(int)
        lighter = np.where(rng.random(len(rows)) < 0.5, own - 1, any_lighter)
        donors = _any_of(self._donors(ranks[rows], genes), rng)
        for row, gene, other, swap, rank, donor in zip(
            rows, genes, others, swaps, lighter, donors, strict=True
        ):
            if not swap:
                if self._width[gene] and ranks[row, gene] == self._drop[gene]:
                    self._copy_rest(ranks[row], donor, gene)
                ranks[row, gene] = rank
            elif self._width[gene]:
                mine, theirs = self._of_bundle(gene), self._of_bundle(other)
                ranks[row, mine], ranks[row, theirs] = (
                    ranks[row, theirs].copy(),
                    ranks[row, mine].copy(),
                )
            else:
                ranks[row, gene], ranks[row, other] = ranks[row, other], ranks[row, gene]
            given[row, gene] = True

    def _donors(self, ranks: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Return which widths belong to bundles that are there, alike to each row's gene."""
        alike = self._classes[None] == self._classes[genes][:, None]
        return np.asarray(alike & self._width & (ranks != self._drop))

    def _copy_rest(self, ranks: np.ndarray, donor: int, gene: int) -> None:
        """Give a bundle that comes back what one of its kind has in its genes after the width.

        Dense, it would cost many times what was freed.
        """
        if self._classes[donor] == self._classes[gene]:
            ranks[gene + 1 : self._of_bundle(gene).stop] = ranks[
                donor + 1 : self._of_bundle(donor).stop
            ]

    def _of_bundle(self, gene: int) -> slice:
        """Return the genes of a gene's bundle."""
        first = int(self._first[self._bundles[gene]])
        return slice(first, first + int(self._counts[self._bundles[gene]]))

    def _pay(
        self, ranks: np.ndarray, spared: np.ndarray, rng: np.random.Generator, *, by_one: bool
    ) -> None:
        """Compress random genes, in place, until all is feasible or nothing helps.

        Only genes that save under a violated limit pay; spared ones only if no other can.
        """
        rows = np.arange(len(ranks))
        while True:
            entries = self._entries(ranks[rows])
            most = np.broadcast_to(self._most, (len(self._most), len(ranks)))[:, rows]
            violated = self._slack(entries, most) < -ROUNDING / 2 * most
            rows, entries = rows[violated.any(axis=0)], entries[violated.any(axis=0)]
            violated = violated[:, violated.any(axis=0)]
            if not len(rows):
                return
            saves = self._saves(ranks[rows], entries, violated)
            able = saves.any(axis=1)
            rows, saves = rows[able], saves[able]
            if not len(rows):
                return
            preferred = saves & ~spared[rows]
            payers = _any_of(np.where(preferred.any(axis=1)[:, None], preferred, saves), rng)
            step = np.ones(len(rows), dtype=int)
            if not by_one:
                step += (
                    rng.random(len(rows)) * (self._last[payers] - ranks[rows, payers])
                ).astype(int)
            ranks[rows, payers] += step
            for row, gene in zip(rows, payers, strict=True):
                if self._width[gene] and ranks[row, gene] == self._drop[gene]:
                    ranks[row, gene + 1 : self._of_bundle(gene).stop] = 0

    def _saves(self, ranks: np.ndarray, entries: np.ndarray, violated: np.ndarray) -> np.ndarray:
        """Return which genes save under a violated limit where they go deeper, one or all levels.

        Args:
            violated: (limits, candidates).
        """
        able = (ranks < self._last) & self._is_alive(ranks)
        now = entries[:, self._bundles]  # (candidates, genes)
        level = self._levels[self._genes, ranks]
        before = self._costs[:, self._bundles, now]  # (limits, candidates, genes)
        saves = np.zeros(able.shape, dtype=bool)
        for deeper in (
            np.minimum(ranks + 1, self._last),
            np.broadcast_to(self._last, ranks.shape),
        ):
            then = now + (self._levels[self._genes, deeper] - level) * self._strides
            then = np.minimum(then, self._board.last[self._bundles])
            saved = (before - self._costs[:, self._bundles, then]) > 0
            saves |= (saved & violated[:, :, None]).any(axis=0)
        return np.asarray(able & saves)

    def _filled(self, ranks: np.ndarray, last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return levels with what is left of the budget given back.

        Args:
            last: (candidates, genes) whose turn comes after all others'.
        """
        n = len(ranks)
        order = np.argsort(rng.random(ranks.shape) + last, axis=1)
        entries = self._entries(ranks)
        # Feasible candidates stay so whatever the order of a sum.
        slack = self._slack(entries, self._most) + ROUNDING / 2 * self._most
        rows = np.arange(n)
        steps = np.arange(self._levels.shape[1])
        for genes in order.T:
            menus = self._bundles[genes]
            own = ranks[rows, genes]
            now = entries[rows, menus]
            level = self._levels[genes, own]
            # (candidates, ranks): where each lighter level would lead, and whether it fits.
            lead = (
                now[:, None] + (self._levels[genes] - level[:, None]) * self._strides[genes, None]
            )
            lighter = steps[None] < own[:, None]
            lead = np.where(lighter, lead, now[:, None])
            before = self._costs[:, menus, now]  # (limits, candidates)
            more = self._costs[:, menus[:, None], lead] - before[:, :, None]
            fits = lighter & (more <= slack[:, :, None]).all(axis=0)
            taken = np.flatnonzero(fits.any(axis=1))
            if not len(taken):
                continue
            best = fits[taken].argmax(axis=1)
            ranks[taken, genes[taken]] = best
            entries[taken, menus[taken]] = lead[taken, best]
            slack[:, taken] -= more[:, taken, best]
        # Genes of a dropped bundle are 0, whatever may be taken: candidates are canonical.
        return np.where(self._is_alive(ranks), self._levels[self._genes, ranks], 0)


def _any_of(able: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random column of each row among those that are true; any where none is."""
    return np.asarray(np.where(able, rng.random(able.shape), -1.0).argmax(axis=1))


def _drops(space: SearchSpace, allowed: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each gene the rank that drops its bundle, or -1, and whether it is a width."""
    drops, widths = [], []
    for gene, levels in zip(space.genes, allowed, strict=True):
        is_width = gene.kind is GeneKind.WIDTH
        widths.append(is_width)
        drops.append(len(levels) - 1 if is_width and gene.settings[levels[-1]] == 0 else -1)
    return np.asarray(drops, dtype=int), np.asarray(widths, dtype=bool)


def _classes(space: SearchSpace, allowed: Sequence[Sequence[int]]) -> np.ndarray:
    """Return a number for each gene, equal for those that may exchange their levels.

    Genes of one bundle never are alike, and bundles whose genes are alike are so one by one.
    """
    numbers: dict[object, int] = {}
    found = []
    for bundle, levels_of in zip(space.bundles, space.by_bundle(allowed), strict=True):
        own = tuple(map(tuple, levels_of))
        for position in range(len(bundle.genes)):
            key = (bundle.kind, bundle.genes, own, position)
            found.append(numbers.setdefault(key, len(numbers)))
    return np.asarray(found, dtype=int)


def _tables(constraint: Constraint) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return costs (limits, menus, entries), and each limit's fixed part and most, (limits)."""
    menus = constraint.space.menus
    costs = np.zeros((len(constraint.limits), len(menus), max(map(len, menus), default=1)))
    for index, limit in enumerate(constraint.limits):
        for menu, own in enumerate(limit.cost.menus):
            costs[index, menu, : len(own)] = own
    fixed = np.asarray([limit.cost.fixed for limit in constraint.limits])
    most = np.asarray([limit.most for limit in constraint.limits])
    return costs, fixed, most
