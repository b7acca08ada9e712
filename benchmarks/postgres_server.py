"""A PostgreSQL server of one's own on the loopback, to be stopped and started at will."""

import os
import shutil
import socket
import subprocess
from pathlib import Path


def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs; None where they are not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        return None
    return found[-1].parent if found else Path(str(on_path)).parent


class PostgresServer:
    """One server on a free port; `start` after `stop` brings the same one back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        folder.mkdir()
        if os.getuid() == 0:  # which the server refuses to run as
            shutil.chown(folder, "postgres")
        self._run("initdb", "--username=root", "--auth=trust", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://root@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder}"
        log = f"--log={self._folder}/log"
        self._run("pg_ctl", "start", "--wait", "--silent", log, f"--options={options}")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "stop", "--wait", "--silent", f"--mode={mode}")

    def _run(self, program: str, *arguments: str) -> None:
        command = [f"{binaries()}/{program}", f"--pgdata={self._folder}/data", *arguments]
        as_postgres = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        # No pipe: the server would hold it open for as long as it runs.
        subprocess.run([*as_postgres, *command], check=True, stdout=subprocess.DEVNULL, cwd="/")
