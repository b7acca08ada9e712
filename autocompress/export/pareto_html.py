"""Sets a Pareto front as one self-contained page with two figures."""

from collections.abc import Sequence
from typing import Final, Literal

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
from autocompress.export.pareto import (
    Axis,
    Member,
    ParetoFront,
    Place,
    axis_label,
    heads,
    notes,
    rows,
    title,
)

_BARS: Final = "Bars reach one standard error up and down."


def to_html(front: ParetoFront) -> str:
    """Return pareto.html."""
    better = "left" if front.axis.is_reckoned else "right"
    body = [
        f'<header class="good"><h1>{escape(title(front))}</h1></header>',
        _figure(
            "All measured candidates",
            all_candidates(front),
            f"Loss against {axis_label(front)}, {better} and down is better; below the line lies "
            f"no candidate that competed. {_BARS}",
        ),
        *([_figure("Closer to the front", closer(front), _BARS)] if is_narrow(front) else []),
        "<h2>The front</h2>",
        table(heads(front), rows(front)),
        *(f"<p>{escape(note)}</p>" for note in notes(front)),
    ]
    if front.timing is not None:
        timing = front.timing
        method = [
            ("Engine", timing.engine),
            ("Hardware", timing.hardware),
            ("Workload", f"{timing.workload} (batch x prompt + generated tokens)"),
        ]
        body += ["<h2>How it was measured</h2>", pairs(method)]
    return page(f"Pareto front: {front.study}", body)


def is_narrow(front: ParetoFront) -> bool:
    """Whether the front spans so little of the axis that it needs a figure of its own."""
    others = [*front.dominated, *front.too_little_read]
    ours = [member.value for member in front.members]
    every = [*ours, *(place.value for place in others)]
    return max(ours) - min(ours) < (max(every) - min(every)) / 3


def all_candidates(front: ParetoFront) -> Figure:
    """Draw every measured candidate: its loss against its place on the axis."""
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
    values = [member.value for member in front.members]
    axes.set_xlim(*_around(min(values), max(values)))
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
    members = sorted(front.members, key=lambda member: member.value)
    values = [member.value for member in members]
    losses = [member.kl for member in members]
    # Up to a member's speedup, or from its size on, nothing loses less than it.
    where: Literal["pre", "post"] = "post" if front.axis.is_reckoned else "pre"
    axes.step(values, losses, where=where, color=OURS, linewidth=1.2, alpha=0.6, zorder=3)
    axes.errorbar(
        values, losses, yerr=[member.kl_stderr or 0.0 for member in members], fmt="o",
        color=OURS, markersize=7, markeredgecolor=GROUND, markeredgewidth=0.6, capsize=3,
        linewidth=1.4, zorder=4, label="Pareto front",
    )  # fmt: skip
    axes.set_xlabel(axis_label(front), color=INK)
    axes.set_ylabel("KL from dense on search text", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(front.axis, value)))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9,
                labelcolor=INK, borderaxespad=0)  # fmt: skip


def _tick(axis: Axis, value: float) -> str:
    if axis in (Axis.BYTES, Axis.PARAMS):
        return f"{value / 1e6:.5g} M" if value < 1e9 else f"{value / 1e9:.5g} G"
    return f"{value:.5g}x" if axis is Axis.SPEEDUP else f"{value:.5g}"


def _dots(
    axes: Axes, places: Sequence[Place], label: str, *, size: float, strength: float
) -> None:
    if places:
        axes.plot(
            [place.value for place in places], [place.kl for place in places], "o",
            color=QUIET, markersize=size, alpha=strength, markeredgewidth=0, label=label,
        )  # fmt: skip


def _around(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 0.01
    return low - margin, high + margin
