"""The part of docs/measured.md that tells of searches for a decoding, alone and joint."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown_table import notes_of, table

WAYS = ("tpe", "random", "grid", "tpe unpruned", "untuned")


def section(result: Mapping[str, Any]) -> str:
    """Return the section: each seed's winners on the same held-out items."""
    rows, own = result["rows"], result["summary"]
    first = rows[0]
    body = [
        [
            str(row["seed"]),
            way,
            f"{row['ways'][way]['quality_per_second']:.3g}",
            _spread(row["ways"][way]["beside"]) if way != "tpe" else "",
            f"{row['ways'][way].get('tokens', 0):,}" if "tokens" in row["ways"][way] else "",
            str(row["ways"][way].get("trials", "")),
            str(row["ways"][way].get("dropped", "")),
            f"`{row['ways'][way].get('decoding', 'untuned')}`",
        ]
        for row in rows
        for way in WAYS
    ]
    better, times = own["surely_better_than"], own["times_as_good_as"]
    return (
        "## Decodings\n\n"
        "`python -m benchmarks.decoding --output benchmarks/results/decoding.json`\n\n"
        "`autocompress decode` for quality a second, on lines of code to end, judged by ROUGE-L: "
        f"{first['ways']['tpe']['trials']} decodings by TPE with pruning on {first['items']} "
        "items; random and grid search without pruning until they have generated as many tokens; "
        "and as many decodings by TPE without pruning. The winners then answered "
        f"{first['held_out_items']} held-out items in turn, a share of them in each of "
        f"{first['processes']} processes. In brackets 95 % intervals, over processes, of how many "
        "times as good TPE's winner is. It is surely better than random "
        f"search's in {better['random']} of {own['seeds']} seeds (in geometric mean "
        f"{times['random']:.2f} times as good) and than the grid's in {better['grid']} "
        f"({times['grid']:.2f} times). Pruning left {own['pruned_share_of_tokens']:.0%} of the "
        f"tokens (median), and a winner {times['tpe unpruned']:.2f} times as good. "
        f"{first['hardware']}.\n\n"
        + table(
            [
                "seed",
                "search",
                "score a second",
                "TPE's over it",
                "tokens",
                "decodings",
                "dropped",
                "winner",
            ],
            body,
        )
    )


def joint_section(result: Mapping[str, Any]) -> str:
    """Return the section: joint searches beside compression that is decoded its best."""
    own = result["summary"]
    body = [
        [
            str(row["seed"]),
            f"{row['target']:g}x",
            f"{row['report_items']:,}",
            "**winner**" if at == row["winner"] else "",
            f"{option['asked_speedup']:.2f}x",
            _times(option["by_compression"]),
            _times(option["by_decoding"]),
            _times(option["speedup"]),
            _difference(option["quality_difference"]),
            _difference(option["beside_first"]) if at else "",
            f"`{option['decoding']}`",
        ]
        for row in result["rows"]
        for at, option in enumerate(row["options"])
    ]
    return (
        "## Model and decoding together\n\n"
        "`python -m benchmarks.joint_decoding --output benchmarks/results/joint-decoding.json`\n\n"
        "`autocompress search --space depth,width,decoding`: compression and decoding take turns "
        "at the speedup of whole answers. The first row of each is the sequence: compression for "
        "all of it, decoded its best; the last is the dense model, with the first compressed one "
        "as a possible draft. Scores are ROUGE-L of lines of code to end, beside dense's, "
        "paired over items that all answered in turn; intervals of times are over "
        f"{result['rows'][0]['report_processes']} processes that had a share of them each. The "
        "winner was picked on other items. Of "
        f"{own['searches']} search{'es' if own['searches'] > 1 else ''} the winner kept the "
        f"target with its whole interval in {own['met']}, its score was surely better than the "
        f"sequence's in {own['surely_better']}, and surely worse in {own['surely_worse']}. "
        f"{result['rows'][0]['hardware']}.\n\n"
        + "".join(f"{note}\n\n" for note in notes_of(result["rows"]))
        + table(
            [
                "seed",
                "target",
                "items",
                "",
                "asked of compression",
                "by compression",
                "by decoding",
                "together",
                "score",
                "beside the first",
                "decoding",
            ],
            body,
        )
    )


def _spread(beside: Any) -> str:
    value, (low, high) = beside
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _times(value: Mapping[str, Any]) -> str:
    low, high = value["interval"]
    return f"{value['value']:.2f}x [{low:.2f}, {high:.2f}]"


def _difference(value: Mapping[str, Any]) -> str:
    low, high = value["interval"]
    return f"{value['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
