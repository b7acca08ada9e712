"""Cuts a reading of many candidates into shards, the same for any number of workers."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.trial import Fidelity, Genotype
from autocompress.workers.base import Shard


@dataclass(frozen=True, slots=True)
class Cut:
    """How a batch is cut.

    Args:
        shards: About so many of a batch: enough for all workers to end together. More share less.
        least_sequences: Of a shard that holds a part of the candidates: short sequences are run
            some at a time, or small matrix products waste the processor.
    """

    shards: int = 16
    least_sequences: int = 1


def cut(candidates: Sequence[Genotype], fidelity: Fidelity, how: Cut) -> list[Shard]:
    """Cut a reading into shards of equal size, by sequences first and only then by candidates.

    Candidates are dealt out in the order of their levels, so that those with a long common prefix
    land together; few candidates are split by sequences alone, and share all there is to share.
    """
    if not candidates:
        return []
    ordered = sorted(set(candidates), key=lambda genotype: genotype.levels)
    readings = max(1, len(ordered) * fidelity.sequences // how.shards)  # of one sequence each
    step = min(max(how.least_sequences, readings // len(ordered)), fidelity.sequences)
    n_parts = min(len(ordered), -(-len(ordered) * step // readings))
    bounds = [len(ordered) * part // n_parts for part in range(n_parts + 1)]
    shards = []
    for first in range(fidelity.first, fidelity.end, step):
        n = min(step, fidelity.end - first)
        reading = Fidelity(fidelity.split, fidelity.draw, first, n)
        for start, end in itertools.pairwise(bounds):
            shards.append(Shard(tuple(ordered[start:end]), reading))
    return shards
