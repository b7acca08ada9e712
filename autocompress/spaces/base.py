"""Sites, genes and menus: the vocabulary of what may be compressed.

Knows neither weights nor measurements: everything here is integers and names.
"""

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from autocompress.errors import SpecError
from autocompress.spaces.settings import DENSE, DENSE_CACHE, CacheSetting, WeightSetting
from autocompress.trial import Genotype

MOST_ENTRIES = 20_000
"""Of a site's menu: every combination of its genes' levels is written out."""

T = TypeVar("T")
Setting = int | WeightSetting | CacheSetting
"""What a level stands for: units kept, or how weights or a KV cache are stored."""

Levels = tuple[int, ...]
"""One level a gene, in the order of the space."""

Entries = tuple[int, ...]
"""One entry of its menu a site."""


class SiteKind(enum.StrEnum):
    """The sub-block of a layer that a site stands for."""

    ATTENTION = "attention"
    MLP = "mlp"


class GeneKind(enum.StrEnum):
    """What a gene decides."""

    WIDTH = "width"
    BITS = "bits"
    SPARSITY = "sparsity"
    CACHE = "kv"


@dataclass(frozen=True, slots=True)
class LinearGroup:
    """Linear layers that engines force to share a setting; they read the same inputs.

    Args:
        linears: Their names within the sub-block; their rows lie one below the other.
        rows: Output features of each, of the dense site.
        columns: Input features, of the dense site.
        narrows_columns: Whether a width takes columns away; else it takes rows.
        has_bias: Whether each row has a bias beside its weights.
    """

    name: str
    linears: tuple[str, ...]
    rows: tuple[int, ...]
    columns: int
    narrows_columns: bool
    has_bias: bool = False

    @property
    def weights(self) -> int:
        """Weights of the dense site."""
        return sum(self.rows) * self.columns

    def shape(self, kept: int, total: int) -> tuple[int, int]:
        """Return the (rows, columns) that a width leaves."""
        rows = sum(self.rows)
        if self.narrows_columns:
            return rows, self.columns * kept // total
        return rows * kept // total, self.columns


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """What is done to one site: the settings of its genes together.

    Args:
        kept: Units that stay: KV groups with their query heads, or FFN columns; 0 drops the site.
        total: Units of the dense site.
        weights: How each of the site's linear groups is stored; empty if all are dense.
        cache: How an attention's KV cache is stored.
    """

    kept: int
    total: int
    weights: tuple[WeightSetting, ...] = ()
    cache: CacheSetting = DENSE_CACHE

    @property
    def is_dense(self) -> bool:
        """Whether the site is left as it is."""
        return self.is_whole and not self.weights and self.cache.is_dense

    @property
    def shape(self) -> "Choice":
        """The same units, all stored densely: what a kernel without codes runs."""
        return Choice(self.kept, self.total)

    @property
    def is_whole(self) -> bool:
        """Whether all units stay."""
        return self.kept == self.total

    @property
    def is_dropped(self) -> bool:
        """Whether nothing of the site stays."""
        return self.kept == 0

    @property
    def settings_apart(self) -> tuple["Choice", ...]:
        """The whole site with one of its groups as here, for every group that is not dense."""
        return tuple(
            Choice(
                self.total,
                self.total,
                tuple(own if i == index else DENSE for i in range(len(self.weights))),
            )
            for index, own in enumerate(self.weights)
            if not own.is_dense
        )

    def __str__(self) -> str:
        if self.is_dense:
            return "dense"
        if self.is_dropped:
            return "drop"
        parts = [] if self.is_whole else [f"width {self.kept}/{self.total}"]
        if self.weights:
            parts.append(" ".join(map(str, self.weights)))
        if not self.cache.is_dense:
            parts.append(str(self.cache))
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Gene:
    """One decision at a site: level 0 is dense, each level compresses more than those before it.

    Args:
        settings: What each level stands for: units kept for a width (0 drops the site).
        group: The linear group that a gene of bits or of sparsity decides on.
    """

    kind: GeneKind
    settings: tuple[Setting, ...]
    group: str = ""

    @property
    def name(self) -> str:
        """The kind and what it decides on: `width`, `bits qkv`."""
        return f"{self.kind} {self.group}".rstrip()

    @property
    def units(self) -> tuple[int, ...]:
        """The units that each level of a width keeps; empty for other genes."""
        return tuple(setting for setting in self.settings if isinstance(setting, int))


