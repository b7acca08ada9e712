"""The laws of what is told of a search for a decoding: as JSON, in words, and as a figure."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from autocompress.export.decoding_figure import caption, decoding_figure, shown, to_svg_file
from autocompress.export.decoding_report import (
    DecodingReport,
    DecodingStanding,
    TriedDecoding,
    to_markdown,
)
from autocompress.export.evaluation import Estimate
from autocompress.export.render import write_decoding

ITEMS = 32
ONE = Estimate(1.0, (0.9, 1.1))


def standing(name: str, decoding: str) -> DecodingStanding:
    return DecodingStanding(name, decoding, {"quality": ONE, "seconds": ONE}, 100, None)


def tried(
    whole: int, dropped: int, missing: int = 0, slowest: float = 0.2
) -> tuple[TriedDecoding, ...]:
    """Return so many decodings; of the whole ones the last miss a constraint."""
    n = whole + dropped
    return tuple(
        TriedDecoding(
            decoding=f"top_k={at}" if at else "untuned",
            items=ITEMS if at < whole else 8,
            mean_score=0.3 + 0.01 * at,
            seconds=0.1 + (slowest - 0.1) * at / n,
            expected_mean_score=0.2 + 0.01 * at,
            expected_seconds=0.1 + (slowest - 0.1) * at / n,
            read_all=at < whole,
            met=not whole - missing <= at < whole,
        )
        for at in range(n)
    )


def report(every: Sequence[TriedDecoding]) -> DecodingReport:
    return DecodingReport(
        study="mine",
        model="models/dense",
        draft=None,
        against=None,
        tasks="tasks.jsonl",
        hardware="a machine",
        objectives=("quality (mean score)",),
        constraints=(),
        met=True,
        winner={"top_k": 1},
        standings=(standing("tuned", "top_k=1"), standing("untuned", "untuned")),
        gain=ONE,
        quality_difference=Estimate(0.0, (-0.1, 0.1)),
        choices=None,
        validation=(standing("abcd", "top_k=1"), standing("untuned", "untuned")),
        front=(),
        examples=(),
        strategy="tpe",
        trials=len(every),
        pruned=sum(not own.read_all for own in every),
        failed={},
        search_tokens=100,
        whole_tokens=200,
        search_items=ITEMS,
        validation_items=ITEMS,
        report_items=4 * ITEMS,
        report_processes=2,
        stopped_because="all were drawn",
        seconds=10.0,
        seed=0,
        versions={},
        tried=tuple(every),
    )


REPORT = report(tried(3, 5))


def test_json_then_report_is_identity() -> None:
    text = json.dumps(REPORT.to_json(), allow_nan=False)

    assert DecodingReport.from_json(json.loads(text)) == REPORT


def test_all_files_are_written_and_the_page_shows_the_figure(tmp_path: Path) -> None:
    write_decoding(REPORT, {"decode.py": "pass\n"}, tmp_path)

    page = (tmp_path / "decoding.md").read_text("utf-8")
    names = {"decoding.json", "decoding.md", "decoding.svg", "decode.py"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert re.findall(r"!\[[^]]+\]\((.*)\)", page) == ["decoding.svg"]
    assert caption(REPORT) in page


def test_a_page_without_the_figure_refers_to_none() -> None:
    assert "decoding.svg" not in to_markdown(REPORT)
    assert "decoding.svg" in to_markdown(REPORT, shown(REPORT))


@pytest.mark.parametrize(
    ("every", "said"),
    [
        (tried(4, 0), "All 4 decodings read all 32 items of the search; none was dropped."),
        (tried(1, 0), "The one decoding that was measured read all 32 items of the search; none"),
        (
            tried(3, 5),
            (
                "Of 8 decodings 3 read all 32 items of the search, and 5 were dropped: they stand "
                "where they were expected on all, by what the untuned made of the same items."
            ),
        ),
        (tried(1, 1), "Of 2 decodings 1 read all 32 items of the search, and 1 was dropped: it "),
        (tried(0, 1), "Of 1 decoding none read all 32 items of the search, and 1 was dropped"),
        (tried(4, 0, missing=1), "dropped; 1 of those that read all misses a constraint."),
        (tried(4, 2, missing=2), "items; 2 of those that read all miss a constraint."),
    ],
)
def test_the_caption_counts_what_is_there(every: Sequence[TriedDecoding], said: str) -> None:
    assert said in caption(report(every))


def test_a_search_that_dropped_nothing_says_so() -> None:
    page = to_markdown(report(tried(4, 0)))

    assert "None was dropped before it had read all 32 items" in page
    assert "1 was dropped before it had read all 32 items" in to_markdown(report(tried(4, 1)))


@pytest.mark.parametrize(("whole", "dropped", "missing"), [(3, 5, 0), (4, 0, 2), (1, 9, 1)])
def test_every_decoding_is_drawn_once_and_two_are_marked(
    whole: int, dropped: int, missing: int
) -> None:
    (axes,) = decoding_figure(report(tried(whole, dropped, missing))).axes

    drawn = {str(line.get_label()): len(np.asarray(line.get_xdata())) for line in axes.lines}
    marked = [drawn.pop("untuned"), drawn.pop("the winner")]
    expected = {
        "dropped": dropped, "misses a constraint": missing, "read all 32 items": whole - missing
    }  # fmt: skip
    assert drawn == {label: n for label, n in expected.items() if n}
    assert marked == [1, 1]


def test_an_untuned_that_the_search_did_not_measure_is_not_marked() -> None:
    (axes,) = decoding_figure(report(tried(3, 5)[1:])).axes

    assert "untuned" not in {line.get_label() for line in axes.lines}


@pytest.mark.parametrize(("slowest", "scale"), [(0.3, "linear"), (0.7, "log"), (70.0, "log")])
def test_seconds_far_apart_stand_by_decades(slowest: float, scale: str) -> None:
    figure = decoding_figure(report(tried(20, 20, slowest=slowest)))
    (axes,) = figure.axes

    low, high = axes.get_xlim()
    labelled = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert axes.get_xscale() == scale
    assert 3 <= len(labelled) <= 12


def test_the_legend_stands_over_the_figure_and_within_its_width() -> None:
    figure = decoding_figure(report(tried(4, 6, missing=2)))
    (axes,) = figure.axes

    figure.draw_without_rendering()

    legend = axes.get_legend()
    assert legend is not None
    extent = legend.get_window_extent()
    assert len(legend.get_texts()) == 5
    assert extent.y0 >= axes.bbox.y1
    assert extent.x1 <= figure.bbox.x1


def test_equal_scores_are_not_spread_by_their_rounding() -> None:
    same = [dataclasses.replace(own, expected_mean_score=0.5) for own in tried(3, 5)]

    low, high = decoding_figure(report(same)).axes[0].get_ylim()

    assert (low, high) == pytest.approx((0.45, 0.55))


def test_the_file_of_the_figure_stands_alone() -> None:
    text = to_svg_file(REPORT)

    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.attrib["width"]) > float(root.attrib["height"]) > 0
    assert root.attrib["aria-label"] == "Mean score against seconds an answer"
    # A picture on a page inherits no colour of it.
    assert "currentColor" not in text
    assert "var(" not in text
    assert re.findall(r"(?:href=\"|url\()(?!#)", text) == []
    assert text == to_svg_file(REPORT)
