"""Candidates that compress all sites alike: the uniform baselines."""

import itertools
from collections.abc import Sequence

import numpy as np

from autocompress.spaces.base import Gene, GeneKind, Levels, SiteKind
from autocompress.spaces.cost import Constraint
from autocompress.spaces.moves import Moves
from autocompress.spaces.settings import DENSE_BITS, WeightSetting
from autocompress.trial import Genotype

FILLS = 32
DIGITS = 9
"""To which bits are alike, so that shares of zeros are that were reckoned in other ways."""


def even_candidates(constraint: Constraint, rng: np.random.Generator) -> list[Levels]:
    """Return candidates that store, drop or narrow all sites alike, as little as suffices.

    The first of these that meets the constraint: one number of bits for all weights, one
    sparsity, evenly spaced drops, one width. A limit between two levels is met by random fills
    of the two: several candidates. Empty if none of them suffices.
    """
    for kind in (GeneKind.BITS, GeneKind.SPARSITY):
        found = _evenly_stored(constraint, kind, rng)
        if found:
            return found
    even = evenly_spaced(constraint) or evenly_narrow(constraint)
    return [even] if even else []


def evenly_spaced(constraint: Constraint) -> Levels | None:
    """Drop the fewest bundles, of each kind as many and evenly spaced over depth, that suffice.

    Returns None if dropping all does not suffice.
    """
    space = constraint.space
    by_kind: dict[SiteKind, list[int]] = {}
    for index, (gene, bundle) in enumerate(zip(space.genes, space.gene_bundles, strict=True)):
        if gene.kind is GeneKind.WIDTH and gene.settings[-1] == 0:
            by_kind.setdefault(space.bundles[bundle].kind, []).append(index)
    if not by_kind:
        return None
    counts = sorted(
        itertools.product(*(range(len(genes) + 1) for genes in by_kind.values())),
        key=lambda counts: (sum(counts), max(counts) - min(counts), counts),
    )
    for several in counts:
        if max(several) - min(several) > 1:
            continue
        levels = [0] * len(space.genes)
        for n, genes in zip(several, by_kind.values(), strict=True):
            for i in spread(n, len(genes)):
                levels[genes[i]] = len(space.genes[genes[i]].settings) - 1
        if constraint.violation(Genotype(tuple(levels))) <= 0:
            return tuple(levels)
    return None


def spread(n: int, total: int) -> list[int]:
    """Return n evenly spaced positions out of `total`, away from both ends."""
    return [int((i + 0.5) * total / n) for i in range(n)]


def evenly_narrow(constraint: Constraint) -> Levels | None:
    """Narrow every site alike, as little as suffices; None if the narrowest does not."""
    genes = constraint.space.genes
    for share in np.linspace(0, 1, 65):
        levels = tuple(
            round(float(share) * (len(gene.settings) - 1)) if gene.kind is GeneKind.WIDTH else 0
            for gene in genes
        )
        if constraint.violation(Genotype(levels)) <= 0:
            return levels
    return None


def _evenly_stored(
    constraint: Constraint, kind: GeneKind, rng: np.random.Generator
) -> list[Levels]:
    """Give all genes of a kind one number of bits; give slack back, to some, by the one before.

    Genes may have other menus: each stores the least that is no less than the others' bits. Of
    settings with as many bits the next is tried where one does not suffice.
    """
    genes = constraint.space.genes
    stored = [_bits(gene) if gene.kind is kind else [] for gene in genes]
    tries = {(bits, own[:at].count(bits)) for own in stored for at, bits in enumerate(own)}
    before: Levels = (0,) * len(genes)
    for bits, nth in sorted(tries, key=lambda one: (-one[0], one[1])):
        levels = tuple(_level(own, bits, nth) if own else 0 for own in stored)
        if constraint.violation(Genotype(levels)) > 0:
            before = levels
            continue
        allowed = [tuple(sorted({*pair})) for pair in zip(before, levels, strict=True)]
        fills = Moves(constraint, allowed).fill(np.repeat([levels], FILLS, axis=0), rng)
        return list(dict.fromkeys(tuple(map(int, fill)) for fill in fills))
    return []


def _bits(gene: Gene) -> list[float]:
    """Return the bits that each setting of a gene leaves of a weight."""
    settings = (own for own in gene.settings if isinstance(own, WeightSetting))
    return [round(own.nominal_bits(DENSE_BITS), DIGITS) for own in settings]


def _level(stored: Sequence[float], bits: float, nth: int) -> int:
    """Return the nth level, or the last, of those that store the least with so many bits."""
    least = min(own for own in stored if own >= bits)
    places = [level for level, own in enumerate(stored) if own == least]
    return places[min(nth, len(places) - 1)]
