"""Answers that were paid for, in a file of their own, for a merchant that is started again.

The rule that lives here: an answer is on the disk before the payment's record says that it was
delivered, so whoever paid gets it from the next process too. They lie beside the ledger and not
in it: they are bulky, private, and nothing of them is needed to know who paid for what.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sqlite3
import threading
from pathlib import Path
from typing import Final

from bursar.clock import Clock, SystemClock
from bursar.x402.results import ANSWERS_MAX, BYTES_MAX, StoredAnswer, check_bounds

KEEP_S: Final = 7 * 86_400
BUSY_TIMEOUT_S: Final = 5.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS answer (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    payment_id TEXT NOT NULL UNIQUE,
    kept_at_ms INTEGER NOT NULL,
    status     INTEGER NOT NULL,
    headers    TEXT NOT NULL,
    body       BLOB NOT NULL,
    size       INTEGER NOT NULL
) STRICT
"""
_COLUMNS: Final = "number payment_id kept_at_ms status headers body size"
# Of the newest, as many as there is room for; it is small, for the bounds keep it so.
_FULL: Final = """
DELETE FROM answer WHERE number IN (
    SELECT number FROM (
        SELECT number, row_number() OVER newest AS place, sum(size) OVER newest AS total
        FROM answer WINDOW newest AS (ORDER BY number DESC)
    ) WHERE place > ? OR total > ?
)
"""


class FileResults:
    """Answers in a SQLite file, up to a number, a size and an age; for several processes too.

    Args:
        path: the file; it is created where there is none, for its owner alone to read. A ledger
            or another database is refused, and left as it is.
        answers_max: so many are kept.
        bytes_max: and so much of them.
        keep_s: for so long.
        clock: the time.

    Raises:
        ValueError: a bound is below 1.
        OSError: the file cannot be made.
        sqlite3.Error: it is none of these.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        answers_max: int = ANSWERS_MAX,
        bytes_max: int = BYTES_MAX,
        keep_s: int = KEEP_S,
        clock: Clock | None = None,
    ) -> None:
        check_bounds(answers_max=answers_max, bytes_max=bytes_max, keep_s=keep_s)
        self._lock, self._clock = threading.Lock(), clock or SystemClock()
        self._answers_max, self._bytes_max, self._keep_ms = answers_max, bytes_max, keep_s * 1_000
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._file = sqlite3.connect(
            Path(path), timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._refuse_others(path)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.execute(_SCHEMA)
        except BaseException:
            self._file.close()
            raise

    def _refuse_others(self, path: str | os.PathLike[str]) -> None:
        """Refuse a database that holds something else, before anything of it is changed."""
        mark = self._file.execute("PRAGMA application_id").fetchone()[0]
        of = "sqlite_schema AS s LEFT JOIN pragma_table_info(s.name)"
        found = self._file.execute(
            f"SELECT s.name, group_concat(pragma_table_info.name, ' ') FROM {of} "
            "WHERE s.name NOT LIKE 'sqlite!_%' ESCAPE '!' GROUP BY s.name"
        ).fetchall()
        if mark or found not in ([], [("answer", _COLUMNS)]):
            raise sqlite3.DatabaseError(
                f"{os.fspath(path)} is a database of something else, such as a ledger; give "
                "answers a file of their own"
            )

    def get(self, payment_id: str) -> StoredAnswer | None:
        """Return the answer of a payment, if it is still there."""
        oldest_ms = self._clock.now_ms() - self._keep_ms
        with self._lock:
            found = self._file.execute(
                "SELECT status, headers, body FROM answer WHERE payment_id = ? AND kept_at_ms >= ?",
                (payment_id, oldest_ms),
            ).fetchone()
        return None if found is None else StoredAnswer(found[0], _headers(found[1]), found[2])

    def put(self, payment_id: str, answer: StoredAnswer) -> None:
        """Keep an answer, on the disk when this returns; the oldest make room for it."""
        if answer.size > self._bytes_max:
            return
        now_ms = self._clock.now_ms()
        text = json.dumps([[base64.b64encode(part).decode() for part in h] for h in answer.headers])
        row = (payment_id, now_ms, answer.status, text, answer.body, answer.size)
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._file.execute("DELETE FROM answer WHERE payment_id = ?", (payment_id,))
                self._file.execute(
                    "INSERT INTO answer (payment_id, kept_at_ms, status, headers, body, size) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                )
                oldest_ms = now_ms - self._keep_ms
                self._file.execute("DELETE FROM answer WHERE kept_at_ms < ?", (oldest_ms,))
                self._file.execute(_FULL, (self._answers_max, self._bytes_max))
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()


def _headers(text: str) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((base64.b64decode(n), base64.b64decode(v)) for n, v in json.loads(text))
