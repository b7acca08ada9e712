"""Whose modeling file is run: this package's own, byte for byte, and no other."""

import shutil
from pathlib import Path

import pytest

from autocompress.evaluators.torch_engine import has_own_modeling
from autocompress.models import modeling_autocompress

OURS = Path(modeling_autocompress.__file__)


def test_a_copy_of_the_modeling_file_is_our_own(tmp_path: Path) -> None:
    shutil.copyfile(OURS, tmp_path / OURS.name)

    assert has_own_modeling(tmp_path)


def test_a_checkpoint_without_code_has_none(tmp_path: Path) -> None:
    assert not has_own_modeling(tmp_path)


@pytest.mark.parametrize(
    "code", [b"", OURS.read_bytes() + b"\n", OURS.read_bytes().replace(b"nn", b"mm", 1)]
)
def test_a_modeling_file_that_differs_is_not_our_own(tmp_path: Path, code: bytes) -> None:
    (tmp_path / OURS.name).write_bytes(code)

    assert not has_own_modeling(tmp_path)


def test_our_own_code_under_another_name_does_not_count(tmp_path: Path) -> None:
    shutil.copyfile(OURS, tmp_path / "modeling_other.py")

    assert not has_own_modeling(tmp_path)
