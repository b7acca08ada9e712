"""The figure of a latency table: what every choice costs, and how well whole models are told."""

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from autocompress.evaluators.latency_model import Check, LatencyTable
from autocompress.evaluators.latency_rows import Row
from autocompress.export.figures import ALARM, INK, OURS, QUIET, dress
from autocompress.spaces.base import SiteKind

_COLOURS: Final = {SiteKind.ATTENTION: OURS, SiteKind.MLP: ALARM}
_NAMES: Final = {SiteKind.ATTENTION: "attention", SiteKind.MLP: "MLP"}


def profile_figure(table: LatencyTable, check: Check) -> Figure:
    """Draw a site's cost by the share of it that is kept, and predicted against measured."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    decode, prefill, whole = figure.subplots(1, 3)
    rows = table.profile.rows
    for kind in SiteKind:
        own = [row for row in rows if row.kind is kind]
        _costs(decode, own, [row.spent.decode for row in own], kind, with_intervals=True)
        _costs(prefill, own, [row.spent.prefill for row in own], kind, with_intervals=False)
    decode.set_ylabel("ms of one site, each further token", color=INK)
    prefill.set_ylabel(f"ms of one site, {table.workload.prompt} prompt tokens", color=INK)
    for axes in (decode, prefill):
        dress(axes)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("share of the site that is kept", color=INK)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)
    _predictions(whole, check)
    return figure


def _costs(
    axes: Axes,
    rows: Sequence[Row],
    costs: Sequence[float],
    kind: SiteKind,
    *,
    with_intervals: bool,
) -> None:
    shares = [row.choice.kept / row.choice.total for row in rows]
    if not rows:
        return
    axes.plot(shares, costs, "o-", color=_COLOURS[kind], markersize=4, label=_NAMES[kind])
    if with_intervals:
        low = [max(row.interval[0], 0.0) for row in rows]
        high = [max(row.interval[1], 0.0) for row in rows]
        axes.vlines(shares, low, high, color=_COLOURS[kind], alpha=0.5, linewidth=2)


def _predictions(axes: Axes, check: Check) -> None:
    dress(axes)
    every = [value for point in check.points for value in point]
    ends = [0.95 * min(every, default=1.0), 1.05 * max(every, default=2.0)]
    width = check.half_width
    axes.plot(ends, ends, color=QUIET, linewidth=1.2)
    axes.fill_between(
        ends,
        [end * (1 - width) for end in ends],
        [end * (1 + width) for end in ends],
        color=QUIET,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(*zip(*check.points, strict=True), "o", color=OURS, markersize=5)
    axes.set_xlabel("predicted speedup of whole models", color=INK)
    axes.set_ylabel("measured speedup", color=INK)
    axes.set_title(
        f"held out: error {check.mape:.1%}, measuring twice {check.repeat_error:.1%}",
        fontsize=9,
        color=INK,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
