"""The part of docs/measured.md that tells of a run of benchmarks/metric.py."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown_table import table


def section(result: Mapping[str, Any]) -> str:
    """Return the section: each seed's winner beside the best known metric of each sparsity."""
    rows = result["rows"]
    first, own = rows[0], result["summary"]
    sparsities = [row["sparsity"] for row in first["against"]]
    searched = [name for name in sparsities if name in first["sparsities"]]
    head = ["seed", *(_head(name, searched) for name in sparsities), "verdict", "winner"]
    body = [
        [
            str(row["seed"]),
            *(_told(against) for against in row["against"]),
            row["verdict"].lower(),
            f"`{row['winner']['expression']}`",
        ]
        for row in rows
        if row["winner"]
    ]
    known = [
        [
            standing["name"],
            *(f"{standing['report'][name]['kl']['value']:.4f}" for name in sparsities),
            f"`{standing['expression']}`",
        ]
        for standing in first["known"]
    ]
    return (
        "## Pruning metrics that evolve\n\n"
        "`python -m benchmarks.metric --output benchmarks/results/metric.json`\n\n"
        f"`autocompress metric` at its own settings: {first['evaluations']} formulas a seed, the "
        f"{len(first['known'])} known ones among them, searched at {', '.join(searched)}. Below: "
        "the winner's KL beside that of the best known metric of each sparsity, of all of them "
        f"the best on this very text, {first['report_sequences']} sequences of "
        f"{first['context']} tokens that nothing before has read; in brackets 95 % intervals of "
        "paired differences, and how many of the weights kept are kept by both. A winner is "
        "better where an interval says so at one searched sparsity and it is at most 1 % worse at "
        f"the others: {own['better']} of {own['seeds']} seeds. {first['hardware']}.\n\n"
        + table(head, body)
        + "\n\nWhat the known metrics lose there, KL in nats a token:\n\n"
        + table(["metric", *sparsities, "formula"], known)
    )


def _head(name: str, searched: list[str]) -> str:
    return name if name in searched else f"{name}, not searched"


def _told(against: Mapping[str, Any]) -> str:
    low, high = against["relative"]["interval"]
    return (
        f"{against['relative']['value']:+.1%} [{low:+.1%}, {high:+.1%}] of {against['best_known']}"
        f", {against['shared']:.0%} shared"
    )
