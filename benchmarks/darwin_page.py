"""The part of docs/measured.md that tells of a run of benchmarks/darwin.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown_table import table


def section(result: Mapping[str, Any]) -> str:
    """Return the section: KL after the training of winners picked by trainings and not."""
    rows, own = result["rows"], result["summary"]
    body = [
        [
            str(row["seed"]),
            f"{row['trained_in_search']:,}",
            f"{row['darwin']['kl']:.4f}",
            _told(row["evolve_same_recovery"], row["minus_darwin_same_recovery"]),
            _told(row["evolve_same_total"], row["minus_darwin_same_total"]),
        ]
        for row in rows
    ]
    head = [
        "seed",
        "tokens trained in the search",
        "`darwin`, trained",
        "`evolve`, trained as long",
        "`evolve`, with the search's tokens too",
    ]
    return (
        "## Winners picked for what a training gives back\n\n"
        "`python -m benchmarks.darwin --output benchmarks/results/darwin.json --tokens "
        f"{rows[0]['tokens']}`\n\n"
        f"At 2x in depth and width, `darwin` begins with the contest's winner of the same seed; "
        f"its own is distilled on {rows[0]['tokens']:,} tokens, the contest's on as many, and on "
        "as many more as `darwin` trained candidates on. KL on 256 sequences of held-out text, "
        "from the checkpoints; in brackets the 95 % interval, paired over sequences, of what it "
        f"is above `darwin`'s. At the same total, `darwin` ends below in "
        f"{own['below_at_same_total']} of {len(rows)} seeds and above in "
        f"{own['above_at_same_total']}.{_picked_on(rows)}\n\n" + table(head, body)
    )


def _picked_on(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return where winners were picked that were trained on another machine."""
    return "".join(
        f" The winner of seed {row['seed']} was picked on {row['search_hardware']} and trained on "
        f"{row['hardware']}."
        for row in rows
        if row.get("search_hardware") != row.get("hardware")
    )


def _told(own: Mapping[str, float], above: list[float]) -> str:
    low, high = above
    return f"{own['kl']:.4f} [{low:+.4f}, {high:+.4f}]"
