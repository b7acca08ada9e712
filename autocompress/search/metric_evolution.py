"""Evolves symbolic pruning metrics: what Pruner-Zero describes and never released.

Tournaments among the best, subtree crossover, mutation, opposing operations removed
(arXiv:2406.02924). Unlike there, as far as it is told: a generation is read on little text and
its best quarter on more; what ranks like something known is never measured; and the smaller of
two metrics that lose alike is the better one. Knows no model: losses are told.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from autocompress.spaces.expression_trees import Tree, ranks, size, to_text
from autocompress.spaces.simplification import canonical
from autocompress.spaces.tree_moves import cross, grow, join, mutate

CHILDREN: Final = 12
"""Of a generation."""
PARENTS: Final = 24
"""The best of all that were read on more text."""
TOURNAMENT: Final = 3
PROMOTED: Final = 0.25
RANDOM, JOINED, CROSSED = 0.05, 0.15, 0.25
"""Shares of children that are not mutants."""
LARGEST: Final = 20
"""Nodes of a metric that a person can still read."""
PARSIMONY: Final = 5e-4
"""Of log loss, that a node must save to be worth it: less than text of a rung can tell."""
DEPTH: Final = 4
"""Of random trees, as the paper's."""
TRIES: Final = 2000
"""Children that are nothing new, one after the other, after which there is none to be found."""

Ranking = Callable[[Tree], str | None]
"""Names a metric by how it ranks; None of one that ranks nothing."""


@dataclass(frozen=True, slots=True)
class MetricBatch:
    """Metrics to be measured on the same text.

    Args:
        rung: 0 for little text, 1 for more, of which the little is a part.
    """

    trees: tuple[Tree, ...]
    rung: int


@dataclass(frozen=True, slots=True)
class ScoredMetric:
    """A metric that was read on the more text of two.

    Args:
        loss: As told; infinite for one that could not be measured.
    """

    tree: Tree
    loss: float

    @property
    def standing(self) -> tuple[float, str]:
        """What metrics are ordered by: loss and size, ties by what is written."""
        return self.loss + PARSIMONY * size(self.tree), to_text(self.tree)


class MetricEvolution:
    """Asks for metrics and is told their losses: a function of the seed and of these alone.

    Args:
        known: Metrics to begin with; they are measured first, and count.
        ranking: Must name equal what is equivalent.
        evaluations: Metrics to measure, on however much text.
    """

    def __init__(
        self, known: Sequence[Tree], ranking: Ranking, evaluations: int, seed: int
    ) -> None:
        self._known = tuple(map(canonical, known))
        self._ranking = ranking
        self._left = evaluations
        self._seed = seed
        self._seen = {ranking(tree) for tree in self._known} | {None}
        self._scored: list[ScoredMetric] = []
        self._asked: MetricBatch | None = None
        self._promoted: tuple[Tree, ...] = ()
        self.generation = 0
        self.evaluations = 0
        self.stopped_because = ""

    def ask(self) -> MetricBatch | None:
        """Return what to measure next; None when the search is over."""
        if self._promoted:
            self._asked = MetricBatch(self._promoted, 1)
            self._promoted = ()
        elif not self._scored:
            self._asked = self._counted(MetricBatch(self._known, 1))
        elif self._left <= 0:
            self.stopped_because = f"{self.evaluations} evaluations are spent"
            self._asked = None
        else:
            self.generation += 1
            children = self._children(min(CHILDREN, self._left))
            if not children:
                self.stopped_because = "no metric was found that ranks otherwise"
            self._asked = self._counted(MetricBatch(children, 0)) if children else None
        return self._asked

    def tell(self, losses: Sequence[float]) -> None:
        """Take the losses of the batch just asked, in its order: logarithms, lower is better."""
        if self._asked is None:
            raise ValueError("nothing was asked")
        told = [
            ScoredMetric(tree, loss if math.isfinite(loss) else math.inf)
            for tree, loss in zip(self._asked.trees, losses, strict=True)
        ]
        told.sort(key=lambda own: own.standing)
        if self._asked.rung:
            self._scored += told
            self._scored.sort(key=lambda own: own.standing)
        else:
            best = told[: math.ceil(PROMOTED * len(told))]
            self._promoted = tuple(own.tree for own in best if math.isfinite(own.loss))

    @property
    def best(self) -> ScoredMetric | None:
        """The best so far, of the known ones or of others."""
        return self._scored[0] if self._scored else None

    def finalists(self, n: int) -> list[Tree]:
        """Return up to n metrics that rank like none of the known ones, the best first."""
        new = [own for own in self._scored if own.tree not in self._known]
        return [own.tree for own in new[:n] if math.isfinite(own.loss)]

    def _counted(self, batch: MetricBatch) -> MetricBatch:
        self._left -= len(batch.trees)
        self.evaluations += len(batch.trees)
        return batch

    def _children(self, n: int) -> tuple[Tree, ...]:
        """Return metrics that rank like nothing before them, fewer where none are left."""
        rng = np.random.default_rng([self._seed, self.generation])
        found: list[Tree] = []
        tries = 0
        while len(found) < n and tries < TRIES:
            tries += 1
            child = canonical(self._child(rng))
            if size(child) > LARGEST or not ranks(child):
                continue
            name = self._ranking(child)
            if name not in self._seen:
                self._seen.add(name)
                found.append(child)
                tries = 0
        return tuple(found)

    def _child(self, rng: np.random.Generator) -> Tree:
        """Return a random tree, two parents joined or crossed, or one mutated, often just once."""
        kind = rng.random()
        if kind < RANDOM:
            return grow(rng, DEPTH)
        child = self._parent(rng)
        if kind < RANDOM + JOINED:
            return join(child, self._parent(rng), rng)
        if kind < RANDOM + JOINED + CROSSED:
            return cross(child, self._parent(rng), rng)
        for _ in range(int(rng.geometric(0.6))):
            child = mutate(child, rng)
        return child

    def _parent(self, rng: np.random.Generator) -> Tree:
        """Return the best of some drawn from the best."""
        alive = self._scored[:PARENTS]
        return alive[int(min(rng.integers(len(alive), size=TOURNAMENT)))].tree
