"""Runs the commands of docker-compose.yml as plain processes, in a network of their own.

`unshare -n python compose_machine.py FOLDER MODELS TEXT` is what the test starts: the loopback is
all that the processes have, so their ports are free and nobody else reaches them. Volumes and
secrets are folders, names of containers are the loopback's; all else is as the file has it.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.postgres_server import binaries

ROOT = Path(__file__).parents[2]
SIOCGIFFLAGS, SIOCSIFFLAGS, UP = 0x8913, 0x8914, 1
VARIABLES = {"WORKERS": "2", "WORKER_CPUS": "1"}
TOKEN = "a-token-of-a-test-that-is-long-enough"
PATIENCE_SECONDS = 240


def raise_loopback() -> None:
    """Bring up `lo`, which a new network has, but down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("16sh", b"lo", 0) + b"\0" * 22
        (flags,) = struct.unpack("h", fcntl.ioctl(asked, SIOCGIFFLAGS, request)[16:18])
        fcntl.ioctl(asked, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | UP) + b"\0" * 22)


class Machine:
    """The services of a compose file, as processes of this machine."""

    def __init__(self, folder: Path, models: Path) -> None:
        self._folder = folder
        text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
        self.services: Mapping[str, Any] = yaml.safe_load(text)["services"]
        self._places = {
            "/app": ROOT,
            "/run/secrets": folder / "secrets",
            "/cache": folder / "cache",
            "/data": folder / "data",
            "/models": models,
        }
        for place in self._places.values():
            place.mkdir(exist_ok=True)
        for name, secret in (
            ("db-password", "p" * 20),
            ("api-token", TOKEN),
            ("ray-token", "ab" * 32),
        ):
            (folder / "secrets" / name).write_text(secret, encoding="utf-8")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str) -> None:
        """Start a service once all that it depends on is healthy; as often as it is wanted."""
        service = self.services[name]
        for other in service.get("depends_on", {}):
            self.wait(other)
        replicas = self._told(str(service.get("deploy", {}).get("replicas", 1)))
        for _ in range(int(replicas)):
            self._run(name, [str(ROOT / "scripts" / "container.sh"), *service["command"]])

    def wait(self, name: str) -> None:
        """Wait until a service's own health check says that it is healthy."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        test = self.services[name]["healthcheck"]["test"][1:]
        while True:
            check = subprocess.run(
                [self._told(part) for part in test],
                env=self._environment(name),
                capture_output=True,
                check=False,
            )
            if check.returncode == 0:
                return
            assert time.monotonic() < deadline, (name, check.stderr[-2000:])
            time.sleep(1)

    def start_postgres(self) -> None:
        """Start what the image of PostgreSQL is: a server with a user and a password."""
        folder, programs = self._folder / "postgres", binaries()
        folder.mkdir()
        password = self._folder / "secrets" / "db-password"
        as_postgres = []
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
            as_postgres = ["runuser", "-u", "postgres", "--"]
        common = [*as_postgres, f"{programs}/initdb", f"--pgdata={folder}/data"]
        user = self.services["postgres"]["environment"]["POSTGRES_USER"]
        options = [f"--username={user}", "--auth=scram-sha-256", f"--pwfile={password}"]
        subprocess.run([*common, *options], check=True, cwd="/", stdout=subprocess.DEVNULL)
        server = [f"{programs}/postgres", "-D", f"{folder}/data", "-k", str(folder)]
        self._run("postgres", [*as_postgres, *server, "-h", "127.0.0.1"])
        os.environ["PATH"] += f":{programs}"
        os.environ["PGHOST"] = "127.0.0.1"
        self.wait("postgres")
        created = ["createdb", f"--username={user}", user]
        subprocess.run(
            created, check=True, env=os.environ | {"PGPASSWORD": password.read_text("utf-8")}
        )

    def stop(self) -> None:
        """End all services, the last first."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _run(self, name: str, command: Sequence[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [self._told(str(part)) for part in command],
                env=self._environment(name),
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._folder,
            )
        self._processes.append(process)

    def _environment(self, name: str) -> dict[str, str]:
        own = self.services[name].get("environment", {})
        told = {key: self._told(str(value)) for key, value in own.items()}
        own_paths = {
            "SECRETS": str(self._places["/run/secrets"]),
            "AUTOCOMPRESS_CACHE": str(self._places["/cache"]),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            # In a network without another machine Ray would take its own for Windows.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            "RAY_TMPDIR": str(self._folder / "ray"),
        }
        return os.environ | told | own_paths

    def _told(self, text: str) -> str:
        """Return a part of a command as this machine has it."""
        text = re.sub(
            r"\$\{(\w+):-([^}]*)\}", lambda found: VARIABLES.get(found[1], found[2]), text
        )
        for place, here in self._places.items():
            text = re.sub(rf"(?<![\w/.]){re.escape(place)}(?=/|$)", str(here), text)
        text = re.sub(r"\bray-head:", "127.0.0.1:", text)
        return text.replace("@postgres/", "@127.0.0.1/").replace("0.0.0.0", "127.0.0.1")


@contextlib.contextmanager
def machine(folder: Path, models: Path) -> Iterator[Machine]:
    """Start all services; end them."""
    own = Machine(folder, models)
    try:
        own.start_postgres()
        for name in own.services:
            if name != "postgres":
                own.start(name)
        for name in own.services:
            own.wait(name)
        yield own
    finally:
        own.stop()


def asked(path: str, body: object = None, port: int = 8090) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
    )
    with urllib.request.urlopen(request, timeout=60) as opened:
        return json.loads(opened.read())


def main() -> None:
    folder, models, text = map(Path, sys.argv[1:])
    raise_loopback()
    shutil.copy(text, models / "text.txt")
    spec = {
        "model": "model",
        "target_params": "90%",
        "space": "depth",
        "workload": "1x8+4",
        "calibration": "text.txt",
        "context": 16,
        "max_tokens": 20000,
        "timing_processes": 2,
        "pool": "ray",
        "address": "auto",
    }
    with machine(folder, models):
        unknown = None
        try:
            urllib.request.urlopen("http://127.0.0.1:8090/v1/studies")
        except urllib.error.HTTPError as error:
            unknown = error.code
        asked("/v1/studies", {"name": "first", "spec": spec})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (study := asked("/v1/studies/first"))["state"] != "finished":
            assert study["state"] in ("waiting", "running"), study
            assert time.monotonic() < deadline, study
            time.sleep(1)
        report = asked("/v1/studies/first/report")
        files = [file["path"] for file in asked("/v1/studies/first/artifacts")]
        while not (shown := asked("/api/studies", port=8080)["study_summaries"]):
            assert time.monotonic() < deadline
            time.sleep(1)
    told = {"met": report["met"], "files": files, "refused": unknown}
    sys.stdout.write(json.dumps(told | {"shown": [own["study_name"] for own in shown]}) + "\n")


if __name__ == "__main__":
    main()
