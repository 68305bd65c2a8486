"""Answers and records as they travel: the shapes of the protocol's responses.

The rule that lives here (protocol 1.2, 1.3): a field without a value is left out, never
null; in a balance, debt and limit are left out when zero and the flag when false. A reply
is encoded once and stored; `remaining_ttl_ms` alone is added each time it is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, assert_never

from bursar.core import outcomes as o
from bursar.core import scopes
from bursar.core.bulk import RowOutcome
from bursar.core.entry import Reply
from bursar.core.replay import PLANNED
from bursar.core.state import ApiKey, Budget, Policy, Reservation, Tenant
from bursar.ledger.service import Accepted
from bursar.vocabulary import Decision, Every, Unit
from bursar.wire.codec import encode
from bursar.wire.timestamps import format_timestamp

Json = dict[str, Any]


def render(answer: o.Answer) -> Reply:
    """Return the reply to store for an accepted command."""
    match answer:
        case o.Reserved():
            row = answer.reservation
            return _reply(reserved(answer), row.reservation_id, row.expires_at_ms)
        case o.Committed():
            return _reply(_committed(answer))
        case o.Released():
            released = amount(answer.unit, answer.released_amount)
            balances = _balances(answer.balances)
            return _reply({"status": "RELEASED", "released": released, "balances": balances})
        case o.Extended():
            row = answer.reservation
            body = {
                "status": "ACTIVE",
                "expires_at_ms": row.expires_at_ms,
                "balances": _balances(answer.balances),
            }
            return _reply(body, row.reservation_id, row.expires_at_ms)
        case o.Decided():
            return _reply(_dry_run(answer) if answer.dry_run else _decided(answer))
        case o.Debited():
            return _reply(_debited(answer), status=201)
        case o.Funded():
            return _reply(_funded(answer))
        case o.BudgetAnswer():
            return _reply(budget(answer.budget), status=201 if answer.created else 200)
        case o.TenantAnswer():
            return _reply(tenant(answer.tenant), status=201 if answer.created else 200)
        case o.KeyAnswer():
            return _reply(api_key(answer.key), status=201 if answer.created else 200)
        case o.PolicyAnswer():
            return _reply(policy(answer.policy), status=201 if answer.created else 200)
        case o.BulkPlan():
            return _reply(_bulk_plan(answer), status=PLANNED)
        case o.BulkAnswer():
            return _reply(_bulk_answer(answer))
        case o.Expired():
            return _reply({"status": "EXPIRED"}, answer.reservation.reservation_id)
        case _:
            assert_never(answer)


def body_of(accepted: Accepted) -> bytes:
    """Return the bytes to send: the stored reply, and what is left of its lease now."""
    body, left_ms = accepted.reply.body, accepted.remaining_ttl_ms
    return body if left_ms is None else b'%b,"remaining_ttl_ms":%d}' % (body[:-1], left_ms)


def amount(unit: Unit, value: int) -> Json:
    """Return an Amount or SignedAmount."""
    return {"unit": unit.value, "amount": value}


def balance(row: Budget) -> Json:
    """Return a Balance; `scope` is the path's last segment."""
    unit = row.unit
    shown: Json = {
        "scope": scopes.leaf(row.scope),
        "scope_path": row.scope,
        "remaining": amount(unit, row.remaining),
        "reserved": amount(unit, row.reserved),
        "spent": amount(unit, row.spent),
        "allocated": amount(unit, row.allocated),
    }
    if row.debt:
        shown["debt"] = amount(unit, row.debt)
    if row.overdraft_limit:
        shown["overdraft_limit"] = amount(unit, row.overdraft_limit)
    if row.is_over_limit:
        shown["is_over_limit"] = True
    return shown


def reserved(answer: o.Reserved) -> Json:
    """Return a live ReservationCreateResponse without `remaining_ttl_ms`."""
    row = answer.reservation
    body: Json = {
        "decision": answer.decision.value,
        "reservation_id": row.reservation_id,
        "reserved": amount(row.unit, row.estimate_amount),
        "expires_at_ms": row.expires_at_ms,
        "scope_path": row.scope_path,
        "affected_scopes": row.affected_scopes,
        "balances": _balances(answer.balances),
    }
    if answer.caps is not None:
        body["caps"] = json.loads(answer.caps)
    return body


