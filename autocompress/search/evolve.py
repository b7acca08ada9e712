"""Evolution under one constraint, its mutants screened by a surrogate before they are measured.

EvoPress (arXiv:2410.14649), Algorithm 1, with these departures: the constraint is any additive
cost, so offspring are repaired; the first parents are the additive solution and others; of
hundreds of mutants of several parents a surrogate of the loss picks the few that are measured;
the parent competes at every rung; a draw of the text stays for an epoch of several generations,
and a rung reads on where the one before it stopped, so nothing is read twice; a paired test on
each fresh draw ends a search that no longer improves. Where zeros are decided in many small steps,
each draw begins with what the parent's neighbours lose, and all genes step at once.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from autocompress.search.base import Standing, Task
from autocompress.search.ledger import Ledger
from autocompress.search.local_steps import (
    is_fine,
    middle,
    neighbours,
    steps_around,
    tempered_solutions,
)
from autocompress.search.offspring import pick
from autocompress.search.single_changes import (
    Losses,
    additive_solution,
    loss_at_start,
    measure_single_changes,
    random_candidates,
    uniform_candidates,
)
from autocompress.search.steps import Conversation, Conversing, Rung, Steps, read
from autocompress.search.surrogate import Readings, Surrogate, observe
from autocompress.spaces.moves import Moves
from autocompress.trial import Genotype

ROUNDS = 3
MIDDLES = (4, 12, 30)
"""How many of the best candidates the middle is taken of."""


@dataclass(frozen=True, slots=True)
class EvolveSettings:
    """How an evolution spends its tokens.

    Args:
        rungs: Cheapest first; sequences must grow and survivors must not.
        mutants: Looked at by the surrogate in each generation.
        elites: Candidates of the best estimates: parents of mutants, read again on a fresh draw.
        epoch: Generations that share a draw.
        patience: Epochs without an improvement on a fresh draw that end the search.
        single_sequences: Sequences read for each single change.
        fine_epoch: As `epoch`, where the parent's neighbours are read on each draw.
        neighbour_sequences: Sequences read of each.
    """

    offspring: int = 16
    rungs: tuple[Rung, ...] = (Rung(4, 4), Rung(16, 2), Rung(64, 1))
    mutants: int = 1200
    elites: int = 6
    random_parents: int = 12
    single_sequences: int = 4
    generations: int = 60
    epoch: int = 6
    patience: int = 3
    fine_epoch: int = 3
    neighbour_sequences: int = 8


def settings_for(allowed: Sequence[Sequence[int]]) -> EvolveSettings:
    """Return settings that suit a space by the entries that its sites may take.

    Where sites have many entries there is more to try, and candidates differ by less: more of
    them are measured, and read for longer.
    """
    if sum(map(len, allowed)) <= 3 * len(allowed):
        return EvolveSettings()
    return EvolveSettings(offspring=24, rungs=(Rung(8, 6), Rung(32, 2), Rung(96, 1)))


class EvolveStrategy(Conversing):
    """One evolution under one constraint.

    Args:
        start: Losses of single changes, of any scale, known beforehand; None measures them.
    """

    def __init__(self, task: Task, settings: EvolveSettings, start: Losses | None = None) -> None:
        self._task = task
        self._settings = settings
        self._ledger = Ledger(task.context, task.tokens_of_rules)
        self._losses: Losses = start or []
        self._generation = 0
        self._draw = 0
        self._parent: Genotype | None = None
        self._scale = 1.0
        self._moves = Moves(task.constraint, task.allowed)
        self._seen: dict[Genotype, None] = {}
        # Neighbours may violate the constraint: the surrogate learns of them, none is a parent.
        self._neighbours: dict[Genotype, None] = {}
        self._centre: Genotype | None = None
        # What a candidate is trained on before it is read: nothing, but where winners are trained.
        self._lengths = tuple(dict.fromkeys(rung.trained for rung in settings.rungs))
        # Of candidates that are trained first, so many neighbours would cost more than they tell.
        self._is_fine = is_fine(task) and not any(self._lengths)
        self._epoch = settings.fine_epoch if self._is_fine else settings.epoch
        self._stopped_because = ""
        self._is_out_of_budget = False
        self._talk = Conversation(self._run(), self._ledger)

    def standing(self) -> Standing:
        """Return where the search stands.

        Losses on different draws do not compare, so the parent's is expressed on the first draw:
        scaled by what the same parent lost on the old draw and on the new one.
        """
        loss = math.inf
        if self._parent is not None:
            loss = self._scale * self._ledger.loss(
                self._parent, self._draw, trained=self._lengths[-1]
            )
        return Standing(
            self._generation,
            self._settings.generations,
            self._ledger.tokens,
            loss,
            self._parent,
        )

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
        return self._stopped_because

    @property
    def is_out_of_budget(self) -> bool:
        """Whether tokens or time ended it, not a search that was done."""
        return self._is_out_of_budget

    @property
    def losses(self) -> Losses:
        """What it knows of single changes."""
        return self._losses

    def finalists(self, n: int) -> list[Genotype]:
        """Return the present parent, then the candidates of the best estimates."""
        if self._parent is None:
            return []
        ranked = self._ranked(self._surrogate(), self._alive())
        return list(dict.fromkeys([self._parent, *ranked]))[:n]

    def _run(self) -> Steps:
        task, settings = self._task, self._settings
        if not self._losses:
            self._losses = yield from measure_single_changes(
                task, self._ledger, settings.single_sequences
            )
        parents = self._first_parents()
        self._see(parents)
        yield from self._select(parents)
        epochs_without, before = 0, self._parent
        for generation in range(1, settings.generations + 1):
            self._stopped_because = self._reason(generation, epochs_without)
            if self._stopped_because:
                return
            if generation > 1 and (generation - 1) % self._epoch == 0:
                yield from self._turn(before)
                epochs_without = 0 if self._improved(before) else epochs_without + 1
                before = self._parent
                self._stopped_because = self._reason(generation, epochs_without)
                if self._stopped_because:
                    return
            if self._is_fine and (generation - 1) % self._epoch == 0:
                yield from self._look_around()
            offspring = self._offspring(generation)
            self._see(offspring)
            yield from self._select(offspring)
            self._generation = generation
        self._stopped_because = f"all {settings.generations} generations done"

    def _first_parents(self) -> list[Genotype]:
        task = self._task
        rng = task.rng(0)
        known = _array(task.extra).reshape(len(task.extra), len(task.space.genes))
        additive = additive_solution(task, self._losses)
        # Where each is trained first, so many alike would cost more than they tell.
        tempered = [] if any(self._lengths) else tempered_solutions(task, self._losses)
        n = self._settings.random_parents
        if task.space.has_widths:
            others = list(random_candidates(task, n))
        else:
            # Small errors add up: these solutions are near the best, random candidates are far.
            near = _array(list(itertools.islice(itertools.cycle([additive, *tempered]), n)))
            for _ in range(ROUNDS):
                near = self._moves.mutate(near, rng)
            others = list(map(_genotype, near))
        return [
            *map(_genotype, self._moves.repair(known, rng)),
            additive,
            *tempered,
            *uniform_candidates(task)[:1],
            *others,
        ]

    def _look_around(self) -> Steps:
        """Read the parent's neighbours, where tokens last for a generation after that."""
        task, self._centre = self._task, None
        if self._parent is None:
            return
        found = neighbours(task, self._parent)
        end = task.end(self._settings.neighbour_sequences)
        if task.out_of_tokens(self._ledger.tokens + len(found) * end * task.context):
            return
        self._neighbours |= dict.fromkeys(found)
        yield from read(found, self._draw, end, self._ledger)
        self._centre = self._parent

    def _turn(self, before: Genotype | None) -> Steps:
        """Go to a fresh draw: read the elites there, and the parent of the epoch before.

        Of elites that differ by little the noise of one draw picks any: the best estimate from
        all draws is the parent that goes on.
        """
        parent, trained = self._parent, self._lengths[-1]
        if parent is None:
            return
        draw, end = self._draw + 1, self._task.end(self._settings.rungs[-1].sequences)
        elites = self._elites(self._surrogate())
        first = [parent] if before is None else [parent, before]
        elites = list(dict.fromkeys([*first, *elites]))
        yield from read(elites, draw, end, self._ledger, trained)
        old, new = (self._ledger.loss(parent, own, trained=trained) for own in (self._draw, draw))
        self._scale *= old / new if new > 0 and math.isfinite(new) else 1.0
        self._draw = draw
        alive = self._ledger.best(elites, draw, end, len(elites), trained)
        self._parent = self._ranked(self._surrogate(), alive)[0]

    def _improved(self, before: Genotype | None) -> bool:
        """Whether the parent beats the one before on the fresh draw, in a paired test.

        One-sided t-test over sequences at 5 %.
        """
        if self._parent is None or before is None or self._parent == before:
            return False
        ours, theirs = (
            self._ledger.measurement(own, self._draw, trained=self._lengths[-1])
            for own in (self._parent, before)
        )
        if ours is None or theirs is None:
            return ours is not None
        difference = np.asarray(theirs.kl) - np.asarray(ours.kl)
        if not difference.std():
            return bool(difference.mean() > 0)
        return bool(stats.ttest_1samp(difference, 0.0, alternative="greater").pvalue < 0.05)

    def _reason(self, generation: int, epochs_without: int) -> str:
        spent = self._task.out_of_tokens(self._ledger.tokens)
        if spent:
            self._is_out_of_budget = True
            return spent
        if epochs_without >= self._settings.patience:
            return (
                f"a paired test on a fresh draw found no improvement, {epochs_without} times "
                f"in a row, {self._epoch} generations each"
            )
        reason = self._task.stop(generation) or ""
        self._is_out_of_budget = bool(reason)
        return reason

    def _select(self, newcomers: Sequence[Genotype]) -> Steps:
        """Run newcomers and the parent through the rungs; the best estimate is the next parent."""
        pool = list(newcomers)
        if self._parent is not None and self._parent not in pool:
            pool.append(self._parent)
        for rung in self._settings.rungs:
            end = self._task.end(rung.sequences)
            yield from read(pool, self._draw, end, self._ledger, rung.trained)
            # Raises if all of them failed.
            alive = self._ledger.best(pool, self._draw, end, len(pool), rung.trained)
            ranked = self._ranked(self._surrogate(), alive)
            pool = ranked[: rung.survivors]
            if self._parent is not None and rung is not self._settings.rungs[-1]:
                pool = list(dict.fromkeys([*pool, self._parent]))
        self._parent = pool[0]

    def _offspring(self, generation: int) -> list[Genotype]:
        """Return the candidates that lead many genes on, and mutants that the surrogate picks.

        Half of the mutants have the best expected loss; the others are each the best under one
        draw of the surrogate's weights (Thompson sampling): what it is unsure of is tried too.
        """
        rng = self._task.rng(generation)
        surrogate = self._surrogate()
        mutants = _array(list(self._mutants(surrogate, rng)))
        if not len(mutants) or self._parent is None:
            return []
        parent = np.asarray(self._parent.levels)
        leading = self._leading(surrogate, rng) if self._is_fine else []
        n = max(1, self._settings.offspring - len(leading))
        picked = pick(surrogate, mutants, parent, n, rng)
        return list(dict.fromkeys([*leading, *(_genotype(mutants[i]) for i in picked)]))

    def _leading(self, surrogate: Surrogate, rng: np.random.Generator) -> list[Genotype]:
        """Return candidates in which many genes step at once, none of them measured yet.

        The middles of the best ones; once neighbours are read, where they lead and half the way.
        """
        best = self._ranked(surrogate, self._alive())
        middles = (middle(self._task, best[:n]) for n in MIDDLES)
        found = [own for own in middles if own is not None]
        centre, self._centre = self._centre, None
        if centre is not None:
            end = self._task.end(self._settings.neighbour_sequences)

            def loss_of(genotype: Genotype) -> float:
                is_read = self._ledger.read(genotype, self._draw) >= end
                return self._ledger.loss(genotype, self._draw, end) if is_read else math.inf

            led_to = steps_around(self._task, centre, loss_of)
            twice = _array(led_to * 2).reshape(-1, len(centre.levels))
            halves = self._moves.cross(twice, np.repeat(_array([centre]), len(twice), 0), rng)
            found += [*led_to, *map(_genotype, halves)]
        return [genotype for genotype in dict.fromkeys(found) if genotype not in self._seen]

    def _mutants(self, surrogate: Surrogate, rng: np.random.Generator) -> dict[Genotype, None]:
        """Return candidates that were never measured: mutants and crossings of the elites.

        In rounds: those that the surrogate likes best of a round are elites of the next, so that
        it also sees what is several moves away.
        """
        elites = self._elites(surrogate)
        if self._parent is not None:
            elites = list(dict.fromkeys([self._parent, *elites]))
        found: dict[Genotype, None] = {}
        liked: list[Genotype] = []
        for round_ in range(ROUNDS):
            n = self._settings.mutants // ROUNDS
            starts = _drawn(elites, n, rng)
            if round_:
                starts[::2] = _drawn(liked, len(starts[::2]), rng)
            n_crossed = n // 5 if len(elites) > 1 else 0
            others = _array(elites)[rng.integers(len(elites), size=n_crossed)]
            crossed = self._moves.cross(starts[:n_crossed], others, rng)
            mutated = self._moves.mutate(starts[n_crossed:], rng)
            made = dict.fromkeys(map(_genotype, np.vstack([crossed, mutated])))
            found |= {genotype: None for genotype in made if genotype not in self._seen}
            if not found:
                break
            seen = list(found)
            order = np.argsort(surrogate.sample(_array(seen), 1, rng)[0], kind="stable")
            liked = [seen[i] for i in order[: self._settings.elites]]
        return found

    def _surrogate(self) -> Surrogate:
        readings: Readings = {}
        for genotype in self._seen | self._neighbours:
            for draw, trained in self._texts():
                measured = self._ledger.measurement(genotype, draw, trained=trained)
                if measured is not None:
                    reading = (draw, len(measured.kl), trained)
                    readings.setdefault(reading, {})[genotype.levels] = measured
        return Surrogate(
            self._task.space,
            self._losses,
            observe(readings, self._task.available),
            base=loss_at_start(self._task, self._ledger),
        )

    def _ranked(self, surrogate: Surrogate, genotypes: Sequence[Genotype]) -> list[Genotype]:
        """Return candidates by estimate, the best first."""
        if not genotypes:
            return []
        estimates = surrogate.estimate(_array(genotypes))
        order = sorted(range(len(genotypes)), key=lambda i: (estimates[i], genotypes[i].levels))
        return [genotypes[i] for i in order]

    def _elites(self, surrogate: Surrogate) -> list[Genotype]:
        return self._ranked(surrogate, self._alive())[: self._settings.elites]

    def _alive(self) -> list[Genotype]:
        """Return every candidate that was measured and never failed."""
        return [
            genotype
            for genotype in self._seen
            if any(
                self._ledger.measurement(genotype, draw, trained=trained)
                for draw, trained in self._texts()
            )
        ]

    def _texts(self) -> Iterator[tuple[int, int]]:
        """Yield each draw so far with each length of training."""
        return itertools.product(range(self._draw + 1), self._lengths)

    def _see(self, genotypes: Sequence[Genotype]) -> None:
        self._seen |= dict.fromkeys(genotypes)


def _array(genotypes: Sequence[Genotype]) -> np.ndarray:
    """Return candidates as (candidates, genes) levels."""
    return np.asarray([genotype.levels for genotype in genotypes], dtype=int)


def _genotype(levels: np.ndarray) -> Genotype:
    return Genotype(tuple(levels.tolist()))


def _drawn(ranked: Sequence[Genotype], n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the levels of n candidates drawn with replacement, the first ones more often."""
    return np.asarray(_array(ranked)[(len(ranked) * rng.random(n) ** 2).astype(int)])
