"""Models that do not fit on a device together are there one at a time, and all are run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.errors import ModelError
from autocompress.evaluators import models_in_turn, torch_engine
from autocompress.evaluators.models_in_turn import ModelsInTurn
from tests.tiny_models import TinyModels

CUDA = torch.device("cuda")


class Device:
    """A device with room for so many models; those on it, and what was moved."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.there: list[str] = []
        self.moves: list[tuple[str, str]] = []

    def take(self, name: str) -> None:
        if len(self.there) == self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.there.append(name)

    def load(self, path: Path) -> Any:
        """Load a model onto it; what is wrong is told as by `load_model`."""
        try:
            return Model(path.name, self)
        except RuntimeError as error:
            raise ModelError(f"Cannot load {path}: {error}") from error

    def models(self, *names: str) -> ModelsInTurn:
        return ModelsInTurn([Path(name) for name in names], self.load, CUDA)


class Model:
    """A model that takes a place of a device."""

    def __init__(self, name: str, device: Device) -> None:
        self.name = name
        self._device = device
        device.take(name)

    def to(self, where: torch.device) -> "Model":
        is_there = self.name in self._device.there
        if where.type == "cuda" and not is_there:
            self._device.take(self.name)
            self._device.moves.append((self.name, "cuda"))
        if where.type == "cpu" and is_there:
            self._device.there.remove(self.name)
            self._device.moves.append((self.name, "cpu"))
        return self


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing known of what is free."""
    monkeypatch.setattr(models_in_turn, "free_bytes", lambda _: float("inf"))


def ran(device: Device, log: list[str]) -> Callable[[Any], str]:
    """Return work that a model does on the device alone."""

    def work(model: Any) -> str:
        assert model.name in device.there
        log.append(model.name)
        return f"{model.name} {len(log)}"

    return work


def test_models_that_fit_stay_and_run_once() -> None:
    device = Device(2)
    log: list[str] = []
    models = device.models("a", "b")

    found = [models.run(index, ran(device, log)) for index in (0, 1, 0, 1)]

    assert found == ["a 1", "b 2", "a 3", "b 4"]
    assert not device.moves


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_models_that_do_not_fit_take_turns_and_warm_up(names: str) -> None:
    device = Device(1)
    log: list[str] = []
    models = device.models(*names)

    found = [models.run(index, ran(device, log)) for index in (0, 1, 1, 0)]

    # What was there already, and only that, is run but once.
    assert found == ["a 2", "b 4", "b 5", "a 7"]
    assert len(device.there) == 1


def test_models_that_do_not_fit_by_their_files_are_not_tried_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(2)
    log: list[str] = []
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(10))
    monkeypatch.setattr(models_in_turn, "free_bytes", lambda _: 9.0)

    models = ModelsInTurn([tmp_path / "a", tmp_path / "b"], device.load, CUDA)
    models.run(0, ran(device, log))

    assert device.moves == [("a", "cpu"), ("b", "cpu"), ("a", "cuda")]


def test_a_run_that_finds_no_room_beside_others_is_run_alone() -> None:
    device = Device(2)
    log: list[str] = []
    models = device.models("a", "b")

    def work(model: Any) -> str:
        if len(device.there) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return ran(device, log)(model)

    assert [models.run(index, work) for index in (0, 1)] == ["a 2", "b 4"]


def test_one_that_does_not_fit_alone_is_an_error() -> None:
    with pytest.raises(ModelError, match="CUDA out of memory"):
        Device(0).models("a", "b")

    models = Device(1).models("a")

    def work(_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        models.run(0, work)


def test_another_failure_is_told_as_it_is() -> None:
    loaded: list[Path] = []

    def load(path: Path) -> Any:
        loaded.append(path)
        if len(loaded) == 2:
            raise ModelError("It is broken.")

    with pytest.raises(ModelError, match="It is broken"):
        ModelsInTurn([Path("a"), Path("b")], load, CUDA)

    assert len(loaded) == 2


@pytest.mark.parametrize("limit", [0.0, float("inf")])
def test_checkpoints_that_take_turns_are_timed_like_those_that_do_not(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setattr(models_in_turn, "free_bytes", lambda _: limit)
    folder = str(tiny_models.folder())

    found = torch_engine.serve(
        {
            "device": "cpu",
            "dtype": "auto",
            "threads": 1,
            "trust_remote_code": False,
            "compiled": False,
            "wanted": "latency",
            "checkpoints": [folder, folder],
            "workload": "1x8+4",
            "repeats": 3,
        }
    )

    assert isinstance(found, list)
    assert [len(row[name]) for row in found for name in ("prefill", "decode", "total")] == [3] * 6  # type: ignore[arg-type]
