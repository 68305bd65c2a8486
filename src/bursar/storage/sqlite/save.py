"""Saving what a unit of work changed: one statement per table, whatever its size.

The rule that lives here: rows travel as one JSON parameter and are written by one
statement, so that a batch of two hundred commands costs as many statements as one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from bursar.ledger.ports import Saves
from bursar.storage import rows

_KEYS = {
    "tenant": ("tenant",),
    "budget": ("tenant", "scope", "unit"),
    "reservation": ("tenant", "reservation_id"),
    "api_key": ("tenant", "key_id"),
    "entry": (),
    "recorded": ("tenant", "endpoint", "key"),
    "head": ("tenant",),
}
# What a reservation keeps for life need not be written again when it settles.
_FIXED = frozenset(
    {
        "unit",
        "estimate_amount",
        "scope_path",
        "budgeted_depths",
        "overage_policy",
        "created_at_ms",
        "grace_ms",
        "extensions_max",
        "idempotency_key",
        "subject",
        "action",
        "sweepable",
        "metadata",
    }
)


def _statement(table: str, columns: str) -> str:
    names = [name.strip() for name in columns.split(",")]
    values = ", ".join(f"json_extract(value, '$[{index}]')" for index in range(len(names)))
    sql = f"INSERT INTO {table} ({columns}) SELECT {values} FROM json_each(?) WHERE true"
    keys = _KEYS[table]
    if not keys:
        return sql
    fixed = _FIXED if table == "reservation" else frozenset[str]()
    kept = [name for name in names if name not in keys and name not in fixed]
    changes = ", ".join(f"{name} = excluded.{name}" for name in kept)
    return f"{sql} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"


_TENANT = _statement("tenant", rows.TENANT)
_BUDGET = _statement("budget", rows.BUDGET)
_RESERVATION = _statement("reservation", rows.RESERVATION)
_API_KEY = _statement("api_key", rows.API_KEY)
_ENTRY = _statement("entry", rows.ENTRY)
_RECORDED = _statement("recorded", rows.RECORDED)
_HEAD = _statement("head", rows.HEAD)


def save(connection: sqlite3.Connection, saves: Saves) -> None:
    """Write everything in `saves`; the caller's transaction makes it one step."""
    _bulk(connection, _TENANT, map(rows.tenant_row, saves.tenants.values()))
    _bulk(connection, _BUDGET, map(rows.budget_row, saves.budgets.values()))
    _bulk(connection, _RESERVATION, map(rows.reservation_row, saves.reservations.values()))
    _bulk(connection, _API_KEY, map(rows.key_row, saves.keys.values()))
    _bulk(connection, _ENTRY, map(rows.entry_row, saves.entries))
    _bulk(
        connection,
        _RECORDED,
        (
            [*where, seq, recorded.keep_until_ms]
            for where, (recorded, seq) in saves.recorded.items()
        ),
    )
    _bulk(
        connection,
        _HEAD,
        ([name, head.seq, head.entry_hash, head.at_ms] for name, head in saves.heads.items()),
    )


def _bulk(
    connection: sqlite3.Connection, sql: str, lines: Iterable[Sequence[rows.RowValue]]
) -> None:
    listed = list(lines)
    if listed:
        connection.execute(sql, (json.dumps(listed, ensure_ascii=False, separators=(",", ":")),))
