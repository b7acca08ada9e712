"""Picks the mutants that are worth measuring: by what they may gain, and by what they cost.

A population's candidates share what they have in common from the first site on, so mutants that
differ from the parent only beyond some site cost less. A generation keeps to the depth that
promises the largest gain for its cost: expected improvement per cost (Snoek et al.,
arXiv:1206.2944, section 3.2), of a whole batch.
"""

from collections.abc import Sequence

import numpy as np

from autocompress.search.surrogate import Surrogate

START_SHARES = (0.0, 0.25, 0.5, 0.75)
"""Of the genes: where the changes of a generation may begin."""

UNSHARED = 0.2
"""Share of a candidate's cost that no sibling shares: the head, the losses, the swaps."""

GAIN_DRAWS = 64


def pick(
    surrogate: Surrogate,
    mutants: np.ndarray,
    parent: np.ndarray,
    n: int,
    rng: np.random.Generator,
) -> list[int]:
    """Return which mutants to measure, at most n of them.

    Args:
        mutants: (M, genes) levels, none of them the parent's.
        parent: (genes) levels.
    """
    half = n // 2
    rows = [surrogate.mean(mutants)] * (n - half) + list(surrogate.sample(mutants, half, rng))
    gains = _gains(surrogate, mutants, parent, rng)
    shared = shared_genes(mutants, parent)
    best: list[int] = []
    best_rate = -np.inf
    for start in dict.fromkeys(int(share * len(parent)) for share in START_SHARES):
        eligible = np.flatnonzero(shared >= start)
        if start and len(eligible) < n:
            break
        picked = [int(eligible[i]) for i in _greedy([row[eligible] for row in rows])]
        gain = float(gains[:, picked].max(axis=1).mean())
        rate = gain / cost(mutants[picked], parent)
        if rate > best_rate:
            best, best_rate = picked, rate
    return best


def cost(candidates: np.ndarray, parent: np.ndarray) -> float:
    """Return what measuring a batch beside its parent costs; 1 for each candidate if alone.

    Args:
        candidates: (n, genes) levels.
    """
    rows = np.vstack([parent, candidates])
    n, genes = candidates.shape
    computed = sum(len(np.unique(rows[:, : end + 1], axis=0)) - 1 for end in range(genes))
    return float(UNSHARED * n + (1 - UNSHARED) * computed / genes)


def shared_genes(candidates: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how many genes each candidate shares with another, from the first one on, (n)."""
    return np.asarray(np.cumprod(candidates == other, axis=1).sum(axis=1))


def _greedy(rows: Sequence[np.ndarray]) -> list[int]:
    """Return, row by row, the least value's index that no row before has taken."""
    picked: list[int] = []
    for row in rows:
        left = np.asarray(row).copy()
        left[picked] = np.inf
        least = int(np.argmin(left))
        if np.isfinite(left[least]):
            picked.append(least)
    return picked


def _gains(
    surrogate: Surrogate, mutants: np.ndarray, parent: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return (draws, mutants): by how much log loss each beats the parent, 0 where it does not.

    A mutant's own part, which the surrogate's terms miss, is drawn too; the parent's is known.
    """
    draws = surrogate.sample(np.vstack([parent, mutants]), GAIN_DRAWS, rng)
    own = float(surrogate.estimate(parent[None])[0] - surrogate.mean(parent[None])[0])
    missed = surrogate.misfit * rng.standard_normal((GAIN_DRAWS, len(mutants)))
    return np.asarray(np.maximum(draws[:, :1] + own - draws[:, 1:] - missed, 0.0))
