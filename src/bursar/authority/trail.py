"""The audit log: who changed what, and what was refused to whom (protocol 8.5, 10.5).

The rule that lives here: a line says what the log says and nothing that is not in it. What
a reservation was for is read from its row, which keeps it for life.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

from bursar.authority import render
from bursar.authority.authority import Authority
from bursar.authority.call import Answer, Call, refuse
from bursar.authority.paging import SEARCH_LENGTH_MAX, Query
from bursar.core.entry import Entry
from bursar.core.trail import (
    AuditLine,
    AuditQuery,
    AuditSort,
    Failure,
    log_id_of,
    operation_of,
    resource_id_of,
    resource_type_of,
)
from bursar.ledger.ports import Page, Reader
from bursar.vocabulary import ErrorCode, Unit
from bursar.wire.timestamps import format_timestamp

Json = dict[str, Any]
STATUS_MIN, STATUS_MAX = 100, 599
CASCADE_SHOWN_MAX = 100
SETTLED_WITHIN_MS = (2_000, 600_000)  # nearly every request, and one that had to wait long
_BULK = ("FinishBulkTenants", "FinishBulkBudgets")  # what became of each row is the answer
_JSON_TEXTS = ("metadata", "metrics", "request")  # kept in the log as canonical text


async def list_lines(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/audit/logs`: filtered, sorted, paged."""
    query = Query(call.query)
    status = query.whole("status", STATUS_MIN, STATUS_MAX)
    least, most = (query.whole(n, STATUS_MIN, STATUS_MAX) for n in ("status_min", "status_max"))
    if status is not None and (least is not None or most is not None):
        raise refuse(
            ErrorCode.INVALID_REQUEST, "status: leave it out, or status_min and status_max"
        )
    if least is not None and most is not None and least > most:
        raise refuse(ErrorCode.INVALID_REQUEST, "status_min: must not be above status_max")
    from_ms, to_ms = query.window("from", "to")
    wanted = AuditQuery(
        tenant=query.text("tenant_id"),
        key_id=query.text("key_id"),
        operations=query.several("operation"),
        resource_types=query.several("resource_type"),
        resource_id=query.text("resource_id"),
        error_codes=query.several("error_code"),
        error_codes_exclude=query.several("error_code_exclude"),
        status_min=status if status is not None else least,
        status_max=status if status is not None else most,
        from_ms=from_ms,
        to_ms=to_ms,
        trace_id=query.text("trace_id"),
        request_id=query.text("request_id"),
        search=query.text("search", SEARCH_LENGTH_MAX),
        sort_by=query.choice("sort_by", AuditSort) or AuditSort.TIMESTAMP,
        descending=query.descending(),
        limit=query.limit(100),
        after=query.after("audit"),
    )
    page = _page(authority.reader, wanted)
    rows = [line(authority.reader, row) for row in page.rows]
    return Answer(200, query.page("logs", rows, page))


def _page(reader: Reader, query: AuditQuery) -> Page[AuditLine]:
    """Return a page; a request id tells when to look first, since it begins with its time."""
    asked_ms = _asked_at_ms(query.request_id)
    if asked_ms is None:
        return reader.audit(query)
    query = replace(query, from_ms=max(asked_ms, query.from_ms or 0))
    for within_ms in SETTLED_WITHIN_MS:
        last_ms = asked_ms + within_ms
        to_ms = last_ms if query.to_ms is None else min(query.to_ms, last_ms)
        page = reader.audit(replace(query, to_ms=to_ms))
        if page.rows:
            return page
    return reader.audit(query)


def _asked_at_ms(request_id: str | None) -> int | None:
    try:
        found = UUID(request_id or "")
    except ValueError:
        return None
    return found.int >> 80 if found.version == 7 else None


def line(reader: Reader, row: AuditLine) -> Json:
    """Return an AuditLogEntry."""
    plain = _refused(row) if isinstance(row, Failure) else _accepted(reader, row)
    body = {
        "log_id": log_id_of(row),
        "timestamp": format_timestamp(row.at_ms),
        "tenant_id": row.tenant,
        "key_id": row.key_id,
        "request_id": row.request_id,
        "trace_id": row.trace_id,
        "status": row.status,
    } | plain
    return {name: value for name, value in body.items() if value is not None}


def _refused(row: Failure) -> Json:
    detail: Json = json.loads(row.detail)
    body = {name: detail.pop(name, None) for name in ("subject", "action", "amount")}
    if row.actor is not None:
        detail["actor_type"] = row.actor
    if row.repeated:
        detail["also_refused"] = row.repeated
    return body | {
        "operation": row.operation,
        "resource_type": row.resource_type,
        "resource_id": row.resource_id,
        "error_code": row.error_code,
        "source_ip": row.source_ip,
        "user_agent": row.user_agent,
        "metadata": detail,
    }


def _accepted(reader: Reader, row: Entry) -> Json:
    changes: Json = json.loads(row.changes)
    asked: Json = changes.get("asked", {})
    metadata: Json = {"actor_type": row.actor, "seq": row.seq, "entry_hash": row.entry_hash}
    if row.key is not None:
        metadata["idempotency_key"] = row.key
    if "correlation_id" in changes:
        metadata["correlation_id"] = changes["correlation_id"]
    body: Json = {}
    if row.verb in _BULK:
        metadata["outcome"] = json.loads(row.body)
    if row.verb == "CloseTenant":
        metadata["cascade"] = _cascade(changes)
    held = changes.get("reservations", [])
    if held and row.verb != "CloseTenant":
        body |= _reservation(reader, row, held[0])
    if row.verb == "Debit":
        body |= {name: json.loads(asked.pop(name)) for name in ("subject", "action")}
        body["amount"] = render.amount(Unit(asked.pop("unit")), asked.pop("actual"))
    if row.verb == "Fund":
        body["amount"] = render.amount(Unit(changes["budgets"][0][1]), asked["amount"])
    if asked:
        texts = {name: json.loads(asked[name]) for name in _JSON_TEXTS if name in asked}
        metadata["asked"] = asked | texts
    return body | {
        "operation": operation_of(row.verb),
        "resource_type": resource_type_of(row.verb),
        "resource_id": resource_id_of(row.verb, row.tenant, row.changes),
        "metadata": metadata,
    }


def _reservation(reader: Reader, row: Entry, state: list[Any]) -> Json:
    """Return what a reservation was for, and what this step charged or held."""
    reservation_id, _, unit, estimate, charged = state[:5]
    value = charged if row.verb == "Commit" else estimate
    body: Json = {"amount": render.amount(Unit(unit), value)}
    known = reader.reservation(row.tenant, reservation_id)
    if known is not None:
        body |= {"subject": json.loads(known.subject), "action": json.loads(known.action)}
    return body


def _cascade(changes: Json) -> Json:
    """Return what went with a closed tenant: how many of each kind, and which first."""
    found: Json = {}
    for kind, ids in (
        ("budgets", [f"{state[0]}/{state[1]}" for state in changes.get("budgets", [])]),
        ("reservations", [state[0] for state in changes.get("reservations", [])]),
        ("api_keys", [state[0] for state in changes.get("keys", [])]),
    ):
        found[kind] = {"count": len(ids), "ids": ids[:CASCADE_SHOWN_MAX]}
    return found
