"""OWL: layers with more outliers keep more of their weights (arXiv:2310.05175)."""

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from autocompress.errors import UnreachableTarget
from autocompress.search.base import Batch, Task
from autocompress.search.ledger import Ledger
from autocompress.search.listed import List
from autocompress.spaces.base import Gene, GeneKind
from autocompress.spaces.moves import Moves
from autocompress.spaces.settings import WeightSetting
from autocompress.trial import Genotype

SPREADS = (0.02, 0.05, 0.08, 0.1, 0.2)
STEPS = 401
"""Mean sparsities tried, from 0 to 1."""


def owl_sparsities(shares: Sequence[float], sparsity: float, spread: float) -> tuple[float, ...]:
    """Return a sparsity for every layer; their mean is the one given.

    Shares of outliers are brought to [0, 2 spread] and taken from the sparsity (section 3), which
    thus strays by at most twice the spread; at the ends of [0, 1] it may leave them.

    Args:
        shares: Of outliers in each layer.
    """
    least, width = min(shares), max(shares) - min(shares)
    offsets = [2 * spread * (share - least) / width if width else 0.0 for share in shares]
    mean = sum(offsets) / len(offsets)
    return tuple(sparsity - (offset - mean) for offset in offsets)


def by_owl(shares: Mapping[float, Sequence[float]]) -> List:
    """List OWL's allocations (arXiv:2310.05175), one for each multiple and spread.

    All linear layers of a block take one sparsity: the mean, less by up to twice the spread where
    outliers are many. The mean is the least by which the constraint is met.

    Args:
        shares: Of outliers in each layer, by the multiple that makes an outlier.
    """

    def make(task: Task, _ledger: Ledger) -> Generator[Batch, None, list[Genotype]]:
        yield from ()
        found: dict[Genotype, None] = {}
        for own in shares.values():
            for spread in SPREADS:
                allocated = _allocation(task, own, spread)
                if allocated is not None:
                    found[allocated] = None
        if not found:
            raise UnreachableTarget("No allocation by outliers meets the constraint.")
        return list(found)

    return make


def _allocation(task: Task, shares: Sequence[float], spread: float) -> Genotype | None:
    """Return the allocation of least mean sparsity that meets the constraint."""
    space = task.space
    for sparsity in np.linspace(0, 1, STEPS):
        wanted = owl_sparsities(shares, float(sparsity), spread)
        levels = [
            _nearest(gene, wanted[space.bundles[number].layer])
            for gene, number in zip(space.genes, space.gene_bundles, strict=True)
        ]
        if task.constraint.violation(Genotype(tuple(levels))) <= 0:
            filled = Moves(task.constraint, task.allowed).fill(np.asarray([levels]), task.rng(0))
            return Genotype(tuple(map(int, filled[0])))
    return None


def _nearest(gene: Gene, wanted: float) -> int:
    """Return the level of the nearest share of zeros; 0 for a gene of anything else."""
    if gene.kind is not GeneKind.SPARSITY:
        return 0
    shares = [s.sparsity for s in gene.settings if isinstance(s, WeightSetting)]
    return min(range(len(shares)), key=lambda level: abs(shares[level] - wanted))
