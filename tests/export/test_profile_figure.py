"""The figure of a latency table is drawn of what the table holds."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from autocompress.evaluators.stored_latency import read_tables
from autocompress.export.figures import write_png
from autocompress.export.profile_figure import profile_figure
from autocompress.models.architecture import linear_groups, read_architecture
from autocompress.spaces.base import Choice
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import DENSE, WeightSetting
from tests.tiny_models import FFN_COLUMNS, KV_GROUPS, LAYERS, make_config


def test_it_shows_every_row_and_every_held_out_model(tiny_table: Path, tmp_path: Path) -> None:
    space = make_space(LAYERS, KV_GROUPS, FFN_COLUMNS, depth=True, width=True)
    table = read_tables(json.loads(tiny_table.read_text("utf-8")), space)
    check = table.check(space)

    figure = profile_figure(table, check, space)

    decode, prefill, whole = figure.axes
    for axes in (decode, prefill):
        assert sum(np.size(line.get_xdata()) for line in axes.lines) == len(
            table.first.profile.rows
        )
    assert np.size(whole.lines[-1].get_xdata()) == len(check.points)
    write_png(figure, tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_settings_with_kernels_have_axes_of_their_own(tiny_table: Path) -> None:
    setting = WeightSetting.parse("w8sym")
    bare = make_space(LAYERS, KV_GROUPS, FFN_COLUMNS, depth=True, width=True)
    space = make_space(
        LAYERS,
        KV_GROUPS,
        FFN_COLUMNS,
        depth=True,
        width=True,
        weights=Weights(settings=(setting,)),
        groups=linear_groups(read_architecture(make_config())),
    )
    tables = read_tables(json.loads(tiny_table.read_text("utf-8")), bare)
    profile = tables.first.profile
    dense = {row.kind: row for row in profile.rows if row.choice.is_dense}
    coded = [
        dataclasses.replace(dense[site.kind], choice=Choice(site.units, site.units, weights))
        for site in space.sites[:2]
        for weights in ((setting, DENSE), (DENSE, setting))
    ]
    mixed = dataclasses.replace(profile, rows=(*profile.rows, *coded))
    table = dataclasses.replace(tables.first, profile=mixed)
    both = dataclasses.replace(tables, tables=(table,))

    figure = profile_figure(both, both.check(space), space)

    shapes, _, whole, settings, _ = figure.axes
    points = [sum(np.size(line.get_xdata()) for line in axes.lines) for axes in (shapes, settings)]
    # Every group's settings are drawn with the dense one.
    assert points == [len(profile.rows), 2 * len(coded)]
    legend = settings.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{kind}, {group.name}"
        for kind, site in zip(("attention", "MLP"), space.sites[:2], strict=True)
        for group in site.groups
    ]
    assert np.size(whole.lines[-1].get_xdata()) == len(both.check(space).points)
