"""Puts a command `vllm` on the PATH whose Python imports a module that plays vLLM."""

import os
import sys
from pathlib import Path

import pytest

STAND_IN = Path(__file__).parent / "stand_ins"


def put_on_path(folder: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `vllm` and the `python` beside it.

    Args:
        folder: Empty, for both.
        module: Folder of the `vllm.py` that is imported there.
    """
    own = f'OMP_NUM_THREADS=1 PYTHONPATH="{module}"'
    text = f'#!/bin/sh\n{own} exec "{sys.executable}" -W ignore "$@"\n'
    for name in ("vllm", "python"):
        command = folder / name
        command.write_text(text, encoding="utf-8")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
