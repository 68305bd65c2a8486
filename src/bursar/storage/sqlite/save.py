"""Saving what a unit of work changed: a few statements per table, whatever its size.

The rule that lives here: many rows go into one statement. A statement a row would give up
the interpreter lock for every row, and under load wait to get it back each time. Rows are
cut into powers of two, so that a handful of prepared statements serves every size.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache

from bursar.ledger.ports import Saves
from bursar.storage import rows

_KEYS = {
    "tenant": ("tenant",),
    "budget": ("tenant", "scope", "unit"),
    "reservation": ("tenant", "reservation_id"),
    "api_key": ("tenant", "key_id"),
    "policy": ("tenant", "policy_id"),
    "meter": ("tenant", "scope_path", "policy_id", "kind"),
    "entry": (),
    "failure": ("tenant", "request_id"),
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
_KEPT = {
    "reservation": _FIXED,
    "failure": frozenset(rows.FAILURE.split(", ")) - {"repeated"},
}


ROWS_MAX = 256  # of 24 columns: far below the 32,766 values that SQLite takes at once
_COLUMNS = {
    "tenant": rows.TENANT,
    "budget": rows.BUDGET,
    "reservation": rows.RESERVATION,
    "api_key": rows.API_KEY,
    "policy": rows.POLICY,
    "meter": rows.METER,
    "entry": rows.ENTRY,
    "failure": rows.FAILURE,
    "recorded": rows.RECORDED,
    "head": rows.HEAD,
}


@cache
def _statement(table: str, size: int) -> str:
    """Return the statement that writes `size` rows of `table`, whole, over what is there."""
    columns = _COLUMNS[table]
    names = [name.strip() for name in columns.split(",")]
    line = f"({', '.join('?' * len(names))})"
    sql = f"INSERT INTO {table} ({columns}) VALUES {', '.join([line] * size)}"
    keys = _KEYS[table]
    if not keys:
        return sql
    fixed = _KEPT.get(table, frozenset())
    kept = [name for name in names if name not in keys and name not in fixed]
    changes = ", ".join(f"{name} = excluded.{name}" for name in kept)
    return f"{sql} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"


def save(connection: sqlite3.Connection, saves: Saves) -> None:
    """Write everything in `saves`; the caller's transaction makes it one step."""
    _bulk(connection, "tenant", map(rows.tenant_row, saves.tenants.values()))
    _bulk(connection, "budget", map(rows.budget_row, saves.budgets.values()))
    _bulk(connection, "reservation", map(rows.reservation_row, saves.reservations.values()))
    _bulk(connection, "api_key", map(rows.key_row, saves.keys.values()))
    _bulk(connection, "policy", map(rows.policy_row, saves.policies.values()))
    for tenant, from_ms in saves.meters_from_ms.items():
        connection.execute(
            "DELETE FROM meter WHERE tenant = ? AND window_start_ms < ?", (tenant, from_ms)
        )
    _bulk(connection, "meter", map(rows.meter_row, saves.meters.values()))
    _bulk(connection, "entry", map(rows.entry_row, saves.entries))
    _bulk(connection, "failure", map(rows.failure_row, saves.failures))
    _bulk(
        connection,
        "recorded",
        (
            [*where, seq, recorded.keep_until_ms]
            for where, (recorded, seq) in saves.recorded.items()
        ),
    )
    _bulk(
        connection,
        "head",
        ([name, head.seq, head.entry_hash, head.at_ms] for name, head in saves.heads.items()),
    )


def _bulk(
    connection: sqlite3.Connection, table: str, lines: Iterable[Sequence[rows.RowValue]]
) -> None:
    left = list(lines)
    while left:
        size = min(ROWS_MAX, 1 << (len(left).bit_length() - 1))
        values = [value for line in left[:size] for value in line]
        connection.execute(_statement(table, size), values)
        del left[:size]
