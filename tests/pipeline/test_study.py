"""What a study tells before any work is done."""

import contextlib
import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from autocompress.cli.observers import Lines
from autocompress.errors import (
    AutocompressError,
    ExportError,
    GateError,
    SpecError,
    UnreachableTarget,
)
from autocompress.models import loading
from autocompress.pipeline import study
from autocompress.pipeline.going_on import going_on
from autocompress.pipeline.observer import Values
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.spec import SearchSpec, from_mapping
from autocompress.store.base import Record, StudyState, StudyStore
from autocompress.store.study_store import create_study, find_study, list_studies
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from autocompress.workers import ray_pool
from autocompress.workers.session import SessionPlan

ENGINES = ("vLLM", "SGLang", "TensorRT-LLM")


class Stopped(Exception):
    """The first stage began."""


class UntilTheFirstStage:
    """Prints what is told before a study's first stage, and ends the study there."""

    def __init__(self) -> None:
        self._lines = Lines(as_json=False)

    def stage(self, name: str) -> None:
        raise Stopped(name)

    def advance(self, done: int, total: int) -> None: ...

    def tell(self, kind: str, values: Values) -> None:
        self._lines.tell(kind, values)


def spec_of(model: Path, calibration: Path, **own: object) -> SearchSpec:
    usual = {"model": str(model), "calibration": str(calibration), "context": 16, "workers": 1}
    return from_mapping({**usual, "target_bits": 4, **own})


def told_at_first(
    model: Path, calibration: Path, folder: Path, capsys: pytest.CaptureFixture[str], **own: object
) -> str:
    """Return what a study prints before its first stage."""
    spec = spec_of(model, calibration, **own)
    storage = f"sqlite:///{folder}/s.db"
    with pytest.raises(Stopped, match="levels"):
        study.start(spec, storage, "s", folder / "out", UntilTheFirstStage())
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))


