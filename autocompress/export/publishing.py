"""Puts what was proven in its place: a folder appears whole or not at all."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from autocompress.errors import ExportError, GateError
from autocompress.export.manifest import read_manifest


def check_place(published: Path, needed: Sequence[Path]) -> None:
    """Make sure that nothing is lost where a folder is to be published: what is there will go.

    Args:
        needed: What the study reads, such as the folder of its model.

    Raises:
        ExportError: If there lies what was not published by this package, or what is needed.
    """
    place = published.resolve()
    for path in needed:
        if path.resolve().is_relative_to(place):
            raise ExportError(
                f"{published} is where the model is published, and what the study reads lies "
                f"there: {path}. Give another --output."
            )
    if not os.path.lexists(published):
        return
    try:
        # A link would be replaced, and not the folder that it names.
        is_ours = not published.is_symlink() and bool(read_manifest(published))
    except GateError:
        is_ours = False
    if not is_ours:
        raise ExportError(
            f"{published} is where the model is published, and what lies there was not published "
            "by autocompress: move it away, or give another --output."
        )


def put_in_place(folder: Path, published: Path, needed: Sequence[Path] = ()) -> None:
    """Rename a finished folder into its place; what was there goes once the new one is there.

    Both must be on one disk. Files become readable as the user's mask says: some libraries write
    weights for their owner alone.

    Args:
        needed: As `check_place` takes it.

    Raises:
        ExportError: If it cannot be done, or something would be lost; what was there is there.
    """
    check_place(published, needed)
    old = published.with_name(f".{published.name}.old")
    try:
        published.parent.mkdir(parents=True, exist_ok=True)
        mask = os.umask(0)
        os.umask(mask)
        for file in folder.rglob("*"):
            file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)
        folder.chmod(0o777 & ~mask)
        if old.exists():
            shutil.rmtree(old)
        if published.exists():
            published.rename(old)
        try:
            folder.rename(published)
        except OSError:
            if old.exists():
                old.rename(published)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"Cannot write {published}: {error.strerror}.") from error
