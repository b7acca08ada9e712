"""Holds a study for one driver: two would record into each other's search."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

from autocompress.errors import AutocompressError, DatabaseAway, StudyHeld
from autocompress.store.claims import BEAT_SECONDS, claimant
from autocompress.store.study_store import SqlStudyStore

PATIENCE_SECONDS = 30.0
"""As long as a driver that was asked to stop may take to do so."""
LOOK_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def held(store: SqlStudyStore) -> Iterator[None]:
    """Hold a study, saying now and then that it goes on, until the end of the block.

    Raises:
        StudyHeld: If another driver holds it.
    """
    own = claimant()
    _hold(store, own)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, own, ended), daemon=True)
    thread.start()
    is_away = False
    try:
        yield
    except DatabaseAway:
        # It was waited for; this process is about to end, and is found to be gone.
        is_away = True
        raise
    finally:
        ended.set()
        if not is_away:
            store.release(own)


def _hold(store: SqlStudyStore, own: str) -> None:
    """Hold a study now, or when the driver that holds it has ended within `PATIENCE_SECONDS`."""
    until = time.monotonic() + PATIENCE_SECONDS
    is_told = False
    while True:
        try:
            store.hold(own)
        except StudyHeld as error:
            if time.monotonic() >= until:
                raise
            if not is_told:
                _log.warning("%s Waiting %g s for its end.", error, PATIENCE_SECONDS)
                is_told = True
            time.sleep(LOOK_SECONDS)
        else:
            return


def _beat(store: SqlStudyStore, own: str, ended: threading.Event) -> None:
    """Say that a study goes on, until the end or until another driver has taken it over."""
    while not ended.wait(BEAT_SECONDS):
        # A driver that writes nothing for long outlives a database that is away or locked: silent
        # ever after, it would lose its study to another machine.
        with contextlib.suppress(AutocompressError):
            if not store.beat(own):
                return