def test_engines_that_load_no_settings_by_linear_layer_are_named_before_the_search(
    tiny_llama: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told_at_first(tiny_llama, calibration, tmp_path, capsys, per_linear=True)

    warnings = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 1
    assert all(engine in warnings[0] for engine in ENGINES)


def test_nothing_is_warned_of_where_engines_load_what_is_searched(
    tiny_llama: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fused = told_at_first(tiny_llama, calibration, tmp_path, capsys)

    assert "Warning" not in fused


def test_the_model_itself_is_never_where_the_winner_is_to_lie(
    tiny_llama: Path, calibration: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "model")
    spec = spec_of(tmp_path / "model", calibration)
    storage = f"sqlite:///{tmp_path}/s.db"
    before = {file: file.read_bytes() for file in (tmp_path / "model").iterdir()}

    with pytest.raises(ExportError, match=r"what the study reads lies there: .*model\. Give"):
        study.start(spec, storage, "s", tmp_path, UntilTheFirstStage())
    assert list_studies(storage) == []
    create_study(storage, "s", spec.to_json()).close()
    with pytest.raises(ExportError, match="what the study reads lies there"):
        study.resume(storage, "s", tmp_path, UntilTheFirstStage())

    assert {file: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before


def test_a_target_out_of_reach_takes_nothing_away_that_was_measured(
    tiny_llama: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(
        prepared: Prepared, name: str, storage: str, store: StudyStore, *_: object
    ) -> None:
        if name == "measured":
            nobody = Genotype((0,) * len(prepared.space.genes))
            fidelity = Fidelity(Split.SEARCH, 0, 0, 1)
            store.record([Record(nobody, fidelity, Measurement((0.0,), (0.0,), 15), None, 0.1)])
        raise UnreachableTarget("No candidate.")

    monkeypatch.setattr(study, "_run", unreached)
    spec, storage = spec_of(tiny_llama, calibration), f"sqlite:///{tmp_path}/s.db"

    for name in ("measured", "refused"):
        with pytest.raises(UnreachableTarget):
            study.start(spec, storage, name, tmp_path / "out", UntilTheFirstStage())

    (left,) = list_studies(storage)
    assert (left.name, left.state, left.n_trials) == ("measured", StudyState.FAILED, 1)


@pytest.mark.parametrize("ended", [GateError("It did not pass."), KeyboardInterrupt()])
def test_a_finished_study_keeps_its_report_when_it_is_not_written_out_again(
    tiny_llama: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ended: BaseException,
) -> None:
    def fail(*_: object) -> None:
        raise ended

    monkeypatch.setattr(study, "_run", fail)
    storage, kept = f"sqlite:///{tmp_path}/s.db", {"kl": 0.1}
    spec = spec_of(tiny_llama, calibration)
    with contextlib.closing(create_study(storage, "s", spec.to_json())) as store:
        store.finish(StudyState.FINISHED, kept)

    with pytest.raises(type(ended)):
        study.resume(storage, "s", tmp_path / "out", UntilTheFirstStage())
    with pytest.raises(type(ended)), going_on(storage, "s", spec.to_json()):
        fail()

    row = find_study(storage, "s")
    assert row is not None
    assert (row.state, row.report) == (StudyState.FINISHED, kept)


def test_a_study_does_not_go_on_with_another_text_or_other_weights(
    tiny_llama: Path, calibration: Path, tmp_path: Path
) -> None:
    model, words = tmp_path / "own", tmp_path / "words.txt"
    shutil.copytree(tiny_llama, model)
    shutil.copy(calibration, words)
    spec, storage = spec_of(model, words), f"sqlite:///{tmp_path}/s.db"

    def go_on() -> None:
        study.resume(storage, "s", tmp_path / "out", UntilTheFirstStage())

    with pytest.raises(Stopped):
        study.start(spec, storage, "s", tmp_path / "out", UntilTheFirstStage())
    with pytest.raises(Stopped):
        go_on()
    words.write_text(calibration.read_text("utf-8").replace("heap", "pile"), encoding="utf-8")
    with pytest.raises(SpecError, match="the same: search text, selection text, report text of"):
        go_on()
    shutil.copy(calibration, words)
    config = (model / "config.json").read_text("utf-8")
    (model / "config.json").write_text(config + " ", encoding="utf-8")
    with pytest.raises(SpecError, match=r"the same: weights of .* changed, and losses of both"):
        go_on()

    row = find_study(storage, "s")
    assert row is not None
    assert row.state is StudyState.RUNNING


@pytest.mark.parametrize(
    ("asked", "refusal", "told"),
    [
        (
            {"space": "depth,bits", "strategy": "shortgpt"},
            SpecError,
            "--strategy shortgpt says something of depth or width alone, but the space has genes",
        ),
        (
            {"space": "depth", "target_bits": None, "target_bytes": "1%"},
            UnreachableTarget,
            "No candidate reaches .* bytes: the smallest of this space has",
        ),
        (
            {
                "space": "bits",
                "bits": "2,3,4,5,6,8",
                "per_linear": True,
                "strategy": "brute-force",
            },
            SpecError,
            "`candidates <= 5,000,000` must hold for brute-force, but the space has",
        ),
        (
            {"space": "bits", "bits": "nvfp4", "format": "compressed-tensors"},
            ExportError,
            "transformers runs nvfp4 of compressed-tensors in bfloat16 alone",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_levels_are_built(
    tiny_llama: Path,
    calibration: Path,
    tmp_path: Path,
    asked: dict[str, object],
    refusal: type[AutocompressError],
    told: str,
) -> None:
    spec = spec_of(tiny_llama, calibration, **asked)

    with pytest.raises(refusal, match=told):
        study.start(spec, f"sqlite:///{tmp_path}/s.db", "s", tmp_path, UntilTheFirstStage())

    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("device", "theirs"), [("cuda:1", "cuda"), ("cpu", "cpu")])
def test_actors_of_ray_are_told_of_a_gpu_without_its_number_here(
    tiny_llama: Path,
    calibration: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    theirs: str,
) -> None:
    told: list[str] = []

    class NoPool:
        def __init__(self, plan: SessionPlan, *_: object) -> None:
            told.append(plan.device)

        def close(self) -> None: ...

    monkeypatch.setattr(ray_pool, "RayPool", NoPool)
    monkeypatch.setattr(
        loading, "visible_gpus", lambda device: ["1"] if device.type == "cuda" else []
    )
    monkeypatch.setattr(loading, "lacks_bfloat16", lambda _: False)
    prepared = prepare(spec_of(tiny_llama, calibration, pool="ray"))
    prepared = dataclasses.replace(prepared, device=torch.device(device))

    with study._pool(prepared, prepared.session_plan("weights")):
        pass

    assert told == [theirs]


@pytest.mark.parametrize(
    ("device", "changed", "order"),
    [
        ("cuda", {}, ["closed", "timed"]),
        ("cuda", {"address": "there:6379"}, ["timed"]),
        ("cuda", {"engine": "llama.cpp"}, ["timed"]),
        ("cpu", {}, ["timed"]),
    ],
)
def test_workers_leave_the_gpu_that_winners_are_timed_on(
    tiny_llama: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    changed: dict[str, Any],
    order: list[str],
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(study, "timing_turn", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(study, "measure_speedup", lambda *_: seen.append("timed"))
    monkeypatch.setattr(study, "hardware", lambda *_: "here")
    deployment = SimpleNamespace(
        engine=lambda _: SimpleNamespace(threads=1),
        export=lambda _: SimpleNamespace(path=tmp_path),
        dense=tmp_path,
    )
    pool = SimpleNamespace(close=lambda: seen.append("closed"))
    prepared = prepare(spec_of(tiny_llama, calibration))
    spec = dataclasses.replace(prepared.spec, **changed)
    prepared = dataclasses.replace(prepared, spec=spec, device=torch.device(device))

    _, measure = study._clock(
        prepared, cast(Any, deployment), None, None, cast(Any, pool), UntilTheFirstStage()
    )
    assert measure is not None
    measure(prepared.space.dense)

    assert seen == order


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_winner_is_published_though_memory_runs_out_in_its_training(
    tiny_llama: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(study, "recover", out_of_memory)
    asked = {"target_bits": None, "target_params": "60%", "space": "depth,width", "recover": 1000}
    spec = spec_of(tiny_llama, calibration, **asked, max_tokens=20_000)
    storage, output = f"sqlite:///{tmp_path}/s.db", tmp_path / "out"

    found = study.start(spec, storage, "s", output, Lines(as_json=False))
    again = study.resume(storage, "s", output, Lines(as_json=False))

    for report in (found, again):
        (told,) = [own for own in report.warnings if "not recovered" in own]
        assert "memory ran out (CUDA out of memory.). Try --recovery-rank" in told
        assert report.recovery is None
        assert report.met
    assert again.search == found.search
    assert (output / "model" / "manifest.json").is_file()
