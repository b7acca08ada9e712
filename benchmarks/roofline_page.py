"""The part of docs/measured.md, and its figure, that tells of a run of benchmarks/roofline.py."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from autocompress.evaluators.roofline import KNOWN
from autocompress.export.figures import write_png
from benchmarks.markdown_table import table

WITHIN = 0.25
USUAL = "1x128+64"
TICKS = (10, 20, 30, 50, 100, 200, 300, 500)
COLOURS = {1: "#0072b2", 2: "#d55e00"}
NOTE = (
    "`python -m benchmarks.roofline --output benchmarks/results/roofline.json`\n\n"
    "How far `--engine roofline:...` can be trusted for hardware that is not here, told by a "
    "machine that is: {parameters:,} randomly initialised parameters in {number_format}, run by "
    "torch {torch} on {hardware}. Peak rate and bandwidth are probed in every round right before "
    "what they predict: two square matrices, and weights of 4,096 x 1,024 read one after another "
    "by a product with a vector each. Predicted over measured, medians of {rounds} rounds, the "
    "least and the most of them in brackets; below 1 the machine was slower than its peak rates "
    "allow. A further token is timed half-way through the generated ones."
)
READING = (
    "What a roofline leaves out is seen in the rest. Attention over a long cache is one thread's "
    "arithmetic on this engine and not a reading of memory; products of a few vectors reach "
    "neither peak; and before the first token torch copies the whole head (a product of a slice "
    "with a matrix of 151,936 rows), which costs more than all layers. Plain reading reaches "
    "{reading:.1f} times the bandwidth that products with a vector do: a datasheet's bandwidth, "
    "which is that of plain reading at best, promises the more. So a roofline ranks "
    "candidates by what they read, and its times are a lower bound and no promise."
)

GPU_NOTE = (
    "`python -m benchmarks.roofline --output benchmarks/results/roofline-h200.json --shape 8b "
    "--rounds {rounds} --threads 1 --datasheet h200 --cases {cases}`\n\n"
    "The same with {parameters:,} parameters in {number_format}, run by torch {torch}, eager, on "
    "one {hardware}. Probed peaks: {bandwidth:.2f} TB/s and {flops:.0f} TFLOP/s; the {datasheet}, "
    "says {promised}. Of a pass the kernels' own time is told beside the time on the clock."
)
GPU_READING = (
    "On the clock a further token takes up to {waiting:.1f} times as long as its kernels, for the "
    "eager engine starts them one by one from Python: there a roofline is far too fast, and what "
    "saves kernels, as layers that are dropped do, is worth more than narrower ones. The kernels "
    "of a further token alone take {least:.1f} to {most:.1f} times what the datasheet promises: "
    "norms, activations and copies are not in it, and products fall short of the peaks. To read "
    "the prompts of {longest}, which keep the GPU busy, takes {prompt:.1f} times as long as "
    "promised."
)


def gpu_section(result: Mapping[str, Any]) -> str:
    """Return the section of a GPU: on the clock, of its kernels, and what its datasheet says."""
    rows = result["rows"]
    head = [
        "workload", "time", "ms measured", "ms of kernels", "ms by probed peaks",
        "ms by the datasheet",
    ]  # fmt: skip
    body = [
        [
            row["workload"],
            name,
            f"{row[f'{phase}_ms']:.1f}",
            f"{row[f'{phase}_kernels_ms']:.1f}",
            f"{row[f'{phase}_ms'] * row[f'{phase}_predicted_to_measured'][0]:.1f}",
            f"{row[f'datasheet_{phase}_ms']:.1f}",
        ]
        for row in rows
        for phase, name in (("decode", "a further token"), ("prefill", "until the first"))
    ]
    kernels = [row["decode_kernels_ms"] / row["datasheet_decode_ms"] for row in rows]
    longest = max(rows, key=lambda row: row["prefill_ms"])
    reading = GPU_READING.format(
        waiting=max(row["decode_ms"] / row["decode_kernels_ms"] for row in rows),
        least=min(kernels),
        most=max(kernels),
        longest=longest["workload"],
        prompt=longest["prefill_ms"] / longest["datasheet_prefill_ms"],
    )
    on = KNOWN[result["datasheet_name"]]
    note = GPU_NOTE.format(
        **result,
        cases=" ".join(row["workload"] for row in rows),
        bandwidth=statistics.median(row["bandwidth"] for row in rows) / 1e12,
        flops=statistics.median(row["flops"] for row in rows) / 1e12,
        promised=f"{on.bandwidth / 1e12:.2f} and {on.flops[result['number_format']] / 1e12:.0f}",
    )
    return "\n\n".join(["### On a GPU", note, table(head, body), reading])


def section(result: Mapping[str, Any]) -> str:
    """Return the section: predicted against measured for each case."""
    rows = result["rows"]
    head = [
        "workload", "layers dropped", "threads", "GB/s, TFLOP/s", "ms a further token",
        "predicted / measured", "ms to the first", "predicted / measured",
    ]  # fmt: skip
    body = [
        [
            row["workload"],
            f"{row['dropped']:.0%}",
            str(row["threads"]),
            f"{row['bandwidth'] / 1e9:.1f}, {row['flops'] / 1e12:.2f}",
            f"{row['decode_ms']:.1f}",
            _spread(row["decode_predicted_to_measured"]),
            f"{row['prefill_ms']:.0f}",
            _spread(row["prefill_predicted_to_measured"]),
        ]
        for row in rows
    ]
    judged = [row["decode_predicted_to_measured"][0] for row in rows if row["workload"] == USUAL]
    near = sum(abs(ratio - 1) <= WITHIN for ratio in judged)
    verdict = (
        f"A further token of a single sequence after a short prompt: within {WITHIN:.0%} in "
        f"{near} of {len(judged)} cases, ratios from {min(judged):.2f} to {max(judged):.2f}."
    )
    reading = max(row["read_bandwidth"] / row["bandwidth"] for row in rows)
    return "\n\n".join(
        [
            "## The roofline, on a machine that is here",
            NOTE.format(**result),
            "![Predicted against measured](roofline.png)",
            table(head, body),
            verdict,
            READING.format(reading=reading),
        ]
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw predicted against measured milliseconds of a further token; within 25 % is shaded."""
    rows = result["rows"]
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    measured = [row["decode_ms"] for row in rows]
    ends = [0.8 * min(measured), 1.2 * max(measured)]
    low, high = [(1 - WITHIN) * x for x in ends], [(1 + WITHIN) * x for x in ends]
    axes.fill_between(ends, low, high, color="#eeeeee", label=f"within {WITHIN:.0%}")
    axes.plot(ends, ends, color="#777777", linewidth=1)
    for threads, colour in COLOURS.items():
        own = [row for row in rows if row["threads"] == threads]
        for is_usual, mark in ((True, "o"), (False, "x")):
            picked = [row for row in own if (row["workload"] == USUAL) is is_usual]
            where = USUAL if is_usual else "longer or more sequences"
            axes.plot(
                [row["decode_ms"] for row in picked],
                [row["decode_ms"] * row["decode_predicted_to_measured"][0] for row in picked],
                mark,
                color=colour,
                label=f"{where}, {threads} thread{'s' * (threads > 1)}",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(TICKS))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("measured, ms a further token")
    axes.set_ylabel("predicted by peak rates that were probed here")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    write_png(figure, path)


def _spread(ratios: Sequence[float]) -> str:
    middle, least, most = ratios
    return f"{middle:.2f} [{least:.2f}, {most:.2f}]"
