"""Writes what people read, each file whole or not at all: a report, a front, a decoding."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from autocompress.errors import ExportError
from autocompress.export import decoding_figure, decoding_report, pareto_html
from autocompress.export.decoding_report import DecodingReport
from autocompress.export.pareto import ParetoFront
from autocompress.export.report import Report
from autocompress.export.report_html import to_html
from autocompress.export.report_markdown import to_markdown


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, report.md and report.html, each whole or not at all.

    Everything is set before anything is written, so that a report that cannot be set leaves the
    files of the last one as they were.

    Raises:
        ExportError: If a number is not finite or a file cannot be written.
    """
    texts = {
        "report.json": json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }
    write_texts(texts, folder)


def write_front(front: ParetoFront, folder: Path) -> None:
    """Write pareto.json and pareto.html, each whole or not at all.

    Raises:
        ExportError: If a number is not finite or a file cannot be written.
    """
    texts = {
        "pareto.json": json.dumps(front.to_json(), indent=2, allow_nan=False) + "\n",
        "pareto.html": pareto_html.to_html(front),
    }
    write_texts(texts, folder)


def write_decoding(report: DecodingReport, outputs: Mapping[str, str], folder: Path) -> None:
    """Write decoding.json, decoding.md, its figure and what engines are told, each whole.

    Args:
        outputs: Texts of further files by name.

    Raises:
        ExportError: If a number is not finite or a file cannot be written.
    """
    texts = {
        "decoding.json": json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n",
        decoding_figure.FILE: decoding_figure.to_svg_file(report),
        "decoding.md": decoding_report.to_markdown(report, decoding_figure.shown(report)),
    }
    write_texts({**texts, **outputs}, folder)


def read_report(path: Path) -> Report:
    """Read a report.json.

    Raises:
        ExportError: If the file cannot be read or holds no report.
    """
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {' '.join(str(error).split())}.") from error
    return Report.from_json(mapping)


def write_texts(texts: Mapping[str, str], folder: Path) -> None:
    """Write texts to files of a folder, by name, each whole or not at all.

    Raises:
        ExportError: If a file cannot be written.
    """
    for name, text in texts.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / name, text)
        except OSError as error:
            raise ExportError(f"Cannot write {folder / name}: {error.strerror}.") from error


def _replace(path: Path, text: str) -> None:
    """Write beside the file, then rename: a reader sees the old text or the new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            # mkstemp gives 0600; a report is read by others than its writer.
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
