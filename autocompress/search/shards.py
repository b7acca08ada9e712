"""Cuts a reading of many candidates into shards, the same for any number of workers."""

from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.trial import Fidelity, Genotype
from autocompress.workers.base import Shard

UNEVENNESS = 1.1
"""So much larger may the largest shard be than it must, where candidates then share more."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a batch is cut.

    Args:
        shards: At most so many of a batch: enough for all workers to end together. More share
            less.
        least_sequences: Of a shard, where the reading has as many: short sequences are run some at
            a time, or small matrix products waste the processor.
    """

    shards: int = 16
    least_sequences: int = 1


def cut(candidates: Sequence[Genotype], fidelity: Fidelity, how: Cut) -> list[Shard]:
    """Cut a reading into shards of nearly equal size, by sequences first and then by candidates.

    Candidates are dealt out in the order of their levels, so that those with a long common prefix
    land together; few candidates are split by sequences alone, and share all there is to share.
    """
    if not candidates:
        return []
    ordered = sorted(set(candidates), key=lambda genotype: genotype.levels)
    if fidelity.trained:
        # In two shards a candidate would be trained twice.
        n_groups, n_readings = min(len(ordered), how.shards), 1
    else:
        n_groups, n_readings = _parts(len(ordered), fidelity.sequences, how)
    shards = []
    for first, end in _evenly(fidelity.sequences, n_readings):
        reading = fidelity.part(fidelity.first + first, fidelity.first + end)
        for start, stop in _evenly(len(ordered), n_groups):
            shards.append(Shard(tuple(ordered[start:stop]), reading))
    return shards


def _parts(candidates: int, sequences: int, how: Cut) -> tuple[int, int]:
    """Return into how many parts the candidates and the sequences are cut."""
    ways = []
    for n_readings in range(1, min(how.shards, max(1, sequences // how.least_sequences)) + 1):
        size = -(-candidates // min(candidates, how.shards // n_readings))
        largest = size * -(-sequences // n_readings)
        ways.append((largest, -(-candidates // size), n_readings))
    least = min(way[0] for way in ways)
    even = [way for way in ways if way[0] <= UNEVENNESS * least]
    _, n_groups, n_readings = min(even, key=lambda way: (way[1], way[0], way[2]))
    return n_groups, n_readings


def _evenly(total: int, parts: int) -> list[tuple[int, int]]:
    """Return the bounds of so many parts of sizes that differ by one at most."""
    return [(total * part // parts, total * (part + 1) // parts) for part in range(parts)]
