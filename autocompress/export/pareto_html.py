"""Sets a Pareto front as one self-contained page with two figures."""

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from autocompress.export.figures import (
    GROUND,
    INK,
    OURS,
    QUIET,
    blank_axes,
    scale_losses,
    to_svg,
)
from autocompress.export.page import escape, figure, page, pairs, table
from autocompress.export.pareto import HEADS, Member, ParetoFront, Place, notes, rows, title

_BARS: Final = "Bars reach one standard error up and down."


def to_html(front: ParetoFront) -> str:
    """Return pareto.html."""
    method = [
        ("Engine", front.engine),
        ("Hardware", front.hardware),
        ("Workload", f"{front.workload} (batch x prompt + generated tokens)"),
    ]
    body = [
        f'<header class="good"><h1>{escape(title(front))}</h1></header>',
        _figure(
            "All measured candidates",
            all_candidates(front),
            "Loss against predicted speedup, right and down is better; below the line lies "
            f"no candidate that competed. {_BARS}",
        ),
        *([_figure("Closer to the front", closer(front), _BARS)] if is_narrow(front) else []),
        "<h2>The front</h2>",
        table(HEADS, rows(front)),
        *(f"<p>{escape(note)}</p>" for note in notes(front)),
        "<h2>How it was measured</h2>",
        pairs(method),
    ]
    return page(f"Pareto front: {front.study}", body)


def is_narrow(front: ParetoFront) -> bool:
    """Whether the front spans so little of all speedups that it needs a figure of its own."""
    others = [*front.dominated, *front.too_little_read]
    ours = [member.predicted_speedup for member in front.members]
    every = [*ours, *(place.predicted_speedup for place in others)]
    return max(ours) - min(ours) < (max(every) - min(every)) / 3


def all_candidates(front: ParetoFront) -> Figure:
    """Draw every measured candidate: loss against predicted speedup."""
    drawn, axes = blank_axes(4.3)
    _draw(axes, front)
    places: list[Member | Place] = [*front.members, *front.dominated, *front.too_little_read]
    scale_losses(axes, [place.kl for place in places])
    return drawn


def closer(front: ParetoFront) -> Figure:
    """Draw the front's own range: what lies outside is cut off."""
    drawn, axes = blank_axes(4.3)
    _draw(axes, front)
    lows = [member.kl - (member.kl_stderr or 0.0) for member in front.members]
    highs = [member.kl + (member.kl_stderr or 0.0) for member in front.members]
    scale_losses(axes, [*lows, *highs])
    speedups = [member.predicted_speedup for member in front.members]
    axes.set_xlim(*_around(min(speedups), max(speedups)))
    if axes.get_yscale() == "log":
        axes.set_ylim(0.9 * min(lows), 1.1 * max(highs))
    else:
        axes.set_ylim(*_around(min(lows), max(highs)))
    return drawn


def _figure(name: str, drawn: Figure, caption: str) -> str:
    return figure(name, to_svg(drawn, name.split(maxsplit=1)[0].lower(), name), caption)


def _draw(axes: Axes, front: ParetoFront) -> None:
    _dots(axes, front.too_little_read, f"read on fewer than {front.least_sequences} sequences",
          size=3, strength=0.35)  # fmt: skip
    _dots(axes, front.dominated, "dominated", size=5, strength=0.8)
    speedups = [member.predicted_speedup for member in front.members]
    losses = [member.kl for member in front.members]
    # Up to a member's speedup nothing loses less than it: the step lies before the point.
    axes.step(speedups, losses, where="pre", color=OURS, linewidth=1.2, alpha=0.6, zorder=3)
    axes.errorbar(
        speedups, losses, yerr=[member.kl_stderr or 0.0 for member in front.members], fmt="o",
        color=OURS, markersize=7, markeredgecolor=GROUND, markeredgewidth=0.6, capsize=3,
        linewidth=1.4, zorder=4, label="Pareto front",
    )  # fmt: skip
    axes.set_xlabel("predicted speedup", color=INK)
    axes.set_ylabel("KL from dense on search text", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.5g}x"))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9,
                labelcolor=INK, borderaxespad=0)  # fmt: skip


def _dots(
    axes: Axes, places: Sequence[Place], label: str, *, size: float, strength: float
) -> None:
    if places:
        axes.plot(
            [place.predicted_speedup for place in places], [place.kl for place in places], "o",
            color=QUIET, markersize=size, alpha=strength, markeredgewidth=0, label=label,
        )  # fmt: skip


def _around(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 0.01
    return low - margin, high + margin