def reservation(row: Reservation, include: Iterable[str] = ()) -> Json:
    """Return a ReservationSummary; `include` names the maps to add (metadata, ...)."""
    body: Json = {
        "reservation_id": row.reservation_id,
        "status": row.status.value,
        "idempotency_key": row.idempotency_key,
        "subject": json.loads(row.subject),
        "action": json.loads(row.action),
        "reserved": amount(row.unit, row.estimate_amount),
        "created_at_ms": row.created_at_ms,
        "expires_at_ms": row.expires_at_ms,
        "scope_path": row.scope_path,
        "affected_scopes": row.affected_scopes,
    }
    if row.charged_amount is not None:
        body["committed"] = amount(row.unit, row.charged_amount)
    if row.finalized_at_ms is not None:
        body["finalized_at_ms"] = row.finalized_at_ms
    if "metadata" in include and row.metadata is not None:
        body["metadata"] = json.loads(row.metadata)
    if "committed_metadata" in include and row.committed_metadata is not None:
        body["committed_metadata"] = json.loads(row.committed_metadata)
    return body


def budget(row: Budget) -> Json:
    """Return a BudgetLedger."""
    unit = row.unit
    return _present(
        ledger_id=row.ledger_id,
        tenant_id=row.tenant,
        scope=row.scope,
        scope_path=row.scope,
        unit=unit.value,
        allocated=amount(unit, row.allocated),
        remaining=amount(unit, row.remaining),
        reserved=amount(unit, row.reserved),
        spent=amount(unit, row.spent),
        debt=amount(unit, row.debt),
        overdraft_limit=amount(unit, row.overdraft_limit),
        is_over_limit=row.is_over_limit,
        commit_overage_policy=row.overage_policy and row.overage_policy.value,
        status=row.status.value,
        rollover_policy=row.rollover_policy.value,
        period_start=_time(row.period_start_ms),
        period_end=_time(row.period_end_ms),
        created_at=_time(row.created_at_ms),
        updated_at=_time(row.updated_at_ms),
    )


def budget_period(row: Budget) -> Json:
    """Return how a budget renews itself; what the published schema has no place for."""
    renewal = row.renewal
    return _present(
        scope=row.scope,
        unit=row.unit.value,
        every=(Every.NEVER if renewal is None else renewal.every).value,
        time_zone=renewal and renewal.time_zone,
        rollover_policy=row.rollover_policy.value,
        allocation=renewal and amount(row.unit, renewal.allocation),
        period_start=_time(row.period_start_ms),
        period_end=_time(row.period_end_ms),
    )


def tenant(row: Tenant) -> Json:
    """Return a Tenant."""
    return _present(
        tenant_id=row.tenant_id,
        name=row.name,
        status=row.status and row.status.value,
        parent_tenant_id=row.parent_tenant_id,
        default_commit_overage_policy=row.overage_policy and row.overage_policy.value,
        default_reservation_ttl_ms=row.ttl_default_ms,
        max_reservation_ttl_ms=row.ttl_max_ms,
        max_reservation_extensions=row.extensions_max,
        reservation_expiry_policy=row.expiry_policy.value,
        metadata=None if row.metadata is None else json.loads(row.metadata),
        created_at=_time(row.created_at_ms),
        updated_at=_time(row.updated_at_ms),
        suspended_at=_time(row.suspended_at_ms),
        closed_at=_time(row.closed_at_ms),
    )


def api_key(row: ApiKey) -> Json:
    """Return an ApiKey; the secret is not part of it."""
    return _present(
        key_id=row.key_id,
        tenant_id=row.tenant,
        key_prefix=row.key_prefix,
        name=row.name,
        description=row.description,
        permissions=list(row.permissions),
        scope_filter=list(row.scope_filter) or None,
        status=row.status.value,
        created_at=_time(row.created_at_ms),
        expires_at=_time(row.expires_at_ms),
        revoked_at=_time(row.revoked_at_ms),
        revoked_reason=row.revoked_reason,
        metadata=None if row.metadata is None else json.loads(row.metadata),
    )


