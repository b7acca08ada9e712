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
from autocompress.export.pareto import (
    Axis,
    Hypervolume,
    Member,
    ParetoFront,
    Place,
    Timing,
    changes,
    notes,
    to_text,
)
from autocompress.export.render import write_front

GOOD = Member(
    genotype="c0ffee",
    levels=(1, 0),
    value=1.2,
    kl=0.0123,
    kl_stderr=0.0004,
    sequences=1_096,
    draws=(0, 1),
    changed={"drop": {"attention": 0, "mlp": 0}, "narrow": {"attention": 2, "mlp": 0}},
)
FAST = Member(
    genotype="decade",
    levels=(1, 1),
    value=2.0,
    kl=0.52,
    kl_stderr=None,
    sequences=1,
    draws=(2,),
    changed={"drop": {"attention": 0, "mlp": 0}, "quantize": {"attention": 0, "mlp": 2}},
)
FRONT = ParetoFront(
    study="mine",
    state="running",
    model="models/dense",
    axis=Axis.SPEEDUP,
    counted_bits=None,
    timing=Timing("torch 2", "a machine", "1x128+64", 0.021),
    least_sequences=1,
    members=(GOOD, FAST),
    dominated=(Place("facade", 1.1, 0.7, 96),),
    too_little_read=(),
    hypervolume=Hypervolume(0.4567, 1.0, 2.0),
)


def test_the_table_has_a_row_for_every_member() -> None:
    lines = to_text(FRONT).splitlines()

    assert lines[0] == (
        "Pareto front of study mine (running): models/dense, torch 2, workload 1x128+64"
    )
    assert lines[2:5] == [
        "predicted speedup      KL ± stderr  sequences  draws  genotype  what is done",
        "           1.200x  0.0123 ± 0.0004      1,096  0, 1   c0ffee    narrow 2 attention",
        "           2.000x       0.5200 ± ?          1  2      decade    quantize 2 MLP",
    ]


def test_sizes_are_reckoned_and_not_predicted() -> None:
    small = dataclasses.replace(GOOD, value=12_345_678.0)
    front = dataclasses.replace(FRONT, axis=Axis.BYTES, timing=None, members=(small,))

    said, page = to_text(front), pareto_html.to_html(front)

    assert said.splitlines()[0] == "Pareto front of study mine (running): models/dense"
    assert said.splitlines()[2].startswith("bytes of the model ")
    assert said.splitlines()[3].startswith("        12,345,678 ")
    assert "predicted" not in said + page
    assert "whatever is smaller than a member loses more." in said
    assert "left and down is better" in page


def test_bits_say_which_are_counted() -> None:
    front = dataclasses.replace(FRONT, axis=Axis.BITS, counted_bits="stored", timing=None)

    assert to_text(front).splitlines()[2].startswith("stored bits a weight ")
    assert "Stored bits a weight follow from" in " ".join(notes(front))


def test_the_hypervolume_is_told_with_its_reference_point() -> None:
    assert (
        "Hypervolume 0.4567: what the front dominates of all that lies within 1 times the dense "
        "model's cost and a KL of 2."
    ) in notes(FRONT)


def test_a_small_loss_keeps_its_digits() -> None:
    small = dataclasses.replace(GOOD, kl=0.000179, kl_stderr=0.00001)

    assert "0.000179 ± 0.000010" in to_text(dataclasses.replace(FRONT, members=(small,)))


def test_the_dense_model_is_called_dense() -> None:
    nothing = {"drop": {"attention": 0, "mlp": 0}}

    assert changes(dataclasses.replace(GOOD, changed=nothing)) == "dense"


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

    assert "<th>predicted speedup</th>" in page
    assert "Speedups are predicted" in " ".join(notes(FRONT))


def test_the_page_refers_to_nothing_outside() -> None:
    page = pareto_html.to_html(FRONT)

    assert re.findall(r"https?://|src=|@import|<link|<script", page) == []
    assert set(re.findall(r'href="(.)|url\((.)', page)) <= {("#", ""), ("", "#")}


def test_untrusted_text_never_becomes_markup() -> None:
    attack = "</style><script>alert(1)</script>"
    timing = Timing(attack, attack, attack, 0.1)
    front = dataclasses.replace(FRONT, study=attack, model=attack, timing=timing)

    assert "<script" not in pareto_html.to_html(front)


def test_ids_of_a_page_are_unique() -> None:
    narrow = dataclasses.replace(FRONT, members=(FAST,))

    ids = re.findall(r' id="([^"]+)"', pareto_html.to_html(narrow))

    assert ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("axis", list(Axis))
@pytest.mark.parametrize("draw", [pareto_html.all_candidates, pareto_html.closer])
@pytest.mark.parametrize("members", [(GOOD,), (FAST,), (GOOD, FAST)])
def test_figures_are_deterministic(
    draw: Callable[[ParetoFront], Figure], members: tuple[Member, ...], axis: Axis
) -> None:
    front = dataclasses.replace(FRONT, members=members, axis=axis)

    first, second = (to_svg(draw(front), "x", "x") for _ in range(2))

    assert first == second
    assert "Pareto front" in first


def test_a_front_is_drawn_closer_only_where_it_is_narrow() -> None:
    narrow = dataclasses.replace(FRONT, members=(FAST,))

    assert "Closer to the front" in pareto_html.to_html(narrow)
    assert "Closer to the front" not in pareto_html.to_html(FRONT)


@pytest.mark.parametrize("least", [1e-5, 1e-2, 0.3])
def test_losses_of_any_range_have_a_scale_that_can_be_read(least: float) -> None:
    front = dataclasses.replace(FRONT, members=(dataclasses.replace(GOOD, kl=least), FAST))

    drawn = pareto_html.all_candidates(front)

    drawn.canvas.draw()
    low, high = drawn.axes[0].get_ylim()
    labels = drawn.axes[0].get_yticklabels()
    assert sum(bool(own.get_text()) and low <= own.get_position()[1] <= high for own in labels) > 1


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
    front = dataclasses.replace(FRONT, members=(dataclasses.replace(GOOD, value=math.nan),))

    with pytest.raises(ExportError, match="value is nan"):
        write_front(front, tmp_path)

    assert not list(tmp_path.iterdir())
