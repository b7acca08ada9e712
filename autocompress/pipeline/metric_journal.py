"""What an evolution of metrics has measured, line by line in its output folder.

A line is written when its figures are known, so that a kill loses one evaluation at most; a
search begun again reads them back and asks for the same ones in the same order.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from autocompress.errors import ExportError, SpecError
from autocompress.export.render import write_texts

Key = tuple[str | int, ...]
"""What was measured: an expression, how it was pruned, which text was read."""


class MetricJournal:
    """Measured figures by their keys, in a file of JSON Lines whose first one says of what."""

    def __init__(self, path: Path, known: dict[Key, Any]) -> None:
        self._path = path
        self._known = known

    @classmethod
    def open(cls, path: Path, of: Mapping[str, Any]) -> Self:
        """Read a journal, or begin one; what the last line lacks after a kill is dropped.

        Args:
            of: All that the figures depend on, in plain values.

        Raises:
            SpecError: If the file holds figures of something else.
            ExportError: If it can be neither read nor written, or holds no journal.
        """
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ExportError(f"Cannot read {path}: {error}.") from error
        lines = text.split("\n")[:-1]
        if not lines:
            write_texts({path.name: json.dumps(of) + "\n"}, path.parent)
            return cls(path, {})
        try:
            head, *rows = map(json.loads, lines)
            known = {tuple(row["of"]): row["found"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{path} is no journal of metrics; move it away.") from error
        others = [name for name in of if not isinstance(head, dict) or head.get(name) != of[name]]
        if others:
            raise SpecError(
                f"{path.parent} holds a search with another {', '.join(others)}: give the same, "
                "or another --output."
            )
        if not text.endswith("\n"):
            write_texts({path.name: "\n".join(lines) + "\n"}, path.parent)
        return cls(path, known)

    def get(self, key: Key) -> Any:
        """Return what was found; None if nothing was."""
        return self._known.get(key)

    def add(self, key: Key, found: Any) -> None:
        """Keep what was found, on the disk when it returns.

        Raises:
            ExportError: If it cannot be written.
        """
        line = json.dumps({"of": key, "found": found}, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ExportError(f"Cannot write {self._path}: {error.strerror}.") from error
        self._known[key] = found
