"""Raced trials: who is judged, who stops, what is drawn, and what is never measured twice."""

import os
import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from autocompress.spaces.decoding import DecodingSpace, Parameter
from autocompress.workers.tune import Plan, Share, Values, in_ray
from autocompress.workers.tune_drawing import Known, Verdict
from autocompress.workers.tune_race import race_trials

SPACE = DecodingSpace(
    [
        Parameter("draft", ("none", "lookup")),
        Parameter("tokens", (4, 1, 2, 8), {"draft": ("lookup",)}),
        Parameter("sampled", (False, True)),
    ]
)
WIDE = DecodingSpace(
    [
        Parameter("tokens", tuple(n for n in range(1, 41) if n != 8)),
        Parameter("sampled", (False, True)),
    ]
)
LOOKS = (2, 4, 8)


@pytest.fixture(scope="module", autouse=True)
def running_ray() -> Iterator[None]:
    """Start Ray once for all tests."""
    with in_ray(None):
        yield


@dataclass(frozen=True)
class Toy:
    """Makes what measures: a cost an item, and a note of each process that it is made in."""

    folder: Path

    def __call__(self, share: Share) -> "Toy":
        (self.folder / f"made-{os.getpid()}").touch()
        assert share.cpus >= 1
        return self

    def measure(self, values: Values, first: int, end: int) -> Mapping[str, Any]:
        if values.get("tokens") == 8:
            raise ValueError("eight are\ntoo many")
        return {"costs": [cost(values)] * (end - first)}


def cost(values: Values) -> float:
    """Return what a trial costs: least with two tokens looked up."""
    return abs(float(str(values.get("tokens", 10))) - 2) + 0.5 * bool(values["sampled"])


@dataclass
class Keeping:
    """Judges: trials that cost more than the best so far stop."""

    most: int = 1000
    told: list[tuple[Values, int, float]] = field(default_factory=list)
    failed: list[tuple[Values, str]] = field(default_factory=list)
    best: float = float("inf")
    proposals: list[Values] = field(default_factory=list)
    # As a database's connection, no process can be sent it.
    stays: object = field(default_factory=threading.Lock)

    @property
    def is_over(self) -> bool:
        return len(self.told) >= self.most

    def scores_of(self, values: Values) -> tuple[float, ...] | None:
        own = [mean for known, _, mean in self.told if known == values]
        return (own[-1],) if own else None

    def proposal(self) -> Values | None:
        return self.proposals.pop(0) if self.proposals else None

    def tell(self, values: Values, first: int, part: Mapping[str, Any]) -> Verdict:
        costs = part["costs"]
        mean = sum(costs) / len(costs)
        self.told.append((dict(values), first, mean))
        goes_on = mean <= self.best
        self.best = min(self.best, mean)
        return Verdict(goes_on, (mean,))

    def fail(self, values: Values, error: str) -> None:
        self.failed.append((dict(values), error))


def race(
    folder: Path,
    judge: Keeping,
    way: str = "tpe",
    trials: int = 12,
    known: Sequence[Known] = (),
    first: Sequence[Values] = (),
    space: DecodingSpace = SPACE,
) -> None:
    race_trials(Toy(folder), LOOKS, space, Plan(way, trials, 1, seed=3), known, first, judge)


def test_the_best_of_a_small_space_is_found_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    judge = Keeping()

    race(tmp_path, judge, trials=30)

    assert judge.best == 0.0
    places = [(tuple(values.items()), first) for values, first, _ in judge.told]
    assert len(set(places)) == len(places)
    # A model would be loaded once, not once a trial.
    assert len(list(tmp_path.glob("made-*"))) < len({values for values, _ in places})


def test_what_trials_cost_leads_to_those_that_cost_little(tmp_path: Path) -> None:
    blind, led = Keeping(), Keeping()

    race(tmp_path, blind, "random", 30, space=WIDE)
    race(tmp_path, led, "tpe", 30, space=WIDE)

    def late(judge: Keeping) -> float:
        """Return what the new ones of the last trials cost, the sampler's first ten aside."""
        costs = [mean for _, first, mean in judge.told if first == 0]
        return statistics.mean(costs[15:])

    assert late(led) < late(blind) / 2


def test_one_that_is_told_to_stop_reads_no_further(tmp_path: Path) -> None:
    judge = Keeping()
    good: Values = {"draft": "lookup", "tokens": 2, "sampled": False}
    bad: Values = {"draft": "none", "sampled": True}

    race(tmp_path, judge, trials=2, first=[good, bad])

    assert [first for values, first, _ in judge.told if values == good] == [0, 2, 4]
    assert [first for values, first, _ in judge.told if values == bad] == [0]


def test_one_that_fails_leaves_the_others_be(tmp_path: Path) -> None:
    judge = Keeping()
    broken: Values = {"draft": "lookup", "tokens": 8, "sampled": False}
    good: Values = {"draft": "lookup", "tokens": 2, "sampled": False}

    race(tmp_path, judge, trials=2, first=[broken, good])

    assert judge.failed == [(broken, "eight are too many")]
    assert judge.best == 0.0


def test_what_measures_and_cannot_be_made_says_why(tmp_path: Path) -> None:
    judge = Keeping()

    race(tmp_path / "nowhere", judge, "random", 2)

    assert {"No such file" in error for _, error in judge.failed} == {True}


def test_what_the_judge_proposes_is_run_before_what_is_drawn(tmp_path: Path) -> None:
    good: Values = {"draft": "lookup", "tokens": 2, "sampled": False}
    judge = Keeping(proposals=[good, {"draft": "none", "sampled": True}])

    race(tmp_path, judge, trials=2)

    tried = [values for values, first, _ in judge.told if first == 0]
    assert tried == [good, {"draft": "none", "sampled": True}]


def test_a_grid_runs_each_cell_once_but_those_that_are_known(tmp_path: Path) -> None:
    judge = Keeping()
    cells = [SPACE.values(own) for own in SPACE.all()]

    race(tmp_path, judge, "grid", 100, known=[Known(cells[0], (1.0,))])

    seen = [values for values, first, _ in judge.told if first == 0]
    seen += [values for values, _ in judge.failed]
    assert sorted(map(str, seen)) == sorted(map(str, cells[1:]))


def test_all_stop_when_the_judge_says_so(tmp_path: Path) -> None:
    judge = Keeping(most=3)

    race(tmp_path, judge, "random", 50)

    assert len(judge.told) <= 5


@pytest.mark.parametrize("way", ["tpe", "random"])
def test_trials_that_are_known_count(tmp_path: Path, way: str) -> None:
    judge = Keeping()
    known = [Known({"draft": "none", "sampled": False}, (8.0,))] * 4

    race(tmp_path, judge, way, 6, known=known)

    drawn = {str(values) for values, _, _ in judge.told} | {str(v) for v, _ in judge.failed}
    assert 1 <= len(drawn) <= 2


def test_values_are_drawn_where_they_act_only() -> None:
    cells = [SPACE.values(own) for own in SPACE.all()]

    assert len(cells) == 2 + 4 * 2
    assert all(("tokens" in cell) == (cell["draft"] == "lookup") for cell in cells)
