"""A trace is read exactly, and a bad row is named by file, line, column and reason."""

from pathlib import Path

import pytest

from bursar.cli.replay.trace import (
    LINE_BYTES_MAX,
    PROBLEMS_SHOWN_MAX,
    Row,
    TraceError,
    read,
    shown_time,
)

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = "2023-11-16 18:17:03.9799600,4808,10\n"
TICKS = 17_001_586_239_799_600  # 2023-11-16T18:17:03.97996Z


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(folder: Path, content: str | bytes, *, skip_bad: bool = False) -> str:
    """Return the message of a refused trace, with its folder left out."""
    with pytest.raises(TraceError) as caught:
        read(write(folder, content), skip_bad=skip_bad)
    return str(caught.value).replace(f"{folder}/", "")


def test_values_are_exact(tmp_path: Path) -> None:
    """Seven digits of a second and whole int64 token counts survive unchanged."""
    trace = read(
        write(tmp_path, f"{HEADER}{GOOD}2023-11-16 18:17:03.9799601,9223372036854775807,0\n")
    )
    assert trace.rows == [Row(1, 2, TICKS, 4808, 10), Row(2, 3, TICKS + 1, 2**63 - 1, 0)]
    assert (trace.bad, trace.problems, trace.out_of_order) == (0, [], 0)
    assert shown_time(TICKS + 1) == "2023-11-16 18:17:03.9799601"


TIMES = {
    "2023-11-16 18:17:03.9799600": TICKS,
    "2023-11-16T18:17:03.97996Z": TICKS,
    "2023-11-16 18:17:03.979960+00:00": TICKS,
    "2023-11-16 19:47:03.9799600+01:30": TICKS,
    "2023-11-16 10:17:03.97996-08:00": TICKS,
    "2023-11-16 18:17:03": TICKS - 9_799_600,
    "1970-01-01 00:00:00": 0,
    "1970-01-01 00:00:00.0000001": 1,
}


@pytest.mark.parametrize("written", TIMES)
def test_ways_to_write_a_time(tmp_path: Path, written: str) -> None:
    """A time may have up to seven digits, a `T`, a `Z` or an offset; all are one instant."""
    (row,) = read(write(tmp_path, f"{HEADER}{written},1,1\n")).rows
    assert TIMES[written] == row.ticks


def test_last_time_has_a_name(tmp_path: Path) -> None:
    """The last accepted year comes back as it was written."""
    (row,) = read(write(tmp_path, f"{HEADER}9998-12-31 23:59:59.9999999,1,1\n")).rows
    assert shown_time(row.ticks) == "9998-12-31 23:59:59.9999999"


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeff{HEADER}{GOOD}",
        f"{HEADER}{GOOD}".replace("\n", "\r\n"),
        f"{HEADER}\n  \n{GOOD}\n\n",
        f"{HEADER}{GOOD}".rstrip("\n"),
        'TIMESTAMP, ContextTokens , "GeneratedTokens"\n"2023-11-16 18:17:03.97996", 04808 ,"10"\n',
    ],
    ids=["byte order mark", "CRLF", "blank lines", "no last newline", "quotes and spaces"],
)
def test_harmless_forms_are_read(tmp_path: Path, content: str) -> None:
    """Byte order marks, line ends, blank lines, quotes and spaces change nothing."""
    (row,) = read(write(tmp_path, content)).rows
    assert (row.row, row.ticks, row.context_tokens, row.generated_tokens) == (1, TICKS, 4808, 10)


