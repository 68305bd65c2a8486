"""Loading what a unit of work reads: a handful of set-based statements, whatever its size.

The rule that lives here: each table is asked once per batch, with the keys as one JSON
parameter. Besides saving round trips this keeps the interpreter lock from changing hands
a hundred times within one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from functools import cache
from typing import Any

from bursar.core.reads import Reads
from bursar.core.snapshot import Snapshot
from bursar.core.state import Policy, RateLimits
from bursar.storage import rows

NO_LIMITS = RateLimits()


def _columns(alias: str, columns: str) -> str:
    return ", ".join(f"{alias}.{name.strip()}" for name in columns.split(","))


# One statement for what every command needs; a tenant's own columns repeat with each policy.
_TENANTS = f"""
    SELECT want.value, {_columns("t", rows.TENANT)}, {_columns("h", rows.HEAD)},
           {_columns("p", rows.POLICY)}
      FROM json_each(?) AS want
      LEFT JOIN tenant AS t ON t.tenant = want.value
      LEFT JOIN head AS h ON h.tenant = want.value
      LEFT JOIN policy AS p ON p.tenant = want.value AND p.status = 'ACTIVE'
"""
_HEAD_AT = 1 + len(rows.TENANT.split(","))
_POLICY_AT = _HEAD_AT + len(rows.HEAD.split(","))


def load(connection: sqlite3.Connection, reads: Reads) -> Snapshot:
    """Return a snapshot of everything that `reads` names, and what follows from it."""
    snapshot = Snapshot()
    _tenants(connection, reads, snapshot)
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
    if reads.policies or reads.policy_names:
        _named_policies(connection, reads, snapshot)
    if any(row.rates != NO_LIMITS for owned in snapshot.policies.values() for row in owned):
        _meters(connection, reads, snapshot)
    for tenant in sorted(reads.whole_tenants):
        _whole_tenant(connection, tenant, snapshot)
    return snapshot


def _tenants(connection: sqlite3.Connection, reads: Reads, snapshot: Snapshot) -> None:
    """Load tenants, the ends of their logs, and their active policies."""
    owned: dict[str, list[Policy]] = {}
    for row in connection.execute(_TENANTS, (json.dumps(sorted(reads.tenants)),)):
        name, policy = row[0], row[_POLICY_AT:]
        if name not in owned:
            owned[name] = []
            if row[1] is not None:
                snapshot.tenants[name] = rows.tenant(row[1:_HEAD_AT])
            if row[_HEAD_AT] is not None:
                snapshot.heads[name] = rows.head(row[_HEAD_AT:_POLICY_AT])[1]
        if policy[0] is not None:
            owned[name].append(rows.policy(policy))
    snapshot.policies = {name: tuple(known) for name, known in owned.items() if known}


def _named_policies(connection: sqlite3.Connection, reads: Reads, snapshot: Snapshot) -> None:
    """Load the policies that are named, whatever their status, beside those that are active."""
    found: list[tuple[Any, ...]] = []
    if reads.policies:
        found += _join(connection, "policy", rows.POLICY, "policy_id", reads.policies)
    if reads.policy_names:
        found += _join(connection, "policy", rows.POLICY, "name", reads.policy_names)
    for policy in map(rows.policy, found):
        known = snapshot.owned_policies(policy.tenant)
        if all(policy.policy_id != one.policy_id for one in known):
            snapshot.policies[policy.tenant] = (*known, policy)


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
    sql = _joining(table, columns, column)
    return connection.execute(sql, (json.dumps(sorted(keys)),)).fetchall()


@cache
def _joining(table: str, columns: str, column: str) -> str:
    return (
        f"SELECT {_columns('t', columns)} FROM json_each(?) AS want JOIN {table} AS t "
        f"ON t.tenant = json_extract(want.value, '$[0]') "
        f"AND t.{column} = json_extract(want.value, '$[1]')"
    )


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
