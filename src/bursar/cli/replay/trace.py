"""Reading a trace: rows of `TIMESTAMP,ContextTokens,GeneratedTokens`.

The rule that lives here: a value is read exactly (times to 100 ns, whole tokens), or its row
is bad and is named by file, line and column. Nothing is repaired and nothing is guessed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from bursar.vocabulary import AMOUNT_MAX

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
TICKS_PER_MS: Final = 10_000
"""A tick is 100 ns, the resolution of the published traces."""

LINE_BYTES_MAX = 4_096
PROBLEMS_SHOWN_MAX = 5

_TICKS_PER_S = 1_000 * TICKS_PER_MS
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,7}))?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS = range(1970, 9999)  # 9999 is left out so that a late completion still has a date


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded request. `line` and `row` (without header and blanks) count from 1."""

    row: int
    line: int
    ticks: int
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one line; `str` is `file:line:column name: reason`."""

    file: str
    line: int
    column: int
    reason: str

    def __str__(self) -> str:
        """Return the problem as an editor can jump to it."""
        name = f" {COLUMNS[self.column - 1]}" if self.column <= len(COLUMNS) else ""
        return f"{self.file}:{self.line}:{self.column}{name}: {self.reason}"


@dataclass(slots=True)
class Trace:
    """The rows of a file in the order of their times, and what was odd about it."""

    file: str
    rows: list[Row] = field(default_factory=list)
    bad: int = 0
    problems: list[Problem] = field(default_factory=list)  # of the first bad rows
    out_of_order: int = 0


class TraceError(ValueError):
    """A trace that cannot be replayed; the message names file, line, column and reason."""


class _Bad(ValueError):
    """A column (from 1) of the line at hand, and why it is bad."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason


