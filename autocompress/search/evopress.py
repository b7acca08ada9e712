"""EvoPress as published (arXiv:2410.14649, Algorithm 1 and the defaults of its three searches).

Kept as it is, to be compared with: random drops or even bits to begin with, mutants by level
switches between two genes that may trade, a fresh draw of the text at every stage of every
generation, the parent in the stages that keep as few as the last one, a fixed number of
generations.
"""

import enum
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.search.base import Batch, Standing, Task
from autocompress.search.ledger import Ledger
from autocompress.search.single_changes import random_candidates
from autocompress.search.steps import Conversation, Conversing, Steps, read
from autocompress.spaces.base import Gene, GeneKind, Levels, SearchSpace
from autocompress.spaces.even import even_candidates
from autocompress.spaces.settings import WeightSetting
from autocompress.trial import Genotype

ATTEMPTS = 1000
"""Mutants tried for one that is feasible and new, before a generation does with fewer."""

MOST_CHANGES = 10
LEAST_USED = 0.8
"""Of what a mutant frees it must use so much."""


@dataclass(frozen=True, slots=True)
class Stage:
    """So many tokens for every candidate, and so many that go on."""

    tokens: int
    survivors: int


class Trade(enum.Enum):
    """Between which genes a mutation moves budget: the program's `group_rule`."""

    SIZE = "size"
    """A level up and a level down in two groups of one size, so that each size's share stays.

    Of zeros, in any two groups whose levels lie as many weights apart.
    """
    NONE = "none"
    """Levels up anywhere, then levels down anywhere until the constraint is met."""


@dataclass(frozen=True, slots=True)
class EvoPressSettings:
    """The depth search's defaults.

    Args:
        generations: By default k (n - k) / 1.5 for k of n sub-blocks of a kind dropped, as the
            random parents drop them.
    """

    offspring: int = 32
    stages: tuple[Stage, ...] = (Stage(2_048, 2), Stage(32_768, 1))
    initially_generated: int = 64
    initial_tokens: int = 2_048
    generations: int | None = None
    trade: Trade = Trade.SIZE


def evopress_settings(space: SearchSpace, *, fast: bool, trade: Trade) -> EvoPressSettings:
    """Return the program's defaults for what a space holds: depth, sparsity or bits.

    Args:
        fast: Take its super-fast schedule, for sparsity and bits.
    """
    kinds = {gene.kind for gene in space.genes}
    if fast and GeneKind.WIDTH not in kinds:
        return EvoPressSettings(16, (Stage(512, 1), Stage(8_192, 1)), 64, 2_048, 400, trade)
    if GeneKind.BITS in kinds:
        stages = (Stage(2_048, 16), Stage(16_384, 4), Stage(131_072, 1))
        return EvoPressSettings(128, stages, 64, 2_048, 150, trade)
    if GeneKind.SPARSITY in kinds:
        stages = (Stage(2_048, 8), Stage(16_384, 2), Stage(65_536, 1))
        return EvoPressSettings(64, stages, 64, 2_048, 400, trade)
    return EvoPressSettings(trade=trade)


