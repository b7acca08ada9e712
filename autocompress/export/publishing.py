"""Puts what was proven in its place: a folder appears whole or not at all."""

import os
import shutil
from pathlib import Path

from autocompress.errors import ExportError


def put_in_place(folder: Path, published: Path) -> None:
    """Rename a finished folder into its place; what was there goes once the new one is there.

    Both must be on one disk. Files become readable as the user's mask says: some libraries write
    weights for their owner alone.

    Raises:
        ExportError: If it cannot be done; what was there is there again.
    """
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
