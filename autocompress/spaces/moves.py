"""Moves on candidates: random ones, evenly spaced ones, mutation and repair.

Candidates are menu entries here (one a site). Every move returns a feasible candidate that uses
its budget: no site can be given back to a less compressed entry within the limit.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from autocompress.spaces.base import SiteKind
from autocompress.spaces.cost import Constraint

Entries = tuple[int, ...]
Allowed = Sequence[Sequence[int]]


def repair(
    entries: Sequence[int],
    constraint: Constraint,
    allowed: Allowed,
    rng: np.random.Generator,
    frozen: frozenset[int] = frozenset(),
) -> Entries:
    """Compress random sites until the candidate is feasible, then give slack back.

    Args:
        allowed: For each site the entries that may be taken, most units kept first; the first must
            cost the most and the last the least.
        frozen: Sites that are touched only if the others do not suffice.
    """
    current = list(entries)
    while constraint.violation_of(current) > 0:
        open_sites = [i for i, a in enumerate(allowed) if a.index(current[i]) < len(a) - 1]
        preferred = [i for i in open_sites if i not in frozen] or open_sites
        if not preferred:
            break
        site = preferred[rng.integers(len(preferred))]
        position = allowed[site].index(current[site])
        current[site] = allowed[site][int(rng.integers(position + 1, len(allowed[site])))]
    return fill(current, constraint, allowed, rng, frozen)


def fill(
    entries: Sequence[int],
    constraint: Constraint,
    allowed: Allowed,
    rng: np.random.Generator,
    frozen: frozenset[int] = frozenset(),
) -> Entries:
    """Give every site, in random order, the least compressed entry that still fits."""
    current = list(entries)
    order = rng.permutation(len(current))
    for site in sorted(order, key=lambda site: site in frozen):
        for entry in allowed[site]:
            if entry == current[site]:
                break
            trial = [*current[:site], entry, *current[site + 1 :]]
            if constraint.violation_of(trial) <= 0:
                current[site] = entry
                break
    return tuple(current)


def mutate(
    entries: Sequence[int], constraint: Constraint, allowed: Allowed, rng: np.random.Generator
) -> Entries:
    """Switch levels: give one site back and let another pay, `min(U1, U2)` times, U on 1..3.

    EvoPress (arXiv:2410.14649) switches between equal shares of a parameter count; under a latency
    budget the shares differ, so the candidate is repaired.
    """
    current = list(entries)
    switched: set[int] = set()
    for _ in range(min(rng.integers(1, 4), rng.integers(1, 4))):
        given = [i for i, a in enumerate(allowed) if a.index(current[i]) > 0 and i not in switched]
        if given:
            site = given[rng.integers(len(given))]
            position = allowed[site].index(current[site])
            current[site] = allowed[site][int(rng.integers(position))]
            switched.add(int(site))
    return repair(current, constraint, allowed, rng, frozenset(switched))


def random_candidate(
    constraint: Constraint, allowed: Allowed, rng: np.random.Generator
) -> Entries:
    """Compress random sites of the dense model, by random levels, until it is feasible."""
    return repair((0,) * len(allowed), constraint, allowed, rng)


def evenly_spaced(constraint: Constraint) -> Entries | None:
    """Drop the fewest sites, attention and MLP alike and evenly spaced over depth, that suffice.

    The uniform baseline of the depth space. Returns None if dropping all does not suffice.
    """
    space = constraint.space
    by_kind = {
        kind: [
            i
            for i, site in enumerate(space.sites)
            if site.kind is kind and space.menus[i][-1].choice.is_dropped
        ]
        for kind in SiteKind
    }
    counts = sorted(
        itertools.product(*(range(len(sites) + 1) for sites in by_kind.values())),
        key=lambda pair: (sum(pair), abs(pair[0] - pair[1]), pair),
    )
    for pair in counts:
        entries = [0] * len(space.sites)
        for n, sites in zip(pair, by_kind.values(), strict=True):
            for i in spread(n, len(sites)):
                entries[sites[i]] = len(space.menus[sites[i]]) - 1
        if abs(pair[0] - pair[1]) <= 1 and constraint.violation_of(entries) <= 0:
            return tuple(entries)
    return None


def spread(n: int, total: int) -> list[int]:
    """Return n evenly spaced positions out of `total`, away from both ends."""
    return [int((i + 0.5) * total / n) for i in range(n)]


def evenly_narrow(constraint: Constraint) -> Entries | None:
    """Narrow every site alike, as little as suffices: the uniform baseline of the width space."""
    menus = constraint.space.menus
    for share in np.linspace(0, 1, 65):
        entries = []
        for menu in menus:
            position = round(float(share) * (len(menu) - 1))
            entries.append(position)
        if constraint.violation_of(entries) <= 0:
            return tuple(entries)
    return None
