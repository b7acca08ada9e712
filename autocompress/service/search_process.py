"""How a search is begun in a process of its own, which ends with this one."""

import os
import sys
from pathlib import Path

from autocompress.store.study_store import find_study


def search_command(storage: str, study: str, spec: Path, output: Path) -> list[str]:
    """Return the command that searches, or goes on with a study that the store knows.

    Args:
        spec: File of a search's settings.
        output: Folder that it publishes into.

    Raises:
        StoreError: If the database cannot be opened.
    """
    command = ["search", f"--spec={spec}", f"--study={study}"]
    if find_study(storage, study) is not None:
        command = ["resume", study]
    program = [sys.executable, "-m", "autocompress.service.parent", str(os.getpid())]
    return [*program, *command, f"--storage={storage}", f"--output={output}", "--json"]
