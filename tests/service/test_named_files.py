"""A scheduled search means the same files wherever its scheduler was started."""

from pathlib import Path

import pytest
import yaml

from autocompress.cli.commands import main
from autocompress.errors import SpecError
from autocompress.service.named_files import from_anywhere
from autocompress.spec import from_mapping
from autocompress.store.schedules import open_schedules

SPEC = {"model": "models/tiny", "target_params": "90%", "space": "depth"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "text.txt").touch()
    return tmp_path


def test_files_that_are_here_are_named_from_the_root(here: Path) -> None:
    (here / "latest").symlink_to("models/tiny")
    named = SPEC | {"calibration": "text.txt"}

    spec = from_anywhere(from_mapping(named))
    linked = from_anywhere(from_mapping(named | {"model": "latest"}))

    assert (spec.model, spec.calibration) == (f"{here}/models/tiny", f"{here}/text.txt")
    assert linked.model == f"{here}/latest"
    assert from_anywhere(spec) == spec


def test_a_model_of_the_hub_is_left_to_the_hub() -> None:
    for model in ("Qwen/Qwen3-8B", "gpt2"):
        spec = from_mapping(SPEC | {"model": model})
        assert from_anywhere(spec) == spec


@pytest.mark.parametrize("model", ["./tiny", "/models/tiny", "~/no-such-model", "a/b/c"])
def test_all_that_is_missing_is_named_at_once(model: str) -> None:
    spec = from_mapping(SPEC | {"model": model, "calibration": "txet.txt"})

    with pytest.raises(SpecError) as caught:
        from_anywhere(spec)

    assert str(caught.value) == (
        f"model: there is no {model!r} here; calibration: there is no 'txet.txt' here."
    )


def test_a_schedule_keeps_where_its_files_are(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    storage = f"--storage=sqlite:///{here}/studies.db"

    status = main(["schedule", "add", "own.yaml", "--cron=0 2 * * *", storage])

    assert status == 0, capsys.readouterr()
    with open_schedules(f"sqlite:///{here}/studies.db") as store:
        own = store.named("own")
    assert own.spec["model"] == f"{here}/models/tiny"
    assert own.settings["output"] == f"{here}/autocompress-out/own"
