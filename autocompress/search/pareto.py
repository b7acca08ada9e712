"""Searches the whole front of cost against loss: one search, whatever the target turns out to be.

The knapsack's solutions at many budgets, all of the same losses of single changes, are the first
candidates. From then on a surrogate of the loss is fitted to all that was measured; an algorithm
for many objectives breeds on it, and what promises the most hypervolume is measured, a few
sequences at first. What then stands in the front is read on, rung by rung, always of one draw: all
losses compare.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.search.axes import Axes, Place
from autocompress.search.base import Standing, Task
from autocompress.search.breeding import Breeder, Ground
from autocompress.search.ledger import Ledger
from autocompress.search.single_changes import (
    Losses,
    additive_solution,
    loss_at_start,
    measure_single_changes,
    uniform_candidates,
)
from autocompress.search.steps import Conversation, Conversing, Rung, Steps, read
from autocompress.search.surrogate import Readings, Surrogate, observe
from autocompress.trial import Genotype

DRAW = 0
DRIFT = 0.4
"""Of a level's weight along a front: held-out candidates' losses are told a fifth better by it."""


@dataclass(frozen=True, slots=True)
class ParetoSettings:
    """How a search for a front spends its tokens.

    Args:
        budgets: Knapsacks that are solved for the first candidates, on each axis.
        offspring: Read to the first rung in each generation.
        rungs: Cheapest first; `survivors` are read on to a rung in each generation, at most.
        epoch: Generations after which the front is held against what it was.
        patience: Epochs without a better front that end the search.
        least_gain: Of an epoch, in the front's mean log loss.
        single_sequences: Sequences read for each single change.
    """

    budgets: int = 64
    offspring: int = 64
    rungs: tuple[Rung, ...] = (Rung(4, 64), Rung(16, 16))
    generations: int = 60
    epoch: int = 6
    patience: int = 3
    least_gain: float = 0.003
    single_sequences: int = 4


class ParetoStrategy(Conversing):
    """One search along all costs that a task limits; the task's constraint says who wins."""

    def __init__(
        self,
        task: Task,
        settings: ParetoSettings,
        breed: Breeder,
        start: Losses | None = None,
    ) -> None:
        """Begin with nothing measured.

        Args:
            start: Losses of single changes by a rule; None has them measured.
        """
        self._task = task
        self._settings = settings
        self._breed = breed
        self._axes = Axes(task)
        self._ledger = Ledger(task.context, task.tokens_of_rules)
        self._losses: Losses = start or []
        self._generation = 0
        self._seen: dict[Genotype, None] = {}
        # Where all that did not fail lies, by the newest estimate of its loss.
        self._places: dict[Genotype, Place] = {}
        self._stopped_because = ""
        self._talk = Conversation(self._run(), self._ledger)

    def standing(self) -> Standing:
        """Return where the search stands: its best within the constraint."""
        best = next(iter(self.finalists(1)), None)
        loss = math.inf if best is None else self._ledger.loss(best, DRAW)
        return Standing(
            self._generation, self._settings.generations, self._ledger.tokens, loss, best
        )

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
        return self._stopped_because

    def finalists(self, n: int) -> list[Genotype]:
        """Return candidates within the constraint: of those read furthest the best, and so on."""
        feasible = [genotype for genotype, place in self._places.items() if place.is_feasible]
        return sorted(
            feasible, key=lambda g: (-self._read(g), self._places[g].log_loss, g.levels)
        )[:n]

    def front(self) -> list[Genotype]:
        """Return what no other dominates on some axis, of all that was read to the last rung."""
        last = self._task.end(self._settings.rungs[-1].sequences)
        known = {g: place for g, place in self._places.items() if self._read(g) >= last}
        return list(dict.fromkeys(g for axis in self._axes for g in self._axes.front(axis, known)))

    def _run(self) -> Steps:
        settings = self._settings
        if not self._losses:
            self._losses = yield from measure_single_changes(
                self._task, self._ledger, settings.single_sequences
            )
        yield from self._measure(self._first())
        epochs_without, before = 0, self._mean_loss()
        for generation in range(1, settings.generations + 1):
            if generation > 1 and (generation - 1) % settings.epoch == 0:
                now = self._mean_loss()
                epochs_without = epochs_without + 1 if now > before - settings.least_gain else 0
                before = min(now, before)
            self._stopped_because = self._reason(generation, epochs_without)
            if self._stopped_because:
                return
            yield from self._measure(self._offspring(generation))
            self._generation = generation
        self._stopped_because = f"all {settings.generations} generations done"

    def _reason(self, generation: int, epochs_without: int) -> str:
        spent = self._task.out_of_tokens(self._ledger.tokens)
        if spent:
            return spent
        if epochs_without >= self._settings.patience:
            return (
                f"the front got no better, {epochs_without} times in a row, "
                f"{self._settings.epoch} generations each"
            )
        return self._task.stop(generation) or ""

    def _first(self) -> list[Genotype]:
        """Return the knapsacks' solutions, under the task's constraint and along each axis."""
        task = self._task
        constraints = [task.constraint, *self._axes.budgets(self._settings.budgets)]
        tasks = [dataclasses.replace(task, constraint=own) for own in constraints]
        solved = [additive_solution(own, self._losses) for own in tasks]
        known = [*map(task.space.canonical, task.extra), *uniform_candidates(task)[:1], *solved]
        return list(dict.fromkeys(known))

    def _measure(self, newcomers: Sequence[Genotype]) -> Steps:
        """Read newcomers to the first rung, and to each further one what is in the front by then.

        Raises:
            EvaluationError: If all that was ever measured failed.
        """
        self._seen |= dict.fromkeys(newcomers)
        first, *further = self._settings.rungs
        reached = self._task.end(first.sequences)
        yield from read(newcomers, DRAW, reached, self._ledger)
        self._ledger.best(self._seen, DRAW, reached, 1)
        self._place()
        for rung in further:
            chosen = self._promising(reached, rung.survivors)
            reached = self._task.end(rung.sequences)
            yield from read(chosen, DRAW, reached, self._ledger)
            self._place()

    def _promising(self, reached: int, n: int) -> list[Genotype]:
        """Return what is read on, of what was read so far and no further.

        Only what stands in a front by now. First come the best within the constraint and what
        costs least, then what lies furthest below the front of all that was read further; one in
        each part of an axis.
        """
        places = self._places
        further = {g: place for g, place in places.items() if self._read(g) > reached}
        feasible = [genotype for genotype, place in places.items() if place.is_feasible]
        first = [min(feasible, key=lambda g: (places[g].log_loss, g.levels))] if feasible else []
        below: dict[Genotype, float] = {}
        for axis in self._axes:
            whole = self._axes.front(axis, places)
            first.append(whole[0])
            front = [genotype for genotype in whole if self._read(genotype) == reached]
            shares = np.asarray([places[g].shares[axis] for g in front])
            losses = np.asarray([places[g].log_loss for g in front])
            gains = self._axes.curve(axis, further or places).at(shares) - losses
            bins = self._axes.bins(axis, shares)
            order = np.argsort(-gains, kind="stable")
            _, firsts = np.unique(bins[order], return_index=True)
            below |= {front[i]: float(gains[i]) for i in order[firsts]}
        below |= {genotype: math.inf for genotype in first if self._read(genotype) == reached}
        return sorted(below, key=lambda g: (-below[g], g.levels))[:n]

    def _offspring(self, generation: int) -> list[Genotype]:
        """Return what promises most of all that was bred on the surrogate.

        Half of them by its mean, the others each by one draw of its weights and of what they miss
        of every candidate (Thompson sampling).
        """
        rng = self._task.rng(generation)
        ground = self._ground()
        parents = levels_of(self._axes.ranked(self._places))
        bred = dict.fromkeys(genotypes_of(self._breed(ground, parents, rng)))
        # What the dense model loses is known: nothing.
        pool = [g for g in bred if g not in self._seen and g != self._task.space.dense]
        if not pool:
            return []
        levels, n = levels_of(pool), self._settings.offspring
        surrogate = ground.surrogate
        drawn = surrogate.sample(levels, n // 2, rng) + ground.constant
        drawn += surrogate.misfit * rng.standard_normal(drawn.shape)
        rows = [ground.expect(levels), *drawn]
        order = [0 if i % 2 == 0 else 1 + i // 2 for i in range(n)]
        picked = self._axes.pick(levels, [rows[i] for i in order], self._places)
        return [pool[i] for i in picked]

    def _ground(self) -> Ground:
        """Fit a surrogate to all that was measured; it expects losses as the longest reading."""
        readings: Readings = {}
        for genotype in self._seen:
            measured = self._ledger.measurement(genotype, DRAW)
            if measured is not None:
                readings.setdefault((DRAW, len(measured.kl)), {})[genotype.levels] = measured
        observations = observe(readings, self._task.available)
        base = loss_at_start(self._task, self._ledger)
        surrogate = Surrogate(self._task.space, self._losses, observations, DRIFT, base)
        constant = surrogate.constant(max(readings))
        return Ground(self._task.space, self._axes, surrogate, constant, self._losses)

    def _place(self) -> None:
        """Estimate anew what all that did not fail loses."""
        alive = [g for g in self._seen if self._ledger.measurement(g, DRAW) is not None]
        ground = self._ground()
        estimates = ground.surrogate.estimate(levels_of(alive)) + ground.constant
        self._places = self._axes.places(alive, estimates)

    def _mean_loss(self) -> float:
        shares = np.asarray([place.shares for place in self._places.values()]).T
        log_losses = np.asarray([place.log_loss for place in self._places.values()])
        return self._axes.mean_loss(shares, log_losses)

    def _read(self, genotype: Genotype) -> int:
        return self._ledger.read(genotype, DRAW)


def levels_of(genotypes: Sequence[Genotype]) -> np.ndarray:
    """Return candidates as (candidates, genes) levels."""
    return np.asarray([genotype.levels for genotype in genotypes], dtype=int)


def genotypes_of(levels: np.ndarray) -> list[Genotype]:
    """Return candidates from (candidates, genes) levels."""
    return [Genotype(tuple(row)) for row in levels.tolist()]