def read(path: Path, *, skip_bad: bool = False) -> Trace:
    """Read a trace, sorted by time; rows of one time keep their order.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        skip_bad: leave bad rows out and count them, instead of refusing the file.

    Raises:
        TraceError: no such file, a wrong header, no rows, or bad rows without `skip_bad`.
    """
    file = str(path).encode("utf-8", "backslashreplace").decode()  # any name can be printed
    try:
        with path.open("rb") as source:
            trace = _read(file, source)
    except (OSError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise TraceError(f"{file}: cannot be read: {why}") from error
    if trace.bad and not skip_bad:
        raise TraceError(_listed(trace) + "\nCorrect them, or leave them out with --skip-bad.")
    if not trace.rows:
        raise TraceError(
            f"{_listed(trace)}\n{file}: no row is left to replay"
            if trace.bad
            else f"{file}: there is a header, but no row below it"
        )
    latest = -1
    for row in trace.rows:
        trace.out_of_order += row.ticks < latest
        latest = max(latest, row.ticks)
    trace.rows.sort(key=lambda row: row.ticks)
    return trace


def _listed(trace: Trace) -> str:
    lines = [str(problem) for problem in trace.problems]
    if trace.bad > len(lines):
        lines.append(f"{trace.file}: and {trace.bad - len(lines):,} more bad rows")
    return "\n".join(lines)


def _read(file: str, source: BinaryIO) -> Trace:
    trace = Trace(file)
    number = line = 0
    for line, text in enumerate(_lines(source), 1):
        if line == 1:
            _check_header(file, text)
            continue
        if text is not None and not text.strip():
            continue
        number += 1
        try:
            trace.rows.append(_row(number, line, text))
        except _Bad as bad:
            trace.bad += 1
            if len(trace.problems) < PROBLEMS_SHOWN_MAX:
                trace.problems.append(Problem(file, line, bad.column, bad.reason))
    if line == 0:
        raise TraceError(f"{file}: the file is empty; its first line must be {','.join(COLUMNS)}")
    return trace


def _lines(source: BinaryIO) -> Iterator[str | None]:
    r"""Yield lines without their ends; None is a line too long to be one of a trace.

    A byte that is not UTF-8 becomes text like `\xff`, which no column accepts, so its row is
    bad like any other and the message shows the byte.
    """
    first = True
    while raw := source.readline(LINE_BYTES_MAX + 1):
        if len(raw) > LINE_BYTES_MAX:
            while raw and not raw.endswith(b"\n"):
                raw = source.readline(LINE_BYTES_MAX + 1)
            yield None
        else:
            if first:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            yield raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
        first = False


def _check_header(file: str, text: str | None) -> None:
    wanted = ",".join(COLUMNS)
    try:
        names = [name.strip() for name in _fields(text)]
    except _Bad as bad:
        raise TraceError(f"{file}:1:{bad.column} {bad.reason}; expected {wanted}") from None
    if tuple(names) == COLUMNS:
        return
    if names and _TIMESTAMP.fullmatch(names[0]):
        raise TraceError(f"{file}:1:1 the header is missing; put {wanted} above the first row")
    if names[:1] and names[0].startswith(("\\xff\\xfe", "\\xfe\\xff")):
        raise TraceError(f"{file}:1:1 the file is UTF-16; save it as UTF-8")
    for column, expected in enumerate(COLUMNS, 1):
        found = names[column - 1] if column <= len(names) else None
        if found != expected:
            got = "nothing" if found is None else _shown(found)
            raise TraceError(
                f"{file}:1:{column} wrong header: expected {expected}, got {got}; "
                f"the first line must be {wanted}"
            )
    extra = _shown(names[len(COLUMNS)])
    raise TraceError(
        f"{file}:1:{len(COLUMNS) + 1} wrong header: {extra} is one column too many; "
        f"the first line must be {wanted}"
    )


def _fields(text: str | None) -> list[str]:
    if text is None:
        raise _Bad(1, f"the line is longer than {LINE_BYTES_MAX:,} bytes")
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise _Bad(1, f"the quotes do not match: {error}") from None


def _row(number: int, line: int, text: str | None) -> Row:
    fields = _fields(text)
    if len(fields) < len(COLUMNS):
        raise _Bad(len(fields) + 1, f"missing; expected {len(COLUMNS)} columns, got {len(fields)}")
    if len(fields) > len(COLUMNS):
        raise _Bad(
            len(COLUMNS) + 1,
            f"{_shown(fields[len(COLUMNS)])} is one column too many; expected {len(COLUMNS)} "
            f"columns, got {len(fields)}",
        )
    ticks = _ticks(fields[0].strip())
    return Row(number, line, ticks, _tokens(2, fields[1]), _tokens(3, fields[2]))


def _tokens(column: int, field: str) -> int:
    text = field.strip()
    if not (text.isascii() and text.isdigit()):
        raise _Bad(column, f"expected a whole number of at least 0, got {_shown(text)}")
    # int() refuses thousands of digits with an error of its own, so the length comes first.
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(AMOUNT_MAX)) or int(digits) > AMOUNT_MAX:
        raise _Bad(column, f"expected at most {AMOUNT_MAX}, got {_shown(text)}")
    return int(digits)


def _ticks(text: str) -> int:
    """Return 100 ns ticks since 1970 (UTC) for `2023-11-16 18:17:03.9799600`."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise _Bad(1, f"expected a time like 2023-11-16 18:17:03.9799600 (UTC), got {_shown(text)}")
    *parts, fraction, zone = match.groups()
    year, month, day, hour, minute, second = map(int, parts)
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - _offset(zone)
    except (ValueError, OverflowError) as error:
        raise _Bad(1, f"there is no such time as {_shown(text)}: {error}") from None
    if at.year not in _YEARS:
        raise _Bad(1, f"expected a year from {_YEARS[0]} to {_YEARS[-1]}, got {_shown(text)}")
    seconds = (at - _EPOCH) // timedelta(seconds=1)
    return seconds * _TICKS_PER_S + int((fraction or "").ljust(7, "0"))


def _offset(zone: str | None) -> timedelta:
    if zone is None or zone == "Z":
        return timedelta()
    hours, minutes = int(zone[1:3]), int(zone[4:])
    if minutes > 59 or hours > 23:
        raise ValueError(f"{zone} is not an offset from UTC")
    return timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)


def shown_time(ticks: int) -> str:
    """Return ticks as the trace writes them: `2023-11-16 18:17:03.9799600`."""
    seconds, fraction = divmod(ticks, _TICKS_PER_S)
    at = _EPOCH + timedelta(seconds=seconds)
    return f"{at:%Y-%m-%d %H:%M:%S}.{fraction:07d}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
