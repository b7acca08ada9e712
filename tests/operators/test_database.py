"""The level database: what was written whole is read back, and nothing else is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autocompress.errors import EvaluationError
from autocompress.operators.database import LevelDatabase, address
from tests.full_disk import FULL, no_room

TENSORS = {
    "codes": torch.arange(100, dtype=torch.uint8),
    "scales": torch.linspace(0, 1, 12, dtype=torch.bfloat16).view(3, 4),
    "once": torch.tensor(1.5),
}


def file_of(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def are_equal(first: dict[str, Tensor] | None, second: dict[str, Tensor]) -> bool:
    return (
        first is not None
        and first.keys() == second.keys()
        and all(torch.equal(first[name], second[name]) for name in second)
        and all(first[name].dtype is second[name].dtype for name in second)
    )


def test_store_then_load_is_identity(tmp_path: Path) -> None:
    LevelDatabase(tmp_path / "levels").write("a site", TENSORS)

    assert are_equal(LevelDatabase(tmp_path / "levels").read("a site"), TENSORS)


def test_names_do_not_share_a_file(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    database.write("one", TENSORS)
    database.write("two", {"codes": torch.zeros(3)})

    assert are_equal(database.read("one"), TENSORS)
    assert are_equal(database.read("two"), {"codes": torch.zeros(3)})


def test_writing_again_replaces(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    database.write("one", TENSORS)

    database.write("one", {"codes": torch.zeros(3)})

    assert are_equal(database.read("one"), {"codes": torch.zeros(3)})


def test_what_was_never_written_is_not_there(tmp_path: Path) -> None:
    assert LevelDatabase(tmp_path / "nowhere").read("one") is None


@pytest.mark.parametrize(
    "breaks",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"\xff" * 16 + content[16:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:-60] + bytes([content[-60] ^ 128]) + content[-59:],
    ],
    ids=["half", "all but a byte", "half a header", "empty", "no header", "a bit", "another bit"],
)
def test_a_broken_file_is_as_good_as_none(
    tmp_path: Path, breaks: Callable[[bytes], bytes]
) -> None:
    database = LevelDatabase(tmp_path)
    database.write("one", TENSORS)
    file = file_of(tmp_path)
    file.write_bytes(breaks(file.read_bytes()))

    assert database.read("one") is None


def test_what_another_process_is_writing_is_not_there(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    database.write("one", TENSORS)
    file = file_of(tmp_path)
    file.rename(file.with_suffix(".4711.partial"))

    assert database.read("one") is None


def test_a_full_disk_is_told_in_a_line_and_leaves_what_was_there(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    database.write("one", TENSORS)
    before = file_of(tmp_path).read_bytes()

    with no_room(), pytest.raises(EvaluationError, match=f"^Cannot write {tmp_path}: .*{FULL}"):
        database.write("one", {"codes": torch.zeros(300)})

    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_an_address_depends_on_every_part_and_on_where_parts_end() -> None:
    found = {address("a", "b"), address("ab"), address("a", "c"), address("b", "a"), address("a")}

    assert len(found) == 5
