"""A search over some genes of a space, the others fixed at levels found before."""

import dataclasses
from collections.abc import Collection, Sequence

from autocompress.search.base import Batch, Standing, Strategy
from autocompress.spaces.base import GeneKind, SearchSpace
from autocompress.spaces.cost import AdditiveCost
from autocompress.trial import Genotype, Trial


class PartOfSpace:
    """The genes of some kinds as a space of its own; each candidate stands for one of the whole.

    Args:
        start: Where the other genes stay.
    """

    def __init__(self, whole: SearchSpace, kinds: Collection[GeneKind], start: Genotype) -> None:
        self._whole = whole
        self._start = start
        self._genes = [i for i, gene in enumerate(whole.genes) if gene.kind in kinds]
        sites = (
            dataclasses.replace(site, genes=tuple(g for g in site.genes if g.kind in kinds))
            for site in whole.sites
        )
        self.space = SearchSpace(tuple(sites))

    def whole(self, part: Genotype) -> Genotype:
        """Return the candidate of the whole space that one of this part stands for."""
        levels = list(self._start.levels)
        for gene, level in zip(self._genes, part.levels, strict=True):
            levels[gene] = level
        return self._whole.canonical(Genotype(tuple(levels)))

    def cost(self, whole: AdditiveCost) -> AdditiveCost:
        """Return what entries of this part cost, the other genes as they are."""
        found = []
        for number, menu in enumerate(self.space.menus):
            costs = []
            for entry in range(len(menu)):
                entries = [0] * len(self.space.menus)
                entries[number] = entry
                of_whole = self._whole.entries(self.whole(self.space.genotype(entries)))
                costs.append(whole.menus[number][of_whole[number]])
            found.append(tuple(costs))
        return dataclasses.replace(whole, menus=tuple(found))


class PartStrategy:
    """A strategy on a part of a space that asks for candidates of the whole."""

    def __init__(self, own: Strategy, part: PartOfSpace) -> None:
        self._own = own
        self._part = part
        self._asked: tuple[Genotype, ...] = ()

    def ask(self) -> Batch | None:
        """Return the next batch, or None when the search is over."""
        batch = self._own.ask()
        if batch is None:
            return None
        self._asked = batch.candidates
        return Batch(tuple(map(self._part.whole, batch.candidates)), batch.fidelity)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the batch just asked and go on to the next."""
        pairs = zip(self._asked, trials, strict=True)
        self._own.tell([dataclasses.replace(t, genotype=genotype) for genotype, t in pairs])

    def standing(self) -> Standing:
        """Return where the search stands."""
        now = self._own.standing()
        best = None if now.best is None else self._part.whole(now.best)
        return dataclasses.replace(now, best=best)

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
        return self._own.stopped_because

    def finalists(self, n: int) -> list[Genotype]:
        """Return up to n different candidates worth a closer look, the best first."""
        return list(map(self._part.whole, self._own.finalists(n)))
