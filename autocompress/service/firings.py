"""When a schedule fires: cron expressions in the hours of a place, daylight saving included."""

import itertools
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from autocompress.errors import SpecError

MOST_DUE: Final = 100
"""Of a schedule that no scheduler ran for a year, nobody wants to read every minute."""


def check_cron(cron: str, zone: str) -> None:
    """Make sure that an expression and a zone can be read.

    Raises:
        SpecError: If one cannot, or nothing ever fires.
    """
    next(firings(cron, zone, datetime.now(UTC)))


def firings(cron: str, zone: str, after: datetime) -> Iterator[datetime]:
    """Yield the firings after a moment, in UTC.

    As Debian's cron has it: an hour that a clock leaves out fires at once when it is left out, and
    one that it repeats fires once; expressions with a `*` in minutes or hours follow the time that
    passes.

    Raises:
        SpecError: If the expression or the zone cannot be read, or nothing ever fires.
    """
    try:
        place = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SpecError(
            f"Unknown time zone {zone!r}: give a name such as Europe/Berlin or UTC."
        ) from error
    try:
        if len(cron.split()) != 5:
            raise CronSimError("it has not five fields")
        times = CronSim(cron, after.astimezone(place))
    except CronSimError as error:
        raise SpecError(
            f"{cron!r} is no cron expression ({error}): minute, hour, day of the month, month and "
            'day of the week must hold, such as "0 2 * * *".'
        ) from error
    before = None
    for time in times:
        at = time.astimezone(UTC)
        if before is None or at > before:
            yield at
        before = at
    raise SpecError(f"{cron!r} never fires.")


def due(cron: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """Return the firings after one moment, up to and with another; of too many the last ones."""
    until_then = itertools.takewhile(lambda time: time <= until, firings(cron, zone, after))
    return list(deque(until_then, MOST_DUE))
