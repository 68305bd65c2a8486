"""Where answers are kept: whole or not at all, within bounds, in memory or on the disk."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bursar.payments.store import open_payments
from bursar.testing.clock import FakeClock
from bursar.x402.file_results import FileResults
from bursar.x402.results import MemoryResults, Results, StoredAnswer
from payments.world import NOW_MS

Make = Callable[..., Results]


def answer(text: str = "sunny", status: int = 200) -> StoredAnswer:
    headers = ((b"content-type", b"text/plain"), (b"x-latin", b"\xe9"), (b"set-cookie", b"a=b"))
    return StoredAnswer(status, headers, text.encode() + b"\x00\xff")


@pytest.fixture(params=["memory", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes one of each kind in turn."""
    opened = list[FileResults]()

    def made(**more: Any) -> Results:
        if request.param == "memory":
            return MemoryResults(**more)
        opened.append(FileResults(tmp_path / "answers.db", **more))
        return opened[-1]

    yield made
    for each in opened:
        each.close()


def test_an_answer_comes_back_as_it_was(make: Make) -> None:
    """Bytes that are no text, headers that come twice, and what replaces it."""
    results = make()
    assert results.get("pay_1") is None
    results.put("pay_1", answer())
    assert results.get("pay_1") == answer()
    results.put("pay_1", answer("rainy", 201))
    assert results.get("pay_1") == answer("rainy", 201)
    assert results.get("pay_2") is None


def test_the_oldest_make_room(make: Make) -> None:
    """By number; one that was replaced counts as new."""
    results = make(answers_max=2)
    for name in ("1", "2", "1", "3"):
        results.put(name, answer(name))
    assert [results.get(name) is not None for name in "123"] == [True, False, True]


def test_there_is_so_much_room(make: Make) -> None:
    """By size; what is larger than all of it is not kept, and takes nobody's place."""
    one = answer("x" * 10).size
    results = make(bytes_max=2 * one)
    for name in "123":
        results.put(name, answer("x" * 10))
    assert [results.get(name) is not None for name in "123"] == [False, True, True]
    results.put("4", answer("x" * 1_000))
    assert [results.get(name) is not None for name in "234"] == [True, True, False]


def test_a_file_holds_them_for_the_next_process(tmp_path: Path) -> None:
    """For its owner alone; to several at once; and not for ever."""
    path, clock = tmp_path / "answers.db", FakeClock(NOW_MS)
    with closing(FileResults(path, clock=clock, keep_s=60)) as first:
        first.put("pay_1", answer())
        assert path.stat().st_mode & 0o077 == 0
        with closing(FileResults(path, clock=clock, keep_s=60)) as second:
            assert second.get("pay_1") == answer()
            second.put("pay_2", answer("rainy"))
        assert first.get("pay_2") == answer("rainy")
    clock.advance_ms(60_000)
    with closing(FileResults(path, clock=clock, keep_s=60)) as third:
        assert third.get("pay_1") == answer()
        clock.advance_ms(1)
        assert third.get("pay_1") is None
        third.put("pay_3", answer())
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT payment_id FROM answer").fetchall() == [("pay_3",)]


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    path.write_bytes(b"not a database, and more than a header long" * 40)
    with pytest.raises(sqlite3.DatabaseError):
        FileResults(path)
    assert path.read_bytes().startswith(b"not a database")
    with pytest.raises(OSError, match="No such file"):
        FileResults(tmp_path / "missing" / "answers.db")
    assert os.listdir(tmp_path) == ["answers.db"]


def test_another_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """A ledger, and a table that only has the same name; its own file opens again."""
    ledger, other, own = (tmp_path / name for name in ("ledger.db", "other.db", "own.db"))
    open_payments(ledger).close()
    with closing(sqlite3.connect(other)) as made:
        made.execute("CREATE TABLE answer (question TEXT)")
    before = ledger.read_bytes(), other.read_bytes()
    for path in (ledger, other):
        with pytest.raises(sqlite3.DatabaseError, match="database of something else"):
            FileResults(path)
    assert (ledger.read_bytes(), other.read_bytes()) == before
    for _ in range(2):
        FileResults(own).close()


@pytest.mark.parametrize("bound", ["answers_max", "bytes_max", "keep_s"])
@pytest.mark.parametrize("value", [0, -1, 10**16])
def test_bounds_that_keep_nothing_are_refused(tmp_path: Path, bound: str, value: int) -> None:
    """Each by its name, before there is a file."""
    given: dict[str, Any] = {bound: value}
    with pytest.raises(ValueError, match=f"{bound} must be from 1 to 10+; got {value}"):
        FileResults(tmp_path / "answers.db", **given)
    assert os.listdir(tmp_path) == []
    if bound != "keep_s":
        with pytest.raises(ValueError, match=f"{bound} must be from 1"):
            MemoryResults(**given)
