"""What a contest's page is made from."""

import json
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from autocompress.trial import Genotype
from benchmarks import contest, contest_page
from benchmarks.contest import Field, Row, Series, finished, summary
from benchmarks.laboratory import Step


def row(seed: int, reached: int | None, kl: float) -> Row:
    return {
        "case": "3",
        "seed": seed,
        "evolve": [{"tokens": 400, "kl": kl}],
        "evopress": [{"tokens": 1000, "kl": 0.5}],
        "tokens_to_evopress_final": reached,
    }


def test_a_run_that_never_got_there_counts_as_infinitely_long() -> None:
    most = summary([row(0, 100, 0.5), row(1, None, 0.6), row(2, 300, 0.5)], "evopress")
    few = summary([row(0, 100, 0.5), row(1, None, 0.6), row(2, None, 0.5)], "evopress")

    assert most["3"]["share_of_tokens"] == pytest.approx(0.3)
    assert few["3"]["share_of_tokens"] is None
    assert most["3"]["worst_final_kl_to_evopress"] == pytest.approx(1.2)


def test_what_an_interrupted_run_left_is_not_told() -> None:
    whole = row(0, 100, 0.5) | {"minus_ours": {}}

    assert finished({"about": 1, "rows": [whole, row(1, None, 0.6)]}) == {
        "about": 1,
        "rows": [whole],
    }


def test_the_page_tells_where_strategies_ran() -> None:
    def told(**ran_on: str) -> Row:
        return row(len(ran_on), 100, 0.5) | {"hardware": "this machine", "ran_on": ran_on}

    one = contest_page._machines("bits", [told(), told(evolve="this machine")])
    two = contest_page._machines("bits", [told(), told(evopress="a GPU")])

    assert one == " On this machine."
    assert two == (
        " On this machine: bits = 3: seeds 0, 1. On a GPU (evopress alone): bits = 3: seeds 1."
    )


def test_what_a_strategy_found_is_kept_when_the_next_one_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_lab: object, name: str, _task: object) -> list[Step]:
        if name == "uniform":
            raise KeyboardInterrupt
        return [Step(10, 1.0, Genotype((0, 1)))]

    monkeypatch.setattr(contest, "_run", run)
    monkeypatch.setattr(contest, "hardware", lambda _device, _workers: "a machine")
    series = Series(tmp_path / "found.json", Field("evopress", ("uniform",)), {})

    with pytest.raises(KeyboardInterrupt):
        series.run("3", 0, Mock(), cast("Any", lambda _most: None))

    (kept,) = json.loads((tmp_path / "found.json").read_text("utf-8"))["rows"]
    assert kept == {
        "case": "3",
        "seed": 0,
        "evopress": [{"tokens": 10, "seconds": 1.0, "levels": [0, 1]}],
        "ran_on": {"evopress": "a machine"},
    }
