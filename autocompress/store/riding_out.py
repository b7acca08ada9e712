"""What is done to a database once more when its connection was lost: wait, and try again."""

import functools
import itertools
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from autocompress.errors import DatabaseAway

PATIENCE_SECONDS = 300.0
"""As long as a server takes to restart, or to be replaced by its standby."""
DELAYS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds before each new trial; the last for all that follow."""

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)


def ridden_out(transaction: Callable[P, T]) -> Callable[P, T]:
    """Have a transaction tried again while the database is away.

    It must change nothing when it is done twice: what was committed may never be acknowledged.

    Raises:
        DatabaseAway: If the database does not come back within `PATIENCE_SECONDS`.
    """

    @functools.wraps(transaction)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        away_since = None
        for delay in itertools.chain(DELAYS, itertools.repeat(DELAYS[-1])):
            try:
                found = transaction(*args, **kwargs)
            except DatabaseAway as error:
                now = time.monotonic()
                if away_since is None:
                    away_since = now
                    _log.warning("%s Trying again for %g s.", error, PATIENCE_SECONDS)
                if now + delay - away_since > PATIENCE_SECONDS:
                    raise DatabaseAway(
                        f"{error} It did not come back within {PATIENCE_SECONDS:g} s; what was "
                        "recorded is kept, and `autocompress resume` goes on from there."
                    ) from error
                time.sleep(delay)
            else:
                if away_since is not None:
                    away = time.monotonic() - away_since
                    _log.warning("The database is back after %.1f s.", away)
                return found
        raise AssertionError("unreachable: the delays never end")

    return tried
