"""The entry log: one entry for every accepted command, chained by hash per tenant.

The rule that lives here: an entry's hash covers everything the entry says and the hash
before it, so no entry can be altered, dropped or moved without breaking the chain. The
recorded changes are states, not differences: folding them in order gives every balance,
every lease and who may do what. A reservation's texts and terms stay in its row.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bursar.core.commands import (
    BeginBulk,
    CloseBudget,
    CloseTenant,
    Command,
    Debit,
    Extend,
    FinishBulk,
    Freeze,
    Fund,
    Origin,
    Release,
    RevokeKey,
    Roll,
    Unfreeze,
    UpdateBudget,
    UpdateKey,
    UpdateTenant,
    edited,
)
from bursar.core.outcomes import Changes
from bursar.core.state import ApiKey, Budget, Head, Period, Policy, Reservation, Tenant

# How many values the states of tenants and keys had in logs of earlier versions.
TENANT_STATE_BEFORE, KEY_STATE_BEFORE = (3,), (4, 5)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it travels: status, body without volatile fields, and its lease.

    `remaining_ttl_ms` is not in `body`; it is computed from `lease_expires_at_ms` each
    time the answer is given (protocol 1.5.7).
    """

    status: int
    body: bytes
    reservation_id: str | None = None
    lease_expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a tenant's log."""

    tenant: str
    seq: int
    at_ms: int
    verb: str
    endpoint: str | None
    key: str | None
    fingerprint: str | None
    actor: str
    key_id: str | None
    request_id: str | None
    trace_id: str | None
    status: int
    body: bytes
    reservation_id: str | None
    lease_expires_at_ms: int | None
    changes: str
    prev_hash: str
    entry_hash: str


def seal(head: Head, command: Command, changes: Changes, reply: Reply, now_ms: int) -> Entry:
    """Return the next entry of the log that ends at `head`."""
    identity, origin = command.idempotency, command.origin
    entry = Entry(
        tenant=command.tenant,
        seq=head.seq + 1,
        at_ms=now_ms,
        verb=type(command).__name__,
        endpoint=identity.endpoint if identity else None,
        key=identity.key if identity else None,
        fingerprint=identity.fingerprint if identity else None,
        actor=origin.actor.value,
        key_id=origin.key_id,
        request_id=origin.request_id,
        trace_id=origin.trace_id,
        status=reply.status,
        body=reply.body,
        reservation_id=reply.reservation_id,
        lease_expires_at_ms=reply.lease_expires_at_ms,
        changes=_dumps(_states(changes) | _asked(command) | _correlated(origin)),
        prev_hash=head.entry_hash,
        entry_hash="",
    )
    object.__setattr__(entry, "entry_hash", digest(entry))  # one construction, not two
    return entry


def digest(entry: Entry) -> str:
    """Return the SHA-256 of an entry's content and of the hash before it, in hex.

    Every field is preceded by its length, so no two entries share an encoding.
    """
    digester = hashlib.sha256()
    for value in (
        entry.prev_hash,
        entry.tenant,
        entry.seq,
        entry.at_ms,
        entry.verb,
        entry.endpoint,
        entry.key,
        entry.fingerprint,
        entry.actor,
        entry.key_id,
        entry.request_id,
        entry.trace_id,
        entry.status,
        entry.body,
        entry.reservation_id,
        entry.lease_expires_at_ms,
        entry.changes,
    ):
        if value is None:
            digester.update(b"-:")
            continue
        part = value if isinstance(value, bytes) else str(value).encode()
        digester.update(b"%d:" % len(part))
        digester.update(part)
    return digester.hexdigest()


_dumps = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode  # built once: every entry is written with it


def _states(changes: Changes) -> dict[str, Any]:
    """Return the changed records as compact JSON values, keyed by kind; absent if none."""
    states: dict[str, Any] = {}
    if changes.budgets:
        states["budgets"] = [budget_state(row) for row in changes.budgets]
    if changes.reservations:
        states["reservations"] = [reservation_state(row) for row in changes.reservations]
    if changes.tenants:
        states["tenants"] = [tenant_state(row) for row in changes.tenants]
    if changes.keys:
        states["keys"] = [key_state(row) for row in changes.keys]
    if changes.policies:
        states["policies"] = [policy_state(row) for row in changes.policies]
    return states


