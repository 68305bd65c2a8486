"""Loading what a unit of work reads: a handful of set-based statements, whatever its size.

The rule that lives here: each table is asked once per batch, with the keys as one JSON
parameter. Besides saving round trips this keeps the interpreter lock from changing hands
a hundred times within one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from bursar.core.reads import Reads
from bursar.core.snapshot import Snapshot
from bursar.core.state import Policy, RateLimits
from bursar.storage import rows

NO_LIMITS = RateLimits()


def load(connection: sqlite3.Connection, reads: Reads) -> Snapshot:
    """Return a snapshot of everything that `reads` names, and what follows from it."""
    snapshot = Snapshot()
    _tenants_and_heads(connection, reads, snapshot)
    wanted = set(reads.reservations)
    if reads.recorded:
        wanted |= _recorded(connection, reads, snapshot)
    scopes = set(reads.scopes)
    if wanted:
        found = _join(connection, "reservation", rows.RESERVATION, "reservation_id", wanted)
        for row in map(rows.reservation, found):
            snapshot.reservations[row.tenant, row.reservation_id] = row
            scopes.update((row.tenant, scope) for scope in row.budgeted_scopes)
    if scopes:
        for budget in map(rows.budget, _join(connection, "budget", rows.BUDGET, "scope", scopes)):
            snapshot.budgets[budget.tenant, budget.scope, budget.unit] = budget
    if reads.keys:
        for key in map(rows.key, _join(connection, "api_key", rows.API_KEY, "key_id", reads.keys)):
            snapshot.keys[key.tenant, key.key_id] = key
    _policies(connection, reads, snapshot)
    if any(row.rates != NO_LIMITS for owned in snapshot.policies.values() for row in owned):
        _meters(connection, reads, snapshot)
    for tenant in sorted(reads.whole_tenants):
        _whole_tenant(connection, tenant, snapshot)
    return snapshot


def _tenants_and_heads(connection: sqlite3.Connection, reads: Reads, snapshot: Snapshot) -> None:
    names = json.dumps(sorted(reads.tenants))
    for row in connection.execute(
        f"SELECT {rows.TENANT} FROM tenant WHERE tenant IN (SELECT value FROM json_each(?))",
        (names,),
    ):
        snapshot.tenants[row[0]] = rows.tenant(row)
    for row in connection.execute(
        f"SELECT {rows.HEAD} FROM head WHERE tenant IN (SELECT value FROM json_each(?))",
        (names,),
    ):
        name, head = rows.head(row)
        snapshot.heads[name] = head


def _policies(connection: sqlite3.Connection, reads: Reads, snapshot: Snapshot) -> None:
    """Load the active policies of every tenant, and those that are named."""
    found = connection.execute(
        f"SELECT {rows.POLICY} FROM policy "
        "WHERE status = 'ACTIVE' AND tenant IN (SELECT value FROM json_each(?))",
        (json.dumps(sorted(reads.tenants)),),
    ).fetchall()
    if reads.policies:
        found += _join(connection, "policy", rows.POLICY, "policy_id", reads.policies)
    if reads.policy_names:
        found += _join(connection, "policy", rows.POLICY, "name", reads.policy_names)
    owned: dict[str, dict[str, Policy]] = {}
    for policy in map(rows.policy, found):
        owned.setdefault(policy.tenant, {})[policy.policy_id] = policy
    snapshot.policies = {tenant: tuple(known.values()) for tenant, known in owned.items()}


def _meters(connection: sqlite3.Connection, reads: Reads, snapshot: Snapshot) -> None:
    """Load the meters that this work may move; without a rate limit there is none to ask for."""
    held = {(row.tenant, row.scope_path) for row in snapshot.reservations.values()}
    metered = reads.metered | held
    if metered:
        for row in _join(connection, "meter", rows.METER, "scope_path", metered):
            meter = rows.meter(row)
            where = (meter.tenant, meter.scope_path, meter.policy_id, meter.kind)
            snapshot.meters[where] = meter


def _recorded(
    connection: sqlite3.Connection, reads: Reads, snapshot: Snapshot
) -> set[tuple[str, str]]:
    """Load recorded answers; return the reservations that they are about."""
    about: set[tuple[str, str]] = set()
    for row in connection.execute(
        """
        SELECT r.tenant, r.endpoint, r.key, e.fingerprint, r.keep_until_ms, e.status, e.body,
               e.reservation_id, e.lease_expires_at_ms
          FROM json_each(?) AS want
          JOIN recorded AS r ON r.tenant = json_extract(want.value, '$[0]')
                            AND r.endpoint = json_extract(want.value, '$[1]')
                            AND r.key = json_extract(want.value, '$[2]')
          JOIN entry AS e ON e.tenant = r.tenant AND e.seq = r.seq
        """,
        (json.dumps(sorted(reads.recorded)),),
    ):
        found = rows.recorded(row[3:])
        snapshot.recorded[row[0], row[1], row[2]] = found
        if found.reservation_id is not None:
            about.add((row[0], found.reservation_id))
    return about


def _join(
    connection: sqlite3.Connection,
    table: str,
    columns: str,
    column: str,
    keys: Iterable[tuple[str, str]],
) -> list[tuple[Any, ...]]:
    """Return the rows of `table` whose (tenant, column) is in `keys`, in key order."""
    listed = ", ".join(f"t.{name.strip()}" for name in columns.split(","))
    return connection.execute(
        f"SELECT {listed} FROM json_each(?) AS want JOIN {table} AS t "
        f"ON t.tenant = json_extract(want.value, '$[0]') "
        f"AND t.{column} = json_extract(want.value, '$[1]')",
        (json.dumps(sorted(keys)),),
    ).fetchall()


def _whole_tenant(connection: sqlite3.Connection, tenant: str, snapshot: Snapshot) -> None:
    """Load every budget, active reservation and active key of a tenant."""
    for row in connection.execute(f"SELECT {rows.BUDGET} FROM budget WHERE tenant = ?", (tenant,)):
        budget = rows.budget(row)
        snapshot.budgets[budget.tenant, budget.scope, budget.unit] = budget
    for row in connection.execute(
        f"SELECT {rows.RESERVATION} FROM reservation WHERE tenant = ? AND status = 'ACTIVE'",
        (tenant,),
    ):
        held = rows.reservation(row)
        snapshot.reservations[held.tenant, held.reservation_id] = held
    for row in connection.execute(
        f"SELECT {rows.API_KEY} FROM api_key WHERE tenant = ? AND status = 'ACTIVE'", (tenant,)
    ):
        key = rows.key(row)
        snapshot.keys[key.tenant, key.key_id] = key
