"""Runs the HTTP API until it is interrupted."""

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn

from autocompress.errors import EngineError, SpecError
from autocompress.service.api import Service, make_app
from autocompress.service.jobs import Jobs

LEAST_TOKEN: Final = 16
"""Letters of a token: shorter ones are guessed."""
GRACE_SECONDS: Final = 3
"""For open streams, when the service ends."""


def run_api(
    storage: str,
    output: Path,
    root: Path,
    host: str,
    port: int,
    token_file: Path | None,
    said: Callable[[str], None],
) -> None:
    """Serve until interrupted; what runs then goes on at the next start.

    Args:
        output: That searches publish into.
        root: That specs may name files of.
        port: 0 takes a free one.
        said: Is told the address once it answers.

    Raises:
        AutocompressError: If it must not listen there, or cannot.
    """
    token = None if token_file is None else _token(token_file)
    if token is None and not _is_loopback(host):
        raise SpecError(
            f"`--token-file` must be given to listen on {host}: beyond the loopback anybody could "
            "start searches."
        )
    listening = _listen(host, port)
    try:
        jobs = Jobs(storage, output.resolve())
        service = Service(storage, output.resolve(), root.resolve(), token)
        app = make_app(service, jobs)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
        )
        jobs.start()
        try:
            said(f"http://{host}:{listening.getsockname()[1]}/")
            uvicorn.Server(config).run([listening])
        finally:
            jobs.stop()
    finally:
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # Whoever reads the address may ask at once: until the server answers, requests wait.
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        raise EngineError(f"Cannot listen on {host}:{port}: {error}.") from error
    return listening


def _token(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read {file}: {getattr(error, 'strerror', error)}.") from error
    if len(token) < LEAST_TOKEN or not token.isascii():
        raise SpecError(f"{file} must hold at least {LEAST_TOKEN} letters of ASCII.")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
