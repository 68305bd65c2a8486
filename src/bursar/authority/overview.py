"""The operator's overview in one answer: how many, what is in trouble, what just went wrong.

The rule that lives here: every number is counted when it is asked for, from what is stored.
Nothing is cached, so two overviews differ only in what happened between them.
"""

from __future__ import annotations

import json
from typing import Any

from bursar.authority.authority import Authority
from bursar.authority.call import Answer, Call
from bursar.core.state import Reservation
from bursar.core.trail import AuditQuery, Failure
from bursar.ledger.ports import BudgetQuery, BudgetSort, Census, Reader
from bursar.vocabulary import ActorType, BudgetStatus, ErrorCode, TenantStatus
from bursar.wire.codec import encode
from bursar.wire.timestamps import format_timestamp

Json = dict[str, Any]
WINDOW_MS = 3_600_000
SHOWN_MAX = 10
SOURCE = "bursar"
# What counts as a reservation that was denied: the request was in order, the answer was no.
DENIALS = (
    ErrorCode.BUDGET_EXCEEDED,
    ErrorCode.BUDGET_FROZEN,
    ErrorCode.BUDGET_CLOSED,
    ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
    ErrorCode.DEBT_OUTSTANDING,
    ErrorCode.TENANT_CLOSED,
)


async def show(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/overview`."""
    del call
    reader, now_ms = authority.reader, authority.clock.now_ms()
    since_ms = now_ms - WINDOW_MS
    census = reader.census(DENIALS, since_ms)
    body: Json = {
        "as_of": format_timestamp(now_ms),
        "event_window_seconds": WINDOW_MS // 1_000,
        "tenant_counts": _tenants(census),
        "budget_counts": _budgets(census),
        "over_limit_scopes": _over_limit(reader),
        "debt_scopes": _in_debt(reader),
        # Webhooks and events are not served by this version, so there are none to count.
        "webhook_counts": {"total": 0, "active": 0, "disabled": 0, "with_failures": 0},
        "failing_webhooks": [],
        "event_counts": {"total_recent": 0, "by_category": {}},
        "recent_denials": _denials(reader, since_ms),
        "recent_expiries": [
            _expired(row) for row in reader.expired(since_ms=since_ms, limit=SHOWN_MAX)
        ],
        "recent_denials_by_reason": dict(census.denials),
    }
    return Answer(200, encode(body))


def _tenants(census: Census) -> Json:
    counts = {status.lower(): census.tenants[status] for status in TenantStatus}
    return {"total": sum(counts.values()), **counts}


def _budgets(census: Census) -> Json:
    counts = {status.lower(): census.budgets[status] for status in BudgetStatus}
    return {
        "total": sum(counts.values()),
        **counts,
        "over_limit": census.over_limit,
        "with_debt": census.with_debt,
        "by_unit": {unit.value: count for unit, count in census.budgets_by_unit.items() if count},
    }


def _over_limit(reader: Reader) -> list[Json]:
    """Return the budgets over their limit that owe most."""
    query = BudgetQuery(
        tenant=None,
        over_limit=True,
        sort_by=BudgetSort.DEBT,
        descending=True,
        limit=SHOWN_MAX,
    )
    return [
        {
            "scope": row.scope,
            "unit": row.unit.value,
            "allocated": row.allocated,
            "remaining": row.remaining,
            "debt": row.debt,
        }
        for row in reader.budgets(query).rows
    ]


def _in_debt(reader: Reader) -> list[Json]:
    query = BudgetQuery(
        tenant=None, has_debt=True, sort_by=BudgetSort.DEBT, descending=True, limit=SHOWN_MAX
    )
    return [
        {
            "scope": row.scope,
            "unit": row.unit.value,
            "debt": row.debt,
            "overdraft_limit": row.overdraft_limit,
        }
        for row in reader.budgets(query).rows
    ]


def _denials(reader: Reader, since_ms: int) -> list[Json]:
    query = AuditQuery(
        operations=("createReservation",), error_codes=DENIALS, from_ms=since_ms, limit=SHOWN_MAX
    )
    return [_denied(row) for row in reader.audit(query).rows if isinstance(row, Failure)]


def _denied(row: Failure) -> Json:
    detail: Json = json.loads(row.detail)
    amount: Json = detail.get("amount", {})
    data = {
        "scope": detail.get("scope"),
        "unit": amount.get("unit"),
        "reason_code": detail.get("reason_code", row.error_code),
        "requested_amount": amount.get("amount"),
        "remaining": detail.get("remaining"),
        "action": detail.get("action"),
        "subject": detail.get("subject"),
    }
    event = _event("reservation.denied", row.request_id, row.at_ms, row.tenant, _present(data))
    event["actor"] = _present({"type": row.actor, "key_id": row.key_id, "source_ip": row.source_ip})
    return _present(
        event
        | {
            "scope": detail.get("scope"),
            "request_id": row.request_id,
            "trace_id": row.trace_id,
        }
    )


def _expired(row: Reservation) -> Json:
    data = {
        "reservation_id": row.reservation_id,
        "scope": row.scope_path,
        "unit": row.unit.value,
        "estimated_amount": row.estimate_amount,
        "created_at": format_timestamp(row.created_at_ms),
        "expired_at": format_timestamp(row.expires_at_ms),
        "ttl_ms": row.expires_at_ms - row.created_at_ms,
        "extensions_used": row.extensions,
    }
    event = _event("reservation.expired", row.reservation_id, row.settle_by_ms, row.tenant, data)
    return event | {"scope": row.scope_path, "actor": {"type": ActorType.SYSTEM.value}}


def _event(kind: str, of: str, at_ms: int, tenant: str, data: Json) -> Json:
    """Return an Event; its id follows from what it is about, so it is the same each time."""
    return {
        "event_id": f"evt_{of}",
        "event_type": kind,
        "category": "reservation",
        "timestamp": format_timestamp(at_ms),
        "tenant_id": tenant,
        "source": SOURCE,
        "data": data,
    }


def _present(body: Json) -> Json:
    return {name: value for name, value in body.items() if value is not None}
