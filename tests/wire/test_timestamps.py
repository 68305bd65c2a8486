"""RFC 3339 date-times: exact milliseconds in, exact milliseconds out, nothing guessed."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.wire.timestamps import format_timestamp, parse_timestamp

FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999


@pytest.mark.parametrize(
    ("text", "epoch_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("2026-01-15T09:00:00Z", 1_768_467_600_000),
        ("2026-01-15T09:00:00.5Z", 1_768_467_600_500),
        ("2026-01-15T09:00:00.123456789Z", 1_768_467_600_123),
        ("2026-01-15T09:00:00.0009Z", 1_768_467_600_000),
        ("2026-01-15T11:00:00+02:00", 1_768_467_600_000),
        ("2026-01-15T03:30:00-05:30", 1_768_467_600_000),
        ("2026-01-15T09:00:00-00:00", 1_768_467_600_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("1969-12-31T23:59:59.999Z", -1),
        ("0001-01-01T00:00:00Z", FIRST_MS),
        ("9999-12-31T23:59:59.999Z", LAST_MS),
        ("9999-12-31T23:59:59.999-23:59", LAST_MS + 86_340_000),
        ("0001-01-01T00:00:00+23:59", FIRST_MS - 86_340_000),
    ],
)
def test_what_is_understood(text: str, epoch_ms: int) -> None:
    """Offsets are applied, finer fractions are cut off towards the past."""
    assert parse_timestamp(text) == epoch_ms


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not a date-time; write it like 2026-01-31T12:00:00Z"),
        ("garbage", "'garbage' is not a date-time; "),
        ("2026-01-15", "is not a date-time"),
        ("1768467600000", "is not a date-time"),
        ("20260115T090000Z", "is not a date-time"),
        ("2026-01-15T09:00Z", "is not a date-time"),
        ("2026-01-15 09:00:00Z", "is not a date-time"),
        ("2026-01-15T09:00:00.Z", "is not a date-time"),
        ("2026-01-15T09:00:00.1234567890Z", "is not a date-time"),
        ("2026-01-15T09:00:00+0200", "is not a date-time"),
        ("2026-01-15T09:00:00Z\n", "is not a date-time"),
        ("\uff12\uff10\uff12\uff16-01-15T09:00:00Z", "is not a date-time"),
        ("2026-01-15T09:00:00", "has no UTC offset; add Z or one such as +02:00"),
        ("2026-01-15T09:00:00 02:00", "has a space where + was meant; in a URL write + as %2B"),
        ("2026-02-30T00:00:00Z", "does not exist: "),
        ("2026-13-01T00:00:00Z", "does not exist: "),
        ("2026-01-01T24:00:00Z", "does not exist: "),
        ("2026-12-31T23:59:60Z", "does not exist: "),
        ("0000-01-01T00:00:00Z", "does not exist: "),
        ("2026-01-01T00:00:00+24:00", "does not exist: offset must be between -23:59 and +23:59"),
        ("2026-01-01T00:00:00-10:60", "does not exist: offset must be between -23:59 and +23:59"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    """The message shows the text and says what to write."""
    with pytest.raises(ValueError) as caught:
        parse_timestamp(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(repr(text))


def test_a_long_text_is_cut_in_the_message() -> None:
    """A megabyte of garbage gives a short message."""
    with pytest.raises(ValueError) as caught:
        parse_timestamp("x" * 1_000_000)
    assert len(str(caught.value)) < 200


@settings(deadline=None)
@given(st.integers(FIRST_MS, LAST_MS))
def test_every_millisecond_round_trips(epoch_ms: int) -> None:
    """Formatting loses nothing, and agrees with the standard library."""
    text = format_timestamp(epoch_ms)
    assert parse_timestamp(text) == epoch_ms
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=epoch_ms)
    assert datetime.fromisoformat(text) == moment
    assert len(text) == len("2026-01-31T12:00:00.000Z")


@settings(deadline=None)
@given(st.text())
def test_no_text_raises_anything_but_a_value_error(text: str) -> None:
    """Query strings arrive here unchecked."""
    with contextlib.suppress(ValueError):
        assert isinstance(parse_timestamp(text), int)


def test_formatting_is_utc_with_milliseconds() -> None:
    """One spelling for all answers."""
    assert format_timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert format_timestamp(1_768_467_600_007) == "2026-01-15T09:00:00.007Z"
    assert format_timestamp(FIRST_MS) == "0001-01-01T00:00:00.000Z"


@pytest.mark.parametrize("epoch_ms", [FIRST_MS - 1, LAST_MS + 1, 2**63 - 1, -(2**63), 10**30])
def test_a_time_outside_the_calendar_is_refused(epoch_ms: int) -> None:
    """A clear error rather than an overflow."""
    with pytest.raises(ValueError, match="outside the years 1 to 9999"):
        format_timestamp(epoch_ms)
