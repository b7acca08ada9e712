"""What Optuna's dashboard shows is what our tables say, and never more than a view of them."""

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
import sqlalchemy as sa
from optuna.artifacts import get_all_artifact_meta

from autocompress.errors import StoreError
from autocompress.store.database import connection_options
from autocompress.store.mirror import Mirror, Parameter, ShownStudy, ShownTrial
from autocompress.store.study_store import create_study, list_studies


def trial(key: str, loss: float, violation: float = -0.1, note: str = "") -> ShownTrial:
    parameters = {"mlp dropped": Parameter(3, 12, is_count=True), "mlp bits": Parameter(3.5, 16)}
    return ShownTrial(key, parameters, (loss, 1e6), violation, {"stage": "finalist"}, note)


SHOWN = ShownStudy(
    "first",
    "v1 running",
    ("KL", "bytes"),
    {"model": "m", "candidates": 2},
    [trial("aa", 0.5), trial("bb", 0.4, violation=0.2, note="| layer |")],
    "# Met",
)


@pytest.fixture
def mirror(url: str, tmp_path: Path) -> Iterator[Mirror]:
    own = Mirror(url, tmp_path / "artifacts")
    yield own
    own.storage.remove_session()
    own.storage.engine.dispose()


def studied(mirror: Mirror) -> optuna.Study:
    return optuna.load_study(study_name="first", storage=mirror.storage)


def test_a_study_is_shown_with_its_trials_and_words(mirror: Mirror, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("layers: {}\n", encoding="utf-8")

    added = mirror.show(dataclasses.replace(SHOWN, files={file.name: file}))

    study = studied(mirror)
    first, second = study.get_trials(deepcopy=False)
    assert added == 2
    assert study.metric_names == ["KL", "bytes"]
    assert [own.values for own in (first, second)] == [[0.5, 1e6], [0.4, 1e6]]
    assert first.params == {"mlp dropped": 3, "mlp bits": 3.5}
    assert first.user_attrs == {"genotype": "aa", "stage": "finalist"}
    assert [list(own.constraints.values()) for own in (first, second)] == [[-0.1], [0.2]]
    assert optuna_dashboard.get_note(study) == "# Met"
    assert optuna_dashboard.get_note(optuna.Trial(study, second._trial_id)) == "| layer |"
    assert study.user_attrs["candidates"] == 2
    (artifact,) = get_all_artifact_meta(study)
    assert artifact.filename == "recipe.yaml"
    with mirror.artifacts.open_reader(artifact.artifact_id) as opened:
        assert opened.read() == b"layers: {}\n"


def test_what_was_dropped_is_pruned_and_no_best_trial(mirror: Mirror) -> None:
    dropped = dataclasses.replace(trial("cc", 0.1), is_whole=False)
    shown = dataclasses.replace(SHOWN, trials=[*SHOWN.trials, dropped])

    mirror.show(shown)

    study = studied(mirror)
    last = study.get_trials(deepcopy=False)[-1]
    assert (last.state.name, last.values) == ("PRUNED", [0.1, 1e6])
    assert last.number not in {own.number for own in study.best_trials}


def test_what_is_shown_is_not_shown_twice(mirror: Mirror) -> None:
    mirror.show(SHOWN)
    more = dataclasses.replace(
        SHOWN, trials=[*SHOWN.trials, trial("cc", 0.3)], about={"candidates": 3}, note="# More"
    )

    assert mirror.show(more) == 1
    assert mirror.show(more) == 0

    study = studied(mirror)
    keys = [own.user_attrs["genotype"] for own in study.get_trials(deepcopy=False)]
    assert keys == ["aa", "bb", "cc"]
    assert study.user_attrs["candidates"] == 3
    assert optuna_dashboard.get_note(study) == "# More"


def test_another_version_is_shown_anew(mirror: Mirror) -> None:
    mirror.show(SHOWN)

    added = mirror.show(
        dataclasses.replace(SHOWN, version="v1 finished", trials=[trial("bb", 0.4)])
    )

    assert added == 1
    assert len(studied(mirror).get_trials(deepcopy=False)) == 1
    assert mirror.version("first") == "v1 finished"
    assert mirror.version("second") is None


def test_what_our_tables_know_no_more_is_forgotten(mirror: Mirror) -> None:
    mirror.show(SHOWN)
    mirror.show(dataclasses.replace(SHOWN, name="second"))

    mirror.forget(["second"])

    assert optuna.get_all_study_names(mirror.storage) == ["second"]


def test_one_writes_a_mirror_at_a_time(mirror: Mirror, url: str, tmp_path: Path) -> None:
    # Of another container, say, that has no folder in common with the first.
    other = Mirror(url, tmp_path / "elsewhere")

    with mirror.alone() as first, other.alone() as second:
        mirror.show(SHOWN)
    with other.alone() as later:
        pass
    other.storage.remove_session()
    other.storage.engine.dispose()

    assert (first, second, later) == (True, False, True)


def test_what_fails_while_nobody_else_writes_is_told_as_it_is(mirror: Mirror) -> None:
    with pytest.raises(FileNotFoundError), mirror.alone():
        raise FileNotFoundError("picture")


def test_our_tables_are_left_alone(mirror: Mirror, url: str) -> None:
    create_study(url, "ours", {}).close()
    mirror.show(SHOWN)

    assert [row.name for row in list_studies(url)] == ["ours"]
    assert mirror.url != url


def test_all_connections_are_given_up_when_the_host_is_lost(url: str, tmp_path: Path) -> None:
    made: list[dict[str, object]] = []

    def keep(_dialect: object, _record: object, _arguments: object, named: Any) -> None:
        made.append(dict(named))

    sa.event.listen(sa.Engine, "do_connect", keep)
    try:
        own = Mirror(url, tmp_path / "artifacts")
        own.version("first")
        own.storage.remove_session()
        own.storage.engine.dispose()
    finally:
        sa.event.remove(sa.Engine, "do_connect", keep)

    assert made
    assert all(connection_options(url).items() <= options.items() for options in made)


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "studies.optuna.db").write_bytes(b"no database, and longer than a header" * 9)

    with pytest.raises(StoreError, match=r"Cannot use the dashboard's .*studies.optuna.db"):
        Mirror(f"sqlite:///{tmp_path}/studies.db", tmp_path / "artifacts")


def test_many_may_make_a_mirror_at_once(url: str, tmp_path: Path) -> None:
    ready = threading.Barrier(4)

    def make(_: int) -> Mirror:
        ready.wait()
        return Mirror(url, tmp_path / "artifacts")

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(make, range(4)))

    for own in made:
        own.storage.remove_session()
        own.storage.engine.dispose()