@dataclass(frozen=True, slots=True)
class Site:
    """A sub-block of one layer with its genes; a width comes first among them.

    Args:
        units: KV groups of an attention, or columns of an MLP.
        groups: Its linear layers; none where only widths are of interest.
        other_parameters: Of the site beside its groups, gone only with all of it: norms.
    """

    layer: int
    kind: SiteKind
    units: int
    genes: tuple[Gene, ...]
    groups: tuple[LinearGroup, ...] = ()
    other_parameters: int = 0

    def cached(self, choice: Choice) -> float:
        """Return how many numbers a token leaves in the KV cache: keys and values."""
        if self.kind is not SiteKind.ATTENTION:
            return 0.0
        rows = self.rows
        return (rows["k"] + rows["v"]) * choice.kept / choice.total

    @property
    def rows(self) -> dict[str, int]:
        """Output features of each linear layer of the dense site, by its name."""
        return {
            name: n
            for group in self.groups
            for name, n in zip(group.linears, group.rows, strict=True)
        }

    def choice(self, levels: Sequence[int]) -> Choice:
        """Return what the levels of this site's genes do together."""
        kept = self.units
        cache = DENSE_CACHE
        weights = dict.fromkeys((group.name for group in self.groups), DENSE)
        for gene, level in zip(self.genes, levels, strict=True):
            setting = gene.settings[level]
            if isinstance(setting, int):
                kept = setting
            elif isinstance(setting, CacheSetting):
                cache = setting
            else:
                weights[gene.group] = weights[gene.group].with_setting(setting)
        if not kept:
            return Choice(0, self.units)
        stored = tuple(weights.values())
        all_dense = all(setting.is_dense for setting in stored)
        return Choice(kept, self.units, () if all_dense else stored, cache)


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """One canonical combination of a site's levels, and what it amounts to."""

    levels: Levels
    choice: Choice


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """All sites of a model with their menus; a genotype is one level per gene in this order.

    A menu lists all combinations of a site's levels, the last gene's level changing fastest; it
    begins with dense and ends, where a site can be dropped, with the drop.
    """

    sites: tuple[Site, ...]
    menus: tuple[tuple[MenuEntry, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        made: dict[object, tuple[MenuEntry, ...]] = {}
        for site in self.sites:
            key = (site.units, site.genes, site.groups)
            if key not in made:
                made[key] = _menu(site)
        menus = tuple(made[site.units, site.genes, site.groups] for site in self.sites)
        object.__setattr__(self, "menus", menus)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """All genes, site by site."""
        return tuple(gene for site in self.sites for gene in site.genes)

    @property
    def gene_sites(self) -> tuple[int, ...]:
        """For each gene the index of its site."""
        return tuple(index for index, site in enumerate(self.sites) for _ in site.genes)

    @property
    def dense(self) -> Genotype:
        """The genotype of the untouched model."""
        return Genotype((0,) * len(self.genes))

    @property
    def strides(self) -> tuple[int, ...]:
        """For each gene by how many menu entries its next level is further on."""
        found = []
        for site in self.sites:
            sizes = [len(gene.settings) for gene in site.genes]
            found += [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        return tuple(found)

    def genotype(self, entries: Sequence[int]) -> Genotype:
        """Return the genotype that takes entry `entries[i]` of site i's menu."""
        chosen = (menu[entry] for menu, entry in zip(self.menus, entries, strict=True))
        return Genotype(tuple(itertools.chain.from_iterable(entry.levels for entry in chosen)))

    def entries(self, genotype: Genotype) -> Entries:
        """Return the menu entry of each site; levels without effect are read as canonical ones."""
        found = []
        by_site = self.by_site(genotype.levels)
        for site, menu, levels in zip(self.sites, self.menus, by_site, strict=True):
            entry = 0
            for gene, level in zip(site.genes, levels, strict=True):
                entry = entry * len(gene.settings) + level
            # Everything from the drop on is the drop: it ends the menu.
            found.append(min(entry, len(menu) - 1))
        return tuple(found)

    def by_site(self, of_genes: Sequence[T]) -> list[Sequence[T]]:
        """Return what there is of each gene, cut into what there is of each site's genes."""
        ends = list(itertools.accumulate(len(site.genes) for site in self.sites))
        return [of_genes[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def choices(self, genotype: Genotype) -> tuple[Choice, ...]:
        """Return what is done to each site."""
        pairs = zip(self.menus, self.entries(genotype), strict=True)
        return tuple(menu[entry].choice for menu, entry in pairs)

    def canonical(self, genotype: Genotype) -> Genotype:
        """Return the one genotype that stands for all that build the same model."""
        return self.genotype(self.entries(genotype))


class Board:
    """A space's levels and entries as arrays, for many candidates at once."""

    def __init__(self, space: SearchSpace) -> None:
        genes = len(space.genes)
        self.sites = np.asarray(space.gene_sites, dtype=int)
        self.strides = np.asarray(space.strides, dtype=int)
        self.last = np.asarray([len(menu) - 1 for menu in space.menus])
        # Float products are exact here, and many times as fast as integer ones.
        self._spread = np.zeros((genes, len(space.sites)))
        self._spread[np.arange(genes), self.sites] = self.strides

    def entries(self, levels: np.ndarray) -> np.ndarray:
        """Return the menu entries, (candidates, sites), of (candidates, genes) levels."""
        found = np.rint(levels @ self._spread).astype(int)
        return np.asarray(np.minimum(found, self.last))


def _menu(site: Site) -> tuple[MenuEntry, ...]:
    """List a site's distinct choices, dense first."""
    size = math.prod(len(gene.settings) for gene in site.genes)
    if size > MOST_ENTRIES:
        raise SpecError(
            f"`combinations of a site's levels <= {MOST_ENTRIES:,}` must hold, but layer "
            f"{site.layer} {site.kind} has {size:,}. Search fewer bits, or fused groups."
        )
    entries: list[MenuEntry] = []
    for levels in itertools.product(*(range(len(gene.settings)) for gene in site.genes)):
        choice = site.choice(levels)
        entries.append(MenuEntry(levels, choice))
        if choice.is_dropped:
            break
    return tuple(entries)
