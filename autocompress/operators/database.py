"""The level database: tensors in files that are whole or not there, addressed by what made them.

A file appears at once under its name, so many processes may build and read together; what it
holds is checked against a digest whenever it is read. Nodes that share no disk share levels by a
storage that all of them reach: what a node lacks is fetched from there, once.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from autocompress.errors import EvaluationError
from autocompress.models.saving import save_whole
from autocompress.operators.shared_storage import SharedStorage

CHECKSUM = "checksum"


def address(*parts: str) -> str:
    """Return the name of a database folder: a digest of all that its levels depend on."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


class LevelDatabase:
    """Named sets of tensors of one model under one calibration.

    Args:
        folder: On this node; its name is the `address`.
        shared: Where other nodes look too, or None.
    """

    def __init__(self, folder: Path, shared: SharedStorage | None = None) -> None:
        self._folder = folder
        self._shared = shared

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Return what was written under a name; None if nothing was, or it is not as written.

        Raises:
            EvaluationError: If the shared storage cannot be reached.
        """
        tensors = self._read(name)
        if tensors is None and self._shared is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._shared.fetch(self._file(name)):
                tensors = self._read(name)
        return tensors

    def _read(self, name: str) -> dict[str, Tensor] | None:
        try:
            with safe_open(self._file(name), framework="pt") as file:
                promised = (file.metadata() or {}).get(CHECKSUM)
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return tensors if _checksum(tensors) == promised else None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors under a name, in the place of what was there.

        Raises:
            EvaluationError: If the folder or the shared storage cannot be written.
        """
        plain = {key: tensor.contiguous().cpu() for key, tensor in tensors.items()}
        file = self._file(name)
        save_whole(file, plain, EvaluationError, {CHECKSUM: _checksum(plain)})
        if self._shared is not None:
            self._shared.give(file)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names, types, shapes and every byte."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
