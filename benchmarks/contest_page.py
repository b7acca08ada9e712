"""The parts of docs/measured.md, and their figures, that hold strategies side by side."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from autocompress.export.figures import write_png
from benchmarks.contest import BITS, OURS, SHAPES, SPARSITY, Field
from benchmarks.markdown_table import notes_of, table

READ = (
    "Same workers, same text, same metric; tokens are summed over candidates, warm start "
    "included. KL is that of the report text, which no strategy has read, over the teacher's 512 "
    "likeliest of 4,096 tokens and the rest. In brackets 95 % intervals, paired over sequences: "
    "where one holds zero, the report text cannot tell the two ends apart, though ours counts as "
    "never as good if its mean is the higher by anything. "
    "In the figure EvoPress's line has some five of its parents, the last among them, evenly "
    "spread over those that it had; ours has those that spent a tenth more tokens than the one "
    "before, in depth and width all. "
    "Seconds, in the JSON, are of machines that did other work too."
)
WIDE = 4
"""How many times the least KL of a panel the largest is, where its axis is logarithmic."""
RANDOM = "Random is the best of 32 on 8,192 tokens each."


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Args:
        text: What was run.
        case: What cases are called.
        picture: File name of its figure.
        title: A panel's title, of a case.
        field: Who competes.
    """

    text: str
    case: str
    picture: str
    title: str
    field: Field


_DEPTH = Section(
    "## Depth, beside EvoPress\n\n"
    "`python -m benchmarks.depth --output benchmarks/results/depth.json`\n\n"
    "k attention and k MLP sub-blocks of the reference model's 12 layers are dropped, EvoPress's "
    "own constraint. EvoPress runs its full default schedule (64 random candidates, then "
    "k (12 - k) / 1.5 generations of 32 mutants on 2,048 tokens and the best two and the parent "
    f"on 32,768); ours may spend as many tokens and ends by itself. {READ} {RANDOM}",
    "k",
    "depth.png",
    "{0} attention and {0} MLP of 12 dropped",
    SHAPES,
)
_DEPTH_WIDTH = Section(
    "## Depth and width under a latency, beside all strategies\n\n"
    "`python -m benchmarks.depth_width --output benchmarks/results/depth-width.json`\n\n"
    "The reference model at predicted speedups by one stored latency table, "
    "`benchmarks/results/latency-table.json`. EvoPress switches levels between sites of a kind, "
    "and draws again what misses the latency; its generations follow from the sites that its "
    f"random parents compress. Ours may spend as many tokens and ends by itself. {READ} {RANDOM}",
    "target",
    "depth-width.png",
    "{}x predicted",
    SHAPES,
)
_BITS = Section(
    "## Bits, beside EvoPress and the additive baselines\n\n"
    "`python -m benchmarks.bits --output benchmarks/results/bits.json`\n\n"
    "Mean nominal bits of the searched linear layers, codes of 2 to 6 bits, asymmetric, all built "
    "by GPTQ in groups of the largest size that fits. EvoPress runs its super-fast schedule (400 "
    "generations of 16 mutants on 512 tokens and the best and the parent on 8,192), and trades "
    "bits within groups of one size, its default. Uniform takes, between two levels, the best of "
    "32 random fills of the two; additive is the knapsack over measured single changes, "
    "weight-error over the squared change of weights, and fisher over output errors weighted by "
    "squared gradients. Ours begins with fisher's scores, whose passes count as tokens, and may "
    f"spend a quarter of EvoPress's. {READ}",
    "bits",
    "bits.png",
    "{} nominal bits",
    BITS,
)
_SPARSITY = Section(
    "## Sparsity, beside EvoPress and OWL\n\n"
    "`python -m benchmarks.sparsity --output benchmarks/results/sparsity.json`\n\n"
    "Mean sparsity of the searched linear layers, all built by SparseGPT; levels of all groups "
    "lie 4,096 weights apart, 16 on each side of the middle: for EvoPress too, whose mutants go "
    "one level at a time, and whose own levels are 8 on each side. It runs its super-fast "
    "schedule. OWL takes the best of its multiples and spreads. Ours may spend a quarter of "
    f"EvoPress's tokens. {READ}",
    "sparsity",
    "sparsity.png",
    "{} of the weights zero",
    SPARSITY,
)

SECTIONS = {
    "depth.json": _DEPTH,
    "depth-width.json": _DEPTH_WIDTH,
    "bits.json": _BITS,
    "sparsity.json": _SPARSITY,
}
"""By their results, in the page's order."""

ALL = (
    "All strategies under the same constraint: median KL over seeds, and in how many of the seeds "
    "ours is better, its interval excluding zero; behind it the worst seed's ratio of our KL to "
    "theirs:"
)


def section(own: Section, result: Mapping[str, Any]) -> str:
    """Return the text and tables of a contest."""
    rows = result["rows"]
    cases = sorted({row["case"] for row in rows})
    case = own.case
    formats = " and ".join(sorted({row["number_format"] for row in rows}))
    told = (
        f"Losses are computed in {formats}. Measured so far: {_seeds(case, rows)}."
        f"{_machines(case, rows)}{_notes(case, rows)}"
    )
    return "\n\n".join(
        [
            f"{own.text} {told}",
            f"![KL against tokens]({own.picture})",
            _races(own, rows),
            _medians(case, result["summary"]),
            ALL,
            _others(own, cases, rows),
        ]
    )


