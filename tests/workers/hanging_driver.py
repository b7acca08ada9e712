"""A driver whose two workers hang: `python hanging_driver.py (local|ray) FOLDER`."""

import sys
from pathlib import Path

from autocompress.workers.base import WorkerPool
from autocompress.workers.local_pool import LocalPool
from tests.workers.toy_sessions import HANGS, ToyFactory, shard


# Without the usual guard on purpose: a worker must not run its driver's script again.
def make_pool(kind: str, marks: Path) -> WorkerPool:
    """Return the pool to test."""
    if kind == "local":
        return LocalPool(ToyFactory(marks), 2)
    from autocompress.workers.ray_pool import RayPool

    return RayPool(ToyFactory(marks), 2, address=None)


list(make_pool(sys.argv[1], Path(sys.argv[2])).measure([shard(HANGS), shard(HANGS)]))
