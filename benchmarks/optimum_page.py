"""The part of docs/measured.md that benchmarks/optimum.py has made a result for."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown_table import table

NOTE = (
    "`python -m benchmarks.optimum --record benchmarks/results/optimum.npz "
    "--output benchmarks/results/optimum.json`\n\n"
    "Every configuration of two spaces of the reference model was measured once, and the real "
    "evolution was run on the recorded losses. What was recorded is all the text it has: it ends "
    "by itself, or when the share of the space below has been evaluated. Each different candidate "
    "counts once, whatever was read of it; so do the single changes of the warm start, which are "
    "outside the space. The optimum has the least mean KL over all recorded sequences; it is "
    "found when the search ends with it. Random search draws as many configurations from the "
    "space and knows their losses in full."
)


def section(result: Mapping[str, Any]) -> str:
    """Return the section, a column for each space."""
    rows = result["rows"]
    lines = [
        ["configurations", *(f"{row['configurations']:,}" for row in rows)],
        ["recorded sequences of each", *(str(row["sequences"]) for row in rows)],
        ["optimum found", *(_rate(row["found"]) for row in rows)],
        ["optimum measured", *(_rate(row["measured"]) for row in rows)],
        ["optimum among six finalists", *(_rate(row["among_finalists"]) for row in rows)],
        ["found by random search", *(_random(row) for row in rows)],
        ["share of the space evaluated", *(_shares(row["share_evaluated"]) for row in rows)],
        ["when the optimum was measured", *(_shares(row["share_when_measured"]) for row in rows)],
        ["when it was the best for good", *(_shares(row["share_when_standing"]) for row in rows)],
        ["KL: optimum, second, median", *(_losses(row["optimum"]) for row in rows)],
        ["worst end over all seeds", *(_worst(row) for row in rows)],
    ]
    spaces = "; ".join(f"*{row['space']}*: {row['title']}" for row in rows)
    optima = "; ".join(f"*{row['space']}*: {', '.join(row['optimum']['changes'])}" for row in rows)
    misses = "; ".join(f"*{row['space']}*: {_outcomes(row)}" for row in rows)
    share = rows[0]["share"]
    return (
        f"## The true optimum of enumerated spaces\n\n{NOTE}\n\nThe spaces: {spaces}.\n\n"
        + table(["", *(row["space"] for row in rows)], lines)
        + f"\n\nShares are median, and 95th percentile over seeds; at most {share:.0%} of a space "
        f"may be evaluated. Counts are of seeds, with 95 % Wilson intervals. What became of the "
        f"optimum: {misses}.\n\nThe optima: {optima}."
    )


def _rate(rate: Mapping[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{rate['n']} of {rate['of']} [{low:.0%}, {high:.0%}]"


def _random(row: Mapping[str, Any]) -> str:
    return f"{_rate(row['random_found'])}, expected {row['random_expected']:.1%}"


def _shares(shares: Mapping[str, float] | None) -> str:
    return "never" if shares is None else f"{shares['median']:.2%}, {shares['p95']:.2%}"


def _losses(optimum: Mapping[str, Any]) -> str:
    return ", ".join(f"{optimum[name]:.4f}" for name in ("kl", "second_kl", "median_kl"))


def _worst(row: Mapping[str, Any]) -> str:
    return f"rank {row['worst_rank'] + 1}, KL {row['worst_excess']:.2%} above the optimum's"


def _outcomes(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} {name}" for name, n in row["outcomes"].items() if n)
