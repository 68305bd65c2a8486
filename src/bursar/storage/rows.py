"""Records to rows and back, for every SQL database alike.

The rule that lives here: a row that cannot be read is never repaired or guessed. A tenant
whose status makes no sense loads as unreadable (`status` None), so that every command on
it fails; any other unreadable row raises `UnreadableRow`. Budgets are checked against the
ledger identity as they come in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bursar.core.entry import Entry
from bursar.core.state import (
    ApiKey,
    Budget,
    Head,
    LeaseRule,
    Meter,
    Policy,
    RateLimits,
    Recorded,
    Renewal,
    Reservation,
    Tenant,
    check,
)
from bursar.core.trail import Failure
from bursar.invariant import InvariantBroken
from bursar.ledger.ports import UnreadableRow
from bursar.vocabulary import (
    BudgetStatus,
    Every,
    ExpiryPolicy,
    KeyStatus,
    MeterKind,
    OveragePolicy,
    PolicyStatus,
    ReservationStatus,
    RolloverPolicy,
    TenantStatus,
    Unit,
)

RowValue = str | int | None

TENANT = (
    "tenant, name, status, created_at_ms, updated_at_ms, suspended_at_ms, closed_at_ms, "
    "parent_tenant_id, overage_policy, ttl_default_ms, ttl_max_ms, extensions_max, "
    "expiry_policy, metadata"
)
BUDGET = (
    "tenant, scope, unit, ledger_id, allocated, remaining, reserved, spent, debt, "
    "overdraft_limit, is_over_limit, status, created_at_ms, updated_at_ms, overage_policy, "
    "rollover_policy, period_start_ms, period_end_ms, metadata, "
    "period_every, period_time_zone, period_allocation"
)
RESERVATION = (
    "tenant, reservation_id, status, unit, estimate_amount, scope_path, budgeted_depths, "
    "overage_policy, created_at_ms, expires_at_ms, grace_ms, extensions_max, idempotency_key, "
    "subject, action, extensions, sweepable, metadata, charged_amount, finalized_at_ms, "
    "committed_metadata, metrics, reason, settle_by_ms"
)
API_KEY = (
    "tenant, key_id, key_prefix, secret_hash, name, status, permissions, scope_filter, "
    "created_at_ms, expires_at_ms, description, metadata, revoked_at_ms, revoked_reason"
)
POLICY = (
    "tenant, policy_id, name, scope_pattern, status, created_at_ms, updated_at_ms, priority, "
    "description, caps, overage_policy, ttl_default_ms, ttl_max_ms, extensions_max, "
    "reservations_per_minute_max, commits_per_minute_max, effective_from_ms, effective_until_ms"
)
METER = "tenant, scope_path, policy_id, kind, window_start_ms, count"
ENTRY = (
    "tenant, seq, at_ms, verb, endpoint, key, fingerprint, actor, key_id, request_id, trace_id, "
    "status, body, reservation_id, lease_expires_at_ms, changes, prev_hash, entry_hash"
)
FAILURE = (
    "tenant, request_id, at_ms, operation, status, error_code, resource_type, resource_id, actor, "
    "key_id, trace_id, source_ip, user_agent, detail, repeated"
)
RECORDED = "tenant, endpoint, key, seq, keep_until_ms"
HEAD = "tenant, seq, entry_hash, at_ms"


def tenant_row(row: Tenant) -> list[RowValue]:
    """Return the columns of `TENANT`."""
    return [
        row.tenant_id,
        row.name,
        row.status.value if row.status else None,
        row.created_at_ms,
        row.updated_at_ms,
        row.suspended_at_ms,
        row.closed_at_ms,
        row.parent_tenant_id,
        row.overage_policy,
        row.ttl_default_ms,
        row.ttl_max_ms,
        row.extensions_max,
        row.expiry_policy,
        row.metadata,
    ]


def tenant(row: Sequence[Any]) -> Tenant:
    """Read a row of `TENANT`; one that makes no sense comes back with `status` None."""
    fields = list(row)
    try:
        fields[2], fields[8] = TenantStatus(row[2]), _overage(row[8])
        fields[12] = ExpiryPolicy(row[12])
    except ValueError:
        fields[2], fields[8], fields[12] = None, None, ExpiryPolicy.AUTO_RELEASE
    return Tenant(*fields)


def budget_row(row: Budget) -> list[RowValue]:
    """Return the columns of `BUDGET`."""
    return [
        row.tenant,
        row.scope,
        row.unit,
        row.ledger_id,
        row.allocated,
        row.remaining,
        row.reserved,
        row.spent,
        row.debt,
        row.overdraft_limit,
        int(row.is_over_limit),
        row.status,
        row.created_at_ms,
        row.updated_at_ms,
        row.overage_policy,
        row.rollover_policy,
        row.period_start_ms,
        row.period_end_ms,
        row.metadata,
        *_renewal_row(row.renewal),
    ]


def budget(row: Sequence[Any]) -> Budget:
    """Read a row of `BUDGET` and check its identity."""
    fields = list(row[:19])
    try:
        if row[19] is not None:
            fields.append(Renewal(Every(row[19]), row[20], row[21]))
        fields[2], fields[10], fields[11] = Unit(row[2]), bool(row[10]), BudgetStatus(row[11])
        fields[14], fields[15] = _overage(row[14]), RolloverPolicy(row[15])
        return check(Budget(*fields))
    except (ValueError, InvariantBroken) as error:
        raise UnreadableRow(f"budget {row[1]} ({row[2]}) of tenant {row[0]}: {error}") from error


def reservation_row(row: Reservation) -> list[RowValue]:
    """Return the columns of `RESERVATION`; budgeted scopes become their depths in the path."""
    return [
        row.tenant,
        row.reservation_id,
        row.status.value,
        row.unit.value,
        row.estimate_amount,
        row.scope_path,
        "".join([str(scope.count("/")) for scope in row.budgeted_scopes]),
        row.overage_policy.value,
        row.created_at_ms,
        row.expires_at_ms,
        row.grace_ms,
        row.extensions_max,
        row.idempotency_key,
        row.subject,
        row.action,
        row.extensions,
        int(row.sweepable),
        row.metadata,
        row.charged_amount,
        row.finalized_at_ms,
        row.committed_metadata,
        row.metrics,
        row.reason,
        row.settle_by_ms,
    ]


def reservation(row: Sequence[Any]) -> Reservation:
    """Read a row of `RESERVATION`."""
    fields = list(row[:23])  # the last column follows from the others
    try:
        segments = row[5].split("/")
        fields[2], fields[3] = ReservationStatus(row[2]), Unit(row[3])
        fields[6] = tuple("/".join(segments[: int(depth) + 1]) for depth in row[6])
        fields[7], fields[16] = OveragePolicy(row[7]), bool(row[16])
        return Reservation(*fields)
    except ValueError as error:
        raise UnreadableRow(f"reservation {row[1]} of tenant {row[0]}: {error}") from error


def key_row(row: ApiKey) -> list[RowValue]:
    """Return the columns of `API_KEY`."""
    return [
        row.tenant,
        row.key_id,
        row.key_prefix,
        row.secret_hash,
        row.name,
        row.status,
        json.dumps(row.permissions),
        json.dumps(row.scope_filter),
        row.created_at_ms,
        row.expires_at_ms,
        row.description,
        row.metadata,
        row.revoked_at_ms,
        row.revoked_reason,
    ]


def key(row: Sequence[Any]) -> ApiKey:
    """Read a row of `API_KEY`."""
    fields = list(row)
    try:
        fields[5] = KeyStatus(row[5])
        fields[6], fields[7] = tuple(json.loads(row[6])), tuple(json.loads(row[7]))
        return ApiKey(*fields)
    except ValueError as error:
        raise UnreadableRow(f"API key {row[1]} of tenant {row[0]}: {error}") from error


def policy_row(row: Policy) -> list[RowValue]:
    """Return the columns of `POLICY`."""
    return [
        row.tenant,
        row.policy_id,
        row.name,
        row.scope_pattern,
        row.status,
        row.created_at_ms,
        row.updated_at_ms,
        row.priority,
        row.description,
        row.caps,
        row.overage_policy,
        row.lease.ttl_default_ms,
        row.lease.ttl_max_ms,
        row.lease.extensions_max,
        row.rates.reservations_per_minute_max,
        row.rates.commits_per_minute_max,
        row.effective_from_ms,
        row.effective_until_ms,
    ]


def policy(row: Sequence[Any]) -> Policy:
    """Read a row of `POLICY`."""
    fields = list(row)
    try:
        fields[4], fields[10] = PolicyStatus(row[4]), _overage(row[10])
        fields[11:16] = [LeaseRule(*row[11:14]), RateLimits(*row[14:16])]
        return Policy(*fields)
    except ValueError as error:
        raise UnreadableRow(f"policy {row[1]} of tenant {row[0]}: {error}") from error


def meter_row(row: Meter) -> list[RowValue]:
    """Return the columns of `METER`."""
    return [
        row.tenant,
        row.scope_path,
        row.policy_id,
        row.kind,
        row.window_start_ms,
        row.count,
    ]


def meter(row: Sequence[Any]) -> Meter:
    """Read a row of `METER`."""
    try:
        return Meter(row[0], row[1], row[2], MeterKind(row[3]), row[4], row[5])
    except ValueError as error:
        raise UnreadableRow(f"meter of {row[1]} of tenant {row[0]}: {error}") from error


def entry_row(row: Entry) -> list[RowValue]:
    """Return the columns of `ENTRY`."""
    return [
        row.tenant,
        row.seq,
        row.at_ms,
        row.verb,
        row.endpoint,
        row.key,
        row.fingerprint,
        row.actor,
        row.key_id,
        row.request_id,
        row.trace_id,
        row.status,
        row.body.decode(),
        row.reservation_id,
        row.lease_expires_at_ms,
        row.changes,
        row.prev_hash,
        row.entry_hash,
    ]


def entry(row: Sequence[Any]) -> Entry:
    """Read a row of `ENTRY`."""
    fields = list(row)
    fields[12] = row[12].encode()
    return Entry(*fields)


def recorded(row: Sequence[Any]) -> Recorded:
    """Read `fingerprint, keep_until_ms, status, body, reservation_id, lease_expires_at_ms`."""
    return Recorded(row[0], row[1], row[2], row[3].encode(), row[4], row[5])


def head(row: Sequence[Any]) -> tuple[str, Head]:
    """Read a row of `HEAD`."""
    return row[0], Head(row[1], row[2], row[3])


def _renewal_row(row: Renewal | None) -> Sequence[RowValue]:
    return (None, None, None) if row is None else (row.every, row.time_zone, row.allocation)


def _overage(value: str | None) -> OveragePolicy | None:
    return None if value is None else OveragePolicy(value)


def failure_row(row: Failure) -> list[RowValue]:
    """Return the columns of `FAILURE`."""
    return [
        row.tenant,
        row.request_id,
        row.at_ms,
        row.operation,
        row.status,
        row.error_code,
        row.resource_type,
        row.resource_id,
        row.actor,
        row.key_id,
        row.trace_id,
        row.source_ip,
        row.user_agent,
        row.detail,
        row.repeated,
    ]


def failure(row: Sequence[Any]) -> Failure:
    """Read a row of `FAILURE`."""
    names = FAILURE.split(", ")
    return Failure(**dict(zip(names, row, strict=True)))
