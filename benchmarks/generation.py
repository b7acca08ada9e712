"""Makes one generation of mutants and counts, from genotypes alone, what its candidates share."""

from collections.abc import Sequence

import numpy as np

from autocompress.spaces.base import Choice, SearchSpace, Site
from autocompress.spaces.cost import Constraint, drops_of_each_kind, sum_of_sites, under
from autocompress.spaces.moves import Moves
from autocompress.trial import Genotype

START_UP = 0.5
FIXED = 0.1
SPEEDUP = 2.0


def drops(space: SearchSpace, n: int) -> Constraint:
    """Drop n attention and n MLP sub-blocks, as EvoPress does in depth."""
    return drops_of_each_kind(space, n)


def half_the_time(space: SearchSpace) -> Constraint:
    """Halve a latency that no machine has: half of a site's time follows its width."""

    def of(_site: Site, choice: Choice) -> float:
        return START_UP + (1 - START_UP) * choice.kept / choice.total

    cost = sum_of_sites(space, FIXED * len(space.sites), of)
    return under(space, cost, cost.dense / SPEEDUP)


def make_generation(constraint: Constraint, n: int, seed: int) -> list[Genotype]:
    """Return n distinct mutants of one random parent."""
    rng = np.random.default_rng(seed)
    moves = Moves(constraint, constraint.useful_levels())
    parent = moves.random(1, rng)
    found: dict[Genotype, None] = {}
    for _ in range(100):
        mutants = moves.mutate(parent.repeat(n, axis=0), rng).tolist()
        found |= dict.fromkeys(Genotype(tuple(own)) for own in mutants)
        found.pop(Genotype(tuple(parent[0].tolist())), None)
        if len(found) >= n:
            return list(found)[:n]
    raise SystemExit(f"The parent has only {len(found)} different mutants, fewer than {n}.")


def count_sub_blocks(space: SearchSpace, genotypes: Sequence[Genotype]) -> tuple[int, int]:
    """Return the sub-blocks of a generation: with different histories, and all.

    A sub-block's output depends on every choice up to its own and on nothing else; a dropped one
    computes nothing.
    """
    different = set()
    total = 0
    for genotype in genotypes:
        choices = space.choices(genotype)
        for end, choice in enumerate(choices, 1):
            if not choice.is_dropped:
                total += 1
                different.add(choices[:end])
    return len(different), total
