"""Measures every candidate of the enumerated spaces once, and keeps their losses in one file."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.models import loading
from autocompress.pipeline.prepared import prepare
from autocompress.spec import SearchSpec
from autocompress.trial import Fidelity, Genotype, Split
from autocompress.workers.base import Shard
from autocompress.workers.local_pool import LocalPool
from benchmarks.laboratory import MODEL, workers
from benchmarks.optimum_spaces import EnumeratedSpace, enumerated_spaces

PART = 1024
"""Candidates measured together on one sequence: as many as share a walk at 256 tokens."""


@dataclass(frozen=True, slots=True)
class Table:
    """The recorded losses of one space.

    Args:
        kl: (candidates, sequences) float32 nats a token; the members first, then the strangers.
    """

    space: EnumeratedSpace
    rows: dict[Genotype, int]
    n_members: int
    kl: np.ndarray

    @property
    def losses(self) -> np.ndarray:
        """The mean loss of each member over all recorded sequences."""
        return np.asarray(self.kl[: self.n_members].mean(axis=1, dtype=np.float64))


def candidates_of(space: EnumeratedSpace) -> list[Genotype]:
    """Return whom a table holds, in its order."""
    return [*space.genotypes, *space.strangers]


def record(file: Path, sequences: int, n_workers: int) -> None:
    """Measure what is missing and write the file; parts that are done lie beside it meanwhile."""
    prepared = prepare(SearchSpec(str(MODEL), 2.0, space=("depth", "width")))
    folder = file.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"weights": np.asarray(loading.fingerprint(MODEL))}
    for space in enumerated_spaces(prepared.architecture):
        wanted = candidates_of(space)
        own = dataclasses.replace(prepared, space=space.constraint.space)
        with workers(own, n_workers) as pool:
            kl = _recorded(pool, space.name, wanted, sequences, folder)
        arrays[f"{space.name}.levels"] = np.asarray([g.levels for g in wanted], dtype=np.uint8)
        arrays[f"{space.name}.kl"] = kl
    with file.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def read(file: Path) -> list[Table]:
    """Return the tables of a file, one for each space.

    It is refused where it was recorded of another model or of other spaces.
    """
    tables = []
    with np.load(file) as arrays:
        if str(arrays["weights"]) != loading.fingerprint(MODEL):
            raise SystemExit(f"{file} was recorded of another model; remove it to record anew.")
        for space in enumerated_spaces(loading.load_architecture(MODEL, False)):
            wanted = candidates_of(space)
            levels = np.asarray([g.levels for g in wanted], dtype=np.uint8)
            if not np.array_equal(levels, arrays[f"{space.name}.levels"]):
                raise SystemExit(f"{file} was recorded of other spaces; remove it to record anew.")
            rows = {genotype: row for row, genotype in enumerate(wanted)}
            kl = arrays[f"{space.name}.kl"]
            tables.append(Table(space, rows, len(space.members), kl))
    return tables


def _recorded(
    pool: LocalPool, name: str, wanted: Sequence[Genotype], sequences: int, folder: Path
) -> np.ndarray:
    """Return (candidates, sequences) losses, those of finished parts from the folder."""
    parts = []
    for first in range(0, len(wanted), PART):
        path = folder / f"{name}-{sequences}-{first}.npy"
        if not path.is_file():
            started = time.monotonic()
            part = _measured(pool, wanted[first : first + PART], sequences)
            unfinished = path.with_suffix(".part")
            with unfinished.open("wb") as stream:
                np.save(stream, part)
            unfinished.rename(path)
            seconds = time.monotonic() - started
            done = min(first + PART, len(wanted))
            print(f"{name}: {done} of {len(wanted)}, {seconds:.0f} s", flush=True)
        parts.append(np.load(path))
    return np.concatenate(parts)


def _measured(pool: LocalPool, genotypes: Sequence[Genotype], sequences: int) -> np.ndarray:
    """Return (candidates, sequences) losses; a shard is a sequence, read by all."""
    shards = [
        Shard(tuple(genotypes), Fidelity(Split.SEARCH, 0, first, 1)) for first in range(sequences)
    ]
    kl = np.full((len(genotypes), sequences), np.nan, dtype=np.float32)
    for index, result in pool.measure(shards):
        if isinstance(result, Exception):
            raise result
        kl[:, index] = [measurement.kl[0] for measurement in result]
    if not np.isfinite(kl).all():
        raise SystemExit("a recorded loss is not finite")
    return kl
