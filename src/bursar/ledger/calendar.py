"""Where the periods of a calendar begin and end, in the clocks of a time zone.

The rule that lives here: a boundary is an instant, found from the local calendar, and two
boundaries never coincide. Where clocks change:

| case                                        | boundary                                     |
|---------------------------------------------|----------------------------------------------|
| midnight comes twice                        | the first time                               |
| midnight is skipped (clocks go forward)     | the first instant after the gap              |
| a whole date is skipped (Apia, 2011-12-30)  | that date has no period                      |
| an hour comes twice                         | both are periods                             |
| an hour is skipped                          | it has no period                             |
| clocks change by half an hour               | the hour lasts until the next full hour      |

So a day lasts 23 to 25 hours, and a month is the month on the wall, 28 to 31 days.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from bursar.vocabulary import Every

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MONTHS = {Every.MONTH: 1, Every.QUARTER: 3, Every.YEAR: 12}
DAYS = {Every.DAY: 1, Every.WEEK: 7}


class UnknownZone(ValueError):
    """A name that is not in the time zone database of this machine."""


@cache
def zones() -> frozenset[str]:
    """Return every name of the time zone database."""
    return frozenset(available_timezones())


def zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name, spelled exactly.

    Raises:
        UnknownZone: there is none of that name.
    """
    if name not in zones():
        raise UnknownZone(f"{name!r} is not an IANA time zone")
    return ZoneInfo(name)


def around(every: Every, where: ZoneInfo, at_ms: int) -> tuple[int, int]:
    """Return start and end of the period that a time lies in; the end is not part of it."""
    edges = _edges(every, where, at_ms)
    return max(edge for edge in edges if edge <= at_ms), min(edge for edge in edges if edge > at_ms)


def count(every: Every, where: ZoneInfo, from_ms: int, to_ms: int) -> int:
    """Return how many periods lie from one boundary to a later one."""
    if every is Every.HOUR:
        return _hours(where, from_ms, to_ms)
    first, last = (_floor(every, _local(where, at_ms).date()) for at_ms in (from_ms, to_ms))
    if every in MONTHS:
        months = (last.year - first.year) * 12 + last.month - first.month
        return months // MONTHS[every]
    if every is Every.WEEK:
        return (last - first).days // 7
    dates = [first + timedelta(days=n) for n in range((last - first).days)]
    return len({_midnight(day, where) for day in dates} - {to_ms})


def _hours(where: ZoneInfo, from_ms: int, to_ms: int) -> int:
    """Count hours a day at a time, and one by one on a day on which the clocks change."""
    counted, at_ms = 0, from_ms
    while at_ms < to_ms:
        next_ms = min(at_ms + DAY_MS, to_ms)
        if _local(where, at_ms).utcoffset() == _local(where, next_ms).utcoffset():
            counted += (next_ms - at_ms) // HOUR_MS
        else:
            next_ms = around(Every.HOUR, where, at_ms)[1]
            counted += 1
        at_ms = next_ms
    return counted


def _edges(every: Every, where: ZoneInfo, at_ms: int) -> set[int]:
    """Return the boundaries near a time, at least one on either side."""
    local = _local(where, at_ms)
    if every is not Every.HOUR:
        first = _floor(every, local.date())
        return {_midnight(_step(every, first, n), where) for n in range(-1, 4)}
    hour = local.replace(minute=0, second=0, microsecond=0, tzinfo=None)
    near = [hour + n * HOUR for n in range(-3, 5)]
    moments = [wall.replace(tzinfo=where, fold=fold) for wall in near for fold in (0, 1)]
    return {_ms(moment) for moment in moments if _exists(moment)}


def _floor(every: Every, day: date) -> date:
    if every is Every.DAY:
        return day
    if every is Every.WEEK:
        return day - timedelta(days=day.weekday())
    return date(day.year, (day.month - 1) // MONTHS[every] * MONTHS[every] + 1, 1)


def _step(every: Every, first: date, n: int) -> date:
    if every in DAYS:
        return first + timedelta(days=n * DAYS[every])
    years, month = divmod(first.month - 1 + n * MONTHS[every], 12)
    return date(first.year + years, month + 1, 1)


def _midnight(day: date, where: ZoneInfo) -> int:
    """Return the first instant of a date, or of what follows it where it is skipped."""
    wall = datetime.combine(day, time.min, tzinfo=where)
    if _exists(wall):
        return _ms(wall)
    # In a gap the first offset leads behind it and the second before it; the clocks change
    # somewhere between the two.
    before, after = _ms(wall.replace(fold=1)) // 1_000, _ms(wall) // 1_000
    offset = _local(where, after * 1_000).utcoffset()
    while before + 1 < after:
        middle = (before + after) // 2
        if _local(where, middle * 1_000).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after * 1_000


def _exists(wall: datetime) -> bool:
    """Return whether the clocks of a zone ever show a time."""
    return wall.astimezone(UTC).astimezone(wall.tzinfo).replace(tzinfo=None) == wall.replace(
        tzinfo=None
    )


def _local(where: ZoneInfo, at_ms: int) -> datetime:
    return (EPOCH + at_ms * MS).astimezone(where)


def _ms(moment: datetime) -> int:
    return (moment - EPOCH) // MS
