"""The audit log: one line for everything that was changed, and one for everything refused.

The rule that lives here: nothing is written down twice. What was accepted is an entry of the
hash-chained log, and its line is read from there; what was refused has a row of its own and
no entry. The words for both (operation, resource, id) are made here alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from bursar.core.entry import Entry
from bursar.vocabulary import OPERATOR_LOG

ADMIN = OPERATOR_LOG
"""Whose line it is when the operator was refused, or acted upon many tenants at once."""
UNAUTHENTICATED = "__unauth__"
"""Whose line it is when nobody knows who was refused."""

# verb -> (operation of the published specification, type of the resource)
_VERBS: dict[str, tuple[str, str]] = {
    "Reserve": ("createReservation", "reservation"),
    "Decide": ("decide", "reservation"),
    "Commit": ("commitReservation", "reservation"),
    "Release": ("releaseReservation", "reservation"),
    "Extend": ("extendReservation", "reservation"),
    "Expire": ("expireReservation", "reservation"),
    "Debit": ("createEvent", "event"),
    "CreateBudget": ("createBudget", "budget"),
    "Fund": ("fundBudget", "budget"),
    "Freeze": ("freezeBudget", "budget"),
    "Unfreeze": ("unfreezeBudget", "budget"),
    "CloseBudget": ("closeBudget", "budget"),
    "UpdateBudget": ("updateBudget", "budget"),
    "Roll": ("rollBudget", "budget"),
    "CreateTenant": ("createTenant", "tenant"),
    "UpdateTenant": ("updateTenant", "tenant"),
    "CloseTenant": ("updateTenant", "tenant"),
    "CreateKey": ("createApiKey", "api_key"),
    "UpdateKey": ("updateApiKey", "api_key"),
    "RevokeKey": ("revokeApiKey", "api_key"),
    "CreatePolicy": ("createPolicy", "policy"),
    "UpdatePolicy": ("updatePolicy", "policy"),
    "BeginBulk": ("beginBulkAction", "tenant"),
    "FinishBulkTenants": ("bulkActionTenants", "tenant"),
    "FinishBulkBudgets": ("bulkActionBudgets", "budget"),
}
VERBS = tuple(_VERBS)
SILENT = "BeginBulk"
"""Has no line: what a bulk action was for stands in the line of its end, row by row."""
# type of a resource -> where the entry's changes keep its records, whose id comes first
_RECORDS = {"reservation": "reservations", "api_key": "keys", "policy": "policies"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One refused request, known by its request id.

    Attributes:
        tenant: whose credential asked, or `ADMIN`, or `UNAUTHENTICATED`.
        detail: canonical JSON of what else is known: method, path, reason, scope.
        repeated: how many more attempts of the same source were refused without a row.
    """

    tenant: str
    request_id: str
    at_ms: int
    operation: str
    status: int
    error_code: str
    resource_type: str | None = None
    resource_id: str | None = None
    actor: str | None = None
    key_id: str | None = None
    trace_id: str | None = None
    source_ip: str | None = None
    user_agent: str | None = None
    detail: str = "{}"
    repeated: int = 0


AuditLine = Entry | Failure


class AuditSort(StrEnum):
    """Keys that the audit log sorts by."""

    TIMESTAMP = "timestamp"
    OPERATION = "operation"
    RESOURCE_TYPE = "resource_type"
    TENANT_ID = "tenant_id"
    KEY_ID = "key_id"
    STATUS = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Filters combine with AND, the members of one with OR; bounds are inclusive.

    `error_codes` never finds what was accepted, `error_codes_exclude` always keeps it.
    `search` is a case-insensitive part of resource id, log id, error code or operation.
    """

    tenant: str | None = None
    key_id: str | None = None
    operations: tuple[str, ...] = ()
    resource_types: tuple[str, ...] = ()
    resource_id: str | None = None
    error_codes: tuple[str, ...] = ()
    error_codes_exclude: tuple[str, ...] = ()
    status_min: int | None = None
    status_max: int | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    trace_id: str | None = None
    request_id: str | None = None
    search: str | None = None
    sort_by: AuditSort = AuditSort.TIMESTAMP
    descending: bool = True
    after: tuple[int | float | str, str] | None = None
    limit: int = 50


def operation_of(verb: str) -> str:
    """Return the published operation that a verb of the log stands for."""
    known = _VERBS.get(verb)
    return known[0] if known else verb[:1].lower() + verb[1:]


def resource_type_of(verb: str) -> str | None:
    """Return the type of what a verb acts upon, None for an unknown verb."""
    known = _VERBS.get(verb)
    return known[1] if known else None


def resource_id_of(verb: str, tenant: str, changes: str) -> str | None:
    """Return the id of what an entry acted upon, from its changes; None if it has none.

    A budget is known by its scope and unit, as in every request about it: `SCOPE/UNIT`.
    """
    kind = resource_type_of(verb)
    if kind == "tenant":
        return None if tenant == ADMIN else tenant
    said = json.loads(changes)
    if kind == "event":
        event_id: str | None = said.get("asked", {}).get("event_id")
        return event_id
    if kind == "budget":
        rows = said.get("budgets")
        return f"{rows[0][0]}/{rows[0][1]}" if rows else None
    rows = said.get(_RECORDS.get(kind or "", ""))
    return str(rows[0][0]) if rows else None


def log_id_of(line: AuditLine) -> str:
    """Return the id of a line: tenant and number of an entry, or the request's own id."""
    return line.request_id if isinstance(line, Failure) else f"{line.tenant}.{line.seq:012d}"
