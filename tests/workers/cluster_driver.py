"""Drivers on a Ray cluster: `python cluster_driver.py ADDRESS NAME FOLDER` runs one of them.

A driver is a process of its own, because a process can be in one cluster only. It prints JSON.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from autocompress.workers.base import BuildJob, SessionFactory
from autocompress.workers.ray_pool import RayPool
from tests.workers.toy_sessions import WAITS, ToyFactory, WaitingFactory, shard

SHARDS = [*[shard(WAITS)] * 4, *map(shard, range(20))]
"""The first four wait until the test lets them go on, and keep four workers in mid-measure."""


def measuring(address: str, folder: Path) -> object:
    return measured(ToyFactory(folder), address)


def loading(address: str, folder: Path) -> object:
    return measured(WaitingFactory(folder), address)


def measured(factory: SessionFactory, address: str) -> object:
    """Measure the shards with four workers; say what came, and how many workers were left."""
    with contextlib.closing(RayPool(factory, 4, address)) as pool:
        answers = [
            (index, answer[0].kl if isinstance(answer, tuple) else str(answer))
            for index, answer in pool.measure(SHARDS)
        ]
        pids = {pid for _, pid in pool.build([BuildJob((i,)) for i in range(20)])}
        return {"answers": answers, "workers": len(pids)}


DRIVERS: dict[str, Callable[[str, Path], object]] = {
    driver.__name__: driver for driver in (measuring, loading)
}

if __name__ == "__main__":
    told = DRIVERS[sys.argv[2]](sys.argv[1], Path(sys.argv[3]))
    sys.stdout.write(json.dumps(told) + "\n")
