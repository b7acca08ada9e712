"""The part of docs/measured.md, and its figure, that benchmarks/depth.py has made a result for."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from autocompress.export.figures import write_png
from benchmarks.markdown_table import table

OURS, THEIRS = "#0072b2", "#d55e00"
NOTE = (
    "`python -m benchmarks.depth --output benchmarks/results/depth.json`\n\n"
    "k attention and k MLP sub-blocks of the reference model's 12 layers are dropped, EvoPress's "
    "own constraint. EvoPress runs its full default schedule (64 random candidates, then "
    "k (12 - k) / 1.5 generations of 32 mutants on 2,048 tokens and the best two and the parent "
    "on 32,768); ours may spend as many tokens and ends by itself. Same workers, same text, same "
    "metric; tokens are summed over candidates, warm start included. KL is that of the report "
    "text, which neither has read, over the teacher's 512 likeliest of 4,096 tokens and the rest."
)


def section(result: Mapping[str, Any]) -> str:
    head = [
        "k", "seed", "EvoPress: KL, tokens", "ours: KL, tokens", "EvoPress's KL minus ours, 95 %",
        "tokens until ours was as good", "share", "until within 1 %",
    ]  # fmt: skip
    body = []
    for row in sorted(result["rows"], key=lambda row: (row["k"], row["seed"])):
        ours, theirs = row["ours"][-1], row["evopress"][-1]
        reached = row["tokens_to_evopress_final"]
        close = row["tokens_to_one_percent_of_it"]
        low, high = row["evopress_minus_ours"]
        total = theirs["tokens"]
        body.append(
            [
                str(row["k"]),
                str(row["seed"]),
                f"{theirs['kl']:.4f}, {total / 1e6:.2f} M",
                f"{ours['kl']:.4f}, {ours['tokens'] / 1e6:.2f} M",
                f"[{low:+.4f}, {high:+.4f}]",
                "never" if reached is None else f"{reached / 1e6:.2f} M",
                "-" if reached is None else f"{reached / total:.0%}",
                "never" if close is None else f"{close / 1e6:.2f} M, {close / total:.0%}",
            ]
        )
    medians = "; ".join(
        f"k = {k}: "
        + ("not reached" if part["share_of_tokens"] is None else f"{part['share_of_tokens']:.0%}")
        + f", final KL {part['final_kl_to_evopress']:.4f} times EvoPress's (worst seed "
        f"{part['worst_final_kl_to_evopress']:.4f})"
        for k, part in result["summary"].items()
    )
    return (
        f"## Depth, beside EvoPress\n\n{NOTE}\n\n![KL against tokens](depth.png)\n\n"
        + table(head, body)
        + "\n\nTokens until ours was as good as EvoPress at its end, as a share of EvoPress's, "
        f"median over seeds: {medians}.\n\n"
        "The other strategies under the same constraint, median KL over seeds (random: best of 32 "
        "on 8,192 tokens each):\n\n" + _others(result["rows"])
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw held-out KL against tokens, a panel for each k, a line for each seed."""
    counts = sorted({row["k"] for row in result["rows"]})
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for index, k in enumerate(counts, 1):
        axes = figure.add_subplot(1, len(counts), index)
        for row in result["rows"]:
            if row["k"] == k:
                for name, colour in (("evopress", THEIRS), ("ours", OURS)):
                    steps = row[name]
                    axes.step(
                        [step["tokens"] for step in steps],
                        [step["kl"] for step in steps],
                        where="post", color=colour, alpha=0.75, linewidth=1.4,
                        label=name if row["seed"] == 0 else None,
                    )  # fmt: skip
        axes.set_xscale("log")
        axes.set_title(f"{k} + {k} of 12 + 12 dropped", fontsize=10)
        axes.set_xlabel("tokens spent")
        axes.spines[["top", "right"]].set_visible(False)
        if index == 1:
            axes.set_ylabel("KL on held-out text")
            axes.legend(frameon=False)
    write_png(figure, path)


def _others(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({row["k"] for row in rows})
    names = list(rows[0]["others"])

    def median(k: int, kl: Any) -> str:
        return f"{statistics.median(kl(row) for row in rows if row['k'] == k):.4f}"

    lines = [["ours", *(median(k, lambda row: row["ours"][-1]["kl"]) for k in counts)]]
    lines += [["evopress", *(median(k, lambda row: row["evopress"][-1]["kl"]) for k in counts)]]
    lines += [
        [name, *(median(k, lambda row, name=name: row["others"][name]["kl"]) for k in counts)]
        for name in names
    ]
    return table(["strategy", *(f"k = {k}" for k in counts)], lines)