def _seeds(case: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return which seeds of each case rows are of."""
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row["case"], []).append(row["seed"])
    return "; ".join(
        f"{case} = {name}: seeds {', '.join(map(str, sorted(seeds)))}"
        for name, seeds in sorted(found.items())
    )


def _machines(case: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return where rows were measured, and which strategies had run elsewhere before."""
    places: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        elsewhere: dict[str, list[str]] = {}
        for name, machine in row.get("ran_on", {}).items():
            if machine != row["hardware"]:
                elsewhere.setdefault(machine, []).append(name)
        alone = (f"{machine} ({', '.join(names)} alone)" for machine, names in elsewhere.items())
        for place in (row["hardware"], *alone):
            places.setdefault(place, []).append(row)
    if len(places) == 1:
        return f" On {next(iter(places))}."
    return "".join(f" On {place}: {_seeds(case, own)}." for place, own in places.items())


def _notes(case: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what is to be known of some rows."""
    return "".join(
        f" Of {_seeds(case, [row for row in rows if row.get('note') == note])}: {note}"
        for note in notes_of(rows)
    )


def _races(own: Section, rows: Sequence[Mapping[str, Any]]) -> str:
    head = [
        own.case, "seed", "EvoPress: KL, tokens", "ours: KL, tokens", "EvoPress's KL minus ours",
        "tokens until ours was as good", "share", "until within 1 %",
    ]  # fmt: skip
    body = []
    for row in rows:
        ours, theirs = row[OURS][-1], row[own.field.evopress][-1]
        reached = row["tokens_to_evopress_final"]
        close = row["tokens_to_one_percent_of_it"]
        low, high = row["minus_ours"][own.field.evopress]
        total = theirs["tokens"]
        body.append(
            [
                row["case"],
                str(row["seed"]),
                f"{theirs['kl']:.4f}, {total / 1e6:.2f} M",
                f"{ours['kl']:.4f}, {ours['tokens'] / 1e6:.2f} M",
                f"[{low:+.4f}, {high:+.4f}]",
                "never" if reached is None else f"{reached / 1e6:.2f} M",
                "-" if reached is None else f"{reached / total:.1%}",
                "never" if close is None else f"{close / 1e6:.2f} M, {close / total:.1%}",
            ]
        )
    return table(head, body)


def _medians(case: str, summary: Mapping[str, Any]) -> str:
    return (
        "Tokens until ours was as good as EvoPress at its end, as a share of EvoPress's, median "
        "over seeds: "
        + "; ".join(
            f"{case} = {name}: "
            + (
                "not reached"
                if part["share_of_tokens"] is None
                else f"{part['share_of_tokens']:.1%}"
            )
            + f", final KL {part['final_kl_to_evopress']:.4f} times EvoPress's (worst seed "
            f"{part['worst_final_kl_to_evopress']:.4f})"
            for name, part in summary.items()
        )
        + "."
    )


def _others(own: Section, cases: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    def cell(name: str, case: str) -> str:
        rows_ = [row for row in rows if row["case"] == case]
        kl = statistics.median(row[name][-1]["kl"] for row in rows_)
        bits = statistics.median(row.get("stored_bits", {name: 0.0})[name] for row in rows_)
        told = f"{kl:.4f}" + (f" ({bits:.2f} true bits)" if bits else "")
        if name == OURS:
            return told
        better = sum(row["minus_ours"][name][0] > 0 for row in rows_)
        worse = sum(row["minus_ours"][name][1] < 0 for row in rows_)
        worst = max(row[OURS][-1]["kl"] / row[name][-1]["kl"] for row in rows_)
        return f"{told}, better in {better} of {len(rows_)}, {worst:.3f}" + (
            f", WORSE in {worse}" if worse else ""
        )

    names = (OURS, own.field.evopress, *own.field.others)
    body = [[name, *(cell(name, each) for each in cases)] for name in names]
    return table(["strategy", *(f"{own.case} = {name}" for name in cases)], body)


def draw(own: Section, result: Mapping[str, Any], folder: Path) -> None:
    """Draw held-out KL against tokens, a panel for each case, a line for each seed."""
    colours = {OURS: "#0072b2", own.field.evopress: "#d55e00"}
    cases = sorted({row["case"] for row in result["rows"]})
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for index, case in enumerate(cases, 1):
        axes = figure.add_subplot(1, len(cases), index)
        labelled: set[str] = set()
        for row in result["rows"]:
            if row["case"] == case:
                for name in (own.field.evopress, OURS):
                    steps = row[name]
                    axes.step(
                        [step["tokens"] for step in steps],
                        [step["kl"] for step in steps],
                        where="post", color=colours[name], alpha=0.75, linewidth=1.4,
                        label=None if name in labelled else {OURS: "ours"}.get(name, name),
                    )  # fmt: skip
                    labelled.add(name)
        axes.set_xscale("log")
        # Narrow panels have no room for three labels a decade.
        subs = (1, 2, 5) if len(cases) < 3 else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_major_formatter(lambda tokens, _: f"{tokens / 1e6:g} M")
        axes.xaxis.set_minor_formatter(NullFormatter())
        least, most = axes.dataLim.intervaly
        if most > WIDE * least:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(own.title.format(case), fontsize=10)
        axes.set_xlabel("tokens spent")
        axes.spines[["top", "right"]].set_visible(False)
        if index == 1:
            axes.set_ylabel("KL on held-out text")
            axes.legend(frameon=False)
    write_png(figure, folder / own.picture)
