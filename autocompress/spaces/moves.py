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
) -> Entries:
    """Compress random sites to random deeper levels until it is feasible; give slack back.

    Args:
        allowed: For each site the entries that may be taken, most units kept first; the first must
            cost the most and the last the least.
    """
    current = list(entries)
    while constraint.violation_of(current) > 0:
        site = _payer(current, constraint, allowed, rng, frozenset())
        if site is None:
            break
        deeper = _deeper(current[site], allowed[site])
        current[site] = deeper[rng.integers(len(deeper))]
    return fill(current, constraint, allowed, rng)


def fill(
    entries: Sequence[int],
    constraint: Constraint,
    allowed: Allowed,
    rng: np.random.Generator,
    last: frozenset[int] = frozenset(),
) -> Entries:
    """Give every site, in random order, the least compressed entry that still fits.

    Args:
        last: Sites whose turn comes after all others'.
    """
    current = list(entries)
    order = rng.permutation(len(current))
    slacks = _slacks(current, constraint)
    for site in sorted(order, key=lambda site: site in last):
        for entry in allowed[site]:
            if entry >= current[site]:
                break
            # Most entries exceed what is left by far: only a near one is summed up.
            if any(
                costs[site][entry] - costs[site][current[site]] > slack for costs, slack in slacks
            ):
                continue
            trial = [*current[:site], entry, *current[site + 1 :]]
            if constraint.violation_of(trial) <= 0:
                current = trial
                slacks = _slacks(current, constraint)
                break
    return tuple(current)


def _slacks(
    entries: Sequence[int], constraint: Constraint
) -> list[tuple[tuple[tuple[float, ...], ...], float]]:
    """Return each limit's costs and what is left of it, a little more for rounding."""
    return [
        (limit.cost.sites, limit.most - limit.cost.of(entries) + 1e-9 * abs(limit.most))
        for limit in constraint.limits
    ]


def mutate(
    entries: Sequence[int], constraint: Constraint, allowed: Allowed, rng: np.random.Generator
) -> Entries:
    """Move compression from some sites to others, `min(U1, U2)` times, U uniform on 1..3.

    Half of the moves exchange the entries of two sites of a kind: a drop goes to another layer,
    the cost stays. The others switch levels: a site is given back some levels and random others
    pay one level at a time. EvoPress (arXiv:2410.14649) switches between equal shares of a
    parameter count; under a latency budget the shares differ, so the candidate is repaired.
    """
    current = list(entries)
    given: set[int] = set()
    for _ in range(min(rng.integers(1, 4), rng.integers(1, 4))):
        site = _given_back(current, allowed, rng, given)
        if site is None:
            break
        partners = [
            other
            for other, own in enumerate(constraint.space.sites)
            if own.kind is constraint.space.sites[site].kind
            and current[other] < current[site]
            and current[other] in allowed[site]
            and current[site] in allowed[other]
        ]
        if partners and rng.random() < 0.5:
            other = partners[rng.integers(len(partners))]
            current[site], current[other] = current[other], current[site]
        else:
            lighter = [entry for entry in allowed[site] if entry < current[site]]
            current[site] = lighter[rng.integers(len(lighter))]
        given.add(site)
    while constraint.violation_of(current) > 0:
        site = _payer(current, constraint, allowed, rng, frozenset(given))
        if site is None:
            break
        current[site] = _deeper(current[site], allowed[site])[0]
    return fill(current, constraint, allowed, rng, last=frozenset(range(len(current))) - given)


def random_candidate(
    constraint: Constraint, allowed: Allowed, rng: np.random.Generator
) -> Entries:
    """Compress random sites of the dense model, by random levels, until it is feasible."""
    return repair((0,) * len(allowed), constraint, allowed, rng)


def _deeper(entry: int, allowed: Sequence[int]) -> list[int]:
    return [other for other in allowed if other > entry]


def _payer(
    entries: Sequence[int],
    constraint: Constraint,
    allowed: Allowed,
    rng: np.random.Generator,
    spared: frozenset[int],
) -> int | None:
    """Return a random site that can be compressed further; a spared one only if no other can.

    Only sites that a violated limit counts can help to meet it.
    """
    violated = [limit.cost.sites for limit in constraint.limits if limit.violation_of(entries) > 0]
    able = [
        i
        for i, entry in enumerate(entries)
        if entry < allowed[i][-1]
        and any(costs[i][entry] > costs[i][allowed[i][-1]] for costs in violated)
    ]
    preferred = [i for i in able if i not in spared] or able
    return preferred[rng.integers(len(preferred))] if preferred else None


def _given_back(
    entries: Sequence[int], allowed: Allowed, rng: np.random.Generator, done: set[int]
) -> int | None:
    """Return a random site that can be compressed less and was not yet."""
    able = [i for i, entry in enumerate(entries) if entry > allowed[i][0] and i not in done]
    return able[rng.integers(len(able))] if able else None


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


def cross(
    first: Sequence[int],
    second: Sequence[int],
    constraint: Constraint,
    allowed: Allowed,
    rng: np.random.Generator,
) -> Entries:
    """Take each site from one of two candidates at random, and repair."""
    from_first = rng.random(len(first)) < 0.5
    mixed = [a if own else b for a, b, own in zip(first, second, from_first, strict=True)]
    return repair(mixed, constraint, allowed, rng)
