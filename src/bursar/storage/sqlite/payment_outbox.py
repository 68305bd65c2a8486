"""What others must be told of payments, in the ledger's SQLite file.

The rule that lives here: an entry is open until it is marked, whoever died meanwhile. What is
parked waits for a person and holds up nobody; of the rest, one payment's entries go in order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from bursar.payments.ports import NoticeQuery, Posted, Whose
from bursar.payments.records import Notice, Topic

_COLUMNS = (
    "o.number, o.tenant, o.payment_id, o.topic, o.dedupe_key, o.payload, o.available_at_ms, "
    "o.attempts, o.parked_at_ms, o.reason"
)
_OPEN = "o.sent_at_ms IS NULL AND o.parked_at_ms IS NULL"
_DUE = f"{_OPEN} AND o.topic = ? AND o.available_at_ms <= ? AND o.lease_until_ms <= ?"
READ = (
    f"SELECT {_COLUMNS} FROM payment_outbox o WHERE {_DUE} {{mine}}"
    "ORDER BY o.available_at_ms, o.number LIMIT ?"
)
_MINE = (
    "AND EXISTS (SELECT 1 FROM payment p WHERE p.payment_id = o.payment_id "
    "AND p.tenant = ? AND p.payer = ?) "
)
FIRST_DUE = (
    f"SELECT {_COLUMNS} FROM payment_outbox o INDEXED BY payment_outbox_due WHERE {_DUE} "
    "AND NOT EXISTS (SELECT 1 FROM payment_outbox e INDEXED BY payment_outbox_open "
    "WHERE e.payment_id = o.payment_id AND e.topic = o.topic AND e.number < o.number "
    "AND e.sent_at_ms IS NULL AND e.parked_at_ms IS NULL) "
    "ORDER BY o.available_at_ms, o.number LIMIT ?"
)
_ENDED = "lease_owner = NULL, lease_until_ms = 0"


class SqliteOutbox:
    """The outbox of a payment store; the store brings the file."""

    def _transaction(self, doing: str) -> AbstractContextManager[sqlite3.Connection]:
        raise NotImplementedError

    def _ask(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        raise NotImplementedError

    def outbox(
        self, topic: Topic, now_ms: int, limit: int, whose: Whose | None = None
    ) -> Sequence[Posted]:
        """Return what is to be told now, oldest first."""
        who = () if whose is None else (whose.tenant, whose.payer)
        sql = READ.format(mine="" if whose is None else _MINE)
        return [_posted(row) for row in self._ask(sql, (topic, now_ms, now_ms, *who, limit))]

    def lease_notices(
        self, topic: Topic, owner: str, now_ms: int, lease_ms: int, limit: int
    ) -> Sequence[Posted]:
        """Lease what is to be told now, the first open entry of each payment."""
        asked = (topic, now_ms, now_ms)
        if not self._ask(FIRST_DUE, (*asked, 1)):
            return []  # nobody else waits for a lock that this would take for nothing
        with self._transaction("leasing notices") as connection:
            due = connection.execute(FIRST_DUE, (*asked, limit)).fetchall()
            connection.executemany(
                "UPDATE payment_outbox SET lease_owner = ?, lease_until_ms = ? WHERE number = ?",
                [(owner, now_ms + lease_ms, row[0]) for row in due],
            )
        return [_posted(row) for row in due]

    def mark_sent(self, number: int, now_ms: int) -> None:
        """Note that a notice was accepted."""
        self._open_one(
            f"sent_at_ms = ?, parked_at_ms = NULL, attempts = attempts + 1, {_ENDED}",
            (now_ms, number),
        )

    def put_off(self, number: int, until_ms: int, reason: str | None = None) -> None:
        """Note that a notice was not accepted, why, and when to try again."""
        self._open_one(
            f"available_at_ms = ?, reason = ?, attempts = attempts + 1, {_ENDED}",
            (until_ms, reason, number),
        )

    def park(
        self, number: int, now_ms: int, reason: str, notices: Sequence[Notice] = ()
    ) -> Sequence[Notice]:
        """Note that a notice is not tried any more, and what is to be told of that."""
        with self._transaction("parking a notice") as connection:
            parked = connection.execute(
                f"UPDATE payment_outbox SET parked_at_ms = ?, reason = ?, "
                f"attempts = attempts + 1, {_ENDED} "
                "WHERE number = ? AND sent_at_ms IS NULL AND parked_at_ms IS NULL",
                (now_ms, reason, number),
            ).rowcount
            return post(connection, notices) if parked else ()

    def give_back_notices(self, owner: str) -> None:
        """End the leases that somebody holds."""
        with self._transaction("giving back notices") as connection:
            connection.execute(
                f"UPDATE payment_outbox SET {_ENDED} WHERE sent_at_ms IS NULL AND lease_owner = ?",
                (owner,),
            )

    def notices(self, query: NoticeQuery) -> Sequence[Posted]:
        """Return open entries, oldest first."""
        parts, values = ["o.sent_at_ms IS NULL", "o.number > ?"], list[Any]([query.after])
        for name in ("topic", "payment_id"):
            if (wanted := getattr(query, name)) is not None:
                parts.append(f"o.{name} = ?")
                values.append(wanted)
        if query.parked is not None:
            parts.append(f"o.parked_at_ms IS {'NOT ' if query.parked else ''}NULL")
        sql = (
            f"SELECT {_COLUMNS} FROM payment_outbox o WHERE {' AND '.join(parts)} "
            "ORDER BY o.number LIMIT ?"
        )
        return [_posted(row) for row in self._ask(sql, (*values, query.limit))]

    def revive(self, number: int, now_ms: int) -> bool:
        """Have an open entry tried again from now on, as if for the first time."""
        return self._open_one(
            "available_at_ms = ?, attempts = 0, parked_at_ms = NULL", (now_ms, number)
        )

    def dismiss(self, number: int, now_ms: int, reason: str) -> bool:
        """Close an open entry that nobody needs to be told any more."""
        return self._open_one(f"sent_at_ms = ?, reason = ?, {_ENDED}", (now_ms, reason, number))

    def _open_one(self, fields: str, values: Sequence[Any]) -> bool:
        """Change an entry that was not accepted yet; say whether there was one."""
        with self._transaction("marking a notice") as connection:
            sql = f"UPDATE payment_outbox SET {fields} WHERE number = ? AND sent_at_ms IS NULL"
            return connection.execute(sql, values).rowcount > 0


def post(connection: sqlite3.Connection, notices: Sequence[Notice]) -> tuple[Notice, ...]:
    """Put notices in the outbox; return those whose key was not known."""
    new: list[Notice] = []
    for notice in notices:
        row = (notice.tenant, notice.payment_id, notice.topic, notice.dedupe_key, notice.payload)
        if connection.execute(
            "INSERT OR IGNORE INTO payment_outbox (tenant, payment_id, topic, dedupe_key, "
            "payload, available_at_ms, attempts) VALUES (?, ?, ?, ?, ?, ?, 0)",
            (*row, notice.available_at_ms),
        ).rowcount:
            new.append(notice)
    return tuple(new)


def _posted(row: Sequence[Any]) -> Posted:
    return Posted(row[0], Notice(row[1], row[2], Topic(row[3]), *row[4:7]), *row[7:])
