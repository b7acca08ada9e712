"""Drivers on a Ray cluster: `python cluster_driver.py ADDRESS NAME FOLDER` runs one of them.

A driver is a process of its own, because a process can be in one cluster only. It prints JSON.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from autocompress.errors import EngineError
from autocompress.workers.base import BuildJob, SessionFactory
from autocompress.workers.ray_pool import RayPool
from tests.workers.placed_sessions import PlacedFactory
from tests.workers.toy_sessions import (
    WAITS,
    RaisingFactory,
    ToyFactory,
    WaitingFactory,
    shard,
)

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


def placing(address: str, folder: Path) -> object:
    """Say for each share of a GPU how many workers there are, and where those of the pool ran."""
    return {
        "halves": placed(address, folder / "halves", None, 0.5),
        "wholes": placed(address, folder / "wholes", None, 1.0),
        "by themselves": placed(address, folder / "by themselves", None, None),
        "three of any": placed(address, folder / "three of any", 3, None),
        "three of six tenths": refusal(address, 3, 0.6),
    }


def placed(address: str, folder: Path, n_workers: int | None, share: float | None) -> object:
    """Have all workers of a pool measure at once; say where they ran."""
    folder.mkdir()
    with contextlib.closing(RayPool(PlacedFactory(folder), n_workers, address, share)) as pool:
        # Each waits until all have one, so none does two.
        measuring = pool.measure([shard(WAITS)] * pool.n_workers)
        thread = threading.Thread(target=list, args=(measuring,))
        thread.start()
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*.waits"))) < pool.n_workers and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        n_at_once = len(list(folder.glob("*.waits")))
        (folder / "go").touch()
        thread.join()
    places = [json.loads(mark.read_text("utf-8")) for mark in folder.glob("*.place")]
    return {"asked": pool.n_workers, "at once": n_at_once, "places": places}


def refusal(address: str, n_workers: int, share: float) -> str:
    """Return why a pool is refused."""
    pool = RayPool(RaisingFactory(), n_workers, address, share)
    try:
        list(pool.measure(SHARDS))
    except EngineError as error:
        return str(error)
    finally:
        pool.close()
    return ""


DRIVERS: dict[str, Callable[[str, Path], object]] = {
    driver.__name__: driver for driver in (measuring, loading, placing)
}

if __name__ == "__main__":
    told = DRIVERS[sys.argv[2]](sys.argv[1], Path(sys.argv[3]))
    sys.stdout.write(json.dumps(told) + "\n")
