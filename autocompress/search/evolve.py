"""Level-switch evolution under one constraint, from the additive solution and others.

EvoPress (arXiv:2410.14649), Algorithm 1, with these departures: the constraint is any additive
cost, so offspring are repaired; the first parent is the best of the additive solution, an evenly
spaced one and random ones; the parent competes at every rung; a draw of the text stays for an
epoch of several generations, and a rung reads on where the one before it stopped, so nothing is
read twice.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.errors import UnreachableTarget
from autocompress.search.base import Batch, Standing
from autocompress.search.ledger import Ledger
from autocompress.spaces import knapsack, moves
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import Constraint
from autocompress.spaces.moves import Entries
from autocompress.trial import Fidelity, Genotype, Split, Trial

TOURNAMENT = 4
LEAST_SHARE = 0.01

Stopper = Callable[[int], str | None]
"""Asked before each generation with its number; a reason ends the search."""


@dataclass(frozen=True, slots=True)
class Rung:
    """How many candidates go on, and how far into the draw they have been read by then."""

    sequences: int
    survivors: int


@dataclass(frozen=True, slots=True)
class EvolveSettings:
    """How an evolution spends its tokens.

    Args:
        rungs: Cheapest first; sequences must grow and survivors must not.
        epoch: Generations that share a draw.
        patience: Generations without a better parent that end the search.
        single_sequences: Sequences read for each single change.
    """

    offspring: int = 24
    rungs: tuple[Rung, ...] = (Rung(8, 6), Rung(32, 2), Rung(96, 1))
    random_parents: int = 32
    single_sequences: int = 8
    generations: int = 60
    epoch: int = 10
    patience: int = 12
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Parents:
    """Where a search starts: the baselines it has to beat.

    Args:
        random: Random candidates in the order drawn.
        extra: Candidates known from elsewhere, such as the winner before a correction.
    """

    additive: Genotype
    uniform: Genotype | None
    random: tuple[Genotype, ...]
    extra: tuple[Genotype, ...] = ()

    def all(self) -> tuple[Genotype, ...]:
        """Return every first parent once."""
        named = [self.additive, *([self.uniform] if self.uniform else [])]
        return tuple(dict.fromkeys([*named, *self.extra, *self.random]))


class EvolveStrategy:
    """One evolution under one constraint.

    Args:
        phase: Counts the evolutions of a study: 0, then one more after each correction.
        context: Tokens of a sequence.
        available: Sequences of the search text.
        stop: Asked before each generation.
        extra: More first parents; repaired to the constraint.
    """

    def __init__(
        self,
        space: SearchSpace,
        constraint: Constraint,
        settings: EvolveSettings,
        *,
        phase: int,
        seed: int,
        context: int,
        available: int,
        stop: Stopper,
        extra: Sequence[Genotype] = (),
    ) -> None:
        self._space = space
        self.constraint = constraint
        self._settings = settings
        self._phase = phase
        self._seed = seed
        self._available = available
        self._stop = stop
        self._extra = tuple(extra)
        self._allowed = constraint.useful_entries(LEAST_SHARE)
        self._ledger = Ledger(context)
        self._generation = 0
        self._parent: Genotype | None = None
        self._draw = 0
        self._scale = 1.0
        self._finalists: list[Genotype] = []
        self._losses: list[list[float]] = []
        self.parents: Parents | None = None
        self.stopped_because = ""
        self._steps = self._run()
        self._asked = next(self._steps, None)

    def ask(self) -> Batch | None:
        """Return the next batch, or None when the search is over."""
        return self._asked

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the batch just asked and go on to the next."""
        self._ledger.add(trials)
        self._asked = next(self._steps, None)

    def standing(self) -> Standing:
        """Return where the search stands.

        Losses on different draws do not compare, so the parent's is expressed on the first draw:
        scaled by what the same parent lost on the old draw and on the new one.
        """
        loss = float("inf")
        if self._parent is not None:
            loss = self._scale * self._ledger.loss(self._parent, self._draw)
        return Standing(self._generation, self._ledger.tokens, loss, self._parent)

    def finalists(self, n: int) -> list[Genotype]:
        """Return the n last different parents and runners-up, the present parent first."""
        return list(dict.fromkeys(reversed(self._finalists)))[:n]

    def _run(self) -> Generator[Batch, None, None]:
        parents = yield from self._first_parents()
        self.parents = parents
        best = yield from self._select(parents.all(), keep=2, draw=0)
        self._parent = best[0]
        self._finalists += reversed(best)
        last_better = 0
        for generation in range(1, self._settings.generations + 1):
            self.stopped_because = self._reason(generation, last_better)
            if self.stopped_because:
                return
            draw = (generation - 1) // self._settings.epoch
            offspring = self._offspring(generation, draw)
            best = yield from self._select((self._parent, *offspring), keep=2, draw=draw)
            self._generation = generation
            if draw != self._draw:
                before = self._ledger.loss(self._parent, self._draw)
                after = self._ledger.loss(self._parent, draw)
                self._scale *= before / after if after > 0 else 1.0
                self._draw = draw
            if best[0] != self._parent:
                last_better = generation
            self._parent = best[0]
            self._finalists += reversed(best)
        self.stopped_because = f"all {self._settings.generations} generations done"

    def _reason(self, generation: int, last_better: int) -> str:
        limit = self._settings.max_tokens
        if limit is not None and self._ledger.tokens >= limit:
            return f"{limit:,} tokens spent"
        if generation - last_better > self._settings.patience:
            return f"no better candidate in {self._settings.patience} generations"
        return self._stop(generation) or ""

    def _first_parents(self) -> Generator[Batch, None, Parents]:
        """Measure every single change, and solve the knapsack over their losses."""
        menus = self._space.menus
        dense = [0] * len(menus)
        changes = [
            (site, entry) for site, allowed in enumerate(self._allowed) for entry in allowed[1:]
        ]
        genotypes = {
            change: self._space.genotype([*dense[: change[0]], change[1], *dense[change[0] + 1 :]])
            for change in changes
        }
        n = min(self._settings.single_sequences, self._available)
        yield from self._measure(list(genotypes.values()), Fidelity(Split.SEARCH, 0, 0, n))
        self._ledger.best(genotypes.values(), 0, n, 1)  # raises if every one of them failed
        losses = self._losses = [[0.0] * len(menu) for menu in menus]
        for (site, entry), genotype in genotypes.items():
            losses[site][entry] = self._ledger.loss(genotype, 0)
        solution = knapsack.solve_under(losses, self.constraint, self._allowed)
        rng = self._rng(0)
        if solution is None:
            # The knapsack rounds costs up: it misses a limit that only the least candidate meets.
            solution = tuple(entries[-1] for entries in self._allowed)
        if self.constraint.violation_of(solution) > 0:
            raise UnreachableTarget("No candidate of the space meets the constraint.")
        filled = moves.fill(solution, self.constraint, self._allowed, rng)
        uniform = moves.evenly_spaced(self.constraint) or moves.evenly_narrow(self.constraint)
        random = [
            moves.random_candidate(self.constraint, self._allowed, rng)
            for _ in range(self._settings.random_parents)
        ]
        extra = [
            moves.repair(self._space.entries(g), self.constraint, self._allowed, rng)
            for g in self._extra
        ]
        return Parents(
            self._space.genotype(filled),
            None if uniform is None else self._space.genotype(uniform),
            tuple(map(self._space.genotype, random)),
            tuple(map(self._space.genotype, extra)),
        )

    def _offspring(self, generation: int, draw: int) -> list[Genotype]:
        """Return distinct mutants of the parent that have not been measured on this draw."""
        parent = self._parent or self._space.dense
        rng = self._rng(generation)
        start: Entries = self._space.entries(parent)
        found: dict[Genotype, None] = {}
        for attempt in range(20 * self._settings.offspring):
            if len(found) == self._settings.offspring:
                break
            # Half of the offspring win a small tournament on the additive losses: likely mutants
            # without giving up on those whose worth lies in how their sites interact.
            rivals = [
                moves.mutate(start, self.constraint, self._allowed, rng)
                for _ in range(TOURNAMENT if attempt % 2 else 1)
            ]
            mutant = self._space.genotype(min(rivals, key=self._additive_loss))
            if mutant != parent and self._ledger.measurement(mutant, draw) is None:
                found[mutant] = None
        return list(found)

    def _select(
        self, candidates: Sequence[Genotype], keep: int, draw: int
    ) -> Generator[Batch, None, list[Genotype]]:
        """Run candidates through the rungs; the first of them, the parent, is in every rung."""
        parent = candidates[0] if self._parent is not None else None
        pool = list(candidates)
        read = 0
        for rung in self._settings.rungs:
            end = min(rung.sequences, self._available)
            if end > read:
                yield from self._measure(pool, Fidelity(Split.SEARCH, draw, 0, end))
                read = end
            last = rung is self._settings.rungs[-1]
            n = max(rung.survivors, keep if last else 1)
            pool = self._ledger.best(pool, draw, read, n)
            if parent is not None and parent not in pool and not last:
                pool.append(parent)
        return pool

    def _measure(
        self, genotypes: Sequence[Genotype], fidelity: Fidelity
    ) -> Generator[Batch, None, None]:
        missing = tuple(
            genotype
            for genotype in dict.fromkeys(genotypes)
            if self._ledger.read(genotype, fidelity.draw) < fidelity.end
        )
        if missing:
            yield Batch(missing, fidelity)

    def _additive_loss(self, entries: Sequence[int]) -> float:
        """Return the sum of the single changes' losses."""
        return sum(losses[entry] for losses, entry in zip(self._losses, entries, strict=True))

    def _rng(self, generation: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._phase, generation])
