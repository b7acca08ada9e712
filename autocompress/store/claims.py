"""Who has claimed work in a database, and whether they are gone."""

import socket
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import psutil

BEAT_SECONDS: Final = 20.0
"""Between two words that a claimant says of itself."""
SILENT_SECONDS: Final = 900.0
"""What a claimant was silent about for so long is taken over: a database that is waited for may
keep it silent for five minutes."""
BEGAN_SECONDS: Final = 60.0
"""By which a clock may have been set since a process began: another of its number began later."""


def claimant() -> str:
    """Return a name for this process that no other ever has, nor it twice."""
    # A process number may be given again: when it began tells two processes apart.
    own = psutil.Process()
    return f"{_machine()}:{own.pid}:{own.create_time():.2f}:{uuid.uuid4().hex[:8]}"


def is_gone(name: str, beat_at: str, now: datetime) -> bool:
    """Whether a claimant is gone: a process of this machine that ended, or a long silent one.

    Args:
        beat_at: When it was last heard of, ISO 8601.
    """
    # Also here: in a container that is started again at once, another process looks like it.
    if now - datetime.fromisoformat(beat_at) > timedelta(seconds=SILENT_SECONDS):
        return True
    machine, pid, began, _ = name.rsplit(":", 3)
    if machine != _machine():
        return False
    try:
        born = psutil.Process(int(pid)).create_time()
        return abs(born - float(began)) > BEGAN_SECONDS
    except (psutil.NoSuchProcess, ValueError):
        return True


def in_words(name: str) -> str:
    """Return a claimant as a person would look for it."""
    machine, pid, _, _ = name.rsplit(":", 3)
    return f"process {pid} on {machine.partition('/')[0]}"


def _machine() -> str:
    """Return what names the machine, or container, whose processes can be looked at from here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{socket.gethostname()}/{boot[:8]}/{Path('/proc/self/ns/pid').stat().st_ino}"
