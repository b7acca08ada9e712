"""Optuna's dashboard on a database of ours: brings the mirror up to date, and shows it.

The dashboard can write and asks nobody who he is. So whoever looks at it may only read, under the
loopback's names: what it shows is a view of our tables, and changing it means nothing.
"""

import contextlib
import logging
import socketserver
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from autocompress.errors import AutocompressError, EngineError
from autocompress.pipeline.decoding_shown import shown_decoding
from autocompress.pipeline.decoding_stored import is_decoding, is_joint
from autocompress.pipeline.exporting import winner_of
from autocompress.pipeline.joint_shown import shown_joint
from autocompress.pipeline.showing import shown_study
from autocompress.pipeline.stored_study import read_stored
from autocompress.store.base import StudyRow
from autocompress.store.mirror import MOST_TRIALS, Mirror
from autocompress.store.study_store import list_studies, open_study

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOOK_SECONDS: Final = 10.0
"""Between two looks at what was measured."""

_log = logging.getLogger(__name__)


class Refresher:
    """Shows each study that has changed since it was shown last."""

    def __init__(self, storage: str, mirror: Mirror, folder: Path) -> None:
        """Do nothing yet.

        Args:
            folder: Takes the reports that can be fetched.
        """
        self._storage = storage
        self._mirror = mirror
        self._folder = folder
        self._shown: dict[str, StudyRow] = {}

    def refresh(self) -> int:
        """Bring the mirror up to date; return how many studies had changed.

        While another dashboard of this database does, it shows what that one writes.

        Raises:
            StoreError: If one of the databases fails.
        """
        with self._mirror.alone() as is_alone:
            return self._refresh() if is_alone else 0

    def _refresh(self) -> int:
        rows = list_studies(self._storage)
        self._mirror.forget([row.name for row in rows])
        changed = [row for row in rows if self._shown.get(row.name) != row]
        for row in changed:
            try:
                self._show(row)
            except AutocompressError:
                raise
            except Exception:  # noqa: BLE001  # The others are shown; this one is tried again.
                _log.exception("Study %s is not shown.", row.name)
            else:
                self._shown[row.name] = row
        return len(changed)

    def _show(self, row: StudyRow) -> None:
        folder = self._folder / row.name
        try:
            if is_decoding(row):
                shown = shown_decoding(self._storage, row.name, MOST_TRIALS, folder)
            elif is_joint(row):
                shown = shown_joint(row, folder)
            else:
                with contextlib.closing(open_study(self._storage, row.name)) as store:
                    winner = winner_of(store)
                known = read_stored(self._storage, row.name)
                shown = shown_study(known, winner, MOST_TRIALS, folder)
        except (AutocompressError, ValueError, KeyError, TypeError) as error:
            # Nothing is measured yet; or its documents are of another autocompress.
            _log.info("Study %s is not shown: %s", row.name, error)
            return
        self._mirror.show(shown)


def serve(
    storage: str, artifacts: Path, host: str, port: int, said: Callable[[str], None]
) -> None:
    """Show all studies of a database until interrupted.

    Args:
        artifacts: Folder that takes the files that studies show.
        host: To listen on; a page is shown under 127.0.0.1 or localhost alone, such as a port
            that a container publishes there.
        port: 0 takes a free one.
        said: Is told the address once it answers.

    Raises:
        AutocompressError: If the database fails, or the port is taken.
    """
    mirror = Mirror(storage, artifacts)
    application = read_only(optuna_dashboard.wsgi(mirror.storage, mirror.artifacts))
    try:
        server = make_server(host, port, application, _Server, _Quiet)
    except (OSError, OverflowError) as error:
        raise EngineError(f"Cannot listen on {host}:{port}: {error}.") from error
    ended = threading.Event()
    refresher = Refresher(storage, mirror, artifacts / "reports")
    with server:
        threading.Thread(target=_keep_fresh, args=(refresher, ended), daemon=True).start()
        said(f"http://{host}:{server.server_port}/dashboard")
        try:
            server.serve_forever()
        finally:
            ended.set()


def read_only(application: "WSGIApplication") -> "WSGIApplication":
    """Return an application that refuses whatever could change something.

    So are requests that name another host: a page elsewhere could have its own name lead here.
    """

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", "")).rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            return _refused("403 Forbidden", "This is no host of this page.", start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refused(
                "405 Method Not Allowed", "Studies can be looked at here alone.", start_response
            )
        # Without it the dashboard fails, as for a plain `curl`.
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        return application(environ, start_response)

    return guarded


def _refused(status: str, reason: str, start_response: "StartResponse") -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{reason}\n".encode()]


def _keep_fresh(refresher: Refresher, ended: threading.Event) -> None:
    while True:
        try:
            refresher.refresh()
        except AutocompressError as error:
            _log.warning("The dashboard is not fresh: %s", error)
        except Exception:  # noqa: BLE001  # The page would stay up, and never be fresh again.
            _log.exception("The dashboard is not fresh.")
        if ended.wait(LOOK_SECONDS):
            return


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
        """Say nothing: a page asks for dozens of things."""
