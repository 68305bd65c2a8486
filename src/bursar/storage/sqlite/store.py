"""The SQLite store: one writer, one transaction per batch, durable before it returns.

The rule that lives here: `transact` returns only after the write-ahead log is on disk
(`synchronous=FULL`), and whatever goes wrong before that leaves nothing behind. Copying
the log into the file (the checkpoint) happens on a thread of its own, never on the way to
an answer.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from pathlib import Path

from bursar.core.reads import Reads
from bursar.core.trail import UNAUTHENTICATED
from bursar.ledger.ports import StoreError, StoreOutcomeUnknown, Work
from bursar.storage.sqlite import connect as opening
from bursar.storage.sqlite.claim import Claim
from bursar.storage.sqlite.load import load
from bursar.storage.sqlite.reader import SqliteReader
from bursar.storage.sqlite.save import save
from bursar.storage.sqlite.statistics import Statistics, gather

CHECKPOINT_ENTRIES = 2_000  # some five megabytes of log
RESTART_BYTES = 16 * 1024 * 1024
RESTART_WAIT_MS = 50
PAGE_BYTES = 4_096


class SqliteStore:
    """A ledger in one SQLite file.

    Several processes may embed the same file: each transaction takes SQLite's write lock
    and waits for it up to five seconds. A server takes the whole file for itself
    (`exclusive`), so that a second server is told and does not start.
    """

    def __init__(self, path: Path, claim: Claim | None) -> None:
        """Connect to a prepared file; use `open` instead."""
        self.path = path
        self.reader = SqliteReader(path)
        self._claim = claim
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = opening.connect(path)
        self._grown = threading.Event()
        self._unchecked = 0
        self._checkpoints, self._checkpoint_s = 0, 0.0
        self._closing = False
        self._checkpointer = threading.Thread(
            target=self._checkpoint, name="bursar-checkpoint", daemon=True
        )
        self._checkpointer.start()

    @classmethod
    def open(
        cls, path: Path, *, create: bool = True, migrate: bool = False, exclusive: bool = False
    ) -> SqliteStore:
        """Open a ledger file, creating it if it is new and `create` allows it.

        Args:
            path: the file; `-wal`, `-shm` and `.lock` files lie beside it.
            create: whether a missing file is created.
            migrate: whether a file of an older schema is brought up to date.
            exclusive: whether to take the file for this process alone.

        Raises:
            StoreUnusable: the file is foreign, corrupt, of another schema, or in use.
        """
        path = path.absolute()
        with opening.usable(path):
            opening.refuse_impossible(path, create=create)
            claim = Claim(path) if exclusive else None
        try:
            with opening.usable(path):
                opening.prepare(path, create=create, migrate=migrate, claim=claim)
                return cls(path, claim)
        except BaseException:
            if claim is not None:
                claim.close()
            raise

    def transact(self, reads: Reads, work: Work) -> None:
        """Load, work, save and make durable, in one transaction (see `ports.Store`)."""
        with self._lock:
            if self._closing:
                raise StoreError("the ledger file is closed")
            with opening.translated("writing the ledger"):
                connection = self._connection or opening.connect(self.path)
                self._connection = connection
                self._roll_back(connection)  # where an interrupt has left a transaction open
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    saves = work(load(connection, reads))
                    save(connection, saves)
                except BaseException:
                    self._roll_back(connection)
                    raise
                self._commit(connection)
            if self._claim is not None:
                self._claim.acknowledged(len(saves.entries))
        self._unchecked += len(saves.entries)
        if self._unchecked > CHECKPOINT_ENTRIES:
            self._unchecked = 0
            self._grown.set()

    def forget_failures(self, *, of: str | None, before_ms: int, limit: int) -> int:
        """Delete old failures, a bounded number of them (see `ports.Store`)."""
        owner = "tenant <> ?" if of is None else "tenant = ?"
        with self._lock:
            if self._closing:
                raise StoreError("the ledger file is closed")
            with opening.translated("forgetting old failures"):
                connection = self._connection or opening.connect(self.path)
                self._connection = connection
                # One statement is a transaction of its own, and rolled back if it fails.
                return connection.execute(
                    "DELETE FROM failure WHERE (tenant, request_id) IN (SELECT tenant, request_id "
                    f"FROM failure INDEXED BY failure_by_time WHERE at_ms < ? AND {owner} "
                    "ORDER BY at_ms LIMIT ?)",
                    (before_ms, UNAUTHENTICATED if of is None else of, limit),
                ).rowcount

    def _commit(self, connection: sqlite3.Connection) -> None:
        """Make the transaction durable, or say honestly how it failed.

        No space means that the commit record was not written. Any other failure at this
        point may have come after it; only reading the file again can tell, so the
        connection is dropped and the caller is told that the outcome is unknown.
        """
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            name = getattr(error, "sqlite_errorname", "")
            if name in ("SQLITE_FULL", "SQLITE_BUSY"):
                raise
            self._drop_connection()
            raise StoreOutcomeUnknown(f"the ledger file could not be synced: {error}") from error

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the error that led here matters more
                connection.execute("ROLLBACK")

    def _drop_connection(self) -> None:
        """Close the connection; the next transaction makes another, or fails and tries again."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _checkpoint(self) -> None:
        """Move the log into the file whenever it has grown, until the store closes.

        A passive checkpoint never blocks the writer, but under steady load it never
        reaches the log's end either; past a second mark the log starts again from its
        beginning, which makes the writer wait for the little that the passive pass left over.
        It would also wait for every reader, a backup among them, with the writer behind it: so
        it soon gives up. The log's file stays as long as it was: writing over it syncs in half
        the time that writing behind its end does.
        """
        connection = opening.connect(self.path)
        connection.execute(f"PRAGMA busy_timeout = {RESTART_WAIT_MS}")
        try:
            while True:
                self._grown.wait()
                if self._closing:
                    return
                self._grown.clear()
                began_s = time.perf_counter()
                with contextlib.suppress(sqlite3.Error):  # tried again as the log grows
                    passive = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if passive[1] * PAGE_BYTES > RESTART_BYTES:  # frames written since it began
                        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                self._checkpoints += 1
                self._checkpoint_s += time.perf_counter() - began_s
        finally:
            connection.close()

    def statistics(self) -> Statistics:
        """Return sizes and counts of the file, and how long its checkpoints took.

        Raises:
            StoreError: the file cannot be read.
            OSError: nor can its folder.
        """
        return gather(self.path, self._checkpoints, self._checkpoint_s)

    def close(self) -> None:
        """Let go of the file; the last connection moves the log into it."""
        self._closing = True
        self._grown.set()
        self._checkpointer.join()
        with self._lock:
            self.reader.close()
            self._drop_connection()  # closing the last one moves the log; that can wait
        if self._claim is not None:
            self._claim.close()
            self._claim = None
