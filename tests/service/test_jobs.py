"""Submitted searches: none is lost, and none holds up the others for ever."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autocompress.errors import StoreError
from autocompress.service import jobs as jobs_module
from autocompress.service.jobs import Jobs, read_events

SEARCH = """
import pathlib, signal, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]

def end(*_):
    (folder / f"asked-{name}").touch()
    while not (folder / f"may-end-{name}").exists():
        time.sleep(0.01)
    sys.exit(130)

signal.signal(signal.SIGINT, end)
(folder / f"begun-{name}-{time.monotonic_ns()}").touch()
while True:
    time.sleep(0.01)
"""
"""What stands for a search: it ends when it is interrupted and may end."""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    def command(_storage: str, name: str, *_: Path) -> list[str]:
        return [sys.executable, "-c", SEARCH, str(tmp_path), name]

    monkeypatch.setattr(jobs_module, "search_command", command)
    monkeypatch.setattr(jobs_module, "GRACE_SECONDS", 60.0)
    own = Jobs(f"sqlite:///{tmp_path}/studies.db", tmp_path / "out")
    own.start()
    yield own
    monkeypatch.setattr(jobs_module, "GRACE_SECONDS", 0.0)
    own.stop()


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begun(folder: Path, name: str) -> int:
    return len(list(folder.glob(f"begun-{name}-*")))


def cancel_without_end(jobs: Jobs, folder: Path) -> None:
    jobs.submit("first", {})
    until(lambda: begun(folder, "first"))
    assert jobs.cancel("first")
    until((folder / "asked-first").exists)


def test_what_is_resumed_while_it_ends_goes_on(jobs: Jobs, tmp_path: Path) -> None:
    cancel_without_end(jobs, tmp_path)

    jobs.resume("first")
    (tmp_path / "may-end-first").touch()
    until(lambda: begun(tmp_path, "first") == 2)

    assert jobs.waiting == ["first"]
    assert read_events(jobs.events("first"), 0)[0] == []


def test_what_was_cancelled_ends_and_tells_so(jobs: Jobs, tmp_path: Path) -> None:
    cancel_without_end(jobs, tmp_path)

    with pytest.raises(StoreError, match="exists already"):
        jobs.submit("first", {})
    jobs.resume("first")
    assert jobs.cancel("first")
    (tmp_path / "may-end-first").touch()
    until(lambda: jobs.running is None)

    assert jobs.waiting == []
    told = read_events(jobs.events("first"), 0)[0]
    assert told[-1] == {"event": "end", "status": 130, "cancelled": True}
    jobs.submit("first", {})
    until(lambda: begun(tmp_path, "first") == 2)


def test_what_does_not_end_is_killed_and_the_next_begins(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "GRACE_SECONDS", 0.1)
    jobs.submit("first", {})
    jobs.submit("second", {})
    until(lambda: begun(tmp_path, "first"))

    assert jobs.cancel("first")
    until(lambda: begun(tmp_path, "second"))

    assert jobs.running == "second"
