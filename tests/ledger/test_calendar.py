"""Periods of a calendar: the clocks of a zone, whatever they do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.ledger import calendar
from bursar.vocabulary import Every

CALENDARS = [every for every in Every if every not in (Every.ROLLING, Every.NEVER)]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]
ZONES += ["America/Havana", "Asia/Kathmandu", "Africa/Casablanca", "Asia/Tehran"]


def ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - calendar.EPOCH) // calendar.MS


def shown(at_ms: int) -> str:
    return (calendar.EPOCH + at_ms * calendar.MS).isoformat()[:16]


@pytest.mark.parametrize(
    ("every", "zone", "at", "start", "end"),
    [
        # Ordinary periods, in UTC.
        (Every.HOUR, "UTC", "2026-03-05T07:59:59.999", "2026-03-05T07:00", "2026-03-05T08:00"),
        (Every.DAY, "UTC", "2026-03-05T00:00", "2026-03-05T00:00", "2026-03-06T00:00"),
        (Every.WEEK, "UTC", "2026-03-08T23:59", "2026-03-02T00:00", "2026-03-09T00:00"),
        (Every.MONTH, "UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        (Every.QUARTER, "UTC", "2026-02-14T00:00", "2026-01-01T00:00", "2026-04-01T00:00"),
        (Every.YEAR, "UTC", "2024-02-29T12:00", "2024-01-01T00:00", "2025-01-01T00:00"),
        (Every.MONTH, "UTC", "2024-02-29T12:00", "2024-02-01T00:00", "2024-03-01T00:00"),
        (Every.MONTH, "UTC", "2025-02-28T12:00", "2025-02-01T00:00", "2025-03-01T00:00"),
        # Berlin: a day of 23 hours, one of 25, and the months that hold them.
        (Every.DAY, "Europe/Berlin", "2026-03-29T10:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        (Every.DAY, "Europe/Berlin", "2026-10-25T10:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        (Every.MONTH, "Europe/Berlin", "2026-03-15T00:00", "2026-02-28T23:00", "2026-03-31T22:00"),
        # The hour that comes twice is two periods; the one that is skipped is none.
        (Every.HOUR, "Europe/Berlin", "2026-10-25T00:30", "2026-10-25T00:00", "2026-10-25T01:00"),
        (Every.HOUR, "Europe/Berlin", "2026-10-25T01:30", "2026-10-25T01:00", "2026-10-25T02:00"),
        (Every.HOUR, "Europe/Berlin", "2026-03-29T01:30", "2026-03-29T01:00", "2026-03-29T02:00"),
        # Havana skips midnight: its day begins at one o'clock.
        (Every.DAY, "America/Havana", "2026-03-08T12:00", "2026-03-08T05:00", "2026-03-09T04:00"),
        # Apia had no 30 December 2011.
        (Every.DAY, "Pacific/Apia", "2011-12-30T12:00", "2011-12-30T10:00", "2011-12-31T10:00"),
        (Every.DAY, "Pacific/Apia", "2011-12-30T09:59", "2011-12-29T10:00", "2011-12-30T10:00"),
        # Lord Howe changes by half an hour.
        (
            *(Every.DAY, "Australia/Lord_Howe", "2026-04-05T00:00"),
            *("2026-04-04T13:00", "2026-04-05T13:30"),
        ),
    ],
)
def test_period_of_a_moment(every: Every, zone: str, at: str, start: str, end: str) -> None:
    """The bounds, in UTC."""
    found = calendar.around(every, calendar.zone(zone), ms(at))
    assert tuple(map(shown, found)) == (start, end)


@given(
    every=st.sampled_from(CALENDARS),
    zone=st.sampled_from(ZONES),
    at_ms=st.integers(ms("1995-01-01"), ms("2037-01-01")),
)
def test_periods_tile_time(every: Every, zone: str, at_ms: int) -> None:
    """Each moment has one period, the next begins where it ends, and one step is one period."""
    where = calendar.zone(zone)
    start, end = calendar.around(every, where, at_ms)
    assert start <= at_ms < end
    assert calendar.around(every, where, start) == (start, end)
    assert calendar.around(every, where, end - 1) == (start, end)
    following = calendar.around(every, where, end)
    assert following[0] == end
    assert calendar.count(every, where, start, end) == 1
    assert calendar.count(every, where, start, following[1]) == 2


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe"])
def test_many_hours_are_counted_as_one_by_one(zone: str) -> None:
    """Over a year, whose clocks change twice: in Lord Howe an hour then lasts for 90 minutes."""
    where = calendar.zone(zone)
    first = edge = calendar.around(Every.HOUR, where, ms("2026-01-01"))[0]
    steps = 0
    while edge < ms("2027-01-01"):
        edge, steps = calendar.around(Every.HOUR, where, edge)[1], steps + 1
    assert calendar.count(Every.HOUR, where, first, edge) == steps


@given(st.sampled_from(ZONES), st.integers(ms("1995-01-01"), ms("2037-01-01")))
def test_day_and_month_lengths_are_those_on_a_wall(zone: str, at_ms: int) -> None:
    """A day has at most 25 hours (and Apia's neighbours 24), a month 27 to 31 and a bit."""
    where = calendar.zone(zone)
    day = calendar.around(Every.DAY, where, at_ms)
    assert timedelta(hours=22) <= (day[1] - day[0]) * calendar.MS <= timedelta(hours=26)
    month = calendar.around(Every.MONTH, where, at_ms)
    assert timedelta(days=27) < (month[1] - month[0]) * calendar.MS < timedelta(days=32)


def test_unknown_zone_is_an_error() -> None:
    """Names are exact, and no path leads out of the database."""
    for name in ("Europe/Berlln", "europe/berlin", "../etc/passwd", ""):
        with pytest.raises(calendar.UnknownZone):
            calendar.zone(name)
