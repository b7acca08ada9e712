"""One process of this machine times at a time: two at once would slow each other down."""

import contextlib
import fcntl
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Final

from autocompress.pipeline.observer import Observer, waiting
from autocompress.pipeline.prepared import cache_folder

_IS_OURS: Final[ContextVar[bool]] = ContextVar("is ours", default=False)


def turn_file() -> Path:
    """Return the file that who times has locked; homes may be shared by machines."""
    return cache_folder() / f"timing-{socket.gethostname()}.lock"


@contextlib.contextmanager
def timing_turn(observer: Observer) -> Iterator[None]:
    """Wait for the turn to time, and keep it until the block ends; a turn within a turn is one.

    The kernel takes it from a process that is killed. Only those who share a cache folder take
    turns, and where it cannot be written nobody is waited for: a search needs no turn to go on.
    """
    if _IS_OURS.get():
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            turn_file().parent.mkdir(parents=True, exist_ok=True)
            _lock(stack.enter_context(turn_file().open("a")), observer)
        before = _IS_OURS.set(True)
        try:
            yield
        finally:
            _IS_OURS.reset(before)


def turn_here(address: str | None, observer: Observer) -> AbstractContextManager[None]:
    """Take a turn if this machine is what times, and not a cluster, which deals out its cores."""
    return timing_turn(observer) if address is None else contextlib.nullcontext()


def _lock(file: IO[str], observer: Observer) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting(observer)("another process of this machine, which times")
        fcntl.flock(file, fcntl.LOCK_EX)
