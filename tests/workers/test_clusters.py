"""A pool on a Ray cluster of several nodes: what is lost with one, and who is placed where."""

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autocompress.workers.local_pool import LocalPool
from tests.workers.cluster_driver import SHARDS
from tests.workers.clusters import RunningCluster, running_cluster
from tests.workers.toy_sessions import ToyFactory

# A node takes seconds to start, and Ray a quarter of a minute to be sure that one is lost.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DRIVER = Path(__file__).with_name("cluster_driver.py")


def start(cluster: RunningCluster, name: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(DRIVER), cluster.address, name, str(folder)],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(driver: "subprocess.Popen[str]") -> Any:
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0
    return json.loads(output.splitlines()[-1])


def wait_for_marks(folder: Path, pattern: str, n: int) -> None:
    deadline = time.monotonic() + 100
    while len(list(folder.glob(pattern))) < n:
        assert time.monotonic() < deadline, sorted(folder.iterdir())
        time.sleep(0.02)


@pytest.mark.parametrize("when", ["measuring", "loading"])
def test_a_node_lost_with_its_workers_costs_no_shard_and_doubles_none(
    when: str, tmp_path: Path
) -> None:
    with running_cluster("2,0", "2,0") as cluster:
        driver = start(cluster, when, tmp_path)
        wait_for_marks(tmp_path, "*.waits", 4)
        cluster.lose(1)
        (tmp_path / "go").touch()
        found = told(driver)

    with contextlib.closing(LocalPool(ToyFactory(tmp_path), 2)) as pool:
        undisturbed = {
            index: list(answer[0].kl)
            for index, answer in pool.measure(SHARDS)
            if not isinstance(answer, Exception)
        }
    indices = [index for index, _ in found["answers"]]
    assert sorted(indices) == list(range(len(SHARDS)))
    assert dict(found["answers"]) == undisturbed
    # The cluster holds no more, and the run did not wait for more.
    assert found["workers"] == 2


def test_a_node_that_comes_back_works_again(tmp_path: Path) -> None:
    with running_cluster("2,0", "2,0") as cluster:
        driver = start(cluster, "measuring", tmp_path)
        wait_for_marks(tmp_path, "*.waits", 4)
        cluster.lose(1)
        cluster.add("2,0")
        # The two that are left have yet to answer: others were given what was lost.
        wait_for_marks(tmp_path, "*.waits", 6)
        (tmp_path / "go").touch()
        found = told(driver)

    indices = [index for index, _ in found["answers"]]
    assert sorted(indices) == list(range(len(SHARDS)))


def test_workers_share_gpus_as_they_were_told(tmp_path: Path) -> None:
    with running_cluster("3,1", "3,1") as cluster:
        found = told(start(cluster, "placing", tmp_path))

    refused = found.pop("three of six tenths")
    sessions = {
        name: Counter((place["node"], *place["gpus"]) for place in own["places"])
        for name, own in found.items()
    }
    assert all(own["asked"] == own["at once"] == len(own["places"]) for own in found.values())
    assert sorted(sessions["halves"].values()) == [2, 2]
    # One session a device, as also where nothing was said.
    assert sorted(sessions["wholes"].values()) == [1, 1]
    assert sorted(sessions["by themselves"].values()) == [1, 1]
    assert sorted(sessions["three of any"].values()) == [1, 2]
    # CUDA is shown that one device, by its name on its own node.
    assert {place["cuda"] for own in found.values() for place in own["places"]} == {"0"}
    assert refused == (
        "The Ray cluster holds 2 workers, each with a CPU and 0.6 GPU of one node, but got 3. "
        "Lower --workers."
    )
