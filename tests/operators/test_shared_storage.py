"""Levels reach nodes that share no disk, whole or not at all."""

from pathlib import Path

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from autocompress.errors import EvaluationError, SpecError
from autocompress.operators.database import LevelDatabase
from autocompress.operators.shared_storage import SharedStorage
from tests.operators.test_database import TENSORS, are_equal


def node(folder: Path, name: str, url: str | None = None) -> LevelDatabase:
    """Return the database of a node with a disk of its own."""
    shared = SharedStorage(url or f"file://{folder}/shared")
    return LevelDatabase(folder / name / "0123", shared)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_what_one_node_wrote_another_reads_once(tmp_path: Path, kind: str) -> None:
    url = f"{kind}://{tmp_path}/shared"
    node(tmp_path, "first", url).write("a site", TENSORS)

    assert are_equal(node(tmp_path, "second", url).read("a site"), TENSORS)
    # From its own disk by now.
    assert are_equal(LevelDatabase(tmp_path / "second" / "0123").read("a site"), TENSORS)


def test_models_do_not_share_a_name(tmp_path: Path) -> None:
    node(tmp_path, "first").write("a site", TENSORS)
    other = LevelDatabase(tmp_path / "second" / "4567", SharedStorage(f"{tmp_path}/shared"))

    assert other.read("a site") is None


def test_what_nobody_wrote_is_not_there(tmp_path: Path) -> None:
    assert node(tmp_path, "first").read("a site") is None


def test_a_broken_file_here_is_fetched_anew(tmp_path: Path) -> None:
    node(tmp_path, "first").write("a site", TENSORS)
    (file,) = (tmp_path / "first").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])

    assert are_equal(node(tmp_path, "first").read("a site"), TENSORS)


def test_a_broken_file_there_is_never_used_and_gives_way(tmp_path: Path) -> None:
    node(tmp_path, "first").write("a site", TENSORS)
    (file,) = (tmp_path / "shared").rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    assert node(tmp_path, "second").read("a site") is None
    node(tmp_path, "second").write("a site", {"codes": torch.zeros(3)})
    assert are_equal(node(tmp_path, "third").read("a site"), {"codes": torch.zeros(3)})


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    node(tmp_path, "first").write("a site", TENSORS)
    node(tmp_path, "second").read("a site")

    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".safetensors"}


def test_a_storage_that_cannot_be_reached_is_an_error_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").write_text("a file", encoding="utf-8")
    with pytest.raises(EvaluationError, match="cannot be left in"):
        node(tmp_path, "first").write("a site", TENSORS)

    def refuse(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(LocalFileSystem, "get_file", refuse)
    with pytest.raises(EvaluationError, match=r"cannot be read from .*: not yours"):
        node(tmp_path, "second").read("a site")
    with pytest.raises(SpecError, match="nowhere://host/levels") as refused:
        SharedStorage("nowhere://me:secret@host/levels")
    assert "secret" not in str(refused.value)
