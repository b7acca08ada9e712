"""Candidates that compress all sites alike: the uniform baselines."""

import itertools

import numpy as np

from autocompress.spaces.base import GeneKind, Levels, SiteKind
from autocompress.spaces.cost import Constraint
from autocompress.spaces.moves import Moves
from autocompress.trial import Genotype

FILLS = 32


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
    """Give all genes of a kind one level; give slack back, to some of them, by one level."""
    genes = constraint.space.genes
    deepest = max((len(gene.settings) for gene in genes if gene.kind is kind), default=0)
    for level in range(1, deepest):
        allowed = [
            tuple(min(n, len(gene.settings) - 1) for n in (level - 1, level))
            if gene.kind is kind
            else (0,)
            for gene in genes
        ]
        even = np.asarray([[own[-1] for own in allowed]])
        if constraint.violation(Genotype(tuple(map(int, even[0])))) > 0:
            continue
        fills = Moves(constraint, allowed).fill(np.repeat(even, FILLS, axis=0), rng)
        return list(dict.fromkeys(tuple(map(int, fill)) for fill in fills))
    return []
