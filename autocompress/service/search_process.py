"""How a search is begun in a process of its own, which ends with this one."""

import os
import sys
from pathlib import Path

from autocompress.pipeline.decoding_stored import is_joint
from autocompress.store.study_store import find_study


def search_command(storage: str, study: str, spec: Path, output: Path) -> list[str]:
    """Return the command that searches, or goes on with a study that the store knows.

    Args:
        spec: File of a search's settings; of a joint study they must be those that it began with.
        output: Folder that it publishes into.

    Raises:
        StoreError: If the database cannot be opened.
    """
    command = ["search", f"--spec={spec}", f"--study={study}"]
    row = find_study(storage, study)
    # A joint study goes on by the command that began it.
    if row is not None and not is_joint(row):
        command = ["resume", study]
    program = [sys.executable, "-m", "autocompress.service.parent", str(os.getpid())]
    return [*program, *command, f"--storage={storage}", f"--output={output}", "--json"]
