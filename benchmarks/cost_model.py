"""Predicts the seconds of a generation on GPUs from shapes, genotypes and a machine's speeds.

A walk computes what candidates do not share, and fetches once what the device does not hold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.search.shards import Cut, cut
from autocompress.spaces.base import SearchSpace
from autocompress.trial import Fidelity, Genotype, Split
from benchmarks.generation import count_sub_blocks
from benchmarks.random_models import DTYPE, Shape


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device and its way to the host.

    Args:
        flops: What it computes a second at its peak.
        achieved: The share of that which sub-blocks and head reach.
        other: The share of a generation's seconds beside them: swaps, losses, copies, Python.
        memory_bytes: Its memory.
        kept_free_bytes: Of that, for intermediates, logits and teachers.
        states_bytes: Of that, for residual streams.
        link_bytes: From the host a second.
    """

    flops: float
    achieved: float
    other: float
    memory_bytes: float
    kept_free_bytes: float
    states_bytes: float
    link_bytes: float


@dataclass(frozen=True, slots=True)
class Load:
    """What one device does of a reading: tokens are summed over what is really computed."""

    sub_block_tokens: int
    head_tokens: int
    walks: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one device: computing, and fetching weights meanwhile or in turn."""

    compute: float
    transfer: float

    @property
    def overlapped(self) -> float:
        """If the next site is fetched while one computes."""
        return max(self.compute, self.transfer)

    @property
    def in_turn(self) -> float:
        """If computing waits for every fetch."""
        return self.compute + self.transfer


def layer_parameters(shape: Shape) -> int:
    """Return the parameters of one layer."""
    return sum(map(math.prod, shape.layer().values()))


def sub_block_flops(shape: Shape, length: int) -> float:
    """Return what a token costs in a sub-block, the mean of attention and MLP.

    Two for each weight; under a causal mask a query meets half of the keys and values.
    """
    queries = shape.query_heads * shape.head_size
    return (2 * layer_parameters(shape) + 2 * length * queries) / 2


def head_flops(shape: Shape) -> float:
    """Return what a token's logits cost."""
    return 2 * shape.hidden * shape.vocabulary


def streamed_bytes(shape: Shape, gpu: Gpu) -> float:
    """Return the bytes of layers that a device cannot hold: they come once every walk."""
    whole = shape.parameters * DTYPE.itemsize
    ends = whole - shape.layers_bytes
    held = gpu.memory_bytes - gpu.kept_free_bytes - gpu.states_bytes - ends
    return max(0.0, shape.layers_bytes - held)


def loads(
    space: SearchSpace,
    shape: Shape,
    gpu: Gpu,
    candidates: Sequence[Genotype],
    sequences: int,
    length: int,
    devices: int,
) -> list[Load]:
    """Return what each device does of a reading, dealt out as the search does."""
    pair = 2 * length * shape.hidden * DTYPE.itemsize
    found = []
    for shard in cut(candidates, Fidelity(Split.SEARCH, 0, 0, sequences), Cut(devices)):
        different, _ = count_sub_blocks(space, shard.genotypes)
        tokens = shard.fidelity.sequences * length
        streams = len(shard.genotypes) * shard.fidelity.sequences * pair
        walks = math.ceil(streams / gpu.states_bytes)
        found.append(Load(different * tokens, len(shard.genotypes) * tokens, walks))
    assert len(found) <= devices, "a device has one shard at most"
    return found


def seconds_of(load: Load, shape: Shape, gpu: Gpu, length: int) -> Seconds:
    """Return the seconds of one load."""
    blocks = load.sub_block_tokens * sub_block_flops(shape, length)
    head = load.head_tokens * head_flops(shape)
    compute = (blocks + head) / (gpu.flops * gpu.achieved) / (1 - gpu.other)
    return Seconds(compute, load.walks * streamed_bytes(shape, gpu) / gpu.link_bytes)


def slowest(many: Sequence[Load], shape: Shape, gpu: Gpu, length: int) -> Seconds:
    """Return the seconds of the device that is done last."""
    return max(
        (seconds_of(load, shape, gpu, length) for load in many), key=lambda own: own.in_turn
    )


def teaching(shape: Shape, gpu: Gpu, sequences: int, length: int, at_once: int) -> Seconds:
    """Return the seconds of the dense model's predictions, so many sequences a walk."""
    tokens = sequences * length
    load = Load(2 * shape.layers * tokens, tokens, math.ceil(sequences / at_once))
    return seconds_of(load, shape, gpu, length)


def hiding_tokens(shape: Shape, gpu: Gpu, length: int) -> float:
    """Return the tokens that must go through every sub-block for a walk to hide its fetches."""
    one = seconds_of(Load(2 * shape.layers, 1, 1), shape, gpu, length)
    return one.transfer / one.compute if one.transfer else 0.0
