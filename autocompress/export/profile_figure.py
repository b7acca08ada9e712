"""The figure of a latency table: what every choice costs, and how well whole models are told."""

from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from autocompress.evaluators.latency_model import Check, LatencyTables
from autocompress.evaluators.latency_rows import Row, changed_group
from autocompress.export.figures import ALARM, INK, OURS, QUIET, dress
from autocompress.spaces.base import SearchSpace, SiteKind

_COLOURS: Final = {SiteKind.ATTENTION: OURS, SiteKind.MLP: ALARM, SiteKind.LAYER: INK}
_NAMES: Final = {SiteKind.ATTENTION: "attention", SiteKind.MLP: "MLP", SiteKind.LAYER: "layer"}
_MARKS: Final = "osD^vPX"
_LONG: Final = 2**16
"""Columns of a row so long that its blocks are whole, whatever their size."""


def profile_figure(tables: LatencyTables, check: Check, space: SearchSpace) -> Figure:
    """Draw what a site costs by what is kept of it, and predicted against measured.

    Each workload has a row of axes for shapes, and one for settings that have kernels; the
    prediction is that of all workloads together.
    """
    drawn = [
        (table, series, of_settings)
        for table in tables.tables
        for of_settings in (False, True)
        if (series := _series(table.profile.rows, space, of_settings=of_settings))
    ]
    figure = Figure(figsize=(10.5, 3.6 * len(drawn)), layout="constrained")
    rows = figure.subplots(len(drawn), 3, squeeze=False)
    for (decode, prefill, other), (table, series, of_settings) in zip(rows, drawn, strict=True):
        _costs(decode, prefill, series, of_settings=of_settings)
        decode.set_ylabel("ms of one site, each further token", color=INK)
        prefill.set_ylabel(f"ms of one site, prompt of {table.workload}", color=INK)
        if other is not rows[0][2]:
            other.remove()
    _predictions(rows[0][2], check)
    return figure


def _costs(
    decode: Axes,
    prefill: Axes,
    series: Mapping[tuple[SiteKind, str], Sequence[Row]],
    *,
    of_settings: bool,
) -> None:
    for number, ((kind, name), rows) in enumerate(series.items()):
        shares = [_stored(row) if of_settings else _share(row) for row in rows]
        form = _MARKS[number % len(_MARKS)] if of_settings else "o-"
        for axes, costs in (
            (decode, [row.spent.decode for row in rows]),
            (prefill, [row.spent.prefill for row in rows]),
        ):
            axes.plot(shares, costs, form, color=_COLOURS[kind], markersize=4, label=name)
        low = [max(row.interval[0], 0.0) for row in rows]
        high = [max(row.interval[1], 0.0) for row in rows]
        decode.vlines(shares, low, high, color=_COLOURS[kind], alpha=0.5, linewidth=2)
    for axes in (decode, prefill):
        dress(axes)
        axes.set_ylim(bottom=0)
        if of_settings:
            axes.set_xlabel("bits a weight of one linear group, as stored", color=INK)
        else:
            axes.set_xlabel("share of the site that is kept", color=INK)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
        axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)


def _series(
    rows: Sequence[Row], space: SearchSpace, *, of_settings: bool
) -> Mapping[tuple[SiteKind, str], Sequence[Row]]:
    """Return what is drawn alike: a kind of site, or one of its linear groups, with the dense."""
    groups = {site.kind: [group.name for group in site.groups] for site in space.sites}
    found: dict[tuple[SiteKind, str], list[Row]] = {}
    for kind in SiteKind:
        own = [row for row in rows if row.kind is kind]
        dense = [row for row in own if row.choice.is_dense]
        for row in own:
            group = changed_group(row.choice)
            if row.choice.is_dense or of_settings == (group is None):
                continue
            name = _NAMES[kind] if group is None else f"{_NAMES[kind]}, {groups[kind][group]}"
            found.setdefault((kind, name), []).append(row)
        for key, several in found.items():
            if key[0] is kind:
                several[:0] = dense
    return found


def _share(row: Row) -> float:
    return row.choice.kept / row.choice.total


def _stored(row: Row) -> float:
    group = changed_group(row.choice)
    if group is None:
        return 16.0
    return row.choice.weights[group].stored_bits(1, _LONG, 16) / _LONG


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
