"""RFC 3339 date-times on the wire, epoch milliseconds everywhere else.

The rule that lives here: a time without an offset is refused, never guessed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_SHOWN_MAX = 80


def parse_timestamp(text: str) -> int:
    """Return epoch milliseconds of an RFC 3339 date-time; finer fractions are cut off.

    Raises:
        ValueError: not such a date-time, a date that does not exist, or no UTC offset.
            The message says which, and how to write it.
    """
    shown = repr(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…")
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        if _DATE_TIME.fullmatch(text.replace(" ", "+")):
            raise ValueError(f"{shown} has a space where + was meant; in a URL write + as %2B")
        raise ValueError(f"{shown} is not a date-time; write it like 2026-01-31T12:00:00Z")
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if offset is None:
        raise ValueError(f"{shown} has no UTC offset; add Z or one such as +02:00")
    try:
        wall = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC
        )
        ahead = _offset(offset)
    except ValueError as error:
        raise ValueError(f"{shown} does not exist: {error}") from error
    whole_ms = ((wall - _EPOCH) - ahead) // timedelta(milliseconds=1)
    return whole_ms + int((fraction or "0").ljust(3, "0")[:3])


def format_timestamp(epoch_ms: int) -> str:
    """Return epoch milliseconds as `2026-01-31T12:00:00.000Z`.

    Raises:
        ValueError: the time is outside the years 1 to 9999.
    """
    try:
        moment = _EPOCH + timedelta(milliseconds=epoch_ms)
    except OverflowError as error:
        raise ValueError(f"{epoch_ms} ms is outside the years 1 to 9999") from error
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _offset(text: str) -> timedelta:
    if text in ("Z", "z"):
        return timedelta()
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError("offset must be between -23:59 and +23:59")
    size = timedelta(hours=hours, minutes=minutes)
    return -size if text[0] == "-" else size