def policy(row: Policy) -> Json:
    """Return a Policy; the schema is closed and does not name the tenant."""
    lease, rates = row.lease, row.rates
    override = _present(
        default_ttl_ms=lease.ttl_default_ms,
        max_ttl_ms=lease.ttl_max_ms,
        max_extensions=lease.extensions_max,
    )
    limits = _present(
        max_reservations_per_minute=rates.reservations_per_minute_max,
        max_commits_per_minute=rates.commits_per_minute_max,
    )
    return _present(
        policy_id=row.policy_id,
        name=row.name,
        description=row.description,
        scope_pattern=row.scope_pattern,
        priority=row.priority,
        caps=None if row.caps is None else json.loads(row.caps),
        commit_overage_policy=row.overage_policy and row.overage_policy.value,
        reservation_ttl_override=override or None,
        rate_limits=limits or None,
        status=row.status.value,
        effective_from=_time(row.effective_from_ms),
        effective_until=_time(row.effective_until_ms),
        created_at=_time(row.created_at_ms),
        updated_at=_time(row.updated_at_ms),
    )


def _committed(answer: o.Committed) -> Json:
    body: Json = {"status": "COMMITTED", "charged": amount(answer.unit, answer.charged_amount)}
    if answer.released_amount is not None:
        body["released"] = amount(answer.unit, answer.released_amount)
    body["balances"] = _balances(answer.balances)
    return body


def _decided(answer: o.Decided) -> Json:
    body: Json = {"decision": answer.decision.value}
    if answer.caps is not None:
        body["caps"] = json.loads(answer.caps)
    if answer.reason_code is not None:
        body["reason_code"] = answer.reason_code
    body["affected_scopes"] = answer.scopes
    return body


def _dry_run(answer: o.Decided) -> Json:
    """Return a dry run's ReservationCreateResponse: no id, no expiry, no lease."""
    body = _decided(answer)
    body["scope_path"] = answer.scopes[-1]
    if answer.decision is not Decision.DENY:
        body["reserved"] = amount(answer.unit, answer.estimate_amount)
        body["balances"] = _balances(answer.balances)
    return body


def _debited(answer: o.Debited) -> Json:
    body: Json = {"status": "APPLIED", "event_id": answer.event_id}
    if answer.charged_amount is not None:
        body["charged"] = amount(answer.unit, answer.charged_amount)
    body["balances"] = _balances(answer.balances)
    return body


def _funded(answer: o.Funded) -> Json:
    before, after, unit = answer.before, answer.after, answer.after.unit
    body: Json = {"operation": answer.operation.value}
    for name in ("allocated", "remaining", "debt", "spent"):
        body[f"previous_{name}"] = amount(unit, getattr(before, name))
        body[f"new_{name}"] = amount(unit, getattr(after, name))
    body["timestamp"] = _time(after.updated_at_ms)
    return body


def _bulk_plan(plan: o.BulkPlan) -> Json:
    """Return what the server needs to go on with a bulk action; no caller sees it."""
    return {
        "bulk_id": plan.bulk_id,
        "begun_at_ms": plan.begun_at_ms,
        "request_id": plan.request_id,
        "correlation_id": plan.correlation_id,
        "targets": [[row.row_id, row.scope, row.unit] for row in plan.targets],
    }


def _bulk_answer(answer: o.BulkAnswer) -> Json:
    """Return a bulk action's response: every row once, in the list of what became of it."""
    rows = answer.outcomes
    return {
        "action": answer.action,
        "total_matched": len(rows),
        "succeeded": [_row_outcome(row) for row in rows if row.succeeded],
        "failed": [_row_outcome(row) for row in rows if row.error is not None],
        "skipped": [_row_outcome(row) for row in rows if row.skipped is not None],
        "idempotency_key": answer.key,
    }


def _row_outcome(row: RowOutcome) -> Json:
    return _present(
        id=row.row_id,
        error_code=row.error and row.error.value,
        message=row.message,
        reason=row.skipped and row.skipped.value,
    )


def _balances(rows: Iterable[Budget]) -> list[Json]:
    return [balance(row) for row in rows]


def _reply(
    body: Json,
    reservation_id: str | None = None,
    lease_expires_at_ms: int | None = None,
    status: int = 200,
) -> Reply:
    return Reply(status, encode(body), reservation_id, lease_expires_at_ms)


def _present(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def _time(epoch_ms: int | None) -> str | None:
    return None if epoch_ms is None else format_timestamp(epoch_ms)
