"""Ray clusters of several nodes on this machine, which lose nodes as machines are lost.

`python clusters.py CPUS,GPUS ...` starts such a cluster, one node each and a head that holds
nothing, and prints its address and its nodes' processes. On its standard input, with which it
ends, it takes further nodes, and answers every line with the number of living ones. GPUs are
declared: none need be there.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Keeps all sockets on the loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "ab" * 32,
}


@dataclass(frozen=True)
class RunningCluster:
    """A cluster and what a process needs to join it."""

    address: str
    environment: Mapping[str, str]
    raylets: Sequence[int]
    """For each node the process that its workers descend from."""
    ask: Callable[[str], int]
    """Adds a node, if one is named; tells how many Ray takes to be alive, the head among them."""

    def add(self, node: str) -> None:
        """Start a further node."""
        self.ask(node)

    def lose(self, node: int) -> None:
        """Kill all processes of a node at once; return when Ray knows."""
        before = self.ask("")
        raylet = psutil.Process(self.raylets[node])
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()
        while self.ask("") == before:
            threading.Event().wait(0.1)


@contextlib.contextmanager
def running_cluster(*nodes: str) -> Iterator[RunningCluster]:
    """Start a cluster in a process of its own, and end it."""
    # Sockets have short names, so they cannot lie in pytest's folder.
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | ENVIRONMENT | {"RAY_TMPDIR": folder}
        keeper = subprocess.Popen(
            [sys.executable, __file__, *nodes],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        asking, answering = keeper.stdin, keeper.stdout
        assert asking is not None
        assert answering is not None

        def ask(node: str) -> int:
            asking.write(f"{node}\n")
            asking.flush()
            return int(answering.readline())

        try:
            told = json.loads(answering.readline())
            yield RunningCluster(told["address"], environment, told["raylets"], ask)
        finally:
            asking.close()
            keeper.wait()
            answering.close()


def main() -> None:
    # Imported here: Ray reads the environment, and tests that import this module have another.
    import ray
    from ray.cluster_utils import Cluster

    # Whatever Ray prints is not what the reader waits for.
    answering, sys.stdout = sys.stdout, sys.stderr
    cluster = Cluster()
    cluster.add_node(num_cpus=0, include_dashboard=False)

    def add(node: str) -> int:
        cpus, gpus = map(int, node.split(","))
        started = cluster.add_node(num_cpus=cpus, num_gpus=gpus)
        raylet: int = started.all_processes["raylet"][0].process.pid
        return raylet

    told = {"raylets": [add(node) for node in sys.argv[1:]], "address": cluster.address}
    print(json.dumps(told), file=answering, flush=True)
    ray.init(address=cluster.address, log_to_driver=False)
    for line in map(str.strip, sys.stdin):
        if line:
            add(line)
        # Ray has left its own functions without types.
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        print(sum(node["Alive"] for node in nodes), file=answering, flush=True)
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
