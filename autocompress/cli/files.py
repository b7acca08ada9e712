"""Files that a command leaves: refused before any work, written after what it prints."""

import os
from collections.abc import Callable
from pathlib import Path

from autocompress.errors import ExportError, SpecError


def check_writable(file: Path | None) -> None:
    """Make sure that a file can be written where it is wanted; None is nowhere.

    Raises:
        SpecError: If it cannot.
    """
    if file is None:
        return
    folder = file.resolve().parent
    if file.is_dir():
        why = "it is a folder"
    elif not folder.is_dir():
        why = "its folder does not exist"
    elif not os.access(file if file.exists() else folder, os.W_OK):
        why = "it is not writable" if file.exists() else "its folder is not writable"
    else:
        return
    raise SpecError(f"Cannot write {file}: {why}.")


def write_file(file: Path | None, to: Callable[[Path], object]) -> None:
    """Write a file that is wanted.

    Raises:
        ExportError: If it cannot be written: a disk may have become full meanwhile.
    """
    if file is None:
        return
    try:
        to(file)
    except OSError as error:
        raise ExportError(f"Cannot write {file}: {error.strerror or error}.") from error
