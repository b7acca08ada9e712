"""Writes docs/scale.md: what a generation of a 70 B model takes, from measured runs and shapes.

python -m benchmarks.extrapolation
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.spaces.base import SearchSpace
from autocompress.spaces.making import make_space
from autocompress.trial import Genotype
from benchmarks.cost_model import (
    Gpu,
    head_flops,
    hiding_tokens,
    loads,
    slowest,
    streamed_bytes,
    sub_block_flops,
    teaching,
)
from benchmarks.generation import count_sub_blocks, drops, make_generation
from benchmarks.markdown_table import table
from benchmarks.random_models import DTYPE, SHAPES
from benchmarks.scale_page import read_results

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
SHAPE = SHAPES["70b"]
LENGTH = 2048
OFFSPRING = 64
SURVIVORS = 2
STAGES = (2_048, 32_768)  # EvoPress's tokens in depth, arXiv:2410.14649
DROPPED = SHAPE.layers // 4
PEAK, MEMORY, MEMORY_SPEED, LINK_PEAK = 989e12, 80e9, 3.35e12, 64e9
LINK, HOST = 25e9, 100e9
FREE, STREAMS = 10e9, 8e9
ACHIEVED, OTHER = 0.4, 0.15
DEVICES = 8
BLOCKS = ("attention", "mlp")
NOT_OTHER = (*BLOCKS, "head", "streaming")
NOTE = (
    "Written by `python -m benchmarks.extrapolation` from `benchmarks/results/scale-*.json`. "
    "Nothing was run at 70 B: this is arithmetic on the shapes of Llama 3.1 70B, for one "
    f"generation of {OFFSPRING} offspring in depth with a quarter of the sub-blocks of each kind "
    f"dropped, {STAGES[0]:,} tokens for every offspring and {STAGES[1]:,} for the best "
    f"{SURVIVORS} and the parent, EvoPress's in depth (arXiv:2410.14649), in sequences of "
    f"{LENGTH:,}. Every GPU holds what fits of the layers, and fetches the others from the "
    "host's memory once a walk; shards are dealt out over the GPUs, the layers of a model are not."
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measured run says of its machine: in sub-blocks, and beside them and the head."""

    flops: float
    other: float


def measured(result: Mapping[str, Any]) -> Measured:
    held = result["held"]
    parts = held["parts"]
    tokens = held["sub_blocks"] * (1 - held["saved"]) * result["context"]
    flops = tokens * sub_block_flops(SHAPES[result["shape"]], result["context"])
    other = sum(own["share"] for part, own in parts.items() if part not in NOT_OTHER)
    return Measured(flops / sum(parts[part]["seconds"] for part in BLOCKS), other)


def section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page; `results` maps a file's name to what benchmarks/scale.py wrote in it."""
    name = next((n for n, own in results.items() if own["device"].startswith("cuda")), None)
    own = Measured(ACHIEVED * PEAK, OTHER) if name is None else measured(results[name])
    source = "assumed" if name is None else f"measured, `{name}`"
    alone = Gpu(PEAK, own.flops / PEAK, own.other, MEMORY, FREE, STREAMS, LINK)
    shared = dataclasses.replace(alone, link_bytes=min(LINK, HOST / DEVICES))
    population = mutants()
    body = [
        *rows(population, alone, 1, "one GPU"),
        *rows(population, alone, DEVICES, "eight GPUs, a link each"),
        *rows(population, shared, DEVICES, "eight GPUs, the host's memory shared"),
    ]
    head = ["where", "stage", "computing", "fetching", "overlapped", "in turn"]
    return "\n\n".join(
        [
            f"# 70 B, extrapolated\n\n{NOTE}",
            f"## From the shapes\n\n{table(['', 'value'], from_shapes(population, alone))}",
            f"## Speeds\n\n{table(['', 'value', 'from'], speeds(alone, source))}",
            f"## What was measured\n\n{runs(results)}",
            f"## One generation\n\n{table(head, body)}\n\n{reading(alone, shared)}",
        ]
    )


@dataclass(frozen=True, slots=True)
class Population:
    """One generation and its space."""

    space: SearchSpace
    candidates: Sequence[Genotype]


def mutants() -> Population:
    space = make_space(SHAPE.layers, SHAPE.kv_groups, SHAPE.ffn_columns, depth=True, width=False)
    return Population(space, make_generation(drops(space, DROPPED), OFFSPRING, 0))