def _asked(command: Command) -> dict[str, Any]:
    """Return what a caller said that no record keeps, under `asked`; absent if nothing.

    A reservation's row keeps its subject, action and metadata; a debit or a funding has no
    row, so the log is where its circumstances are accounted for. What an edit replaced is
    kept here, because the next edit of the record replaces it again.
    """
    match command:
        case Debit():
            said: dict[str, Any] = {
                "event_id": command.event_id,
                "unit": command.unit.value,
                "actual": command.actual_amount,
                "scope_path": command.scopes[-1],
                "subject": command.subject,
                "action": command.action,
                "overage_policy": command.overage_policy,
                "metrics": command.metrics,
                "metadata": command.metadata,
                "client_time_ms": command.client_time_ms,
            }
        case Fund():
            said = {
                "operation": command.operation.value,
                "amount": command.amount,
                "spent": command.spent,
                "reason": command.reason,
                "metadata": command.metadata,
            }
        case Freeze() | Unfreeze() | CloseBudget() | Release() | RevokeKey():
            said = {"reason": command.reason}
        case Extend():
            said = {"extend_by_ms": command.extend_by_ms, "metadata": command.metadata}
        case BeginBulk():
            said = {
                "bulk_id": command.bulk_id,
                "action": command.action,
                "request": command.request,
                "matched": command.matched,
            }
        case FinishBulk():
            said = {
                "bulk_id": command.bulk_id,
                "action": command.action,
                "request": command.request,
                "duration_ms": command.duration_ms,
            }
        case Roll():
            said = {"periods": command.periods}
        case UpdateBudget(period=Period() as period):
            said = edited(command.edit) | {"every": period.every, "time_zone": period.time_zone}
        case UpdateBudget() | UpdateTenant() | CloseTenant() | UpdateKey():
            said = edited(command.edit)
        case _:
            return {}
    present = {name: value for name, value in said.items() if value is not None}
    return {"asked": present} if present else {}


def _correlated(origin: Origin) -> dict[str, Any]:
    """Return the id that this change shares with others, under `correlation_id`."""
    return {} if origin.correlation_id is None else {"correlation_id": origin.correlation_id}


def budget_state(row: Budget) -> list[Any]:
    """Return `[scope, unit, status, allocated, reserved, spent, debt, overdraft_limit, over]`.

    `remaining` follows from the identity and is left out. A budget that renews itself has
    one value more: `[start_ms, end_ms, every, time_zone, allocation, rollover_policy]`.
    """
    state: list[Any] = [
        row.scope,
        row.unit.value,
        row.status.value,
        row.allocated,
        row.reserved,
        row.spent,
        row.debt,
        row.overdraft_limit,
        int(row.is_over_limit),
    ]
    if row.renewal is not None:
        plan = row.renewal
        period = [row.period_start_ms, row.period_end_ms]
        rules = [plan.every.value, plan.time_zone, plan.allocation, row.rollover_policy.value]
        state.append([*period, *rules])
    return state


def reservation_state(row: Reservation) -> list[Any]:
    """Return `[id, status, unit, estimate, charged, expires_at_ms, scope_path, scopes]`."""
    return [
        row.reservation_id,
        row.status.value,
        row.unit.value,
        row.estimate_amount,
        row.charged_amount,
        row.expires_at_ms,
        row.scope_path,
        row.budgeted_scopes,
    ]


def tenant_state(row: Tenant) -> list[Any]:
    """Return `[id, status, name, overage, ttl_default, ttl_max, extensions_max, expiry]`.

    In a log of the first version it ends after the name.
    """
    return [
        row.tenant_id,
        row.status.value if row.status else None,
        row.name,
        row.overage_policy.value if row.overage_policy else None,
        row.ttl_default_ms,
        row.ttl_max_ms,
        row.extensions_max,
        row.expiry_policy.value,
    ]


def key_state(row: ApiKey) -> list[Any]:
    """Return everything that a key's row says, its id first; of the secret's hash a hash.

    In logs of earlier versions it ends after the permissions, or after the scope filter.
    """
    return [
        row.key_id,
        row.status.value,
        row.key_prefix,
        list(row.permissions),
        list(row.scope_filter),
        hashlib.sha256(row.secret_hash.encode()).hexdigest(),
        row.name,
        row.description,
        row.metadata,
        [row.created_at_ms, row.expires_at_ms, row.revoked_at_ms],
        row.revoked_reason,
    ]


def policy_state(row: Policy) -> list[Any]:
    """Return everything that a policy says, its id first.

    Meters have no state here: what they count are the entries of the log themselves.
    """
    return [
        row.policy_id,
        row.status.value,
        row.name,
        row.description,
        row.scope_pattern,
        row.priority,
        row.caps,
        row.overage_policy.value if row.overage_policy else None,
        [row.lease.ttl_default_ms, row.lease.ttl_max_ms, row.lease.extensions_max],
        [row.rates.reservations_per_minute_max, row.rates.commits_per_minute_max],
        [row.effective_from_ms, row.effective_until_ms],
    ]
