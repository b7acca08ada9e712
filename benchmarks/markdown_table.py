"""Makes the tables of the pages that benchmarks write, and tells the notes on their rows."""

from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def notes_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is to be known of some results, each note once."""
    return list(dict.fromkeys(str(row["note"]) for row in rows if "note" in row))
