"""Runs a service's processes in a network of their own, up to a published model."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.postgres_server import binaries

ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "-n"] if os.getuid() == 0 else ["unshare", "-r", "-n"]
"""Gives a command a network of its own."""

needs_postgres = pytest.mark.skipif(
    binaries() is None, reason="PostgreSQL's server is not installed here"
)
needs_own_network = pytest.mark.skipif(
    subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0,
    reason="the system lets nobody have a network of his own (`unshare -n`)",
)


def told_by(script: str, models: Path, calibration: Path) -> dict[str, Any]:
    """Run a script of this folder to its end; return what its last line tells, as JSON."""
    command = [*ALONE, sys.executable, str(Path(__file__).with_name(script))]
    # Another user runs PostgreSQL, who must get there; and sockets have short names.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        done = subprocess.run(
            [*command, folder, str(models), str(calibration)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
