"""The figure of a latency table is drawn of what the table holds."""

import json
from pathlib import Path

import numpy as np

from autocompress.evaluators.stored_latency import read_tables
from autocompress.export.figures import write_png
from autocompress.export.profile_figure import profile_figure
from autocompress.spaces.making import make_space
from tests.tiny_models import FFN_COLUMNS, KV_GROUPS, LAYERS


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
