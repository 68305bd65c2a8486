"""Reading the runtime plane: one reservation, lists of them, balances (protocol 8).

The rule that lives here: a tenant sees its own rows and nothing else, whatever it asks
for, and a key with a scope filter sees what lies within it. Naming another tenant is refused,
not answered with an empty list.
"""

from __future__ import annotations

from bursar.authority import render
from bursar.authority.authority import Authority, require_permission, require_reach, tenant_of
from bursar.authority.call import Answer, Call, refuse
from bursar.authority.paging import Query
from bursar.authority.runtime import foreign, owner_of, reservation_id_of
from bursar.ledger.ports import BudgetQuery, BudgetSort, ReservationQuery, ReservationSort
from bursar.vocabulary import SCOPE_KINDS, ErrorCode, Permission, ReservationStatus, Unit
from bursar.wire.codec import encode

INCLUDABLE = frozenset({"metadata", "committed_metadata", "evidence"})


async def get_reservation(authority: Authority, call: Call) -> Answer:
    """`GET /v1/reservations/{id}`; an expired one is 410."""
    require_permission(call.principal, Permission.RESERVATIONS_LIST)
    reservation_id = reservation_id_of(call)
    owner = owner_of(authority, reservation_id)
    if call.principal.tenant is not None and call.principal.tenant != owner:
        raise foreign(reservation_id)
    row = authority.reader.reservation(owner, reservation_id)
    if row is None:
        raise refuse(ErrorCode.NOT_FOUND, f"Reservation not found: {reservation_id}")
    require_reach(call.principal, row.scope_path)
    if row.status is ReservationStatus.EXPIRED:
        raise refuse(
            ErrorCode.RESERVATION_EXPIRED,
            f"Reservation {reservation_id} has expired and its hold was returned; list it with "
            "status=EXPIRED",
        )
    return Answer(200, encode(render.reservation(row, INCLUDABLE)))


async def list_reservations(authority: Authority, call: Call) -> Answer:
    """`GET /v1/reservations`: filtered, sorted, paged."""
    require_permission(call.principal, Permission.RESERVATIONS_LIST)
    query = Query(call.query)
    tenant = _tenant(call, query)
    segments = {kind: value for kind in SCOPE_KINDS[1:] if (value := query.text(kind)) is not None}
    created, expires, finalized = (
        query.window(f"{prefix}from", f"{prefix}to") for prefix in ("", "expires_", "finalized_")
    )
    sort_by = query.choice("sort_by", ReservationSort) or ReservationSort.CREATED_AT_MS
    wanted = ReservationQuery(
        tenant=tenant,
        within=call.principal.scope_filter,
        idempotency_key=query.text("idempotency_key"),
        status=query.choice("status", ReservationStatus),
        segments=segments,
        created_from_ms=created[0],
        created_to_ms=created[1],
        expires_from_ms=expires[0],
        expires_to_ms=expires[1],
        finalized_from_ms=finalized[0],
        finalized_to_ms=finalized[1],
        sort_by=sort_by,
        descending=query.descending(),
        limit=query.limit(200),
        after=query.after("reservations"),
    )
    include = {part.strip() for part in call.query.get("include", "").split(",")} & INCLUDABLE
    page = authority.reader.reservations(wanted)
    rows = [render.reservation(row, include) for row in page.rows]
    return Answer(200, query.page("reservations", rows, page))


async def get_balances(authority: Authority, call: Call) -> Answer:
    """`GET /v1/balances`, in the form that the filters ask for.

    Any level of a subject asks for the runtime's Balance rows; `scope_prefix`, `unit` or
    `tenant_id` alone for the admin plane's BudgetLedger rows; nothing at all is refused.
    """
    require_permission(call.principal, Permission.BALANCES_READ)
    tenant_of(call.principal)
    query = Query(call.query)
    if not any(call.query.get(kind) for kind in SCOPE_KINDS):
        return _ledgers(authority, call, query)
    tenant = _tenant(call, query)
    segments = {kind: value for kind in SCOPE_KINDS[1:] if (value := query.text(kind)) is not None}
    if call.query.get("tenant"):
        segments["tenant"] = tenant
    wanted = BudgetQuery(
        tenant=tenant,
        within=call.principal.scope_filter,
        segments=segments,
        sort_by=BudgetSort.SCOPE,
        limit=query.limit(200),
        after=query.after("balances"),
    )
    authority.begin_periods(tenant)
    page = authority.reader.budgets(wanted)
    rows = [render.balance(row) for row in page.rows]
    return Answer(200, query.page("balances", rows, page))


def _ledgers(authority: Authority, call: Call, query: Query) -> Answer:
    if not any(call.query.get(name) for name in ("scope_prefix", "unit", "tenant_id")):
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            f"balances: name at least one of {', '.join(SCOPE_KINDS)} (or scope_prefix, unit)",
        )
    tenant = tenant_of(call.principal)
    wanted = BudgetQuery(
        tenant=tenant,
        within=call.principal.scope_filter,
        scope_prefix=(query.text("scope_prefix") or "").lower() or None,
        unit=query.choice("unit", Unit),
        limit=query.limit(100),
        after=query.after("ledgers"),
    )
    authority.begin_periods(tenant)
    page = authority.reader.budgets(wanted)
    rows = [render.budget(row) for row in page.rows]
    return Answer(200, query.page("balances", rows, page))


def _tenant(call: Call, query: Query) -> str:
    """Return whose rows are asked for: a tenant's own, or the one the operator names."""
    named = query.text("tenant")
    if call.principal.tenant is None:
        if named is None:
            raise refuse(
                ErrorCode.INVALID_REQUEST,
                "tenant query parameter is required when using admin key authentication",
            )
        return named
    if named is not None and named != call.principal.tenant:
        raise refuse(
            ErrorCode.FORBIDDEN,
            f"tenant is {named!r} but this API key belongs to {call.principal.tenant!r}",
        )
    query.filters["tenant"] = call.principal.tenant
    return call.principal.tenant
