"""The figure of a search for a decoding: what each one tried scores, and how long it takes."""

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from autocompress.export import figures
from autocompress.export.decoding_report import UNTUNED_NAME, DecodingReport, TriedDecoding
from autocompress.export.figures import ALARM, GROUND, INK, OURS, QUIET, blank_axes

FILE: Final = "decoding.svg"
_LABEL: Final = "Mean score against seconds an answer"
_DECADES: Final = 4.0
"""From this factor on between the slowest and the fastest, seconds stand by decades."""


def shown(report: DecodingReport) -> tuple[str, ...]:
    """Return the lines of Markdown that show the figure."""
    return (f"![{_LABEL}]({FILE})", "", caption(report))


def caption(report: DecodingReport) -> str:
    """Say how many decodings the figure shows, and what became of them."""
    n = len(report.tried)
    whole = [own for own in report.tried if own.read_all]
    items = f"all {report.search_items} items"
    if len(whole) == n:
        all_of_them = "The one decoding that was measured" if n == 1 else f"All {n} decodings"
        said = f"{all_of_them} read {items} of the search; none was dropped"
    else:
        dropped = n - len(whole)
        said = (
            f"Of {n} decoding{'' if n == 1 else 's'} {len(whole) or 'none'} read {items} of the "
            f"search, and {dropped} {'was' if dropped == 1 else 'were'} dropped: "
            f"{'it stands where it was' if dropped == 1 else 'they stand where they were'} "
            f"expected on all, by what {report.against or 'the untuned'} made of the same items"
        )
    missing = sum(not own.met for own in whole)
    if missing:
        said += f"; {missing} of those that read all {'misses' if missing == 1 else 'miss'} a "
        said += "constraint"
    return f"{said}. Up and to the left is better; the winner was picked on other items."


def to_svg_file(report: DecodingReport) -> str:
    """Return the figure as the text of an SVG file."""
    return figures.to_svg_file(decoding_figure(report), _LABEL)


def decoding_figure(report: DecodingReport) -> Figure:
    """Draw every decoding that was tried: its mean score against its seconds, on all items."""
    figure, axes = blank_axes(4.0)
    dropped = [own for own in report.tried if not own.read_all]
    whole = [own for own in report.tried if own.read_all and own.met]
    missing = [own for own in report.tried if own.read_all and not own.met]
    _dots(axes, dropped, "dropped", size=4.5, fill=QUIET, edge="none", strength=0.6)
    _dots(axes, missing, "misses a constraint", size=7, fill="none", edge=OURS, strength=1.0)
    _dots(axes, whole, f"read all {report.search_items} items", size=8, fill=OURS, edge=GROUND,
          strength=0.9)  # fmt: skip
    untuned = next((own.decoding for own in report.validation if own.name == UNTUNED_NAME), None)
    # A ring around its dot: a winner of nearly the same score and time is still seen beside it.
    _mark(axes, report.tried, untuned, "s", "untuned", size=12, fill="none", edge=INK)
    _mark(axes, report.tried, report.standings[0].decoding, "D", "the winner", size=9, fill=ALARM,
          edge=GROUND)  # fmt: skip
    _scale_seconds(axes, [own.expected_seconds for own in report.tried])
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.margins(x=0.06)
    axes.set_ylim(*_around([own.expected_mean_score for own in report.tried]))
    axes.set_xlabel("seconds an answer", color=INK)
    axes.set_ylabel("mean score on the search's items", color=INK)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=5, frameon=False, fontsize=9,
                labelcolor=INK, borderaxespad=0, handletextpad=0.2, columnspacing=1.2)  # fmt: skip
    return figure


def _dots(
    axes: Axes,
    tried: Sequence[TriedDecoding],
    label: str,
    *,
    size: float,
    fill: str,
    edge: str,
    strength: float,
) -> None:
    if tried:
        axes.plot(
            [own.expected_seconds for own in tried], [own.expected_mean_score for own in tried],
            "o", markerfacecolor=fill, markeredgecolor=edge, markersize=size, alpha=strength,
            markeredgewidth=1.4 if fill == "none" else 0.6, label=label,
        )  # fmt: skip


def _mark(
    axes: Axes,
    tried: Sequence[TriedDecoding],
    decoding: str | None,
    mark: str,
    label: str,
    *,
    size: float,
    fill: str,
    edge: str,
) -> None:
    """Mark one decoding if the search measured it: with `--against` untuned need not be drawn."""
    own = next((own for own in tried if own.decoding == decoding), None)
    if own is not None:
        axes.plot(
            own.expected_seconds, own.expected_mean_score, mark, markerfacecolor=fill,
            markeredgecolor=edge, markersize=size, linestyle="none", label=label, zorder=4,
            markeredgewidth=1.5 if fill == "none" else 0.8,
        )  # fmt: skip


def _around(scores: Sequence[float]) -> tuple[float, float]:
    """Return a range around scores: equal ones stand in the middle of more than their rounding."""
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    margin = max(0.12 * (high - low), 0.05)
    return low - margin, high + margin


def _scale_seconds(axes: Axes, seconds: Sequence[float]) -> None:
    low, high = min(seconds, default=0.0), max(seconds, default=0.0)
    if low > 0 and high / low > _DECADES:
        axes.set_xscale("log")
        # Few labels of a decade would leave a range of less than two with hardly any.
        subs = (1.0, 2.0, 5.0) if high / low > 20 * _DECADES else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
