"""The part of docs/measured.md, and its figure, that tells of a run of benchmarks/pareto.py."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from autocompress.export.figures import ALARM, OURS, write_png
from benchmarks.markdown_table import table

Row = Mapping[str, Any]

TEXT = (
    "## One search for the whole front\n\n"
    "`python -m benchmarks.pareto --output benchmarks/results/pareto.json`\n\n"
    "The reference model in depth and width, at predicted speedups by one stored latency table. "
    "Ten evolutions, at {speedups}x, each begin no generation beyond so many tokens of their own "
    "(the first column); one search for the front, aimed at 2x, may spend half of what the ten "
    "spent in all. KL is that of report text, which none has read. The "
    "hypervolume is the share that points dominate of all that lies within the dense model's "
    "latency and a KL of {kl:g}; of the front only members from the first target on count, and "
    "what is faster than the last one as being as fast. Its ratio is the front's to the ten's, "
    "with a 95 % bootstrap interval over sequences. "
    "The front has more points than ten, and with them finer steps. So the ten members that the "
    "targets pick are held against the evolutions' ends too: by the ratio of the hypervolumes of "
    "ten and ten, and by the ratios of their KL, target by target."
)


def section(result: Mapping[str, Any]) -> str:
    """Return the text and tables."""
    told = TEXT.format(
        speedups=", ".join(f"{speedup:g}" for speedup in result["speedups"]),
        kl=result["reference"]["kl"],
    )
    head = ["each may spend", "seed", "strategy", "tokens: front, ten", "hypervolume: front, ten"]
    head += ["ratio", "members", "ten members: ratio", "their KL: geometric mean, worst"]
    cells = [
        _cells(row, name)
        for row in compared(result)
        for name in sorted(row["compared"]["fronts"], key=lambda name: (len(name), name))
    ]
    picture = "![KL against predicted speedup: the front's members and ten evolutions](pareto.png)"
    return "\n\n".join([told, places(compared(result)), picture, table(head, cells)])


def places(rows: Sequence[Row]) -> str:
    """Return where the searches ran, and where their ends were measured, seed by seed."""
    told: dict[str, list[str]] = {}
    for row in rows:
        ten = _places(row["evolve"].values())
        front = _places(row["fronts"].values())
        where = f"the ten evolutions on {ten}, the front on {front}, KL of {row['sequences']} "
        where += f"sequences on {row['hardware']} in {row['number_format']}"
        told.setdefault(where, []).append(str(row["seed"]))
    return "By seed: " + "; ".join(f"{', '.join(own)}: {at}" for at, own in told.items()) + "."


def _places(runs: Iterable[Row]) -> str:
    return " and ".join(dict.fromkeys(run["hardware"] for run in runs))


def compared(result: Mapping[str, Any]) -> list[Row]:
    """Return the seeds that were measured: a run that goes on later lacks some."""
    return [row for row in result["rows"] if "compared" in row]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the first seed's front of each number of tokens beside its ten evolutions."""
    rows = {row["max_tokens"]: row for row in reversed(compared(result))}
    figure = Figure(figsize=(3.5 + 3.5 * len(rows), 3.8), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, (tokens, row) in zip(panels, sorted(rows.items()), strict=True):
        front = row["compared"]["fronts"]["pareto"]
        speedups = [1 / share for share in front["shares"]]
        # Up to a member's speedup nothing that was found loses less.
        axes.step(speedups, front["kl"], where="post", color=OURS, linewidth=1, alpha=0.6)
        axes.plot(speedups, front["kl"], "o", color=OURS, markersize=4, label="one front")
        axes.plot(
            result["speedups"],
            row["compared"]["evolve_kl"],
            "x",
            color=ALARM,
            markersize=7,
            label="ten evolutions",
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("predicted speedup")
        axes.set_title(f"{tokens:,} tokens each", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    panels[0].set_ylabel("KL from dense, nats a token")
    write_png(figure, path)


def _cells(row: Row, name: str) -> Sequence[str]:
    whole, own = row["compared"], row["compared"]["fronts"][name]
    ten = sum(run["tokens"] for run in row["evolve"].values())
    low, high = own["ratio_interval"]
    ratios = [
        ours / theirs
        for ours, theirs in zip(own["kl_at_targets"], whole["evolve_kl"], strict=True)
    ]
    mean = statistics.geometric_mean(ratios)
    return [
        f"{row['max_tokens']:,}",
        str(row["seed"]),
        name,
        f"{row['fronts'][name]['tokens'] / 1e6:.2f} M, {ten / 1e6:.2f} M",
        f"{own['hypervolume']:.4f}, {whole['evolve_hypervolume']:.4f}",
        f"{own['ratio']:.4f} [{low:.4f}, {high:.4f}]",
        str(len(own["kl"])),
        f"{own['ratio_at_targets']:.4f}",
        f"{mean:.3f}, {max(ratios):.3f}",
    ]
