"""The laws of what is told of a Pareto front: in words, as JSON and as a page."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from autocompress.errors import ExportError
from autocompress.export import pareto_html
from autocompress.export.figures import to_svg
from autocompress.export.pareto import Member, ParetoFront, Place, changes, notes, to_text
from autocompress.export.render import write_front

GOOD = Member(
    genotype="c0ffee",
    levels=(1, 0),
    predicted_speedup=1.2,
    milliseconds=80.0,
    kl=0.0123,
    kl_stderr=0.0004,
    sequences=1_096,
    draws=(0, 1),
    dropped={"attention": 0, "mlp": 1},
    narrowed={"attention": 2, "mlp": 0},
)
FAST = Member(
    genotype="decade",
    levels=(1, 1),
    predicted_speedup=2.0,
    milliseconds=48.0,
    kl=0.52,
    kl_stderr=None,
    sequences=1,
    draws=(2,),
    dropped={"attention": 3, "mlp": 1},
    narrowed={"attention": 0, "mlp": 0},
)
FRONT = ParetoFront(
    study="mine",
    state="running",
    model="models/dense",
    engine="torch 2",
    hardware="a machine",
    workload="1x128+64",
    mape=0.021,
    least_sequences=1,
    members=(GOOD, FAST),
    dominated=(Place("facade", 1.1, 0.7, 96),),
    too_little_read=(),
)


def test_the_table_has_a_row_for_every_member() -> None:
    lines = to_text(FRONT).splitlines()

    assert lines[0] == (
        "Pareto front of study mine (running): models/dense, torch 2, workload 1x128+64"
    )
    assert lines[2:5] == [
        "predicted      KL ± stderr  sequences  draws  genotype  what is done",
        "   1.200x  0.0123 ± 0.0004      1,096  0, 1   c0ffee    drop 1 MLP; narrow 2 attention",
        "   2.000x       0.5200 ± ?          1  2      decade    drop 3 attention, 1 MLP",
    ]


def test_a_small_loss_keeps_its_digits() -> None:
    small = dataclasses.replace(GOOD, kl=0.000179, kl_stderr=0.00001)

    assert "0.000179 ± 0.000010" in to_text(dataclasses.replace(FRONT, members=(small,)))


def test_the_dense_model_is_called_dense() -> None:
    nothing = {"attention": 0, "mlp": 0}

    assert changes(dataclasses.replace(GOOD, dropped=nothing, narrowed=nothing)) == "dense"


def test_the_notes_say_who_did_not_compete_and_how_to_let_them() -> None:
    front = dataclasses.replace(
        FRONT,
        least_sequences=32,
        too_little_read=(Place("a", 1.1, 0.1, 24), Place("b", 1.1, 0.1, 8)),
    )

    said = " ".join(notes(front))

    assert "The front holds 2 of the 3 candidates read on 32 sequences or more: " in said
    assert "Read on fewer and not competing: 2; `--sequences 8` lets all of them in." in said
    assert "--sequences" not in " ".join(notes(FRONT))


def test_a_speedup_is_called_predicted_everywhere() -> None:
    page = pareto_html.to_html(FRONT)

    assert "<th>predicted</th>" in page
    assert "predicted speedup" in page
    assert "Speedups are predicted" in " ".join(notes(FRONT))


def test_the_page_refers_to_nothing_outside() -> None:
    page = pareto_html.to_html(FRONT)

    assert re.findall(r"https?://|src=|@import|<link|<script", page) == []
    assert set(re.findall(r'href="(.)|url\((.)', page)) <= {("#", ""), ("", "#")}


def test_untrusted_text_never_becomes_markup() -> None:
    attack = "</style><script>alert(1)</script>"
    front = dataclasses.replace(FRONT, study=attack, model=attack, engine=attack, hardware=attack)

    assert "<script" not in pareto_html.to_html(front)


def test_ids_of_a_page_are_unique() -> None:
    narrow = dataclasses.replace(FRONT, members=(FAST,))

    ids = re.findall(r' id="([^"]+)"', pareto_html.to_html(narrow))

    assert ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("draw", [pareto_html.all_candidates, pareto_html.closer])
@pytest.mark.parametrize("members", [(GOOD,), (FAST,), (GOOD, FAST)])
def test_figures_are_deterministic(
    draw: Callable[[ParetoFront], Figure], members: tuple[Member, ...]
) -> None:
    front = dataclasses.replace(FRONT, members=members)

    first, second = (to_svg(draw(front), "x", "x") for _ in range(2))

    assert first == second
    assert "Pareto front" in first


def test_a_front_is_drawn_closer_only_where_it_is_narrow() -> None:
    narrow = dataclasses.replace(FRONT, members=(FAST,))

    assert "Closer to the front" in pareto_html.to_html(narrow)
    assert "Closer to the front" not in pareto_html.to_html(FRONT)


def test_a_loss_of_zero_can_be_drawn() -> None:
    lossless = dataclasses.replace(GOOD, kl=0.0, kl_stderr=0.0)
    front = dataclasses.replace(FRONT, members=(lossless, FAST))

    assert pareto_html.to_html(front)


def test_written_front_is_the_json_and_the_page(tmp_path: Path) -> None:
    write_front(FRONT, tmp_path / "out")

    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["pareto.html", "pareto.json"]
    assert written["pareto.html"] == pareto_html.to_html(FRONT)
    front = json.loads(written["pareto.json"])
    assert [member["genotype"] for member in front["members"]] == ["c0ffee", "decade"]
    assert front["members"][0]["levels"] == [1, 0]
    assert front["members"][1]["kl_stderr"] is None


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    front = dataclasses.replace(FRONT, mape=math.nan)

    with pytest.raises(ExportError, match="mape is nan"):
        write_front(front, tmp_path)

    assert not list(tmp_path.iterdir())
