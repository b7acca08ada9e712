"""Signals a process with all that it began; it must lead a session of its own."""

import contextlib
import os
import signal
import subprocess


def signal_all(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to the leader of a session and to all that it began, if any is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
