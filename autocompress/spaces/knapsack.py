"""The additive solution: one entry a site, least summed loss under a cost limit."""

import math
from collections.abc import Sequence

import numpy as np

from autocompress.spaces.cost import AdditiveCost, Constraint

BUCKETS = 10_000


def solve_under(
    losses: Sequence[Sequence[float]], constraint: Constraint, allowed: Sequence[Sequence[int]]
) -> tuple[int, ...] | None:
    """Return the entries with the least summed loss under all limits, or None if none fits.

    Raises:
        ValueError: If two limits count the same site: they could not be solved one by one.
    """
    solution = [0] * len(losses)
    counted: set[int] = set()
    for limit in constraint.limits:
        own = {i for i, costs in enumerate(limit.cost.sites) if len(set(costs)) > 1}
        if own & counted:
            raise ValueError("the limits of a knapsack must count different sites")
        counted |= own
        narrowed = [entries if i in own else (0,) for i, entries in enumerate(allowed)]
        part = solve(losses, limit.cost, limit.most, narrowed)
        if part is None:
            return None
        for i in own:
            solution[i] = part[i]
    return tuple(solution)


def solve(
    losses: Sequence[Sequence[float]],
    cost: AdditiveCost,
    limit: float,
    allowed: Sequence[Sequence[int]] | None = None,
) -> tuple[int, ...] | None:
    """Return the menu entries with the least summed loss within the limit, or None if none fits.

    Dynamic programming over 10,000 cost buckets (the multiple-choice knapsack, as in SPDY,
    arXiv:2201.13096). Costs are rounded up, so a solution never exceeds the limit; it may miss one
    that fits by less than a bucket a site.

    Args:
        losses: `losses[site][entry]`, as in `cost.sites`.
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
    for site, costs in enumerate(cost.sites):
        entries = range(len(costs)) if allowed is None else allowed[site]
        following = np.full(BUCKETS + 1, np.inf)
        choice = np.full(BUCKETS + 1, -1, dtype=np.int32)
        for entry in entries:
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
    for costs, choice in zip(reversed(cost.sites), reversed(taken), strict=True):
        entry = int(choice[bucket])
        picked.append(entry)
        bucket -= buckets(costs[entry])
    return tuple(reversed(picked))
