"""The part of docs/measured.md, and its figure, that tells of a run of benchmarks/recovery.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from autocompress.export.figures import write_png
from benchmarks.markdown_table import table

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def section(result: Mapping[str, Any], worst: Mapping[str, Any] | None) -> str:
    """Return the section: KL and perplexity before and after, for each seed.

    Args:
        worst: The same with text drawn by what is lost there, of some of the seeds.
    """
    rows = result["rows"]
    first, own = rows[0], result["summary"]
    body = [
        [
            str(row["seed"]),
            f"{row['before']['kl']:.3f}",
            f"{row['after']['kl']:.3f}",
            f"{row['given_back']:.0%} [{row['interval'][0]:.0%}, {row['interval'][1]:.0%}]",
            f"{row['before']['perplexity']:.2f}",
            f"{row['after']['perplexity']:.2f}",
            f"{row['tokens']:,}",
            f"{row['seconds'] / 60:.1f}",
        ]
        for row in rows
    ]
    head = [
        "seed",
        "KL before",
        "after",
        "given back",
        "perplexity before",
        "after",
        "tokens",
        "minutes",
    ]
    return (
        "## Recovery\n\n"
        "`python -m benchmarks.recovery --output benchmarks/results/recovery.json`\n\n"
        "The search's winners at 2x in depth and width (those of the contest above), distilled "
        f"from the dense model by `--recover` at its own settings, on {first['text_tokens']:,} "
        "tokens of the text that the reference model was trained on; KL and perplexity on 256 "
        f"sequences of held-out text, from the checkpoints. {first['hardware']}. The median gives "
        f"back {own['given_back']:.0%} of the KL, the worst {own['least_given_back']:.0%}.\n\n"
        "![KL on the text that winners are picked by, against tokens trained on](recovery.png)\n\n"
        + table(head, body)
        + ("" if worst is None else _beside_worst(rows, worst["rows"]))
    )


def _beside_worst(evenly: Sequence[Mapping[str, Any]], worst: Sequence[Mapping[str, Any]]) -> str:
    """Return what `--recovery-draw worst` leaves, beside what is left of the same winners."""
    left = {row["seed"]: row["after"]["kl"] for row in evenly}
    pairs = ", ".join(
        f"{row['after']['kl']:.4f} beside {left[row['seed']]:.4f} (seed {row['seed']})"
        for row in worst
    )
    return (
        "\n\nText drawn by where the winner loses most (`--draw worst`, "
        f"`recovery-worst.json`), as many tokens: KL {pairs}."
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the validation KL against tokens trained on, a line for each seed."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for index, row in enumerate(result["rows"]):
        tokens, kls = zip(*row["history"], strict=True)
        axes.plot(
            [own / 1e3 for own in tokens],
            kls,
            color=COLOURS[index % len(COLOURS)],
            linewidth=1.4,
            label=f"seed {row['seed']}",
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("thousand tokens trained on")
    axes.set_ylabel("KL from dense, nats a token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    write_png(figure, path)
