"""The part of docs/measured.md that holds Bayesian searches against plain TPE."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.bayes import FLOOR, PLAIN, VARIANTS
from benchmarks.markdown_table import table

Row = Mapping[str, Any]

TEXT = (
    "## Bayesian searches through the knapsack, beside plain TPE\n\n"
    "`python -m benchmarks.bayes --output benchmarks/results/bayes.json`\n\n"
    "The reference model in depth and width at {target:g}x predicted, by the same table as above. "
    "`tpe` is Optuna's TPE over the levels themselves, repaired to the latency, its whole "
    "schedule; the others propose factors on the losses of single changes, of which a knapsack "
    "makes the candidate, and have at most a fifth of its tokens, single changes among them. "
    "Batches, rungs and pruner are the same. Additive is where those others begin. KL is that of "
    "the report text, which no search has read; behind it a 95 % interval of what `tpe` loses "
    "more, paired over sequences. Losses are computed in {formats}."
)


def section(result: Mapping[str, Any]) -> str:
    """Return the text and tables."""
    rows = complete_rows(result)
    ends = [end for row in rows for end in row["ends"].values()]
    formats = " and ".join(sorted({end["number_format"] for end in ends}))
    names = (FLOOR, *VARIANTS)
    return "\n\n".join(
        [
            TEXT.format(target=result["target"], formats=formats),
            table(["seed", PLAIN, *names], [_cells(row, names) for row in rows]),
            table(
                [
                    "strategy",
                    "median KL",
                    "to tpe's KL: median, worst",
                    "tokens to tpe's",
                    "better",
                ],
                [_medians(name, rows) for name in names],
            ),
        ]
    )


def complete_rows(result: Mapping[str, Any]) -> list[Row]:
    """Return the seeds of which every search has ended."""
    return [row for row in result["rows"] if {PLAIN, FLOOR, *VARIANTS} <= set(row["ends"])]


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    def cell(name: str) -> str:
        end = row["ends"][name]
        low, high = row["plain_minus"][name]
        return f"{end['kl']:.4f} [{low:+.4f}, {high:+.4f}]"

    plain = row["ends"][PLAIN]
    return [
        str(row["seed"]),
        f"{plain['kl']:.4f}, {plain['tokens'] / 1e6:.2f} M tokens",
        *map(cell, names),
    ]


def _medians(name: str, rows: Sequence[Row]) -> list[str]:
    """Return a strategy's figures over seeds; better is it where the interval excludes zero."""
    ratios = [row["ends"][name]["kl"] / row["ends"][PLAIN]["kl"] for row in rows]
    shares = [row["ends"][name]["tokens"] / row["ends"][PLAIN]["tokens"] for row in rows]
    better = sum(row["plain_minus"][name][0] > 0 for row in rows)
    return [
        f"`{name}`",
        f"{statistics.median(row['ends'][name]['kl'] for row in rows):.4f}",
        f"{statistics.median(ratios):.3f}, {max(ratios):.3f}",
        f"{statistics.median(shares):.1%}, at most {max(shares):.1%}",
        f"in {better} of {len(rows)}",
    ]
