"""When schedules fire: in the hours of a place, with daylight saving, and never twice."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.service.firings import MOST_DUE, check_cron, due, firings

BERLIN = ZoneInfo("Europe/Berlin")
MOMENTS = st.integers(0, 2 * 365 * 24 * 60).map(
    lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)


def local(times: list[datetime]) -> list[str]:
    return [time.astimezone(BERLIN).strftime("%d %H:%M %Z") for time in times]


def test_two_in_the_morning_is_two_in_the_morning_all_year() -> None:
    winter, summer = datetime(2026, 1, 10, tzinfo=UTC), datetime(2026, 7, 10, tzinfo=UTC)

    found = [next(firings("0 2 * * *", "Europe/Berlin", after)) for after in (winter, summer)]

    assert [time.hour for time in found] == [1, 0]
    assert [time.astimezone(BERLIN).hour for time in found] == [2, 2]


def test_an_hour_that_the_clock_leaves_out_fires_once() -> None:
    # On 29 March 2026 two o'clock is three o'clock.
    after = datetime(2026, 3, 28, 12, tzinfo=BERLIN)

    found = list(islice(firings("30 2 * * *", "Europe/Berlin", after), 2))

    assert local(found) == ["29 03:00 CEST", "30 02:30 CEST"]


def test_an_hour_that_the_clock_repeats_fires_once() -> None:
    # On 25 October 2026 three o'clock is two o'clock once more.
    after = datetime(2026, 10, 24, 12, tzinfo=BERLIN)

    found = list(islice(firings("30 2 * * *", "Europe/Berlin", after), 2))

    assert local(found) == ["25 02:30 CEST", "26 02:30 CET"]


def test_every_ten_minutes_follow_the_time_that_passes() -> None:
    after = datetime(2026, 10, 24, 23, 59, tzinfo=UTC)

    found = list(islice(firings("*/10 * * * *", "Europe/Berlin", after), 20))

    steps = {later - first for first, later in pairwise(found)}
    assert steps == {timedelta(minutes=10)}


def test_of_a_year_of_minutes_the_last_ones_are_due() -> None:
    after, until = datetime(2025, 11, 26, tzinfo=UTC), datetime(2026, 11, 26, tzinfo=UTC)

    found = due("* * * * *", "UTC", after, until)

    assert len(found) == MOST_DUE
    assert found[-1] == until


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["* * * * *", "0 2 * * *", "30 1 * * 0", "15 */6 1,15 * *", "59 23 31 12 *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    MOMENTS,
    st.lists(st.integers(0, MOST_DUE), min_size=1, max_size=5),
)
def test_what_is_due_does_not_depend_on_how_often_one_looks(
    cron: str, zone: str, after: datetime, looks: list[int]
) -> None:
    moments = [after + timedelta(minutes=minutes) for minutes in sorted(looks)]

    at_once = due(cron, zone, after, moments[-1])
    one_by_one, last = [], after
    for moment in moments:
        found = due(cron, zone, last, moment)
        one_by_one += found
        last = found[-1] if found else last

    assert one_by_one == at_once
    assert at_once == sorted(set(at_once))
    assert all(after < time <= moments[-1] for time in at_once)


@pytest.mark.parametrize(
    ("cron", "zone", "reason"),
    [
        ("0 2 * *", "UTC", "'0 2 \\* \\*' is no cron expression"),
        ("60 2 * * *", "UTC", "is no cron expression"),
        ("0 0 2 * * *", "UTC", "it has not five fields"),
        ("tonight", "UTC", "is no cron expression"),
        ("0 0 31 2 *", "UTC", "is no cron expression"),
        ("0 2 * * *", "Berlin", "Unknown time zone 'Berlin': give a name such as Europe/Berlin"),
        ("0 2 * * *", "../etc/passwd", "Unknown time zone"),
        ("0 2 * * *", "", "Unknown time zone"),
    ],
)
def test_what_cannot_be_meant_is_refused(cron: str, zone: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        check_cron(cron, zone)
