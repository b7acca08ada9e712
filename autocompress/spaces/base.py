"""Sites, genes and menus: the vocabulary of what may be compressed.

Knows neither weights nor measurements: everything here is integers and names.
"""

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from autocompress.trial import Genotype


class SiteKind(enum.StrEnum):
    """The sub-block of a layer that a site stands for."""

    ATTENTION = "attention"
    MLP = "mlp"


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """What is done to one site: the settings of its genes together.

    Args:
        kept: Units that stay: KV groups with their query heads, or FFN columns; 0 drops the site.
        total: Units of the dense site.
    """

    kept: int
    total: int

    @property
    def is_dense(self) -> bool:
        """Whether the site is left as it is."""
        return self.kept == self.total

    @property
    def is_dropped(self) -> bool:
        """Whether nothing of the site stays."""
        return self.kept == 0

    def __str__(self) -> str:
        if self.is_dense:
            return "dense"
        return "drop" if self.is_dropped else f"width {self.kept}/{self.total}"


@dataclass(frozen=True, slots=True)
class Gene:
    """One decision at a site: at a level, `settings[level]` units stay; level 0 is dense."""

    name: str
    settings: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """A sub-block of one layer with its genes.

    Args:
        units: KV groups of an attention, or columns of an MLP.
    """

    layer: int
    kind: SiteKind
    units: int
    genes: tuple[Gene, ...]

    def choice(self, levels: Sequence[int]) -> Choice:
        """Return what the levels of this site's genes leave together: the least of them."""
        kept = [gene.settings[level] for gene, level in zip(self.genes, levels, strict=True)]
        return Choice(kept=min(kept, default=self.units), total=self.units)


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """One canonical combination of a site's levels, and what it amounts to."""

    levels: tuple[int, ...]
    choice: Choice


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """All sites of a model with their menus; a genotype is one level per gene in this order.

    Every menu begins with dense and goes from the most units kept to the fewest.
    """

    sites: tuple[Site, ...]
    menus: tuple[tuple[MenuEntry, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "menus", tuple(_menu(site) for site in self.sites))

    @property
    def dense(self) -> Genotype:
        """The genotype of the untouched model."""
        return Genotype((0,) * sum(len(site.genes) for site in self.sites))

    def genotype(self, entries: Sequence[int]) -> Genotype:
        """Return the genotype that takes entry `entries[i]` of site i's menu."""
        chosen = (menu[entry] for menu, entry in zip(self.menus, entries, strict=True))
        return Genotype(tuple(itertools.chain.from_iterable(entry.levels for entry in chosen)))

    def entries(self, genotype: Genotype) -> tuple[int, ...]:
        """Return the menu entry of each site; levels without effect are read as canonical ones."""
        found = []
        for menu, choice in zip(self.menus, self.choices(genotype), strict=True):
            found.append(next(i for i, entry in enumerate(menu) if entry.choice == choice))
        return tuple(found)

    def choices(self, genotype: Genotype) -> tuple[Choice, ...]:
        """Return what is done to each site."""
        start = 0
        chosen = []
        for site in self.sites:
            end = start + len(site.genes)
            chosen.append(site.choice(genotype.levels[start:end]))
            start = end
        return tuple(chosen)

    def canonical(self, genotype: Genotype) -> Genotype:
        """Return the one genotype that stands for all that build the same model."""
        return self.genotype(self.entries(genotype))


def _menu(site: Site) -> tuple[MenuEntry, ...]:
    """List a site's distinct choices, each with its lowest levels, most units kept first."""
    best: dict[Choice, tuple[int, ...]] = {}
    for levels in itertools.product(*(range(len(gene.settings)) for gene in site.genes)):
        choice = site.choice(levels)
        if choice not in best or sum(levels) < sum(best[choice]):
            best[choice] = levels
    ordered = sorted(best, key=lambda choice: -choice.kept)
    return tuple(MenuEntry(best[choice], choice) for choice in ordered)


def make_space(
    n_layers: int,
    kv_groups: int,
    ffn_columns: int,
    *,
    depth: bool,
    width: bool,
    ffn_step: int = 64,
    ffn_levels: int = 6,
) -> SearchSpace:
    """Return the space of a model whose layers are alike.

    Args:
        depth: Give every site a gene that drops it.
        width: Give attention a gene of KV groups kept, MLP one of columns kept.
        ffn_step: Columns go in multiples of this.
        ffn_levels: At most so many widths beside dense, evenly spaced.
    """
    groups = tuple(range(kv_groups, 0, -1))
    steps = range(ffn_step, ffn_columns, ffn_step)
    n_levels = min(ffn_levels, len(steps))
    picked = {steps[len(steps) * i // n_levels] for i in range(n_levels)}
    columns = (ffn_columns, *sorted(picked, reverse=True))
    sites = []
    for layer in range(n_layers):
        for kind, widths in ((SiteKind.ATTENTION, groups), (SiteKind.MLP, columns)):
            genes = []
            if depth:
                genes.append(Gene("drop", (widths[0], 0)))
            if width and len(widths) > 1:
                genes.append(Gene("width", widths))
            sites.append(Site(layer, kind, widths[0], tuple(genes)))
    return SearchSpace(tuple(sites))
