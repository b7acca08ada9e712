"""Sites, genes and menus: the vocabulary of what may be compressed.

Knows neither weights nor measurements: everything here is integers and names.
"""

import enum
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np

from autocompress.errors import SpecError
from autocompress.spaces.settings import DENSE, DENSE_CACHE, CacheSetting, WeightSetting
from autocompress.trial import Genotype

MOST_ENTRIES = 20_000
"""Of a menu: every combination of its genes' levels is written out."""

T = TypeVar("T")
Setting = int | WeightSetting | CacheSetting
"""What a level stands for: units kept, or how weights or a KV cache are stored."""

Levels = tuple[int, ...]
"""One level a gene, in the order of the space."""

Entries = tuple[int, ...]
"""One entry of each menu."""


class SiteKind(enum.StrEnum):
    """The sub-block of a layer that a site stands for, or both of them as one bundle."""

    ATTENTION = "attention"
    MLP = "mlp"
    LAYER = "layer"


SUB_BLOCKS: Final = (SiteKind.ATTENTION, SiteKind.MLP)
"""The kinds that a site itself has, in the order in which a layer runs them."""


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
        """Return the (rows, columns) that a width leaves of all together."""
        rows, columns = self.shapes(kept, total)
        return sum(rows), columns

    def shapes(self, kept: int, total: int) -> tuple[tuple[int, ...], int]:
        """Return the rows that a width leaves of each, and the columns."""
        if self.narrows_columns:
            return self.rows, self.columns * kept // total
        return tuple(rows * kept // total for rows in self.rows), self.columns


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

    @classmethod
    def parse(cls, text: str, total: int) -> "Choice":
        """Read what `str` writes of a choice at a site of so many units.

        Raises:
            ValueError: If it is no choice there.
        """
        if text == "dense":
            return cls(total, total)
        if text == "drop":
            return cls(0, total)
        kept, cache = total, DENSE_CACHE
        weights: tuple[WeightSetting, ...] = ()
        for part in text.split(", "):
            width = re.fullmatch(r"width (\d+)/(\d+)", part)
            if width:
                kept = int(width[1])
                if int(width[2]) != total or not 0 < kept < total:
                    raise ValueError(f"a width of {total} units must hold, but got {part!r}")
            elif re.fullmatch(r"kv\d+", part):
                cache = CacheSetting(int(part[2:]))
            else:
                weights = tuple(map(WeightSetting.parse, part.split(" ")))
        return cls(kept, total, weights, cache)

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
class Bundle:
    """The sites that one drop takes: a site by itself, or all of a layer.

    Args:
        drop: The gene that drops several sites at once, before those of each; None of a site by
            itself, whose own width may drop it.
    """

    sites: tuple[Site, ...]
    drop: Gene | None = None

    @property
    def layer(self) -> int:
        """The layer of all of its sites."""
        return self.sites[0].layer

    @property
    def kind(self) -> SiteKind:
        """The kind of its only site, or that of a whole layer."""
        return self.sites[0].kind if self.drop is None else SiteKind.LAYER

    @property
    def units(self) -> int:
        """Units of its first gene where that is a width: of the site, or the layer as one."""
        return self.sites[0].units if self.drop is None else self.drop.units[0]

    @property
    def genes(self) -> tuple[Gene, ...]:
        """All genes, a width or the drop first."""
        own = tuple(gene for site in self.sites for gene in site.genes)
        return own if self.drop is None else (self.drop, *own)

    def choices(self, levels: Sequence[int]) -> tuple[Choice, ...]:
        """Return what levels of its genes do to each of its sites."""
        left = list(levels)
        if self.drop is not None and not self.drop.settings[left.pop(0)]:
            return tuple(Choice(0, site.units) for site in self.sites)
        found = []
        for site in self.sites:
            own, left = left[: len(site.genes)], left[len(site.genes) :]
            found.append(site.choice(own))
        return tuple(found)

    def __str__(self) -> str:
        return f"layer {self.layer}" if self.drop else f"layer {self.layer} {self.kind}"


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """One canonical combination of a bundle's levels, and what it does to each of its sites."""

    levels: Levels
    choices: tuple[Choice, ...]

    @property
    def is_dropped(self) -> bool:
        """Whether nothing of the bundle stays."""
        return all(choice.is_dropped for choice in self.choices)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """All sites of a model with their menus; a genotype is one level per gene in this order.

    Each bundle has a menu. It lists all combinations of the bundle's levels, the last gene's
    level changing fastest; it begins with dense and ends, where the bundle can be dropped, with
    the drop.

    Args:
        sites: Layer by layer.
        whole_layers: Let every layer be dropped as a whole, by a gene of its own.
    """

    sites: tuple[Site, ...]
    whole_layers: bool = False
    bundles: tuple[Bundle, ...] = field(init=False)
    menus: tuple[tuple[MenuEntry, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        bundles = tuple(Bundle((site,)) for site in self.sites)
        if self.whole_layers:
            drop = Gene(GeneKind.WIDTH, (1, 0))
            layers = itertools.groupby(self.sites, key=lambda site: site.layer)
            bundles = tuple(Bundle(tuple(sites), drop) for _, sites in layers)
        made: dict[object, tuple[MenuEntry, ...]] = {}
        menus = []
        for bundle in bundles:
            key = tuple((site.units, site.genes, site.groups) for site in bundle.sites)
            if key not in made:
                made[key] = _menu(bundle)
            menus.append(made[key])
        object.__setattr__(self, "bundles", bundles)
        object.__setattr__(self, "menus", tuple(menus))

    @property
    def genes(self) -> tuple[Gene, ...]:
        """All genes, bundle by bundle."""
        return tuple(gene for bundle in self.bundles for gene in bundle.genes)

    @property
    def gene_bundles(self) -> tuple[int, ...]:
        """For each gene the index of its bundle."""
        return tuple(index for index, own in enumerate(self.bundles) for _ in own.genes)

    @property
    def site_genes(self) -> tuple[tuple[int, ...], ...]:
        """For each site the indices of its own genes, the drop of a whole layer left out."""
        found: list[tuple[int, ...]] = []
        first = 0
        for bundle in self.bundles:
            first += bundle.drop is not None
            for site in bundle.sites:
                found.append(tuple(range(first, first + len(site.genes))))
                first += len(site.genes)
        return tuple(found)

    @property
    def has_widths(self) -> bool:
        """Whether some genes drop or narrow sites, and so share out what their others store."""
        return any(gene.kind is GeneKind.WIDTH for gene in self.genes)

    @property
    def dense(self) -> Genotype:
        """The genotype of the untouched model."""
        return Genotype((0,) * len(self.genes))

    @property
    def strides(self) -> tuple[int, ...]:
        """For each gene by how many menu entries its next level is further on."""
        found = []
        for bundle in self.bundles:
            sizes = [len(gene.settings) for gene in bundle.genes]
            found += [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        return tuple(found)

    def genotype(self, entries: Sequence[int]) -> Genotype:
        """Return the genotype that takes entry `entries[i]` of menu i."""
        chosen = (menu[entry] for menu, entry in zip(self.menus, entries, strict=True))
        return Genotype(tuple(itertools.chain.from_iterable(entry.levels for entry in chosen)))

    def entries(self, genotype: Genotype) -> Entries:
        """Return each menu's entry; levels without effect are read as canonical ones."""
        found = []
        by_bundle = self.by_bundle(genotype.levels)
        for bundle, menu, levels in zip(self.bundles, self.menus, by_bundle, strict=True):
            entry = 0
            for gene, level in zip(bundle.genes, levels, strict=True):
                entry = entry * len(gene.settings) + level
            # Everything from the drop on is the drop: it ends the menu.
            found.append(min(entry, len(menu) - 1))
        return tuple(found)

    def by_bundle(self, of_genes: Sequence[T]) -> list[Sequence[T]]:
        """Return what there is of each gene, cut into what there is of each bundle's genes."""
        ends = list(itertools.accumulate(len(own.genes) for own in self.bundles))
        return [of_genes[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def choices(self, genotype: Genotype) -> tuple[Choice, ...]:
        """Return what is done to each site."""
        pairs = zip(self.menus, self.entries(genotype), strict=True)
        return tuple(choice for menu, entry in pairs for choice in menu[entry].choices)

    def site_choices(self) -> Iterator[tuple[Site, Choice]]:
        """Yield each site with all that its menu may do to it, each choice once a site."""
        known: dict[int, list[tuple[Choice, ...]]] = {}
        for bundle, menu in zip(self.bundles, self.menus, strict=True):
            if id(menu) not in known:
                by_site = zip(*(entry.choices for entry in menu), strict=True)
                known[id(menu)] = [tuple(dict.fromkeys(own)) for own in by_site]
            for site, choices in zip(bundle.sites, known[id(menu)], strict=True):
                for choice in choices:
                    yield site, choice

    def canonical(self, genotype: Genotype) -> Genotype:
        """Return the one genotype that stands for all that build the same model."""
        return self.genotype(self.entries(genotype))


class Board:
    """A space's levels and entries as arrays, for many candidates at once."""

    def __init__(self, space: SearchSpace) -> None:
        genes = len(space.genes)
        self.bundles = np.asarray(space.gene_bundles, dtype=int)
        self.strides = np.asarray(space.strides, dtype=int)
        self.last = np.asarray([len(menu) - 1 for menu in space.menus])
        # Float products are exact here, and many times as fast as integer ones.
        self._spread = np.zeros((genes, len(space.bundles)))
        self._spread[np.arange(genes), self.bundles] = self.strides

    def entries(self, levels: np.ndarray) -> np.ndarray:
        """Return the menu entries, (candidates, menus), of (candidates, genes) levels."""
        found = np.rint(levels @ self._spread).astype(int)
        return np.asarray(np.minimum(found, self.last))


def _menu(bundle: Bundle) -> tuple[MenuEntry, ...]:
    """List a bundle's distinct choices, dense first."""
    size = math.prod(len(gene.settings) for gene in bundle.genes)
    if size > MOST_ENTRIES:
        raise SpecError(
            f"`combinations of levels <= {MOST_ENTRIES:,}` must hold, but {bundle} has {size:,}. "
            "Search fewer bits, or fused groups."
        )
    entries: list[MenuEntry] = []
    for levels in itertools.product(*(range(len(gene.settings)) for gene in bundle.genes)):
        entry = MenuEntry(levels, bundle.choices(levels))
        entries.append(entry)
        if entry.is_dropped:
            break
    return tuple(entries)
