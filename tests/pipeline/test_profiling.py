"""A study takes the latency tables that there are, and measures only what there is not."""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from autocompress.evaluators.latency_model import LatencyTables
from autocompress.evaluators.latency_rows import Spent
from autocompress.evaluators.stored_latency import read_tables
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.deployment import Deployment
from autocompress.pipeline.inheritance import Inherited
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.pipeline.observer import Observer, Values
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.profiling import (
    Profiles,
    about,
    feed_back,
    measured_before,
    strayed,
)
from autocompress.pipeline.searching import Found
from autocompress.pipeline.stored_study import ABOUT, REFITTED
from autocompress.spec import from_mapping
from autocompress.spec_rules import EMBEDDINGS, USUAL_EMBEDDINGS
from autocompress.store.profiles import StoredProfile, find_profile
from autocompress.store.study_store import SqlStudyStore, create_study
from autocompress.trial import Genotype
from tests.tiny_models import TinyModels


class Counting:
    """A deployment that hands out tables and counts how often."""

    engine_version = "1"
    shaped = cast("ShapedModel", SimpleNamespace(model=SimpleNamespace(dtype="float32")))

    def __init__(self, tables: LatencyTables) -> None:
        self.measured = 0
        self._tables = tables

    def measure_tables(self, observer: Observer) -> LatencyTables:
        self.measured += 1
        return self._tables


