"""Writes tensors into files that are whole or not there; a disk that refuses is told in a line."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from autocompress.errors import AutocompressError


def save_whole(
    file: Path,
    tensors: Mapping[str, Tensor],
    failure: type[AutocompressError],
    told: Mapping[str, str] | None = None,
) -> None:
    """Write tensors in the place of what was there; the file appears at once under its name.

    Args:
        tensors: On the CPU, contiguous, none sharing memory with another.
        failure: What to raise, naming the folder.
        told: The file's own metadata.

    Raises:
        AutocompressError: The `failure`, if the file cannot be written; nothing is left of it.
    """
    # Containers that share a folder have processes of the same number.
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with writing(file.parent, failure):
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(dict(tensors), partial, None if told is None else dict(told))
            partial.replace(file)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def writing(folder: Path, failure: type[AutocompressError]) -> Iterator[None]:
    """Say in one line that a folder cannot be written.

    Raises:
        AutocompressError: The `failure`.
    """
    try:
        yield
    except OSError as error:
        raise failure(f"Cannot write {folder}: {error.strerror or error}.") from error
    except SafetensorError as error:
        # What the system says to safetensors comes as words of its own, and as no OSError.
        raise failure(f"Cannot write {folder}: {error}.") from error
