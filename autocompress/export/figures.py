"""The four figures of a report, as SVG text for inlining or as PNG.

Colours are Okabe and Ito's, legible to colour-blind eyes and on light and dark ground; ink and
ground become CSS values in SVG, so that one figure serves both.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from autocompress.export.report import Report

OURS: Final = "#0072b2"
ALARM: Final = "#d55e00"
QUIET: Final = "#8b939c"
INK: Final = "#1f2328"
GROUND: Final = "#fffffe"
_WIDTH: Final = (
    7.2  # Inches; shown at about 700 px a point is then 1.35 px, so 9 points are 12 px.
)
_PIXELS: Final = 96
"""Of an inch, as browsers have it."""
_KEPT: Final = LinearSegmentedColormap.from_list("kept", ["#a9dcf7", "#56b4e9", OURS])
# svg.hashsalt: without it ids are random. svg.fonttype: text stays text, to be found and read out.
_SALT: Final = "autocompress"


def layer_map(report: Report) -> Figure:
    """Draw what is left of every layer: height and colour say how much, a cross is a drop."""
    figure, axes = blank_axes(2.1)
    n_layers = max(len(report.layer_map), 1)
    sides = (
        ("Attention", 1.2, [choice.attention_kept for choice in report.layer_map]),
        ("MLP", 0.0, [choice.mlp_kept for choice in report.layer_map]),
    )
    for name, bottom, shares in sides:
        for x, share in enumerate(shares):
            _site(axes, x, bottom, share, size=min(9.0, 330 / n_layers))
        axes.text(-0.012, bottom + 0.5, name, transform=axes.get_yaxis_transform(), ha="right",
                  va="center", fontsize=10, color=INK, weight="bold")  # fmt: skip
    step = next(s for s in (1, 2, 4, 5, 10, 20, 50, 100, n_layers) if n_layers <= 20 * s)
    labels = [c.layer for c in report.layer_map][::step]
    axes.set_xticks(range(0, step * len(labels), step), [str(n) for n in labels])
    axes.set_yticks([])
    axes.set_xlim(-0.5, n_layers - 0.5)
    axes.set_ylim(-0.1, 2.3)
    axes.set_xlabel("layer", color=INK)
    for x, (label, share) in enumerate(
        (("all kept", 1.0), ("75 %", 0.75), ("50 %", 0.5), ("25 %", 0.25), ("dropped", 0.0))
    ):
        key = axes.inset_axes((0.145 * x + 0.3 * (x > 0) * 0.1, 1.04, 0.03, 0.16))
        key.set_axis_off()
        key.set_xlim(-0.5, 0.5)
        key.set_ylim(-0.02, 1.02)
        _site(key, 0, 0.0, share, size=7)
        key.text(1.25, 0.5, label, transform=key.transAxes, va="center", fontsize=9, color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def loss_history(report: Report) -> Figure:
    """Draw the best loss against the tokens spent."""
    figure, axes = blank_axes(2.9)
    tokens = [p.tokens for p in report.history]
    losses = [p.loss for p in report.history]
    axes.step(tokens, losses, where="post", color=OURS, linewidth=2)
    scale_losses(axes, losses)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    for n, where in ((0, "left"), (-1, "right")) if losses else ():
        axes.plot(tokens[n], losses[n], "o", color=OURS, markersize=6)
        axes.annotate(
            f"{losses[n]:.3g}" + (" first" if n == 0 else " best"), (tokens[n], losses[n]),
            (8 if where == "left" else 0, 7), textcoords="offset points", ha=where, fontsize=10,
            color=INK, weight="bold",
        )  # fmt: skip
    axes.margins(x=0.03, y=0.16)
    axes.set_xlabel("tokens spent", color=INK)
    axes.set_ylabel("best KL on search text", color=INK)
    return figure


def speedups(report: Report) -> Figure:
    """Draw predicted against measured speedups; on the line a prediction is exact."""
    figure, axes = blank_axes(3.9)
    model, speed = report.latency_model, report.speedup
    points = model.points if model else ()
    winner = speed.predicted is not None and speed.measured is not None
    every = [v for p in points for v in (p.predicted, p.measured)]
    every += [v for v in (speed.predicted, speed.measured) if v is not None]
    every += list(speed.predicted_interval or ()) + list(speed.measured_interval or ())
    low, high = min(every, default=1.0), max(every, default=2.0)
    margin = max(0.06 * (high - low), 0.02)
    ends = [max(low - margin, 0.0), high + margin]
    axes.plot(ends, ends, color=QUIET, linewidth=1.2, zorder=1)
    if model and model.interval_half_width:
        width = model.interval_half_width
        below, above = [e * (1 - width) for e in ends], [e * (1 + width) for e in ends]
        axes.fill_between(ends, below, above, color=QUIET, alpha=0.2, linewidth=0, zorder=0)
    axes.plot([p.predicted for p in points], [p.measured for p in points], "o", color=OURS,
              markersize=6, markeredgecolor=GROUND, markeredgewidth=0.6)  # fmt: skip
    if winner and speed.predicted is not None and speed.measured is not None:
        x, y = speed.predicted, speed.measured
        axes.errorbar(
            x, y, xerr=_arms(x, speed.predicted_interval), yerr=_arms(y, speed.measured_interval),
            fmt="D", color=ALARM, markersize=8, capsize=4, linewidth=1.8, zorder=4,
            markeredgecolor=GROUND,
        )  # fmt: skip
        left = x > (ends[0] + ends[1]) / 2
        axes.annotate("the winner", (x, y), (-14 if left else 14, 14 if left else -18),
                      textcoords="offset points", ha="right" if left else "left", fontsize=10,
                      color=ALARM, weight="bold")  # fmt: skip
    axes.annotate("measured = predicted", (ends[0], ends[0]), (60, 8), ha="left", fontsize=9,
                  textcoords="offset points", color=INK)  # fmt: skip
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_xlabel("predicted speedup", color=INK)
    axes.set_ylabel("measured speedup", color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
    return figure


def baselines(report: Report) -> Figure:
    """Draw our loss and the baselines' as bars from zero, with 95 % error."""
    named = {"additive": report.baselines.additive, "uniform": report.baselines.uniform,
             "random": report.baselines.random}  # fmt: skip
    own = report.searched
    rows = [("this search", own.kl, own.kl_stderr)]
    if report.recovery is not None:
        rows.insert(0, ("recovered", report.loss.kl, report.loss.kl_stderr))
    rows += [(name, b.kl, b.kl_stderr) for name, b in named.items() if b is not None]
    figure, axes = blank_axes(0.75 + 0.42 * len(rows))
    reach = max(kl + 1.96 * (stderr or 0.0) for _, kl, stderr in rows) or 1.0
    for y, (_, kl, stderr) in enumerate(rows):
        error = 1.96 * (stderr or 0.0)
        axes.barh(y, kl, height=0.62, color=OURS if y == 0 else QUIET)
        if stderr:
            axes.errorbar(kl, y, xerr=error, color=INK, capsize=4, linewidth=1.4)
        axes.text(kl + error + 0.015 * reach, y, f"{kl:.3f}", va="center", fontsize=10, color=INK,
                  weight="bold" if y == 0 else "normal")  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=10)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_xlim(0, 1.13 * reach)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("KL from dense on held-out text, nats a token (lower is better)", color=INK)
    return figure


