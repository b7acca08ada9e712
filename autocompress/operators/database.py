"""The level database: every built width, on disk, addressed by what it was built from."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from autocompress.errors import EvaluationError
from autocompress.models.surgery import Level
from autocompress.spaces.base import Choice, Site


def address(*parts: str) -> str:
    """Return the name of a database folder: a digest of all that its levels depend on."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


class LevelDatabase:
    """Built levels of one model under one calibration; a file holds all widths of one site.

    A file appears whole or not at all, so many processes may build and read at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, site: Site, settings: Sequence[int]) -> bool:
        """Whether every width of a site is there and readable."""
        try:
            with safe_open(self._file(site), framework="pt") as file:
                names = set(file.keys())
        except (OSError, SafetensorError):
            return False
        return all({f"kept.{n}", f"output.{n}"} <= names for n in settings)

    def write(self, site: Site, levels: Mapping[int, Level]) -> None:
        """Write all widths of a site."""
        tensors = {}
        for kept, level in levels.items():
            tensors[f"kept.{kept}"] = level.kept.contiguous().cpu()
            tensors[f"output.{kept}"] = level.output.contiguous().cpu()
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._file(site).with_suffix(f".{os.getpid()}.partial")
        save_file(tensors, partial)
        partial.replace(self._file(site))

    def level(self, site: Site, choice: Choice) -> Level:
        """Return one built width of a site.

        Raises:
            EvaluationError: If it was never built, or its file is gone or broken.
        """
        try:
            with safe_open(self._file(site), framework="pt") as file:
                return Level(
                    file.get_tensor(f"kept.{choice.kept}"),
                    file.get_tensor(f"output.{choice.kept}"),
                )
        except (OSError, SafetensorError) as error:
            raise EvaluationError(
                f"Level {choice} of layer {site.layer} {site.kind} cannot be read from "
                f"{self._file(site)}: {error}"
            ) from error

    def _file(self, site: Site) -> Path:
        return self._folder / f"layer{site.layer:04d}.{site.kind}.safetensors"


def settings_of(site: Site) -> tuple[int, ...]:
    """Return the widths of a site that have to be built: all but dense and dropped."""
    widths = {units for gene in site.genes for units in gene.units}
    return tuple(sorted(widths - {0, site.units}, reverse=True))
