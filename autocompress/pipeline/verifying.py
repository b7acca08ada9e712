"""Checks a published folder again, wherever it lies: its files, and that it loads and answers."""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from autocompress.errors import EngineError, ExportError, GateError
from autocompress.evaluators.torch_engine import has_own_modeling
from autocompress.export import gate, gguf_gate
from autocompress.export.compressed_checkpoint import compressed_tensors_package
from autocompress.export.gate import GateReport
from autocompress.export.manifest import (
    MANIFEST,
    Manifest,
    check_files,
    read_manifest,
    unpack_reference,
)
from autocompress.models.loading import load_tokenizer, pick_device
from autocompress.operators.ggml_blocks import check_packages
from autocompress.pipeline.conclusion import MODEL


@dataclass(frozen=True, slots=True)
class Verification:
    """A folder that is as it was published.

    Args:
        gate: What its engine found in it; None where it was not opened.
        untested: Why it was not opened; empty if it was.
        answer: What it said after the sample prompt; empty where no tokenizer lies beside it.
    """

    manifest: Manifest
    gate: GateReport | None
    untested: str = ""
    answer: str = ""


def verify(named: Path, device: str, *, loads: bool = True) -> Verification:
    """Check a folder that a search published, or the folder that holds its `model/`.

    Args:
        loads: Open it in its engine, in a process of its own, too.

    Raises:
        GateError: If it is not as it was published, or its engine does not find in it what was.
        ModelError: If the device is not here.
    """
    is_outer = not (named / MANIFEST).is_file() and (named / MODEL).is_dir()
    manifest = read_manifest(named / MODEL if is_outer else named)
    check_files(manifest)
    untested = _untested(manifest) if loads else "only its files were asked for"
    if untested:
        return Verification(manifest, None, untested)
    # What was just read file by file need not be read once more.
    artifact = dataclasses.replace(manifest.artifact, files={})
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch) / gate.REFERENCE
        unpack_reference(artifact.folder, reference)
        if artifact.file is not None:
            report = gguf_gate.check(artifact, reference)
        else:
            report = gate.check(artifact, reference, str(pick_device(device)))
    if not report.passed:
        raise GateError(
            f"{artifact.path} is as it was published, but {report.engine} finds something else "
            f"in it: {'; '.join(report.failures)}."
        )
    return Verification(manifest, report, answer=_answer(manifest, report))


def to_text(found: Verification) -> str:
    """Return what was found in words."""
    manifest, report = found.manifest, found.gate
    folder, n = manifest.artifact.folder, len(manifest.artifact.files)
    by = f"autocompress {manifest.versions.get('autocompress')}"
    lines = [f"{folder}: {n} files as study {manifest.study} published them, by {by}."]
    if report is None:
        lines.append(f"NOT load-tested: {found.untested}.")
    else:
        seen = report.findings
        lines.append(
            f"Opened by {report.engine} {report.engine_version}: logits within "
            f"{seen.largest_difference:.3g} of those recorded, allowed {seen.tolerance:.3g}; with "
            f"a KV cache it generates the same; it answered with {len(seen.answer)} tokens."
        )
    if found.answer:
        lines.append(f"Its answer to the sample prompt: {found.answer!r}")
    return "\n".join(lines) + "\n"


def _untested(manifest: Manifest) -> str:
    """Say why a folder cannot be opened here; empty if it can."""
    artifact = manifest.artifact
    try:
        if artifact.file is not None:
            check_packages()
        else:
            config = (artifact.folder / "config.json").read_text("utf-8")
            if '"quant_method": "gptq"' in config:
                return "transformers opens GPTQ with other packages alone; ask vLLM"
            if "compressed-tensors" in config:
                compressed_tensors_package()
    except (EngineError, ExportError) as error:
        return str(error).rstrip(".")
    if artifact.needs_remote_code and not has_own_modeling(artifact.folder):
        return "its modeling files are those of another version of autocompress, and are not run"
    return ""


def _answer(manifest: Manifest, report: GateReport) -> str:
    if manifest.artifact.file is not None:
        return ""
    return str(load_tokenizer(manifest.artifact.folder).decode(list(report.findings.answer)))
