"""Dates in mandates, as milliseconds of the Unix epoch in UTC.

The rule that lives here: a date without a time is the whole day in UTC, and a time without a zone
is no time. Periods are those of the calendar, as people mean "monthly".
"""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS: Final = 86_400_000
_DAYS: Final = {"DAILY": 1, "WEEKLY": 7, "BIWEEKLY": 14}
_MONTHS: Final = {"MONTHLY": 1, "QUARTERLY": 3, "ANNUALLY": 12}


class DateError(ValueError):
    """A text that is no date, or that does not say in which time zone."""


def span_of(text: str) -> tuple[int, int]:
    """Return the first and the last millisecond that an ISO 8601 date or time means.

    Raises:
        DateError: it is neither.
    """
    try:
        if len(text) == len("2026-12-31"):
            day = date.fromisoformat(text)
            begin = _ms(datetime(day.year, day.month, day.day, tzinfo=UTC))
            return begin, begin + _DAY_MS - 1
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise DateError(f"{text!r} is not an ISO 8601 date or time") from error
    if moment.tzinfo is None:
        raise DateError(f"{text!r} does not say in which time zone; end it with Z")
    return _ms(moment), _ms(moment)


def next_at(last_ms: int, frequency: str) -> int | None:
    """Return when a period that began at `last_ms` is over; None for what has no period.

    A month after the 31st is the last day of the next month.
    """
    last = _EPOCH + timedelta(milliseconds=last_ms)
    if frequency in _DAYS:
        return last_ms + _DAYS[frequency] * _DAY_MS
    if frequency not in _MONTHS:
        return None  # on demand
    years, month = divmod(last.month - 1 + _MONTHS[frequency], 12)
    year = last.year + years
    day = min(last.day, calendar.monthrange(year, month + 1)[1])
    return _ms(last.replace(year=year, month=month + 1, day=day))


def moment_of(seconds: float) -> str:
    """Return a time as text."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
