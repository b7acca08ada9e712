"""What was published, written beside it: every file's SHA-256, the recipe and the report.

A folder can be checked against its manifest wherever it was copied to.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import safe_open

from autocompress.errors import ExportError, GateError
from autocompress.export.checkpoint import Artifact, changed_files, file_digest
from autocompress.models.saving import save_whole, writing

MANIFEST: Final = "manifest.json"
REFERENCE: Final = "reference.npz"
"""Not in safetensors: engines load every such file of a folder as weights."""
REFERENCE_POSITIONS: Final = 4
"""Of the prompt, the last ones, whose logits are kept: a whole vocabulary is much."""
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a published folder is.

    Args:
        engine: What opens it.
        versions: Of all that a result depends on.
        artifact: Its sizes, and the digests of its files.
        recipe: The winner as data.
        report: What it promises, as `report.json` has it.
    """

    study: str
    engine: str
    versions: Mapping[str, str]
    artifact: Artifact
    recipe: Mapping[str, object]
    report: Mapping[str, object]


def write_manifest(manifest: Manifest, reference: Path) -> None:
    """Write the manifest and the reference logits into the artifact's folder.

    Args:
        reference: What `gate.write_reference` kept of the candidate.

    Raises:
        ExportError: If the folder cannot be written.
    """
    artifact = manifest.artifact
    with writing(artifact.folder, ExportError):
        _keep_reference(reference, artifact.folder / REFERENCE)
        told = {
            "manifest": _VERSION,
            "study": manifest.study,
            "engine": manifest.engine,
            "versions": dict(manifest.versions),
            "artifact": {
                "parameters": artifact.parameters,
                "tensor_bytes": artifact.tensor_bytes,
                "linear_bytes": artifact.linear_bytes,
                "needs_remote_code": artifact.needs_remote_code,
                "file": artifact.file,
            },
            "recipe": manifest.recipe,
            "report": manifest.report,
            # As they were written, and the gate has found them again.
            "files": {**artifact.files, REFERENCE: file_digest(artifact.folder / REFERENCE)},
        }
        told = json.loads(json.dumps(told, allow_nan=False))  # as it will be read: keys are text
        text = json.dumps(told | {"sha256": _digest(told)}, indent=2)
        (artifact.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        GateError: If there is none, or it is not as it was written.
    """
    file = folder / MANIFEST
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        own = told.pop("sha256")
        if told["manifest"] != _VERSION or own != _digest(told):
            raise ValueError("it was changed")
        sizes = told["artifact"]
        artifact = Artifact(folder, **sizes, files=told["files"])
        return Manifest(
            told["study"],
            told["engine"],
            told["versions"],
            artifact,
            told["recipe"],
            told["report"],
        )
    except FileNotFoundError as error:
        raise GateError(
            f"{folder} holds no {MANIFEST}: `search` leaves one in `model/`."
        ) from error
    except OSError as error:
        raise GateError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError(f"{file} is not as it was written: {error}.") from error


def check_files(manifest: Manifest) -> None:
    """Make sure that a folder holds the files that were published, and no others.

    Raises:
        GateError: If it does not; all offenders are named.
    """
    artifact = manifest.artifact
    problems = changed_files(artifact)
    here = {file.relative_to(artifact.folder).as_posix() for file in artifact.folder.rglob("*")}
    strange = sorted(here - {*artifact.files, MANIFEST})
    problems += [f"{name} was not there" for name in strange]
    if problems:
        raise GateError(f"{artifact.folder} is not as it was published: {', '.join(problems)}.")


def unpack_reference(folder: Path, file: Path) -> None:
    """Write a published folder's reference as a gate reads it.

    Raises:
        GateError: If it is broken.
        ExportError: If the file cannot be written.
    """
    try:
        with np.load(folder / REFERENCE, allow_pickle=False) as kept:
            prompt, logits = kept["prompt"], kept["logits"]
    except (OSError, ValueError, KeyError) as error:
        raise GateError(f"{folder / REFERENCE} is not as it was written: {error}.") from error
    tensors = {"prompt": torch.from_numpy(prompt), "logits": torch.from_numpy(logits)}
    save_whole(file, tensors, ExportError)


def _keep_reference(reference: Path, file: Path) -> None:
    with safe_open(reference, framework="pt") as opened:
        prompt, logits = opened.get_tensor("prompt"), opened.get_tensor("logits")
    last = logits[:, -REFERENCE_POSITIONS:].contiguous()
    np.savez_compressed(file, prompt=prompt.numpy(), logits=last.numpy())


def _digest(told: Mapping[str, object]) -> str:
    """Return the SHA-256 of a manifest's own content, whatever its white space."""
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