BAD_ROWS = {
    "2023-11-16 18:17:04,abc,1": "2 ContextTokens: expected a whole number of at least 0, got "
    "'abc'",
    "2023-11-16 18:17:04,1,": "3 GeneratedTokens: expected a whole number of at least 0, got ''",
    "2023-11-16 18:17:04,-1,1": "2 ContextTokens: expected a whole number of at least 0, got '-1'",
    "2023-11-16 18:17:04,+1,1": "2 ContextTokens: expected a whole number of at least 0, got '+1'",
    "2023-11-16 18:17:04,1,1.5": "3 GeneratedTokens: expected a whole number of at least 0, got "
    "'1.5'",
    "2023-11-16 18:17:04,1e3,1": "2 ContextTokens: expected a whole number of at least 0, got "
    "'1e3'",
    "2023-11-16 18:17:04,\u0661,1": "2 ContextTokens: expected a whole number of at least 0, got "
    "'\u0661'",
    "2023-11-16 18:17:04,9223372036854775808,1": "2 ContextTokens: expected at most "
    "9223372036854775807, got '9223372036854775808'",
    f"2023-11-16 18:17:04,1,{'9' * 3000}": "3 GeneratedTokens: expected at most "
    f"9223372036854775807, got '{'9' * 39}…'",
    "2023-11-16 18:17:04,1": "3 GeneratedTokens: missing; expected 3 columns, got 2",
    "2023-11-16 18:17:04": "2 ContextTokens: missing; expected 3 columns, got 1",
    "2023-11-16 18:17:04,1,1,7": "4: '7' is one column too many; expected 3 columns, got 4",
    "2023-11-16 18:17:04,1,1,": "4: '' is one column too many; expected 3 columns, got 4",
    "yesterday,1,1": "1 TIMESTAMP: expected a time like 2023-11-16 18:17:03.9799600 (UTC), got "
    "'yesterday'",
    "2023-11-16,1,1": "1 TIMESTAMP: expected a time like",
    "2023-11-16 18:17:04.12345678,1,1": "1 TIMESTAMP: expected a time like",
    "2023-02-29 18:17:04,1,1": "1 TIMESTAMP: there is no such time as '2023-02-29 18:17:04': day",
    "2023-11-16 24:00:00,1,1": "1 TIMESTAMP: there is no such time as '2023-11-16 24:00:00': hour",
    "2023-11-16 18:17:04+99:00,1,1": "1 TIMESTAMP: there is no such time",
    "1969-12-31 23:59:59,1,1": "1 TIMESTAMP: expected a year from 1970 to 9998, got",
    "1970-01-01 00:00:00+00:01,1,1": "1 TIMESTAMP: expected a year from 1970 to 9998, got",
    "0001-01-01 00:00:00+00:01,1,1": "1 TIMESTAMP: there is no such time",
    "9999-01-01 00:00:00,1,1": "1 TIMESTAMP: expected a year from 1970 to 9998, got",
    '2023-11-16 18:17:04,"1,1': "1 TIMESTAMP: the quotes do not match",
    '"2023-11-16 18:17:04"x,1,1': "1 TIMESTAMP: the quotes do not match",
    "2023-11-16 18:17:04,1\x00,1": "2 ContextTokens: expected a whole number",
    "x" * 5_000: f"1 TIMESTAMP: the line is longer than {LINE_BYTES_MAX:,} bytes",
    "x" * 50_000: f"1 TIMESTAMP: the line is longer than {LINE_BYTES_MAX:,} bytes",
}


@pytest.mark.parametrize("row", BAD_ROWS, ids=lambda row: row[:40])
def test_bad_row_is_named_and_refused(tmp_path: Path, row: str) -> None:
    """A bad row stops the replay with file, line, column and reason, and tells the way out."""
    message = refused(tmp_path, f"{HEADER}{GOOD}\n{row}\n{GOOD}")
    assert message.startswith(f"trace.csv:4:{BAD_ROWS[row]}")
    assert message.endswith("Correct them, or leave them out with --skip-bad.")


@pytest.mark.parametrize("row", BAD_ROWS, ids=lambda row: row[:40])
def test_bad_row_is_left_out_on_request(tmp_path: Path, row: str) -> None:
    """With `skip_bad` the rows around a bad one are read, and the bad one is counted."""
    trace = read(write(tmp_path, f"{HEADER}{GOOD}{row}\n{GOOD}"), skip_bad=True)
    assert [(kept.row, kept.line) for kept in trace.rows] == [(1, 2), (3, 4)]
    assert trace.bad == 1
    assert f"trace.csv:3:{BAD_ROWS[row]}" in str(trace.problems[0])


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    """A stray byte makes its row bad and is shown."""
    content = HEADER.encode() + b"2023-11-16 18:17:04,4\xff,1\n"
    assert r"trace.csv:2:2 ContextTokens: expected a whole number of at least 0, got '4\\xff'" in (
        refused(tmp_path, content)
    )