class EvoPressStrategy(Conversing):
    """One run of EvoPress under any constraint; mutants that violate it are drawn again."""

    def __init__(self, task: Task, settings: EvoPressSettings) -> None:
        self._task = task
        self._settings = settings
        self._allowed = task.allowed
        self._groups = _trading(task.space)
        self._ledger = Ledger(task.context, task.tokens_of_rules)
        self._generation = 0
        self._draw = 0
        self._parent: Genotype | None = None
        self._generations = settings.generations or 0
        self._stopped_because = ""
        self._talk = Conversation(self._run(), self._ledger)

    def standing(self) -> Standing:
        """Return where the search stands; losses of different generations do not compare."""
        loss = math.inf if self._parent is None else self._ledger.loss(self._parent, self._draw)
        return Standing(
            self._generation, self._generations, self._ledger.tokens, loss, self._parent
        )

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
        return self._stopped_because

    def finalists(self, n: int) -> list[Genotype]:
        """Return the last parent."""
        return [self._parent][:n] if self._parent else []

    def _run(self) -> Steps:
        task, settings = self._task, self._settings
        first = random_candidates(task, settings.initially_generated)
        if not task.space.has_widths:
            even = even_candidates(task.constraint, task.rng(0))
            first = tuple(map(Genotype, even)) or first
        (self._parent,) = yield from self._stage(
            list(dict.fromkeys(first)), Stage(settings.initial_tokens, 1)
        )
        self._generations = settings.generations or self._usual_generations()
        for generation in range(1, self._generations + 1):
            spent = task.out_of_tokens(self._ledger.tokens)
            self._stopped_because = spent or task.stop(generation) or ""
            if self._stopped_because:
                return
            pool = self._offspring(self._parent, generation)
            for stage in settings.stages:
                if stage.survivors == settings.stages[-1].survivors:
                    pool = list(dict.fromkeys([*pool, self._parent]))
                pool = yield from self._stage(pool, stage)
            self._parent = pool[0]
            self._generation = generation
        self._stopped_because = f"all {self._generations} generations done"

    def _stage(self, pool: list[Genotype], stage: Stage) -> Generator[Batch, None, list[Genotype]]:
        self._draw += 1
        end = self._task.end(max(1, stage.tokens // self._task.context))
        yield from read(pool, self._draw, end, self._ledger)
        return self._ledger.best(pool, self._draw, end, stage.survivors)

    def _usual_generations(self) -> int:
        """Return k (n - k) / 1.5 of the kind of which the parent compresses more sites."""
        levels = self._parent.levels if self._parent else ()
        usual = 1.0
        for own in self._groups:
            compressed = sum(levels[gene] > 0 for gene in own)
            usual = max(usual, compressed * (len(own) - compressed) / 1.5)
        return int(usual)

    def _offspring(self, parent: Genotype, generation: int) -> list[Genotype]:
        rng = self._task.rng(generation)
        found: dict[Genotype, None] = {}
        for _ in range(ATTEMPTS):
            if len(found) == self._settings.offspring:
                break
            mutant = self._task.space.canonical(Genotype(self._mutant(parent.levels, rng)))
            if mutant != parent and self._task.constraint.violation(mutant) <= 0:
                found[mutant] = None
        return list(found)

    def _mutant(self, start: Levels, rng: np.random.Generator) -> Levels:
        flips = int(min(rng.integers(1, 4), rng.integers(1, 4)))
        if self._settings.trade is Trade.NONE:
            return self._redistributed(start, flips, rng)
        return self._switched(start, flips, rng)

    def _redistributed(self, start: Levels, flips: int, rng: np.random.Generator) -> Levels:
        """Go so many random levels up, then random levels down until the constraint is met.

        As the program, gives up on more than ten changes, and on freeing much more than is used.
        """
        current = list(start)
        allowed = self._allowed
        for _ in range(flips):
            able = [gene for gene, level in enumerate(current) if level > allowed[gene][0]]
            if able:
                gene = able[rng.integers(len(able))]
                current[gene] = max(level for level in allowed[gene] if level < current[gene])
        added = self._spent(current) - self._spent(start)
        changes = flips
        while self._task.constraint.violation(Genotype(tuple(current))) > 0:
            able = [gene for gene, level in enumerate(current) if level < allowed[gene][-1]]
            if not able or changes >= MOST_CHANGES:
                return start
            gene = able[rng.integers(len(able))]
            current[gene] = min(level for level in allowed[gene] if level > current[gene])
            changes += 1
        removed = added - (self._spent(current) - self._spent(start))
        return start if added < LEAST_USED * removed else tuple(current)

    def _spent(self, levels: Sequence[int]) -> float:
        entries = self._task.space.entries(Genotype(tuple(levels)))
        return self._task.constraint.limits[0].cost.of(entries)

    def _switched(self, start: Levels, flips: int, rng: np.random.Generator) -> Levels:
        """Switch one level up and one down between two genes that trade, so many times."""
        current = list(start)
        allowed, groups = self._allowed, self._groups
        sizes = np.asarray([len(group) for group in groups])
        for _ in range(flips):
            own = groups[rng.choice(len(groups), p=sizes / sizes.sum())]
            lighter = [gene for gene in own if current[gene] > allowed[gene][0]]
            if not lighter:
                continue
            up = lighter[rng.integers(len(lighter))]
            heavier = [g for g in own if g != up and current[g] < allowed[g][-1]]
            if not heavier:
                continue
            down = heavier[rng.integers(len(heavier))]
            current[up] = max(level for level in allowed[up] if level < current[up])
            current[down] = min(level for level in allowed[down] if level > current[down])
        return tuple(current)


def _trading(space: SearchSpace) -> list[list[int]]:
    """Return the genes between which levels are switched.

    Those that drop or narrow sites of one kind, or drop layers; those that store as many weights;
    of zeros, those whose levels lie as many weights apart, whatever they store.
    """
    groups: dict[object, list[int]] = {}
    for index, (gene, number) in enumerate(zip(space.genes, space.gene_bundles, strict=True)):
        bundle = space.bundles[number]
        linears = (group for site in bundle.sites for group in site.groups)
        size = sum(group.weights for group in linears if group.name == gene.group)
        traded = size or bundle.kind
        if gene.kind is GeneKind.SPARSITY:
            traded = _step(gene, size)
        groups.setdefault((gene.kind, traded), []).append(index)
    return list(groups.values())


def _step(gene: Gene, weights: int) -> int:
    """Return how many weights lie between the first levels of zeros of a gene."""
    settings = (own for own in gene.settings if isinstance(own, WeightSetting))
    shares = sorted({own.sparsity for own in settings if own.is_sparse})
    return round((shares[1] - shares[0]) * weights) if len(shares) > 1 else weights
