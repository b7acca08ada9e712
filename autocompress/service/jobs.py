"""Searches that were submitted: one after the other, each a process of its own.

Models are timed while they are searched, so one runs at a time. What waits and what runs is a file
each in a folder, so that it is found again after a restart; a search that had begun is resumed.
"""

import contextlib
import fcntl
import json
import logging
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from autocompress.errors import StoreError
from autocompress.export.render import write_texts
from autocompress.service.process_group import signal_all
from autocompress.service.search_process import search_command
from autocompress.store.base import Json
from autocompress.store.study_store import find_study

QUEUE: Final = ".searches"
WAITING: Final = ".waiting.json"
EVENTS: Final = ".events.jsonl"
RETRY_SECONDS: Final = 5.0
"""Until a search is begun again that could not be."""
GRACE_SECONDS = 30.0
"""For a search to end that was interrupted, before it is killed: it would hold up all others."""

_log = logging.getLogger(__name__)


class Jobs:
    """The searches of one folder, run by a thread of this process from `start` to `stop`."""

    def __init__(self, storage: str, output: Path) -> None:
        """Find what waits.

        Args:
            output: Folder that searches publish into, a folder each.

        Raises:
            StoreError: If another process runs this folder's searches.
        """
        self._storage = storage
        self._output = output
        self._folder = folder = output / QUEUE
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StoreError(f"Another process runs the searches of {folder}.") from error
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._running: str | None = None
        self._cancelled = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    @property
    def waiting(self) -> list[str]:
        """The names of what waits, the first first."""
        since: list[tuple[int, str]] = []
        for file in self._folder.glob(f"*{WAITING}"):
            # It may have ended since it was listed.
            with contextlib.suppress(FileNotFoundError):
                since.append((file.stat().st_mtime_ns, file.name.removesuffix(WAITING)))
        return [name for _, name in sorted(since)]

    @property
    def running(self) -> str | None:
        """The name of what runs."""
        return self._running

    def start(self) -> None:
        """Run what waits."""
        self._thread.start()

    def stop(self) -> None:
        """Interrupt what runs; it goes on at the next start."""
        with self._changed:
            self._stopped.set()
            self._interrupt()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._lock.close()

    def submit(self, name: str, spec: Mapping[str, Json]) -> None:
        """Let a search wait for its turn.

        Raises:
            StoreError: If the name is taken.
        """
        with self._changed:
            # What was cancelled runs for some seconds more, and may not be in the store yet.
            known = {*self.waiting, self._running}
            if name in known or find_study(self._storage, name) is not None:
                raise StoreError(f"Study {name!r} exists already; choose another name.")
            self._enqueue(name, spec)

    def resume(self, name: str) -> None:
        """Let a study that was stopped wait for its turn; one that waits or runs is left so.

        One that was cancelled and has not ended yet goes on when it has.
        """
        with self._changed:
            if name not in self.waiting:
                row = find_study(self._storage, name)
                known = {} if row is None else dict(row.spec)
                # What kind of study it is, is none of a search's settings.
                known.pop("kind", None)
                self._enqueue(name, known)

    def cancel(self, name: str) -> bool:
        """Take a search back, or interrupt it; False if it neither waits nor runs.

        What it has measured is kept: it can be resumed.
        """
        with self._changed:
            if name not in self.waiting:
                return False
            (self._folder / f"{name}{WAITING}").unlink(missing_ok=True)
            # One that was cancelled, resumed and is taken back is ending already.
            if name == self._running and not self._cancelled:
                self._cancelled = True
                self._interrupt()
        return True

    def events(self, name: str) -> Path:
        """Return the file of what a search has told, a line of JSON an event."""
        return self._folder / f"{name}{EVENTS}"

    def output(self, name: str) -> Path:
        """Return the folder that a search publishes into."""
        return self._output / name

    def _enqueue(self, name: str, spec: Mapping[str, Json]) -> None:
        # What it told before ended with an end.
        self.events(name).unlink(missing_ok=True)
        write_texts({f"{name}{WAITING}": json.dumps(dict(spec)) + "\n"}, self._folder)
        self._changed.notify_all()

    def _interrupt(self) -> None:
        """Ask what runs to end, and kill it when it does not."""
        if self._process is not None:
            signal_all(self._process, signal.SIGINT)
            timer = threading.Timer(GRACE_SECONDS, self._kill, [self._process])
            timer.daemon = True
            timer.start()

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        with self._changed:
            if self._process is process:
                _log.warning("Search %s did not end when asked to: killed.", self._running)
                signal_all(process, signal.SIGKILL)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped.is_set() or self.waiting)
                if self._stopped.is_set():
                    return
                self._running = name = self.waiting[0]
                self._cancelled = False
                try:
                    self._process = self._begin(name)
                except (StoreError, OSError) as error:
                    _log.warning("Search %s cannot begin yet: %s", name, error)
                    self._running = None
                    self._changed.wait_for(self._stopped.is_set, RETRY_SECONDS)
                    continue
            status = self._process.wait()
            with self._changed:
                self._running, self._process = None, None
                # What was interrupted by `stop` waits on.
                if self._stopped.is_set() and not self._cancelled and status != 0:
                    return
                # What was cancelled and waits was resumed since.
                if self._cancelled and name in self.waiting:
                    continue
                self._tell(name, {"event": "end", "status": status, "cancelled": self._cancelled})
                (self._folder / f"{name}{WAITING}").unlink(missing_ok=True)

    def _begin(self, name: str) -> "subprocess.Popen[bytes]":
        """Start a search, or go on with one that the store knows."""
        spec = self._folder / f"{name}{WAITING}"
        command = search_command(self._storage, name, spec, self.output(name))
        with self.events(name).open("ab") as told:
            return subprocess.Popen(command, stdout=told, stderr=told, start_new_session=True)

    def _tell(self, name: str, event: Mapping[str, Json]) -> None:
        with contextlib.suppress(OSError), self.events(name).open("a", encoding="utf-8") as told:
            told.write(json.dumps(dict(event)) + "\n")


def read_events(file: Path, place: int) -> tuple[list[dict[str, Json]], int]:
    """Return the whole events behind a place of a file, and the place behind them.

    A line that is no event is what the search printed of a failure: it becomes one.
    """
    try:
        with file.open("rb") as opened:
            opened.seek(place)
            text = opened.read()
    except FileNotFoundError:
        return [], place
    whole, _, _ = text.rpartition(b"\n")
    found = list(_events(whole.decode("utf-8", "replace"))) if whole else []
    return found, place + (len(whole) + 1 if whole else 0)


def _events(text: str) -> Iterator[dict[str, Json]]:
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        yield event if isinstance(event, dict) else {"event": "said", "text": line}
