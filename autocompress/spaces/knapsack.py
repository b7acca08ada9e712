"""The additive solution: one entry of each menu, least summed loss under cost limits."""

import math
from collections.abc import Sequence

import numpy as np

from autocompress.spaces.base import Entries
from autocompress.spaces.cost import AdditiveCost, Constraint

BUCKETS = 10_000
MIXES = 33
"""Weighings of two limits against each other that are tried."""


def solve_under(
    losses: Sequence[Sequence[float]], constraint: Constraint, allowed: Sequence[Sequence[int]]
) -> Entries | None:
    """Return the entries with the least summed loss under all limits, or None if none is found.

    Limits that count different sites are solved one by one. Limits that share sites are mixed
    into one (a surrogate constraint; Glover, Operations Research 13, 1965): of many weighings the
    best solution that meets them all is taken.

    Args:
        losses: `losses[menu][entry]`, as in `SearchSpace.menus`.
        allowed: For each site the entries that may be taken.
    """
    limits = constraint.limits
    counted = [
        {i for i, costs in enumerate(limit.cost.menus) if len(set(costs)) > 1} for limit in limits
    ]
    if sum(map(len, counted)) == len(set().union(*counted)):
        solution = [0] * len(losses)
        for limit, own in zip(limits, counted, strict=True):
            narrowed = [entries if i in own else (0,) for i, entries in enumerate(allowed)]
            part = solve(losses, limit.cost, limit.most, narrowed)
            if part is None:
                return None
            for i in own:
                solution[i] = part[i]
        return tuple(solution)
    best: Entries | None = None
    least = math.inf
    for weights in _weighings(len(limits)):
        mixed = solve(losses, _mixed(constraint, weights), 1.0, allowed)
        if mixed is None or constraint.violation_of(mixed) > 0:
            continue
        total = sum(row[entry] for row, entry in zip(losses, mixed, strict=True))
        if total < least:
            best, least = mixed, total
    return best


def solve(
    losses: Sequence[Sequence[float]],
    cost: AdditiveCost,
    limit: float,
    allowed: Sequence[Sequence[int]] | None = None,
) -> Entries | None:
    """Return the menu entries with the least summed loss within the limit, or None if none fits.

    Dynamic programming over 10,000 cost buckets (the multiple-choice knapsack, as in SPDY,
    arXiv:2201.13096). Costs are rounded up, so a solution never exceeds the limit; it may miss one
    that fits by less than a bucket a site.

    Args:
        losses: `losses[menu][entry]`, as in `cost.menus`.
        allowed: The entries that may be taken, by default all.
    """
    room = limit - cost.fixed
    if room < 0 or cost.least > limit:
        return None
    width = room / BUCKETS

    def buckets(entry_cost: float) -> int:
        """Return the buckets that an entry takes; more than there are if it cannot fit."""
        if entry_cost <= 0:
            return 0
        return math.ceil(entry_cost / width - 1e-9) if width else BUCKETS + 1

    best = np.zeros(BUCKETS + 1)
    taken: list[np.ndarray] = []
    for site, costs in enumerate(cost.menus):
        entries = range(len(costs)) if allowed is None else allowed[site]
        following = np.full(BUCKETS + 1, np.inf)
        choice = np.full(BUCKETS + 1, -1, dtype=np.int32)
        for entry in _front(entries, costs, losses[site]):
            step = buckets(costs[entry])
            if step > BUCKETS:
                continue
            reached = np.full(BUCKETS + 1, np.inf)
            reached[step:] = best[: BUCKETS + 1 - step] + losses[site][entry]
            better = reached < following
            following = np.where(better, reached, following)
            choice[better] = entry
        best = following
        taken.append(choice)
    bucket = BUCKETS
    if not np.isfinite(best[bucket]):
        return None
    picked: list[int] = []
    for costs, choice in zip(reversed(cost.menus), reversed(taken), strict=True):
        entry = int(choice[bucket])
        picked.append(entry)
        bucket -= buckets(costs[entry])
    return tuple(reversed(picked))


def _front(entries: Sequence[int], costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Return the entries that no other one beats in both cost and loss, in their order."""
    left: list[int] = []
    least = math.inf
    for entry in sorted(entries, key=lambda entry: (costs[entry], losses[entry], entry)):
        if losses[entry] < least or not left:
            left.append(entry)
            least = losses[entry]
    return sorted(left)


def _weighings(n: int) -> list[tuple[float, ...]]:
    """Return weights of n limits that sum to 1: the corners, and between each two of them."""
    found: dict[tuple[float, ...], None] = {}
    for i in range(n):
        for j in range(i + 1, n):
            for share in np.linspace(0, 1, MIXES):
                weights = [0.0] * n
                weights[i], weights[j] = float(share), 1 - float(share)
                found[tuple(weights)] = None
    found[(1 / n,) * n] = None
    return list(found)


def _mixed(constraint: Constraint, weights: Sequence[float]) -> AdditiveCost:
    """Return the weighted mean of the limits' costs, each as a share of its limit."""
    fixed = 0.0
    sites = [np.zeros(len(menu)) for menu in constraint.space.menus]
    for limit, weight in zip(constraint.limits, weights, strict=True):
        fixed += weight * limit.cost.fixed / limit.most
        for total, costs in zip(sites, limit.cost.menus, strict=True):
            total += weight * np.asarray(costs) / limit.most
    return AdditiveCost(fixed, tuple(tuple(map(float, own)) for own in sites))
