"""Whose modeling file is run: this package's own, byte for byte, and no other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.evaluators.torch_engine import has_own_modeling
from autocompress.models.architecture import MODELING_FILES

OURS = MODELING_FILES[0]
both_files = pytest.mark.parametrize("file", MODELING_FILES, ids=lambda file: file.stem)


def copy_ours(folder: Path) -> None:
    for file in MODELING_FILES:
        shutil.copyfile(file, folder / file.name)
    name_code(folder, "modeling_autocompress.AutocompressLlamaForCausalLM")


def name_code(folder: Path, place: str) -> None:
    config = {"auto_map": {"AutoModelForCausalLM": place}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_a_copy_of_the_modeling_files_is_our_own(tmp_path: Path) -> None:
    copy_ours(tmp_path)

    assert has_own_modeling(tmp_path)


@pytest.mark.parametrize("place", ["other.Model", "someone/else--modeling_autocompress.Model"])
def test_a_config_that_names_other_code_is_not_our_own(tmp_path: Path, place: str) -> None:
    copy_ours(tmp_path)
    name_code(tmp_path, place)

    assert not has_own_modeling(tmp_path)


@both_files
def test_one_of_the_modeling_files_alone_is_not_our_own(tmp_path: Path, file: Path) -> None:
    copy_ours(tmp_path)
    (tmp_path / file.name).unlink()

    assert not has_own_modeling(tmp_path)


def test_a_checkpoint_without_code_has_none(tmp_path: Path) -> None:
    assert not has_own_modeling(tmp_path)


@both_files
@pytest.mark.parametrize(
    "change",
    [
        lambda code: b"",
        lambda code: code + b"\n",
        lambda code: code.replace(b"import", b"imprt", 1),
    ],
    ids=["empty", "longer", "other"],
)
def test_a_modeling_file_that_differs_is_not_our_own(
    tmp_path: Path, file: Path, change: Callable[[bytes], bytes]
) -> None:
    copy_ours(tmp_path)
    (tmp_path / file.name).write_bytes(change(file.read_bytes()))

    assert not has_own_modeling(tmp_path)


def test_our_own_code_under_another_name_does_not_count(tmp_path: Path) -> None:
    copy_ours(tmp_path)
    (tmp_path / OURS.name).rename(tmp_path / "modeling_other.py")

    assert not has_own_modeling(tmp_path)
