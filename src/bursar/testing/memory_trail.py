"""The audit log of a `MemoryStore`, and what the overview counts.

The rule that lives here: the words for a line come from `core.trail`, as in every store;
only finding and ordering is done anew, in the plainest way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import assert_never

from bursar.core import trail
from bursar.core.trail import AuditLine, AuditQuery, AuditSort, Failure
from bursar.ledger.ports import Census, Page, SortValue
from bursar.testing import paging
from bursar.testing.tables import Tables
from bursar.vocabulary import BudgetStatus, TenantStatus, Unit


def page(lines: Iterable[AuditLine], query: AuditQuery) -> Page[AuditLine]:
    """Return the lines that fit a query, from where its cursor stands."""
    return paging.page(
        (line for line in lines if _fits(line, query)),
        lambda line: (_value(line, query.sort_by), trail.log_id_of(line)),
        descending=query.descending,
        after=query.after,
        limit=query.limit,
    )


def census(tables: Tables, denials: Sequence[str], since_ms: int) -> Census:
    """Count everything."""
    tenants = Counter(row.status for row in tables.tenants.values())
    budgets = list(tables.budgets.values())
    denied = Counter(
        row.error_code
        for row in tables.failures.values()
        if row.at_ms >= since_ms
        and row.operation == "createReservation"
        and row.error_code in denials
    )
    return Census(
        tenants={status: tenants[status] for status in TenantStatus},
        budgets={s: sum(row.status is s for row in budgets) for s in BudgetStatus},
        budgets_by_unit={u: sum(row.unit is u for row in budgets) for u in Unit},
        over_limit=sum(row.is_over_limit for row in budgets),
        with_debt=sum(row.debt > 0 for row in budgets),
        denials=dict(denied),
    )


def _operation(line: AuditLine) -> str:
    return line.operation if isinstance(line, Failure) else trail.operation_of(line.verb)


def _resource(line: AuditLine) -> tuple[str | None, str | None]:
    if isinstance(line, Failure):
        return line.resource_type, line.resource_id
    resource_id = trail.resource_id_of(line.verb, line.tenant, line.changes)
    return trail.resource_type_of(line.verb), resource_id


def _fits(line: AuditLine, query: AuditQuery) -> bool:
    code = line.error_code if isinstance(line, Failure) else None
    resource_type, resource_id = _resource(line)
    return (
        (isinstance(line, Failure) or line.verb != trail.SILENT)
        and query.tenant in (None, line.tenant)
        and query.key_id in (None, line.key_id)
        and query.trace_id in (None, line.trace_id)
        and query.request_id in (None, line.request_id)
        and query.resource_id in (None, resource_id)
        and (not query.operations or _operation(line) in query.operations)
        and (not query.resource_types or resource_type in query.resource_types)
        and (not query.error_codes or code in query.error_codes)
        and (code is None or code not in query.error_codes_exclude)
        and (query.status_min is None or line.status >= query.status_min)
        and (query.status_max is None or line.status <= query.status_max)
        and (query.from_ms is None or line.at_ms >= query.from_ms)
        and (query.to_ms is None or line.at_ms <= query.to_ms)
        and _mentions(query.search, resource_id, trail.log_id_of(line), code, _operation(line))
    )


def _mentions(search: str | None, *texts: str | None) -> bool:
    return search is None or any(search.casefold() in (text or "").casefold() for text in texts)


def _value(line: AuditLine, sort_by: AuditSort) -> SortValue:
    match sort_by:
        case AuditSort.TIMESTAMP:
            return line.at_ms
        case AuditSort.OPERATION:
            return _operation(line)
        case AuditSort.RESOURCE_TYPE:
            return _resource(line)[0] or ""
        case AuditSort.TENANT_ID:
            return line.tenant
        case AuditSort.KEY_ID:
            return line.key_id or ""
        case AuditSort.STATUS:
            return line.status
        case _:
            assert_never(sort_by)
