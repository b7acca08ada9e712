"""The part of docs/measured.md, and its figure, that tells of a run of benchmarks/latency.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from autocompress.export.figures import write_png
from benchmarks.markdown_table import table

MOST_ERROR, TIMES_REPEAT, LEAST_RANK = 0.05, 1.5, 0.95
COVERAGE = (0.85, 0.95)
COLOURS = ("#0072b2", "#d55e00", "#009e73")
NAMES = {"prefill": "until the first token", "decode": "a further token"}
NOTE = (
    "`python -m benchmarks.latency --output benchmarks/results/latency.json`\n\n"
    "Whole random configurations of depth and width on torch, and with bits that it has kernels "
    "for, spread from 1x to 3x of the workload, that neither profile nor fit have read. The "
    "interval is the one that a search states: of its ten held-out configurations. Measuring "
    "twice is the mean difference of measuring one of these configurations again."
)


def section(result: Mapping[str, Any]) -> str:
    """Return the section: errors for each model and phase, and what was asked of them."""
    rows = result["rows"]
    head = [
        "model", "time", "configurations", "mean error", "measuring twice", "rank correlation",
        "90 % interval, held",
    ]  # fmt: skip
    body = [
        [
            row["model"],
            NAMES[row["phase"]],
            str(row["configurations"]),
            f"{row['mape']:.1%}",
            f"{row['repeat_error']:.1%}",
            f"{row['rank_correlation']:.3f}",
            f"± {row['interval_half_width']:.1%}, {row['coverage']:.0%}",
        ]
        for row in rows
    ]
    near = sum(row["mape"] <= max(MOST_ERROR, TIMES_REPEAT * row["repeat_error"]) for row in rows)
    ranked = sum(row["rank_correlation"] >= LEAST_RANK for row in rows)
    pooled = result["pooled"]
    low, high = COVERAGE
    inside = "between" if low <= pooled["coverage"] <= high else "NOT between"
    places = " and ".join(sorted({row["hardware"] for row in rows}))
    verdict = (
        f"Mean error at most the larger of {MOST_ERROR:.0%} and {TIMES_REPEAT} times that of "
        f"measuring twice: {near} of {len(rows)}. Rank correlation of {LEAST_RANK} or more: "
        f"{ranked} of {len(rows)}. Pooled over {pooled['configurations']} times of configurations "
        f"the intervals held {pooled['coverage']:.1%}, {inside} {low:.0%} and {high:.0%}."
    )
    return "\n\n".join(
        [
            "## Predicted latency, on configurations that nothing was fitted on",
            NOTE,
            f"{places}.",
            "![Predicted against measured speedups](latency.png)",
            table(head, body),
            verdict,
        ]
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw predicted against measured speedups, an axes for each phase."""
    rows = result["rows"]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    models = list(dict.fromkeys(row["model"] for row in rows))
    for axes, (phase, name) in zip(figure.subplots(1, 2), NAMES.items(), strict=True):
        own = [row for row in rows if row["phase"] == phase]
        most = 1.0
        for row in own:
            predicted, measured = zip(*row["points"], strict=True)
            most = max(most, *predicted, *measured)
            colour = COLOURS[models.index(row["model"])]
            axes.plot(measured, predicted, ".", color=colour, label=row["model"], markersize=5)
        axes.plot([0.9, most], [0.9, most], color="#777777", linewidth=1)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("speedup, measured")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("speedup, predicted")
    figure.axes[0].legend(frameon=False, fontsize=8)
    write_png(figure, path)
