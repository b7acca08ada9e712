"""The part of docs/measured.md that tells what else was tried where depth is closest."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown_table import table

SHARES = (
    "Tokens until the search was as good as EvoPress at its end on the report text, as a share of "
    "EvoPress's, for each seed of the contest above, with other settings of the search."
)
ENDS = (
    "All that EvoPress or ours, in any of these ways, ended with, on the text that was searched, "
    "on the two that no strategy has read, and on all three: KL, and behind it a 95 % interval of "
    "what it loses more than the first, paired over sequences."
)
UNREAD = (
    "The contest above once more, its KL taken on all the text that no strategy has read, the "
    "report's and the selection's: the share of EvoPress's tokens until ours was as good, our "
    "final KL to EvoPress's, and in how many seeds ours is better or worse, a paired 95 % "
    "interval excluding zero."
)


def section(result: Mapping[str, Any]) -> str:
    """Return the text and tables of the ways that were tried."""
    ways: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        ways.setdefault(row["way"], []).append(row)
    heading = f"### Other ways, at k = {result['drops']}"
    command = "`python -m benchmarks.depth_ways --output benchmarks/results/depth-ways.json`"
    parts = [heading, command, SHARES, _shares(ways)]
    parts += [ENDS, _ends(result["ends"])] if "ends" in result else []
    parts += [UNREAD, _unread(result["unread"])] if "unread" in result else []
    return "\n\n".join(parts)


def _shares(ways: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    body = []
    for way, rows in ways.items():
        ratios = [row["kl"] / row["goal"] for row in rows]
        tokens = statistics.median(row["tokens"] for row in rows)
        body.append(
            [
                way,
                *_seeds(rows),
                f"{max(ratios):.4f}",
                f"{tokens / 1e6:.2f} M",
            ]
        )
    head = ["way", "seeds, in order", "median", "worst final KL to EvoPress's", "tokens, median"]
    return table(head, body)


def _seeds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the shares of tokens in all seeds, and their median; never is more than any."""

    def told(share: float) -> str:
        return "never" if share == math.inf else f"{share:.1%}"

    shares = [math.inf if row["share"] is None else row["share"] for row in rows]
    return [", ".join(map(told, shares)), told(statistics.median(shares))]


def _ends(ends: Sequence[Mapping[str, Any]]) -> str:
    texts = list(ends[0]["kl"])
    body = [
        [
            str(place),
            *(
                f"{end['kl'][text]:.4f}"
                + (
                    f" [{end['more'][text][0]:+.4f}, {end['more'][text][1]:+.4f}]"
                    if place > 1
                    else ""
                )
                for text in texts
            ),
            " and ".join(end["ended_by"]),
        ]
        for place, end in enumerate(ends, 1)
    ]
    return table(["", *texts, "ended with by"], body)


def _unread(rows: Sequence[Mapping[str, Any]]) -> str:
    body = []
    for case in sorted({row["case"] for row in rows}):
        own = [row for row in rows if row["case"] == case]
        ratios = [row["kl"] / row["goal"] for row in own]
        body.append(
            [
                case,
                *_seeds(own),
                f"{statistics.median(ratios):.4f}, {max(ratios):.4f}",
                f"{sum(row['minus_ours'][0] > 0 for row in own)} of {len(own)}",
                f"{sum(row['minus_ours'][1] < 0 for row in own)} of {len(own)}",
            ]
        )
    head = ["k", "seeds, in order", "median", "final KL: median, worst", "better", "worse"]
    return table(head, body)
