"""Payments in the ledger's SQLite file.

The rule that lives here: payments take the write lock like every other writer of the file
(`BEGIN IMMEDIATE`, the busy timeout of the ledger) and never the claim of a server, so that a
payment worker runs beside `bursar serve`. What is due is found by the index of what is due.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bursar.ledger.ports import StoreError
from bursar.payments.outcome import OPEN, BudgetState, Disposition, Money, Remedy, Work
from bursar.payments.ports import (
    PaymentConflict,
    PaymentQuery,
    PaymentStoreError,
    Result,
    Saved,
    Tally,
    Whose,
)
from bursar.payments.records import (
    Change,
    Kind,
    Notice,
    PaymentEvent,
    PaymentRecord,
    Transfer,
    evidence_from_json,
)
from bursar.storage.sqlite import connect as opening
from bursar.storage.sqlite.payment_figures import TALLIES
from bursar.storage.sqlite.payment_outbox import SqliteOutbox, post

CHECKPOINT_TRANSACTIONS = 500
_NAMES = [each.name for each in fields(PaymentRecord)]
_COLUMNS = ", ".join(_NAMES)
_READ: dict[str, Any] = {
    "kind": Kind,
    "value": int,
    "money": Money,
    "work": Work,
    "remedy": Remedy,
    "disposition": Disposition,
    "budget_state": BudgetState,
}
_READERS = [_READ.get(name) for name in _NAMES]
# A claim is not a part of what is compared and swapped: it changes by claiming alone.
_LEASE = {"lease_owner", "lease_until_ms", "fence"}
_SET = ", ".join(f"{name} = :{name}" for name in _NAMES if name not in _LEASE)
_INSERT = f"INSERT INTO payment ({_COLUMNS}) VALUES ({', '.join(':' + n for n in _NAMES)})"
_MINE = "AND tenant = ? AND payer = ? "


def due(mine: str = "") -> str:
    """Return the question for what is due, of everybody or of one payer."""
    return (
        f"SELECT {_COLUMNS} FROM payment INDEXED BY payment_due "
        f"WHERE next_check_at_ms <= ? AND lease_until_ms <= ? {mine}"
        "ORDER BY next_check_at_ms LIMIT ?"
    )


PRESENTED = (
    f"SELECT {_COLUMNS} FROM payment WHERE payment_id IN ("
    "SELECT payment_id FROM payment_authorization INDEXED BY payment_authorization_again "
    "WHERE network = ? AND payer = ? AND nonce = ?) ORDER BY payment_id"
)
# What is final is not in this part of the index, however much of it there is.
HELD = (
    f"SELECT {_COLUMNS} FROM payment INDEXED BY payment_by_state "
    f"WHERE money IN ({', '.join(repr(each.value) for each in sorted(OPEN))}) {_MINE}"
    f"AND budget_state = '{BudgetState.RESERVED}' AND payment_id > ? "
    "ORDER BY payment_id LIMIT ?"
)


class SqlitePayments(SqliteOutbox):
    """The payments of one ledger file; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        """Connect to a prepared file; use `open` instead."""
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = opening.connect(path)
        self._written = 0

    @classmethod
    def open(cls, path: Path, *, create: bool = True, migrate: bool = False) -> SqlitePayments:
        """Open the payments of a ledger file, creating the file where allowed.

        Raises:
            StoreUnusable: the file is foreign, corrupt, or of another schema.
        """
        path = path.absolute()
        with opening.usable(path):
            opening.prepare(path, create=create, migrate=migrate, claim=None)
            return cls(path)

    def add(
        self, record: PaymentRecord, event: PaymentEvent, notices: Sequence[Notice] = ()
    ) -> tuple[PaymentRecord, bool]:
        """Keep a new payment, or return the one that is there (see `ports.PaymentStore`)."""
        with self._transaction("recording a payment") as connection:
            existing = _existing(connection, record)
            if existing is not None:
                if existing.tenant != record.tenant or not existing.same_purchase(record):
                    raise PaymentConflict(existing)
                return existing, False
            connection.execute(_INSERT, _row(record))
            key = record.authorization()
            if key is not None:
                connection.execute(
                    "INSERT INTO payment_authorization VALUES (?, ?, ?, ?, ?)",
                    (*key, record.payment_id),
                )
            _append(connection, [event])
            post(connection, notices)
            return record, True

    def get(self, payment_id: str) -> PaymentRecord | None:
        """Return a payment."""
        found = self._ask(f"SELECT {_COLUMNS} FROM payment WHERE payment_id = ?", (payment_id,))
        return _record(found[0]) if found else None

    def attempts(self, tenant: str, intent_id: str) -> Sequence[PaymentRecord]:
        """Return every attempt of an intent, in order."""
        sql = (
            f"SELECT {_COLUMNS} FROM payment WHERE tenant = ? AND intent_id = ? ORDER BY attempt_no"
        )
        return [_record(row) for row in self._ask(sql, (tenant, intent_id))]

    def presented(self, network: str, payer: str, nonce: str) -> Sequence[PaymentRecord]:
        """Return the payments that a payer authorized with a nonce (see `ports.PaymentStore`)."""
        key = (network, payer.lower(), nonce.lower())
        return [_record(row) for row in self._ask(PRESENTED, key)]

    def claim(
        self, owner: str, now_ms: int, lease_ms: int, limit: int, whose: Whose | None = None
    ) -> Sequence[PaymentRecord]:
        """Lease what is due, the longest due first (see `ports.PaymentStore`)."""
        mine, who = _of(whose)
        if not self._ask(due(mine), (now_ms, now_ms, *who, 1)):
            return []  # nobody else waits for a lock that this would take for nothing
        with self._transaction("claiming payments") as connection:
            found = connection.execute(due(mine), (now_ms, now_ms, *who, limit)).fetchall()
            ids = [row[_NAMES.index("payment_id")] for row in found]
            connection.executemany(
                "UPDATE payment SET lease_owner = ?, lease_until_ms = ?, fence = fence + 1 "
                "WHERE payment_id = ?",
                [(owner, now_ms + lease_ms, payment_id) for payment_id in ids],
            )
            return [_one(connection, payment_id) for payment_id in ids]

    def save(self, changes: Sequence[Change]) -> Sequence[Result]:
        """Save what still holds, refuse the rest (see `ports.PaymentStore`)."""
        with self._transaction("saving payments") as connection:
            return [_save(connection, change) for change in changes]

    def give_back(self, leases: Sequence[tuple[str, int]]) -> None:
        """End leases, by payment and fence."""
        with self._transaction("giving back payments") as connection:
            connection.executemany(
                "UPDATE payment SET lease_owner = NULL, lease_until_ms = 0 "
                "WHERE payment_id = ? AND fence = ?",
                leases,
            )

    def events(self, payment_id: str) -> Sequence[PaymentEvent]:
        """Return a payment's history, oldest first."""
        record = self.get(payment_id)
        if record is None:
            return []
        sql = "SELECT * FROM payment_event WHERE tenant = ? AND payment_id = ? ORDER BY seq"
        return [_event(row) for row in self._ask(sql, (record.tenant, payment_id))]

    def page(self, query: PaymentQuery) -> Sequence[PaymentRecord]:
        """Return a page of payments, the newest first."""
        parts, values = ["1"], []
        for name in ("tenant", "money", "disposition"):
            if (wanted := getattr(query, name)) is not None:
                parts.append(f"{name} = ?")
                values.append(wanted)
        if query.before is not None:
            parts.append("(created_at_ms, payment_id) < (?, ?)")
            values.extend(query.before)
        sql = (
            f"SELECT {_COLUMNS} FROM payment WHERE {' AND '.join(parts)} "
            "ORDER BY created_at_ms DESC, payment_id DESC LIMIT ?"
        )
        return [_record(row) for row in self._ask(sql, (*values, query.limit))]

    def held(self, whose: Whose, after: str, limit: int) -> Sequence[PaymentRecord]:
        """Return a payer's open payments that hold a reservation (see `ports.PaymentStore`)."""
        return [_record(row) for row in self._ask(HELD, (*_of(whose)[1], after, limit))]

    def tallies(self) -> Sequence[Tally]:
        """Count payments by their states."""
        return [Tally(Money(m), Disposition(d), count) for m, d, count in self._ask(TALLIES)]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Hold the write lock; durable at the end, or nothing of it is there."""
        with self._lock, _translated(doing):
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self._written += 1
            if self._written % CHECKPOINT_TRANSACTIONS == 0:  # no server may be there to do it
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _ask(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, _translated("reading payments"):
            return self._open().execute(sql, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise PaymentStoreError("the payments of this file are closed; open them again")
        return self._connection


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        with opening.translated(doing):
            yield
    except StoreError as error:
        raise PaymentStoreError(str(error)) from error


def _of(whose: Whose | None) -> tuple[str, tuple[str, ...]]:
    """Return the condition for one payer's payments and its values; nothing for everybody's."""
    return ("", ()) if whose is None else (_MINE, (whose.tenant, whose.payer))


def _row(record: PaymentRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _NAMES} | {"value": str(record.value)}


def _record(row: Sequence[Any]) -> PaymentRecord:
    try:
        return PaymentRecord(
            *(
                value if read is None else read(value)
                for read, value in zip(_READERS, row, strict=True)
            )
        )
    except ValueError as error:
        raise PaymentStoreError(f"payment {row[1]} cannot be read: {error}") from error


def _event(row: Sequence[Any]) -> PaymentEvent:
    tenant, payment_id, seq, at_ms, what, money, work, about, evidence = row
    states = Money(money), Work(work), Disposition(about)
    return PaymentEvent(tenant, payment_id, seq, at_ms, what, *states, evidence_from_json(evidence))


def _one(connection: sqlite3.Connection, payment_id: str) -> PaymentRecord:
    sql = f"SELECT {_COLUMNS} FROM payment WHERE payment_id = ?"
    return _record(connection.execute(sql, (payment_id,)).fetchone())


def _existing(connection: sqlite3.Connection, record: PaymentRecord) -> PaymentRecord | None:
    """Return what has the authorization of a record, or else its attempt."""
    key = record.authorization()
    found = None
    if key is not None:
        found = connection.execute(
            "SELECT payment_id FROM payment_authorization "
            "WHERE network = ? AND asset = ? AND payer = ? AND nonce = ?",
            key,
        ).fetchone()
    if found is None:
        found = connection.execute(
            "SELECT payment_id FROM payment WHERE tenant = ? AND intent_id = ? AND attempt_no = ?",
            (record.tenant, record.intent_id, record.attempt_no),
        ).fetchone()
        if found is not None and key is not None:
            # Another authorization for an attempt that is on record would be a second payment.
            raise PaymentConflict(_one(connection, found[0]))
    return None if found is None else _one(connection, found[0])


def _save(connection: sqlite3.Connection, change: Change) -> Result:
    if change.refunds and not _is_free(connection, change):
        return Result(Saved.TAKEN)
    fenced = "" if change.fence is None else " AND fence = :held"
    ends = "" if change.fence is None else ", lease_owner = NULL, lease_until_ms = 0"
    values = _row(change.after) | {"was": change.version, "held": change.fence}
    changed = connection.execute(
        f"UPDATE payment SET {_SET}{ends} "
        f"WHERE payment_id = :payment_id AND version = :was{fenced}",
        values,
    ).rowcount
    if not changed:
        now = _one(connection, change.after.payment_id)
        is_fenced = change.fence is not None and now.fence != change.fence
        return Result(Saved.FENCED if is_fenced else Saved.STALE)
    _append(connection, change.events)
    _take(connection, change)
    return Result(Saved.SAVED, post(connection, change.notices))


def _is_free(connection: sqlite3.Connection, change: Change) -> bool:
    """Return whether a transfer is left that pays no other payment back."""
    mine = (None, change.after.payment_id)
    return any(_paid_back_by(connection, each) in mine for each in change.refunds)


def _take(connection: sqlite3.Connection, change: Change) -> None:
    """Keep which transfer pays a payment back: the first that is free."""
    for each in change.refunds:
        if _paid_back_by(connection, each) is None:
            row = (each.network, each.tx_hash, each.log_index, change.after.payment_id)
            connection.execute("INSERT INTO payment_refund VALUES (?, ?, ?, ?)", row)
            return


def _paid_back_by(connection: sqlite3.Connection, transfer: Transfer) -> str | None:
    """Return the payment that a transfer, or all of its transaction, pays back."""
    found = connection.execute(
        "SELECT payment_id FROM payment_refund "
        "WHERE network = ? AND tx_hash = ? AND log_index IN (-1, ?)",
        (transfer.network, transfer.tx_hash, transfer.log_index),
    ).fetchone()
    return None if found is None else str(found[0])


def _append(connection: sqlite3.Connection, events: Sequence[PaymentEvent]) -> None:
    connection.executemany(
        "INSERT INTO payment_event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *(event.tenant, event.payment_id, event.seq, event.at_ms, event.what),
                *(event.money, event.work, event.disposition, event.evidence.to_json()),
            )
            for event in events
        ],
    )
