"""The part of docs/measured.md, and its figure, that tells of a run of benchmarks/memory.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from autocompress.export.figures import write_png
from benchmarks.markdown_table import table

MIB = 2**20
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
NOTE = (
    "`python -m benchmarks.memory --output benchmarks/results/memory.json`\n\n"
    "Each population, distinct random candidates, is measured in a process of its own; the limit "
    "is `EvaluatorLimits.states_bytes`, of residual streams. The stated bound is the sum of what "
    "configuration alone says of each part (`benchmarks/memory_bound.py`) and of a process that "
    "has imported the same and loaded nothing. An asterisk: the population wants as much as "
    "its limit, or more."
)


def section(result: Mapping[str, Any]) -> str:
    """Return the section: peak and stated bound for each population and limit."""
    rows = result["rows"]
    limits = list(dict.fromkeys(row["states_bytes"] for row in rows))
    sizes = sorted({row["population"] for row in rows})
    by_place = {(row["population"], row["states_bytes"]): row for row in rows}
    body = [
        [str(size), *(_cell(by_place.get((size, limit))) for limit in limits)] for size in sizes
    ]
    head = ["population", *(f"limit {limit / MIB:g} MiB: peak, stated" for limit in limits)]
    grown = "; ".join(
        f"at {own['states_bytes'] / MIB:g} MiB, from {own['from']} candidates to {own['to']}, by "
        f"{own['growth']:.1%} ({own['growth_bytes'] / MIB:.1f} MiB)"
        for own in result["growth"]
    )
    return (
        f"## Memory against population size\n\n{NOTE}\n\n"
        f"{result['model']}, {result['space']}, {result['sequences']} sequences of "
        f"{result['context']} tokens, MiB. Importing alone peaks at "
        f"{result['imports_bytes'] / MIB:.0f}, the dense model measured by itself at "
        f"{result['dense_bytes'] / MIB:.0f}. {result['hardware']}.\n\n"
        "![Peak memory against population size](memory.png)\n\n"
        + table(head, body)
        + f"\n\nFrom where the limit is first reached, the peak grew {grown or 'nowhere: no rows'}"
        ". " + ("Every" if _holds(result) else "NOT every") + " peak is below its stated bound."
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw peak memory against population size, a line for each limit; dashed what was stated."""
    rows = result["rows"]
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for index, limit in enumerate(dict.fromkeys(row["states_bytes"] for row in rows)):
        own = [row for row in rows if row["states_bytes"] == limit]
        colour = COLOURS[index % len(COLOURS)]
        sizes = [row["population"] for row in own]
        label = f"limit {limit / MIB:g} MiB"
        peaks = [row["peak_bytes"] / MIB for row in own]
        axes.plot(sizes, peaks, marker="o", markersize=4, color=colour, label=label)
        stated = [row["stated_bytes"] / MIB for row in own]
        axes.plot(sizes, stated, linestyle="--", linewidth=1, color=colour)
    axes.axhline(result["dense_bytes"] / MIB, color="#777777", linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("candidates in a population")
    axes.set_ylabel("peak resident memory, MiB")
    axes.set_title("dashed: stated bound; dotted: the dense model alone", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    write_png(figure, path)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    mark = "*" if row["is_beyond"] else ""
    return f"{row['peak_bytes'] / MIB:.0f}{mark}, {row['stated_bytes'] / MIB:.0f}"


def _holds(result: Mapping[str, Any]) -> bool:
    return all(row["peak_bytes"] <= row["stated_bytes"] for row in result["rows"])