FIGURES: Final = {
    "layer_map": layer_map,
    "loss_history": loss_history,
    "speedups": speedups,
    "baselines": baselines,
}


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Return an `<svg>` element: the same text for the same figure, no outside reference.

    Args:
        name: Prefix of every id, so that several figures fit on one page.
        label: What a screen reader says; must be free of markup.
    """
    text = _svg_text(figure, name)
    text = text.replace(INK, "currentColor").replace(GROUND, "var(--ground, #fff)")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def to_svg_file(figure: Figure, label: str) -> str:
    """Return the text of an SVG file on white ground, which pages show as a picture.

    Args:
        label: As `to_svg`'s.
    """
    figure.set_facecolor("white")
    width, height = (_PIXELS * inches for inches in figure.get_size_inches())
    size = f'xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
    text = _svg_text(figure, "figure")
    return text.replace("<svg", f'<svg {size} role="img" aria-label="{label}"', 1) + "\n"


def write_png(figure: Figure, path: Path, dots_per_inch: int = 160) -> None:
    """Write a figure on white ground."""
    figure.set_facecolor("white")
    figure.savefig(path, format="png", dpi=dots_per_inch, metadata={"Software": None})


def short(value: float) -> str:
    """Write a large number in three digits: 1.2 k, 345 M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def blank_axes(height: float) -> tuple[Figure, Axes]:
    """Return a figure of a page's width and so many inches, with quiet axes."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    dress(axes)
    return figure, axes


def dress(axes: Axes) -> None:
    """Make axes quiet."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, color=QUIET)


def scale_losses(axes: Axes, losses: Sequence[float]) -> None:
    """Set the scale of losses upwards: by decades where they differ by more than a factor of 4."""
    if losses and min(losses) > 0 and max(losses) / min(losses) > 4:
        axes.set_yscale("log")
        # More labels than there is room for are not thinned out: none is drawn.
        is_wide = max(losses) / min(losses) > 1000
        axes.yaxis.set_major_locator(
            LogLocator(base=10, subs=(1.0,) if is_wide else (1.0, 2.0, 5.0))
        )
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _svg_text(figure: Figure, name: str) -> str:
    """Return an `<svg>` element without size and name space, its ids under a name."""
    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": _SALT, "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", written.getvalue(), flags=re.DOTALL)
    text = text[text.index("<svg") :].replace("xlink:href", "href")
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", text)
    return re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{name}-", text).strip()


def _site(axes: Axes, x: float, bottom: float, share: float, *, size: float) -> None:
    """Draw one cell; `size` is the cross's, in points."""
    left, width = x - 0.42, 0.84
    if share == 0.0:
        axes.add_patch(Rectangle((left, bottom), width, 1, facecolor=ALARM, alpha=0.14))
        axes.plot(x, bottom + 0.5, "x", color=ALARM, markersize=size, markeredgewidth=size / 4)
        return
    axes.add_patch(Rectangle((left, bottom), width, 1, facecolor=QUIET, alpha=0.22))
    axes.add_patch(Rectangle((left, bottom), width, share, facecolor=to_hex(_KEPT(share))))


def _arms(centre: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    if interval is None:
        return None
    return [[max(centre - interval[0], 0.0)], [max(interval[1] - centre, 0.0)]]


def available(report: Report) -> Sequence[str]:
    """Name the figures that this report has material for, in the order of the page."""
    has = {
        "layer_map": bool(report.layer_map),
        "speedups": report.latency_model is not None and bool(report.latency_model.points),
        "baselines": any((report.baselines.uniform, report.baselines.additive,
                          report.baselines.random)),
        "loss_history": len(report.history) > 1,
    }  # fmt: skip
    return [name for name, is_there in has.items() if is_there]