def from_shapes(population: Population, gpu: Gpu) -> list[list[str]]:
    different, total = count_sub_blocks(population.space, population.candidates)
    stream = LENGTH * SHAPE.hidden * DTYPE.itemsize
    return [
        ["parameters", f"{SHAPE.parameters:,}"],
        ["weights, bf16", f"{SHAPE.parameters * DTYPE.itemsize / 1e9:.1f} GB"],
        ["of these in the layers", f"{SHAPE.layers_bytes / 1e9:.1f} GB"],
        ["a token in a sub-block, mean", f"{sub_block_flops(SHAPE, LENGTH) / 1e9:.2f} GFLOP"],
        ["a token in the head", f"{head_flops(SHAPE) / 1e9:.2f} GFLOP"],
        ["a sequence's residual stream", f"{stream / 1e6:.1f} MB"],
        [
            f"sub-blocks saved by sharing, counted on {OFFSPRING} mutants of a random parent",
            f"{1 - different / total:.1%}",
        ],
        ["layers that one GPU streams each walk", f"{streamed_bytes(SHAPE, gpu) / 1e9:.1f} GB"],
    ]


def speeds(gpu: Gpu, source: str) -> list[list[str]]:
    """Return every speed and size that the prediction takes, and where it comes from."""
    published = "published, H100 80GB SXM"
    return [
        ["bf16 dense peak", f"{PEAK / 1e12:.0f} TFLOP/s", published],
        ["memory", f"{MEMORY / 1e9:.0f} GB", published],
        ["memory's speed, not a limit here", f"{MEMORY_SPEED / 1e12:.2f} TB/s", published],
        ["PCIe gen 5 x16, one way", f"{LINK_PEAK / 1e9:.0f} GB/s", published],
        ["host to device, achieved", f"{LINK / 1e9:.0f} GB/s", "assumed"],
        ["host's memory to eight GPUs together", f"{HOST / 1e9:.0f} GB/s", "assumed"],
        ["all weights lie in the host's memory", "yes", "assumed"],
        ["kept for intermediates, logits, teachers", f"{FREE / 1e9:.0f} GB", "assumed"],
        ["kept for residual streams", f"{STREAMS / 1e9:.0f} GB", "assumed"],
        ["share of the peak in sub-blocks", f"{gpu.achieved:.0%}", source],
        ["that the head reaches the same share", "yes", "assumed"],
        ["time in swaps, losses, copies, Python", f"{gpu.other:.0%}", source],
        ["both shares are those of an H100 at 70 B", "yes", "assumed"],
        ["every layer is fetched, none is dropped by all", "yes", "assumed"],
    ]


def runs(results: Mapping[str, Mapping[str, Any]]) -> str:
    if not results:
        return "No run yet: all of the above that a run could tell is assumed."
    lines = []
    for name, result in results.items():
        own = measured(result)
        of_peak = f", {own.flops / PEAK:.1%} of {PEAK / 1e12:.0f}"
        lines.append(
            [
                f"`{name}`",
                f"{result['shape']}, {result['hardware']}",
                f"{result['held']['tokens_per_second']:,.0f}",
                f"{own.flops / 1e12:.3g}" + of_peak * result["device"].startswith("cuda"),
                f"{result['held']['saved']:.1%}",
                f"{own.other:.1%}",
            ]
        )
    head = ["file", "model, machine", "tokens/s", "TFLOP/s in sub-blocks", "saved", "other time"]
    note = (
        "\n\nA CPU's speed says nothing of a GPU's: only shares saved can be carried over, and "
        "those are counted above for the 70 B model itself."
    )
    return table(head, lines) + note


def rows(population: Population, gpu: Gpu, devices: int, where: str) -> list[list[str]]:
    """Return a row for each stage of a generation, and one for all."""
    survivors = population.candidates[: SURVIVORS + 1]  # and the parent
    names, found = [], []
    for tokens, candidates in zip(STAGES, (population.candidates, survivors), strict=True):
        dealt = loads(population.space, SHAPE, gpu, candidates, tokens // LENGTH, LENGTH, devices)
        names.append(f"{len(candidates)} candidates, {tokens:,} tokens each")
        own = slowest(dealt, SHAPE, gpu, LENGTH)
        found.append([own.compute, own.transfer, own.overlapped, own.in_turn])
    totals = [sum(column) for column in zip(*found, strict=True)]
    return [
        [where, name, *(f"{seconds:.1f} s" for seconds in line)]
        for name, line in zip([*names, "a generation"], [*found, totals], strict=True)
    ]


def reading(alone: Gpu, shared: Gpu) -> str:
    sequences = sum(STAGES) // LENGTH
    single = teaching(SHAPE, alone, sequences, LENGTH, 1)
    batched = teaching(SHAPE, alone, sequences, LENGTH, sequences)
    return (
        "A walk hides its fetches, if the next site is fetched while one computes, from "
        f"{hiding_tokens(SHAPE, alone, LENGTH):,.0f} tokens through every sub-block on; from "
        f"{hiding_tokens(SHAPE, shared, LENGTH):,.0f} where eight GPUs share the host's memory. "
        "The dense model's predictions come on top, once for each draw of the text: "
        f"{sequences} sequences take {single.in_turn:.0f} s on one GPU in turn if each is a walk "
        f"of its own, {batched.in_turn:.0f} s if all are one walk. Levels of widths, their "
        "building and their way to the device are not in these figures, nor is the time to read "
        "the checkpoint from disk."
    )


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(section(read_results()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