class Watching:
    """An observer that remembers what happened."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def stage(self, name: str) -> None: ...
    def advance(self, done: int, total: int) -> None: ...
    def tell(self, kind: str, values: Values) -> None:
        self.told.append((kind, values["changed"]))


class Rig:
    """Studies of one database."""

    def __init__(self, prepared: Prepared, tables: LatencyTables, folder: Path) -> None:
        self.prepared = prepared
        self.deployment = Counting(tables)
        self.storage = f"sqlite:///{folder}/studies.db"
        self.watching = Watching()
        self._studies: list[SqlStudyStore] = []

    def study(self) -> SqlStudyStore:
        self._studies.append(create_study(self.storage, str(len(self._studies)), {}))
        return self._studies[-1]

    def tables(
        self,
        study: SqlStudyStore,
        *,
        is_fresh: bool = False,
        inherited: Inherited = Inherited(),  # noqa: B008  # a frozen value
    ) -> LatencyTables:
        found = Profiles(self.storage, is_fresh).latency(
            self.prepared,
            cast("Deployment", self.deployment),
            study,
            inherited,
            self.watching,
        )
        assert isinstance(found, LatencyTables)
        return found

    def close(self) -> None:
        for study in self._studies:
            study.close()


@pytest.fixture
def rig(
    tiny_models: TinyModels, tiny_table: Path, calibration: Path, tmp_path: Path
) -> Iterator[Rig]:
    values = {
        "model": str(tiny_models.folder()),
        "target_speedup": 1.5,
        "workload": "1x8+4",
        "calibration": str(calibration),
        "context": 16,
    }
    prepared = prepare(from_mapping(values))
    tables = read_tables(json.loads(tiny_table.read_text("utf-8")), prepared.space)
    found = Rig(prepared, tables, tmp_path)
    yield found
    found.close()


def test_what_was_measured_once_is_used_again(rig: Rig) -> None:
    first, second = rig.study(), rig.study()

    assert rig.tables(first) == rig.tables(second)
    assert rig.deployment.measured == 1
    assert measured_before(first) is None
    assert (measured_before(second) or "").startswith("20")


def test_a_study_keeps_the_tables_that_it_began_with(rig: Rig) -> None:
    study = rig.study()
    before = rig.tables(study)
    rig.deployment = Counting(dataclasses.replace(before, tables=()))

    assert rig.tables(study, is_fresh=True) == before
    assert rig.deployment.measured == 0


def test_a_study_takes_its_parents_tables_over_where_they_are_about_what_it_runs_on(
    rig: Rig,
) -> None:
    parent = rig.study()
    handed = slower(rig.tables(parent))
    inherited = Inherited(latency=handed.to_json(), about=parent.document(ABOUT))

    alike = rig.tables(rig.study(), inherited=inherited)
    rig.deployment.engine_version = "2"
    upgraded = rig.tables(rig.study(), inherited=inherited)

    assert alike == handed
    assert upgraded != handed
    assert rig.deployment.measured == 2
    assert rig.watching.told == [("other profile", "engine version 1, now 2")]


def test_a_study_that_goes_on_elsewhere_keeps_its_tables_and_says_so(rig: Rig) -> None:
    study = rig.study()
    before = rig.tables(study)
    assert rig.tables(study) == before
    assert strayed(study) == ()

    rig.deployment.engine_version = "2"
    for _ in range(2):
        assert rig.tables(study) == before

    assert strayed(study) == ("engine version 1, now 2",)
    assert rig.watching.told == [("strayed profile", "engine version 1, now 2")] * 2


def test_fresh_ones_are_measured_and_kept(rig: Rig) -> None:
    rig.tables(rig.study())
    rig.tables(rig.study(), is_fresh=True)
    last = rig.study()
    rig.tables(last)

    assert rig.deployment.measured == 2
    assert measured_before(last) is not None


@pytest.mark.parametrize(
    "change", [{"workload": "1x8+8"}, {"space": "depth"}, {"model": "other family"}]
)
def test_what_changes_is_measured_anew(
    rig: Rig, tiny_models: TinyModels, change: dict[str, object]
) -> None:
    deployment = cast("Deployment", rig.deployment)
    before = about(rig.prepared, deployment)
    if "model" in change:
        change = {"model": str(tiny_models.folder("qwen2"))}

    after = about(prepare(from_mapping(rig.prepared.spec.to_json() | change)), deployment)

    assert before != after
    rig.deployment.engine_version = "2"
    assert about(rig.prepared, deployment) != before


def test_tables_of_more_cores_are_other_tables(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = cast("Deployment", rig.deployment)
    before = about(rig.prepared, deployment)
    more = set(range(len(os.sched_getaffinity(0)) + 1))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: more)

    assert about(rig.prepared, deployment) != before


def test_tables_of_other_embeddings_are_other_tables(rig: Rig) -> None:
    deployment = cast("Deployment", rig.deployment)

    def key(kind: str) -> dict[str, str]:
        spec = dataclasses.replace(rig.prepared.spec, engine="llama.cpp", embeddings=kind)
        return about(dataclasses.replace(rig.prepared, spec=spec), deployment)

    keys = [key(kind) for kind in EMBEDDINGS]

    assert len({json.dumps(own, sort_keys=True) for own in keys}) == len(EMBEDDINGS)
    # What was measured before they could be asked for is found again.
    assert "embeddings" not in key(USUAL_EMBEDDINGS)


def test_imported_tables_are_not_kept(rig: Rig, tiny_table: Path) -> None:
    spec = rig.prepared.spec.to_json() | {"latency_table": str(tiny_table)}
    imported = prepare(from_mapping(spec))
    own = rig.prepared
    rig.prepared = imported
    rig.tables(rig.study())
    rig.prepared = own
    rig.tables(rig.study())

    assert rig.deployment.measured == 1


def test_winners_change_what_is_kept_and_not_what_was_searched_with(rig: Rig) -> None:
    first, second, third = rig.study(), rig.study(), rig.study()
    tables = rig.tables(first)
    deployment = cast("Deployment", rig.deployment)
    key = about(rig.prepared, deployment)
    measured_at = known(rig, key).measured_at

    for winners in ([(DENSE, 0.5)], [(DENSE, 0.4)]):
        feed_back(rig.storage, rig.prepared, deployment, first, tables, found(rig, winners))

    refitted = rig.tables(second)
    assert rig.tables(first) == tables
    assert [table.finalists for table in tables.tables] == [()]
    (sample,) = refitted.tables[0].finalists
    assert sample.spent.prefill == 0.5 * tables.tables[0].profile.dense.prefill
    assert refitted.cost(rig.prepared.space).dense < tables.cost(rig.prepared.space).dense
    assert known(rig, key).measured_at == measured_at
    assert first.document(REFITTED) == refitted.to_json()
    rig.tables(third)
    assert rig.deployment.measured == 1


def test_winners_of_an_older_profile_leave_a_fresh_one_as_it_is(rig: Rig) -> None:
    old, deployment = rig.study(), cast("Deployment", rig.deployment)
    tables = rig.tables(old)
    rig.deployment = Counting(slower(tables))
    fresh = rig.tables(rig.study(), is_fresh=True)

    feed_back(rig.storage, rig.prepared, deployment, old, tables, found(rig, [(DENSE, 0.5)]))

    assert rig.tables(rig.study()) == fresh != tables
    assert old.document(REFITTED) is not None


def test_what_is_kept_holds_the_winners_of_all_studies(rig: Rig) -> None:
    first, second = rig.study(), rig.study()
    deployment = cast("Deployment", rig.deployment)
    # Both search with the same tables, and end one after the other.
    both = [(study, rig.tables(study)) for study in (first, second)]

    for share, (study, tables) in zip((0.5, 0.4), both, strict=True):
        feed_back(rig.storage, rig.prepared, deployment, study, tables, found(rig, [(0, share)]))

    kept = rig.tables(rig.study()).first
    dense = kept.profile.dense.prefill
    assert [sample.spent.prefill for sample in kept.finalists] == [0.5 * dense, 0.4 * dense]


def slower(tables: LatencyTables) -> LatencyTables:
    """Return tables as a machine measures them that has become slower."""
    table = tables.first
    profile = dataclasses.replace(table.profile, dense=Spent(1e3, 1e3))
    return dataclasses.replace(tables, tables=(dataclasses.replace(table, profile=profile),))


DENSE = 0


def known(rig: Rig, key: dict[str, str]) -> StoredProfile:
    profile = find_profile(rig.storage, key)
    assert profile is not None
    return profile


def found(rig: Rig, winners: Sequence[tuple[int, float]]) -> Found:
    """Return a search whose winners were so much faster than dense."""
    space = rig.prepared.space
    finalists = tuple(
        (
            Genotype((level,) * len(space.genes)),
            MeasuredSpeedup(1 / share, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (share,)),
        )
        for level, share in winners
    )
    return cast("Found", SimpleNamespace(finalists=finalists))


def test_what_llama_cpp_takes_is_about_the_cpu_wherever_losses_are_measured(rig: Rig) -> None:
    spec = dataclasses.replace(rig.prepared.spec, engine="llama.cpp", format="gguf")
    beside_a_gpu = dataclasses.replace(rig.prepared, spec=spec, device=torch.device("cuda"))

    own = about(beside_a_gpu, cast("Deployment", rig.deployment))

    assert own["hardware"] == about(rig.prepared, cast("Deployment", rig.deployment))["hardware"]
