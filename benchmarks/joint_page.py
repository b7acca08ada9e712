"""The part of docs/measured.md that holds one joint search against its parts."""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.joint import BITS_ALONE, IN_TURN, JOINT, SHAPES_ALONE, WAYS
from benchmarks.markdown_table import notes_of, table

Row = Mapping[str, Any]

TEXT = (
    "All end at the same bytes of the whole model, {percent} % of dense, and each search may "
    "spend as many tokens. Joint: depth, width and bits in one search. In turn: depth and width "
    "are searched down a share of the way in bytes, then bits of what is left down to all of it, "
    "each with that many tokens; the best of the shares, picked on the report text itself, counts "
    "as in turn. Shapes alone are depth and width. KL is that of the report text, which no search "
    "has read; behind it a 95 % interval of what it loses more than the joint one, paired over "
    "sequences. Losses are computed in {formats}."
)


def section(result: Mapping[str, Any]) -> str:
    """Return the text and table."""
    rows = complete_rows(result)
    arms = [arm for row in rows for arm in row["arms"].values()]
    formats = " and ".join(sorted({arm["number_format"] for arm in arms}))
    heading = "## One search over depth, width and bits"
    command = "`python -m benchmarks.joint --output benchmarks/results/joint.json`"
    text = TEXT.format(percent=result["percent"], formats=formats)
    head = ["seed", JOINT, BITS_ALONE, SHAPES_ALONE, IN_TURN, "tokens: joint, bits, in turn"]
    best = [best_others(row) for row in rows]
    ahead = sum(row["minus_joint"][name][0] > 0 for row, name in zip(rows, best, strict=True))
    ratios = [
        row["arms"][JOINT]["kl"] / row["arms"][name]["kl"]
        for row, name in zip(rows, best, strict=True)
    ]
    end = (
        f"Joint to the best of the others: {statistics.median(ratios):.3f} (median of seeds; "
        f"worst {max(ratios):.3f}); better, its interval excluding zero, in {ahead} of "
        f"{len(rows)} seeds."
    )
    body = table(head, [_cells(row) for row in rows])
    return "\n\n".join([heading, command, text, *notes_of(rows), body, end])


def complete_rows(result: Mapping[str, Any]) -> list[Row]:
    """Return the seeds that were searched in every way: a run that goes on later lacks some."""
    ways = {JOINT, BITS_ALONE, SHAPES_ALONE, *(f"{IN_TURN}, {way:.0%}" for way in WAYS)}
    return [row for row in result["rows"] if ways <= set(row["arms"])]


def best_others(row: Row) -> str:
    """Return which arm but the joint one loses least."""
    others: list[str] = [name for name in row["arms"] if name != JOINT]
    return min(others, key=lambda name: row["arms"][name]["kl"])


def _cells(row: Row) -> list[str]:
    arms = row["arms"]
    in_turn = min(
        (name for name in arms if name.startswith(IN_TURN)), key=lambda name: arms[name]["kl"]
    )

    def cell(name: str) -> str:
        low, high = row["minus_joint"][name]
        return f"{arms[name]['kl']:.4f} [{low:+.4f}, {high:+.4f}]"

    spent = ", ".join(
        f"{arms[name]['tokens'] / 1e6:.2f} M" for name in (JOINT, BITS_ALONE, in_turn)
    )
    way = in_turn.removeprefix(f"{IN_TURN}, ")
    return [
        str(row["seed"]),
        f"{arms[JOINT]['kl']:.4f}",
        cell(BITS_ALONE),
        cell(SHAPES_ALONE),
        f"{cell(in_turn)} ({way} first)",
        spent,
    ]
