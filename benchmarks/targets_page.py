"""The part of docs/measured.md that holds speedups that were asked for against measured ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.pipeline.aiming import CLOSE
from benchmarks.markdown_table import table

Row = Mapping[str, Any]

TEXT = (
    "`python -m benchmarks.targets --output benchmarks/results/targets.json`\n\n"
    "Searches of the reference model in depth, width and bits, each {budget} long and then "
    "corrected. A target is met where all of the measured 95 % interval is at it or above; the "
    "winner is near it where its median is at most {close:.0%} of it, or no neighbour of one gene "
    "one level nearer to dense, exported and timed too, meets the target. {hardware}."
)


def section(result: Mapping[str, Any], busy: Mapping[str, Any] | None) -> str:
    """Return the text and tables.

    Args:
        busy: The same beside a process that keeps one core busy; None where it was not run.
    """
    rows = result["rows"]
    hardware = " and ".join(sorted({row["hardware"] for row in rows}))
    text = TEXT.format(budget=result["budget"], close=CLOSE, hardware=hardware)
    parts = ["## Targets in speed", text, _table(rows), _ends(rows)]
    if busy is not None:
        parts += ["Once more with another process busy on one core:", _table(busy["rows"])]
    return "\n\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    head = ["target", "seed", "measured", "predicted", "met", "near", "timed", "KL", "minutes"]
    ordered = sorted(rows, key=lambda row: (row["target"], row["seed"]))
    return table(head, [_cells(row) for row in ordered])


def _cells(row: Row) -> list[str]:
    low, high = row["interval"]
    least, most = row["predicted_interval"]
    return [
        f"{row['target']:g}x",
        str(row["seed"]),
        f"{row['median']:.3f}x [{low:.3f}, {high:.3f}]",
        f"{row['predicted']:.2f}x [{least:.2f}, {most:.2f}]",
        "yes" if row["met"] else "no",
        "yes" if is_near(row) else "no",
        str(1 + len(row["corrections"])),
        f"{row['kl']:.4f}",
        f"{row['seconds'] / 60:.0f}",
    ]


def is_near(row: Row) -> bool:
    """Whether a winner is no more compressed than its target takes."""
    if row["median"] <= CLOSE * row["target"]:
        return True
    return all(own["interval"][0] < row["target"] for own in row["slower_neighbours"])


def _ends(rows: Sequence[Row]) -> str:
    met = sum(row["met"] for row in rows)
    near = sum(row["met"] and is_near(row) for row in rows)
    inside = sum(
        row["predicted_interval"][0] <= row["median"] <= row["predicted_interval"][1]
        for row in rows
    )
    return (
        f"Of {len(rows)} searches {met} meet the target, and {near} of them are near it. {inside} "
        "winners were measured inside the interval that was predicted for them. Timed: winners "
        "that were timed end to end, the last included."
    )
