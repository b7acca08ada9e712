"""What a candidate costs: additive over sites, never over genes."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autocompress.spaces.base import SUB_BLOCKS, Choice, Levels, SearchSpace, Site, SiteKind
from autocompress.trial import Genotype

ROUNDING = 1e-9
"""Of a limit: sums of the same costs in another order differ by less."""


@dataclass(frozen=True, slots=True)
class AdditiveCost:
    """A fixed part and one number for every entry of every menu, in one unit.

    Args:
        fixed: What every candidate costs beside its sites (embedding, head, overhead).
        menus: `menus[i][entry]`, as in `SearchSpace.menus`.
        dense_fixed: What the dense model costs beside its sites, where candidates store that
            otherwise; None where they do not.
        resolution: By how much two entries must differ to be told apart, as far as it is known:
            more than nothing where costs were measured.
    """

    fixed: float
    menus: tuple[tuple[float, ...], ...]
    dense_fixed: float | None = None
    resolution: float = 0.0

    def of(self, entries: Sequence[int]) -> float:
        """Return the cost of a candidate given as menu entries."""
        return self.fixed + sum(
            costs[entry] for costs, entry in zip(self.menus, entries, strict=True)
        )

    @property
    def dense(self) -> float:
        """The cost of the dense model."""
        if self.dense_fixed is None:
            return self.start
        return self.dense_fixed + sum(costs[0] for costs in self.menus)

    @property
    def start(self) -> float:
        """The cost of the candidate whose sites are all dense, from which a search begins."""
        return self.of((0,) * len(self.menus))

    @property
    def least(self) -> float:
        """The lowest cost of any candidate."""
        return self.fixed + sum(min(costs) for costs in self.menus)

    def saving(self, saved: float) -> "AdditiveCost":
        """Return the same cost where every candidate saves so much beside its sites."""
        if not saved:
            return self
        dense_fixed = self.fixed if self.dense_fixed is None else self.dense_fixed
        return dataclasses.replace(self, fixed=self.fixed - saved, dense_fixed=dense_fixed)

    @property
    def dearest(self) -> float:
        """What the dearest bundle of the dense model costs."""
        return max((own[0] for own in self.menus), default=0.0)


def sum_of_sites(
    space: SearchSpace, fixed: float, of: Callable[[Site, Choice], float]
) -> AdditiveCost:
    """Return the cost that adds up what choices cost at sites; a dropped site costs nothing."""
    made: dict[object, tuple[float, ...]] = {}
    menus = []
    for bundle, menu in zip(space.bundles, space.menus, strict=True):
        # Layers are alike: what is known of one need not be reckoned for the others.
        sites = tuple(dataclasses.replace(site, layer=0) for site in bundle.sites)
        if sites not in made:
            by_site = []
            for index, site in enumerate(sites):
                choices = dict.fromkeys(entry.choices[index] for entry in menu)
                by_site.append({c: 0.0 if c.is_dropped else of(site, c) for c in choices})
            made[sites] = tuple(
                sum(own[choice] for own, choice in zip(by_site, entry.choices, strict=True))
                for entry in menu
            )
        menus.append(made[sites])
    return AdditiveCost(float(fixed), tuple(menus))


def mixed(parts: Sequence[tuple[float, AdditiveCost]]) -> AdditiveCost:
    """Return the weighted sum of costs of one space; each comes with its weight."""
    weights = [weight for weight, _ in parts]
    menus = zip(*(cost.menus for _, cost in parts), strict=True)
    dense_fixed = None
    if any(cost.dense_fixed is not None for _, cost in parts):
        dense_fixed = sum(
            weight * (cost.fixed if cost.dense_fixed is None else cost.dense_fixed)
            for weight, cost in parts
        )
    return AdditiveCost(
        sum(weight * cost.fixed for weight, cost in parts),
        tuple(
            tuple(
                sum(w * value for w, value in zip(weights, values, strict=True))
                for values in zip(*own, strict=True)
            )
            for own in menus
        ),
        dense_fixed,
        sum(weight * cost.resolution for weight, cost in parts),
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a candidate may cost."""

    cost: AdditiveCost
    most: float

    def violation_of(self, entries: Sequence[int]) -> float:
        """Return by how much of the limit a candidate exceeds it; met at <= 0."""
        excess = self.cost.of(entries) / self.most - 1.0
        return 0.0 if 0 < excess <= ROUNDING else excess


@dataclass(frozen=True, slots=True)
class Constraint:
    """Upper limits on costs, all of which a candidate must meet."""

    space: SearchSpace
    limits: tuple[Limit, ...]

    def violation(self, genotype: Genotype) -> float:
        """Return the worst violation of any limit; feasible at <= 0."""
        return self.violation_of(self.space.entries(genotype))

    def violation_of(self, entries: Sequence[int]) -> float:
        """Return the violation of a candidate given as menu entries."""
        return max(limit.violation_of(entries) for limit in self.limits)

    def useful_levels(self) -> tuple[Levels, ...]:
        """Return for each gene the levels that save something under some limit.

        Something is more than the cost's resolution, and than rounding. A gene is looked at with
        the others of its bundle dense. The last level stays whatever it saves, if it saves
        anything: what is reachable must not depend on this sieve.
        """
        space = self.space
        useful = []
        for gene, menu, stride in zip(space.genes, space.gene_bundles, space.strides, strict=True):
            picked: set[int] = set()
            for limit in self.limits:
                whole = limit.cost.menus[menu]
                steps = range(len(gene.settings))
                costs = [whole[min(level * stride, len(whole) - 1)] for level in steps]
                least = max(limit.cost.resolution, ROUNDING * limit.cost.dearest)
                picked.update(useful_levels(costs, least))
            useful.append(tuple(sorted(picked)))
        return tuple(useful)


def under(space: SearchSpace, cost: AdditiveCost, most: float) -> Constraint:
    """Return the constraint of a single limit."""
    return Constraint(space, (Limit(cost, most),))


def drops_of_each_kind(space: SearchSpace, n: int) -> Constraint:
    """Ask that n sites of every kind are dropped: EvoPress's own constraint in depth."""
    limits = []
    for kind in SUB_BLOCKS:

        def is_there(site: Site, _choice: Choice, counted: SiteKind = kind) -> float:
            return float(site.kind is counted)

        # The fixed part keeps a limit from being 0, of which nothing is a share.
        cost = sum_of_sites(space, 1.0, is_there)
        limits.append(Limit(cost, cost.dense - n))
    return Constraint(space, tuple(limits))


def useful_levels(costs: Sequence[float], least_saving: float = 0.0) -> Levels:
    """Return the levels of a gene that cost less than every level before them.

    A level that compresses more and saves nothing can only hurt.

    Args:
        least_saving: What a level must save over the one before it, in the cost's unit.
    """
    picked = [0]
    for level in range(1, len(costs)):
        if costs[level] < costs[picked[-1]] - least_saving:
            picked.append(level)
    cheapest = min(range(len(costs)), key=lambda level: (costs[level], level))
    return tuple(dict.fromkeys([*picked, max(cheapest, picked[-1])]))


def least_left(space: SearchSpace, cost: AdditiveCost) -> float:
    """Return the lowest cost of a candidate that still has a site: nothing is no model."""
    if not all(menu[-1].is_dropped for menu in space.menus):
        return cost.least
    more = (c - min(costs) for costs in cost.menus for c in costs if c > min(costs))
    return cost.least + min(more, default=0.0)
