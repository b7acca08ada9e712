"""Submits the search of deploy/kubernetes/search as KubeRay does, to Ray nodes as it starts them.

`unshare -n python ray_job_machine.py FOLDER MODELS TEXT` is what the test starts. Pods are plain
processes, as in compose_machine.py, begun with the flags that the RayCluster has for `ray start`;
the submitter's `ray job submit` goes through the head's dashboard, whose token it shows. Of
KubeRay itself nothing runs.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.service.compose_machine import PATIENCE_SECONDS, Machine, raise_loopback
from tests.service.manifests import pods_of, read_documents

SMALLER = [
    *("--context=16", "--workload=1x8+4", "--max-tokens=20000", "--space=depth,bits"),
    "--timing-processes=2",
]
"""For a tiny model, whose search is to end soon."""


def nodes(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes of a RayCluster, in the words of a compose file."""
    spec, pods = cluster["spec"], pods_of(cluster)
    (group,) = spec["workerGroupSpecs"]
    starts = {
        "ray-head": ["--head", *flags(spec["headGroupSpec"]["rayStartParams"])],
        "ray-worker-cpu": flags(group["rayStartParams"]),
    }
    return {
        name: {
            "command": ["ray", "start", *own, "--block"],
            "environment": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32},
            "healthcheck": {"test": ["CMD", *probe(pods[name])]},
        }
        for name, own in starts.items()
    }


def probe(pod: Mapping[str, Any]) -> list[str]:
    """Return the command that tells whether a pod is ready."""
    command: list[str] = pod["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    return command


def flags(params: Mapping[str, str]) -> list[str]:
    """Return the flags that KubeRay writes for `rayStartParams`."""
    named = ("include-dashboard",)  # Of what is true or false, it gives a value to these alone.
    return [
        f"--{name}" if value == "true" and name not in named else f"--{name}={value}"
        for name, value in params.items()
    ]


def wait_for_cpus(environment: Mapping[str, str], cpus: int) -> None:
    """Wait until the head knows the workers: their probe asks for the head alone."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while f"/{cpus}.0 CPU" not in told(["ray", "status"], environment).stdout:
        assert time.monotonic() < deadline, told(["ray", "status"], environment)
        time.sleep(1)


def told(
    command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def main() -> None:
    folder, models, text = map(Path, sys.argv[1:])
    raise_loopback()
    documents = read_documents()
    own = Machine(folder, models)
    own.services = {
        "postgres": own.services["postgres"],
        **nodes(documents["RayCluster/autocompress"]),
    }
    entrypoint = shlex.split(documents["RayJob/first"]["spec"]["entrypoint"])
    submit = ["ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--"]
    environment = own._environment("ray-head") | {"RAY_ADDRESS": "127.0.0.1:6379"}
    (group,) = documents["RayCluster/autocompress"]["spec"]["workerGroupSpecs"]
    try:
        own.start_postgres()
        own.start("ray-head")
        own.wait("ray-head")
        # One after the other: on one machine, two that start at once want the same socket.
        for count in range(1, group["replicas"] + 1):
            own.start("ray-worker-cpu")
            own.wait("ray-worker-cpu")
            wait_for_cpus(environment, count * int(group["rayStartParams"]["num-cpus"]))
        done = told(
            [*submit, *map(own._told, entrypoint), *SMALLER, f"--calibration={text}"], environment
        )
    finally:
        own.stop()
    if done.returncode != 0:
        sys.exit((done.stdout + done.stderr)[-4000:])
    report = json.loads((folder / "data" / "first" / "report.json").read_text(encoding="utf-8"))
    published = sorted(file.name for file in (folder / "data" / "first").iterdir())
    sys.stdout.write(json.dumps({"met": report["met"], "files": published}) + "\n")


if __name__ == "__main__":
    main()
