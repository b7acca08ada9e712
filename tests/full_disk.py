"""A disk without room, as far as this process sees."""

import contextlib
import resource
from collections.abc import Iterator

FULL = r"File too large"
"""What the system then says: python ignores the signal, so that the write fails."""


@contextlib.contextmanager
def no_room(n_bytes: int = 64) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
