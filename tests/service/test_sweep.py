"""Sweeps: what may vary, what is known of earlier, who wins; and real ones by Ray Tune."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.cli.observers import make_observer
from autocompress.errors import SpecError
from autocompress.export.report import Report, Target
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.service import sweep as sweeps
from autocompress.service.sweep import Row, Sweep, Swept, check, read_sweep, to_json, to_markdown
from autocompress.store.base import StudyState
from autocompress.store.study_store import create_study, list_studies
from autocompress.trial import Measurement
from autocompress.workers.tune import Outcome, Plan, Range, Share, Values, Varied, run_trials
from tests.export.example_report import example_report

VARIED = {"seed": [1, 2]}
SETTINGS = {"model": "m", "target_bits": 4, "max_tokens": 1000}


def sweep_over(vary: object) -> Sweep:
    return read_sweep("own", {**SETTINGS, "vary": vary})


def finish(storage: str, sweep: Sweep, values: Values, report: Report) -> str:
    name = sweep.study(values)
    store = create_study(storage, name, sweep.spec(values).to_json())
    store.finish(StudyState.FINISHED, report.to_json())
    store.close()
    return name


def reported(kl: float, target: Target | None = None, *, met: bool = True) -> Report:
    report = example_report()
    loss = dataclasses.replace(report.loss, kl=kl)
    judged = dataclasses.replace(target or report.target, met=met)
    return dataclasses.replace(report, loss=loss, met=met, target=judged)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        (None, "`vary` must hold what varies"),
        ({}, "`vary` must hold what varies"),
        ({"seed": []}, "vary: seed must be a list"),
        ({"seed": {"from": 3, "to": 3}}, "vary: seed must be a list"),
        ({"context": {"from": 0, "to": 9, "log": True}}, "vary: context must be a list"),
        ({"seed": {"from": 3}}, "vary: seed must be a list"),
        ({"strategy": ["evolve", "evolv"]}, "evolv"),
        ({"sed": [1]}, "Unknown key 'sed'"),
        ({"model": ["m", "n"]}, "model: a setting varies or is given once, not both"),
        ({"seed": {"from": 0, "to": 2**40}}, "seed"),
    ],
)
def test_what_cannot_be_meant_is_told_before_any_search(vary: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        sweep_over(vary)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan("guess", 1, 1, 0), "`--by` must be one of grid, random, tpe"),
        (Plan("grid", 1, 1, 0), "A grid holds no range, but seed is one"),
        (Plan("tpe", 1, 1, 0), "the laxest of target_bits"),
        (Plan("random", 0, 1, 0), "`--trials >= 1` must hold, but got 0"),
        (Plan("random", 1, 0, 0), "`--at-once >= 1` must hold, but got 0"),
    ],
)
def test_what_cannot_be_run_as_planned_is_told(plan: Plan, said: str) -> None:
    vary = {"seed": {"from": 0, "to": 9}, "target_bits": [3, 4]}
    sweep = read_sweep("own", {"model": "m", "vary": vary})

    with pytest.raises(SpecError, match=said):
        check(sweep, plan)


def test_a_cell_of_a_grid_that_contradicts_itself_is_told_before_any_search() -> None:
    sweep = sweep_over({"engine": ["torch", "llama.cpp"], "group_size": [None, 64]})

    with pytest.raises(SpecError, match="group_size"):
        check(sweep, Plan("grid", 1, 1, 0))


@pytest.mark.parametrize("vary", [{"space": ["bits", "bits,decoding"]}, {"seed": [0, 1]}])
def test_a_sweep_compares_compressed_models_alone(vary: dict[str, object]) -> None:
    settings = {"model": "m", "target_speedup": 2, "space": ["bits", "decoding"], "vary": vary}

    with pytest.raises(SpecError, match="a sweep searches for compressed models alone"):
        read_sweep("own", {key: own for key, own in settings.items() if key not in vary})


def test_lists_of_names_are_one_choice() -> None:
    sweep = sweep_over({"space": [["depth", "bits"], "bits"]})

    assert sweep.varied == {"space": ("depth,bits", "bits")}


@given(st.integers(0, 9), st.sampled_from(["depth,bits", "bits"]), st.floats(1.1, 2))
def test_a_search_that_has_ended_is_known_by_its_values(
    seed: int, space: str, floor: float
) -> None:
    vary = {
        "seed": {"from": 0, "to": 9},
        "space": ["bits", ["depth", "bits"]],
        "quality_floor": {"from": 1.1, "to": 2.0},
    }
    sweep = sweep_over(vary)
    values = {"seed": seed, "space": space, "quality_floor": floor}

    assert sweeps.values_of(sweep, sweep.spec(values).to_json()) == values
    other = read_sweep("own", {**SETTINGS, "max_tokens": 2000, "vary": vary})
    assert sweep.study(values) != other.study(values)


def test_the_least_kl_of_those_that_met_a_target_wins_it() -> None:
    two, three = Target("speedup", 2.0), Target("speedup", 3.0)
    kept = [(0.3, two, True), (0.2, two, True), (0.1, two, False), (0.5, three, True)]
    rows = [
        Row({"seed": seed}, f"own-{seed}", reported(kl, target, met=met), None)
        for seed, (kl, target, met) in enumerate(kept)
    ]
    rows.append(Row({"seed": 9}, "own-9", None, "out of reach"))

    assert [row.study for row in sweeps.winners_of(rows)] == ["own-1", "own-3"]

    again = sweeps.Again(rows[1], 0.21, (2.02, (1.98, 2.05)))
    swept = Swept(sweep_over({"seed": [0, 1, 2, 3, 9]}), tuple(rows), (again,))
    text = to_markdown(swept)
    assert text.index("own-2") < text.index("own-1") < text.index("own-0") < text.index("own-9")
    assert "out of reach" in text
    assert "KL 0.2100 (its report says 0.2000), 2.02x [1.98, 2.05]." in text
    assert json.loads(json.dumps(to_json(swept)))["winners"][0]["study"] == "own-1"


SQUARES: Varied = {"x": Range(-4, 4, is_whole=True), "y": (0, 5)}


@dataclasses.dataclass(frozen=True)
class Square:
    """Scores (x - 3)² + y, keeps what it was asked, and fails where x is -4."""

    folder: str

    def __call__(self, values: Values, share: Share) -> float:
        x, y = values["x"], values["y"]
        assert isinstance(x, int)
        assert isinstance(y, int)
        assert share.cpus >= 1
        Path(self.folder, f"{x},{y}").touch()
        if x == -4:
            raise ValueError("too far")
        return float((x - 3) ** 2 + y)


@pytest.mark.parametrize(("engine", "is_timed"), [("torch", True), ("roofline:h100", False)])
def test_what_no_machine_here_runs_is_not_timed_again(
    monkeypatch: pytest.MonkeyPatch, engine: str, is_timed: bool
) -> None:
    own = read_sweep("own", {"model": "m", "target_speedup": 2, "engine": engine, "vary": VARIED})
    row = Row({"seed": 1}, "own-1", reported(0.1), None)
    lost = Measurement((0.1,), (0.2,), 1)
    measured = MeasuredSpeedup(2.0, (1.9, 2.1), (40.0, 20.0), (19.0, 21.0), ())
    monkeypatch.setattr(sweeps, "losses_of", lambda *_: (lost,))
    monkeypatch.setattr(sweeps, "speedup_between", lambda *_: measured)

    again = sweeps._again(own, row, Path("out"), make_observer(as_json=True))

    assert (again.speedup is not None) == is_timed


@pytest.mark.slow
def test_ray_tune_runs_a_grid_once_and_tells_each_outcome(tmp_path: Path) -> None:
    varied: Varied = {"x": (-4, 1, 3), "y": (0, 5)}
    told: list[Outcome] = []

    found = run_trials(
        Square(str(tmp_path)),
        varied,
        Plan("grid", 1, 2, 0),
        [({"x": 1, "y": 0}, 4.0)],
        told.append,
    )

    scores = {(own.values["x"], own.values["y"]): own.score for own in found}
    assert scores == {(-4, 0): None, (-4, 5): None, (1, 5): 9.0, (3, 0): 0.0, (3, 5): 5.0}
    assert {own.error for own in found if own.score is None} == {"too far"}
    assert sorted(map(str, told)) == sorted(map(str, found))
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.slow
@pytest.mark.parametrize("way", ["random", "tpe"])
def test_ray_tune_draws_as_many_as_asked(tmp_path: Path, way: str) -> None:
    known = [({"x": 2, "y": 0}, 1.0)] if way == "tpe" else []

    found = run_trials(
        Square(str(tmp_path)), SQUARES, Plan(way, 6, 2, 0), known, lambda outcome: None
    )

    assert len(found) == 6 - len(known)
    assert all(own.values["x"] in range(-4, 5) and own.values["y"] in (0, 5) for own in found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_goes_on_and_runs_no_search_twice(
    tmp_path: Path, tiny_llama: Path, calibration: Path
) -> None:
    settings = {
        "model": str(tiny_llama),
        "calibration": str(calibration),
        "context": 48,
        "target_bits": 3.5,
        "bits": "8,4,2",
        "workload": "1x8+4",
        "timing_processes": 2,
        "vary": {"strategy": ["uniform", "additive"]},
    }
    (tmp_path / "own.json").write_text(json.dumps(settings), encoding="utf-8")
    storage = f"sqlite:///{tmp_path}/studies.db"
    command = [sys.executable, "-m", "autocompress", "sweep", "own.json", "--output=out"]
    command += [f"--storage={storage}"]
    environment = os.environ | {"AUTOCOMPRESS_CACHE": str(tmp_path / "cache")}

    def begin() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE
        )

    first = begin()
    while not any(row.state is StudyState.FINISHED for row in list_studies(storage)):
        assert first.poll() is None
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    ended = {row.name: row.created_at for row in list_studies(storage)}

    second = begin()
    said, _ = second.communicate(timeout=600)

    assert second.returncode == 0
    rows = list_studies(storage)
    assert len(rows) == 2
    assert ended.items() <= {row.name: row.created_at for row in rows}.items()
    assert all(row.state is StudyState.FINISHED for row in rows)
    swept = json.loads((tmp_path / "out" / "sweep.json").read_text("utf-8"))
    kls = {own["study"]: own["report"]["loss"]["kl"] for own in swept["trials"]}
    (winner,) = swept["winners"]
    assert kls[winner["study"]] == min(kls.values())
    # From the file, in the number format that it is stored in.
    assert winner["kl"] == pytest.approx(min(kls.values()), rel=0.05)
    assert "measured again: KL" in said
