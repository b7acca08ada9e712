"""What a candidate costs: additive over sites, never over genes."""

from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.spaces.base import SearchSpace, SiteKind
from autocompress.trial import Genotype


@dataclass(frozen=True, slots=True)
class AdditiveCost:
    """A fixed part and one number for every entry of every site's menu, in one unit.

    Args:
        fixed: What the dense model costs beside its sites (embedding, head, overhead).
        sites: `sites[i][entry]`, as in `SearchSpace.menus`.
    """

    fixed: float
    sites: tuple[tuple[float, ...], ...]

    def of(self, entries: Sequence[int]) -> float:
        """Return the cost of a candidate given as menu entries."""
        return self.fixed + sum(
            costs[entry] for costs, entry in zip(self.sites, entries, strict=True)
        )

    @property
    def dense(self) -> float:
        """The cost of the dense model."""
        return self.of((0,) * len(self.sites))

    @property
    def least(self) -> float:
        """The lowest cost of any candidate."""
        return self.fixed + sum(min(costs) for costs in self.sites)


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a candidate may cost."""

    cost: AdditiveCost
    most: float

    def violation_of(self, entries: Sequence[int]) -> float:
        """Return by how much of the limit a candidate exceeds it; met at <= 0."""
        return self.cost.of(entries) / self.most - 1.0


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

    def useful_entries(self, least_share: float = 0.0) -> tuple[tuple[int, ...], ...]:
        """Return for each site the entries that save something under some limit.

        Args:
            least_share: What an entry must save over the one before it, as a share of the most
                expensive dense site.
        """
        useful = [
            useful_entries(limit.cost, least_share * max(costs[0] for costs in limit.cost.sites))
            for limit in self.limits
        ]
        return tuple(tuple(sorted(set().union(*own))) for own in zip(*useful, strict=True))


def under(space: SearchSpace, cost: AdditiveCost, most: float) -> Constraint:
    """Return the constraint of a single limit."""
    return Constraint(space, (Limit(cost, most),))


def drops_of_each_kind(space: SearchSpace, n: int) -> Constraint:
    """Ask that n sites of every kind are dropped: EvoPress's own constraint in depth."""
    limits = []
    for kind in SiteKind:
        sites = tuple(
            tuple(float(site.kind is kind and not entry.choice.is_dropped) for entry in menu)
            for site, menu in zip(space.sites, space.menus, strict=True)
        )
        # The fixed part keeps a limit from being 0, of which nothing is a share.
        cost = AdditiveCost(1.0, sites)
        limits.append(Limit(cost, cost.dense - n))
    return Constraint(space, tuple(limits))


def useful_entries(cost: AdditiveCost, least_saving: float = 0.0) -> tuple[tuple[int, ...], ...]:
    """Return for each site the entries that cost less than every entry that keeps more units.

    An entry that keeps fewer units and saves nothing can only hurt.

    Args:
        least_saving: What an entry must save over the one before it, in the cost's unit.
    """
    useful = []
    for costs in cost.sites:
        picked = [0]
        for entry in range(1, len(costs)):
            if costs[entry] < costs[picked[-1]] - least_saving:
                picked.append(entry)
        # The cheapest stays whatever it saves: what is reachable must not depend on this sieve.
        cheapest = min(range(len(costs)), key=lambda entry: (costs[entry], entry))
        useful.append(tuple(dict.fromkeys([*picked, max(cheapest, picked[-1])])))
    return tuple(useful)


def least_left(cost: AdditiveCost) -> float:
    """Return the lowest cost of a candidate that still has a site: nothing is no model."""
    more = (c - min(costs) for costs in cost.sites for c in costs if c > min(costs))
    return cost.least + min(more, default=0.0)