def test_only_the_first_bad_rows_are_listed(tmp_path: Path) -> None:
    """A file of rubbish gives a short message with the full count."""
    message = refused(tmp_path, HEADER + "x,1,1\n" * 1_005)
    assert message.count("TIMESTAMP: expected") == PROBLEMS_SHOWN_MAX
    assert "trace.csv: and 1,000 more bad rows" in message


HEADERS = {
    "": "trace.csv: the file is empty; its first line must be TIMESTAMP,ContextTokens,Gen",
    HEADER: "trace.csv: there is a header, but no row below it",
    GOOD: "trace.csv:1:1 the header is missing; put TIMESTAMP,ContextTokens,GeneratedTokens",
    "\n" + HEADER + GOOD: "trace.csv:1:1 wrong header: expected TIMESTAMP, got ''",
    "time,ContextTokens,GeneratedTokens\n" + GOOD: "trace.csv:1:1 wrong header: expected "
    "TIMESTAMP, got 'time'; the first line must be TIMESTAMP,ContextTokens,GeneratedTokens",
    "TIMESTAMP,GeneratedTokens,ContextTokens\n" + GOOD: "trace.csv:1:2 wrong header: expected "
    "ContextTokens, got 'GeneratedTokens'",
    "TIMESTAMP,ContextTokens\n" + GOOD: "trace.csv:1:3 wrong header: expected GeneratedTokens, got "
    "nothing",
    "TIMESTAMP,ContextTokens,GeneratedTokens,Model\n" + GOOD: "trace.csv:1:4 wrong header: 'Model' "
    "is one column too many",
    "x" * 5_000: f"trace.csv:1:1 the line is longer than {LINE_BYTES_MAX:,} bytes; expected TIME",
    '"TIMESTAMP,x\n': "trace.csv:1:1 the quotes do not match",
}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("content", HEADERS, ids=lambda content: repr(content[:24]))
def test_header_must_be_right(tmp_path: Path, content: str, skip_bad: bool) -> None:
    """Without the right header nothing is guessed, whether bad rows are skipped or not."""
    assert refused(tmp_path, content, skip_bad=skip_bad).startswith(HEADERS[content])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_recognized(tmp_path: Path, encoding: str) -> None:
    """A file that a spreadsheet saved as UTF-16 gets the fix, not a riddle."""
    content = ("\ufeff" + HEADER + GOOD).encode(encoding)
    assert refused(tmp_path, content) == "trace.csv:1:1 the file is UTF-16; save it as UTF-8"


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    """A trace whose every row is bad is not an empty success."""
    message = refused(tmp_path, HEADER + "x,1,1\n", skip_bad=True)
    assert message.endswith("trace.csv: no row is left to replay")
    assert message.startswith("trace.csv:2:1 TIMESTAMP: expected")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and a directory are named with the reason."""
    with pytest.raises(TraceError, match=r"none\.csv: cannot be read: No such file or directory"):
        read(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="cannot be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(TraceError, match="cannot be read: embedded null byte"):
        read(Path("a\0b"))


def test_disorder_is_sorted_and_counted(tmp_path: Path) -> None:
    """Rows are replayed by time; equal times keep the file's order; late ones are counted."""
    times = ["00:00:05", "00:00:03", "00:00:05", "00:00:04", "00:00:09", "00:00:05"]
    content = HEADER + "".join(
        f"2024-01-01 {time},{number},1\n" for number, time in enumerate(times, 1)
    )
    trace = read(write(tmp_path, content))
    assert [row.row for row in trace.rows] == [2, 4, 1, 3, 6, 5]
    assert trace.out_of_order == 3
