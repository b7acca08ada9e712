"""The verdict on a metric, and its page in words."""

from collections.abc import Sequence

import pytest

from autocompress.export.evaluation import Estimate
from autocompress.export.metric_report import (
    AgainstBest,
    MetricReport,
    MetricStanding,
    MetricVerdict,
    PrunedLoss,
    metric_headline,
    to_markdown,
)

LOSS = PrunedLoss(Estimate(0.2, (0.1, 0.3)), 5.0)
SPARSITIES = ("0.5", "2:4")


def standing(name: str, expression: str) -> MetricStanding:
    every = dict.fromkeys((*SPARSITIES, "0.7"), LOSS)
    return MetricStanding(name, expression, dict.fromkeys(SPARSITIES, LOSS), every)


def against(sparsity: str, relative: tuple[float, float, float]) -> AgainstBest:
    low, value, high = relative
    estimate = Estimate(value, (low, high))
    return AgainstBest(sparsity, sparsity in SPARSITIES, "wanda", estimate, estimate, 0.9)


def report(rows: Sequence[AgainstBest]) -> MetricReport:
    winner = standing("winner", "abs(W) * G") if rows else None
    return MetricReport(
        model="model",
        hardware="a machine",
        text="some text",
        sparsities=SPARSITIES,
        tested=("0.7",),
        evaluations=300,
        generations=25,
        stopped_because="300 evaluations are spent",
        undefined=(),
        known=(standing("wanda", "abs(W) * X"),),
        winner=winner,
        against=tuple(rows),
        finalists=("abs(W) * G",) if rows else (),
        selection_sequences=48,
        report_sequences=64,
        context=256,
        seed=0,
        versions={},
    )


BETTER, EVEN, WORSE = (-0.1, -0.05, -0.01), (-0.02, 0.005, 0.03), (-0.01, 0.02, 0.05)


@pytest.mark.parametrize(
    ("first", "second", "untried", "is_better"),
    [
        (BETTER, BETTER, BETTER, True),
        (BETTER, EVEN, BETTER, True),
        (BETTER, EVEN, WORSE, True),
        (BETTER, WORSE, BETTER, False),
        (EVEN, EVEN, BETTER, False),
    ],
)
def test_a_metric_is_better_by_what_was_searched_alone(
    first: tuple[float, float, float],
    second: tuple[float, float, float],
    untried: tuple[float, float, float],
    is_better: bool,
) -> None:
    rows = [against("0.5", first), against("2:4", second), against("0.7", untried)]

    assert (report(rows).verdict is MetricVerdict.BETTER) == is_better


def test_the_page_tells_what_was_searched_and_what_was_not() -> None:
    rows = [against("0.5", BETTER), against("2:4", EVEN), against("0.7", WORSE)]

    page = to_markdown(report(rows))

    assert page.startswith("# BETTER METRIC FOUND: abs(W) * G: KL beside the best known -5.0% at")
    assert "| 0.7 (not searched) | wanda | +0.0200 [-0.0100, +0.0500] | +2.0% " in page
    assert "--space sparsity --pruner 'abs(W) * G'" in page
    assert report(rows).to_json()["verdict"] == "BETTER METRIC FOUND"


def test_a_search_without_a_winner_says_so() -> None:
    page = to_markdown(report([]))

    assert "NO BETTER METRIC FOUND: none that ranks otherwise" in metric_headline(report([]))
    assert page.endswith("Finalists: none.\n")
    assert "--pruner" not in page
