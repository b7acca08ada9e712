"""The parts of docs/measured.md, and their figures, that hold strategies side by side."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from autocompress.export.figures import write_png
from benchmarks.contest import OTHERS, OURS, THEIRS
from benchmarks.markdown_table import table

COLOURS = {OURS: "#0072b2", THEIRS: "#d55e00"}
READ = (
    "Same workers, same text, same metric; tokens are summed over candidates, warm start "
    "included. KL is that of the report text, which no strategy has read, over the teacher's 512 "
    "likeliest of 4,096 tokens and the rest. In brackets 95 % intervals, paired over sequences. "
    "Random is the best of 32 on 8,192 tokens each. Seconds, in the JSON, are of machines that "
    "did other work too."
)
DEPTH = (
    "## Depth, beside EvoPress\n\n"
    "`python -m benchmarks.depth --output benchmarks/results/depth.json`\n\n"
    "k attention and k MLP sub-blocks of the reference model's 12 layers are dropped, EvoPress's "
    "own constraint. EvoPress runs its full default schedule (64 random candidates, then "
    "k (12 - k) / 1.5 generations of 32 mutants on 2,048 tokens and the best two and the parent "
    "on 32,768); ours may spend as many tokens and ends by itself. Losses are computed in "
    "float32; the rows so far are of commit e17fd8f, whose moves were not batched yet. "
    f"{READ}"
)
DEPTH_WIDTH = (
    "## Depth and width under a latency, beside all strategies\n\n"
    "`python -m benchmarks.depth_width --output benchmarks/results/depth-width.json`\n\n"
    "The reference model at predicted speedups by one stored latency table, "
    "`benchmarks/results/latency-table.json`. EvoPress switches levels between sites of a kind, "
    "and draws again what misses the latency; its generations follow from the sites that its "
    f"random parents compress. Ours may spend as many tokens and ends by itself. {READ}"
)

ALL = (
    "All strategies under the same constraint: median KL over seeds, and in how many of the seeds "
    "ours is better, its interval excluding zero:"
)


def depth(result: Mapping[str, Any]) -> str:
    return _section(DEPTH, "k", "depth.png", result)


def depth_width(result: Mapping[str, Any]) -> str:
    return _section(DEPTH_WIDTH, "target", "depth-width.png", result)


def _section(text: str, case: str, picture: str, result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    cases = sorted({row["case"] for row in rows})
    seeds = {name: sorted(row["seed"] for row in rows if row["case"] == name) for name in cases}
    done = "; ".join(
        f"{case} = {name}: seeds {', '.join(map(str, seeds[name]))}" for name in cases
    )
    return "\n\n".join(
        [
            f"{text} Measured so far: {done}{_of_old(result)}.",
            f"![KL against tokens]({picture})",
            _races(case, rows),
            _medians(case, result["summary"]),
            ALL,
            _others(case, cases, rows),
        ]
    )


def _of_old(result: Mapping[str, Any]) -> str:
    if "commit" not in result:
        return ""
    return f", all at commit {result['commit']}, before the search changed"


def _races(case: str, rows: Sequence[Mapping[str, Any]]) -> str:
    head = [
        case, "seed", "EvoPress: KL, tokens", "ours: KL, tokens", "EvoPress's KL minus ours",
        "tokens until ours was as good", "share", "until within 1 %",
    ]  # fmt: skip
    body = []
    for row in rows:
        ours, theirs = row[OURS][-1], row[THEIRS][-1]
        reached = row["tokens_to_evopress_final"]
        close = row["tokens_to_one_percent_of_it"]
        low, high = row["minus_ours"][THEIRS]
        total = theirs["tokens"]
        body.append(
            [
                row["case"],
                str(row["seed"]),
                f"{theirs['kl']:.4f}, {total / 1e6:.2f} M",
                f"{ours['kl']:.4f}, {ours['tokens'] / 1e6:.2f} M",
                f"[{low:+.4f}, {high:+.4f}]",
                "never" if reached is None else f"{reached / 1e6:.2f} M",
                "-" if reached is None else f"{reached / total:.1%}",
                "never" if close is None else f"{close / 1e6:.2f} M, {close / total:.1%}",
            ]
        )
    return table(head, body)


def _medians(case: str, summary: Mapping[str, Any]) -> str:
    return (
        "Tokens until ours was as good as EvoPress at its end, as a share of EvoPress's, median "
        "over seeds: "
        + "; ".join(
            f"{case} = {name}: "
            + (
                "not reached"
                if part["share_of_tokens"] is None
                else f"{part['share_of_tokens']:.1%}"
            )
            + f", final KL {part['final_kl_to_evopress']:.4f} times EvoPress's (worst seed "
            f"{part['worst_final_kl_to_evopress']:.4f})"
            for name, part in summary.items()
        )
        + "."
    )


def _others(case: str, cases: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    def cell(name: str, case: str) -> str:
        own = [row for row in rows if row["case"] == case]
        kl = statistics.median(row[name][-1]["kl"] for row in own)
        if name == OURS:
            return f"{kl:.4f}"
        better = sum(row["minus_ours"][name][0] > 0 for row in own)
        worse = sum(row["minus_ours"][name][1] < 0 for row in own)
        return f"{kl:.4f}, better in {better} of {len(own)}" + (
            f", WORSE in {worse}" if worse else ""
        )

    body = [[name, *(cell(name, each) for each in cases)] for name in (OURS, THEIRS, *OTHERS)]
    return table(["strategy", *(f"{case} = {name}" for name in cases)], body)


def draw(result: Mapping[str, Any], title: Callable[[str], str], path: Path) -> None:
    """Draw held-out KL against tokens, a panel for each case, a line for each seed."""
    cases = sorted({row["case"] for row in result["rows"]})
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for index, case in enumerate(cases, 1):
        axes = figure.add_subplot(1, len(cases), index)
        labelled: set[str] = set()
        for row in result["rows"]:
            if row["case"] == case:
                for name in (THEIRS, OURS):
                    steps = row[name]
                    axes.step(
                        [step["tokens"] for step in steps],
                        [step["kl"] for step in steps],
                        where="post", color=COLOURS[name], alpha=0.75, linewidth=1.4,
                        label=None if name in labelled else {OURS: "ours"}.get(name, name),
                    )  # fmt: skip
                    labelled.add(name)
        axes.set_xscale("log")
        axes.set_title(title(case), fontsize=10)
        axes.set_xlabel("tokens spent")
        axes.spines[["top", "right"]].set_visible(False)
        if index == 1:
            axes.set_ylabel("KL on held-out text")
            axes.legend(frameon=False)
    write_png(figure, path)
