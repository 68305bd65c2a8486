"""Tenants on the admin plane (protocol 10.2).

The rule that lives here: a tenant's id is final, and so is its end; what one request
changes, changes in one step. A record that cannot be read is never shown half: by its id it
is said to be unreadable, and a list leaves it out and goes on with the others.
"""

from __future__ import annotations

import logging

from bursar.authority import render
from bursar.authority.admin import maybe_json
from bursar.authority.authority import Authority, origin
from bursar.authority.call import Answer, Call, refuse
from bursar.authority.paging import SEARCH_LENGTH_MAX, Query
from bursar.core.commands import CloseTenant, CreateTenant, TenantEdit, UpdateTenant
from bursar.core.state import Tenant
from bursar.ledger.ports import TenantQuery, TenantSort
from bursar.vocabulary import (
    EXTENSIONS_MAX_DEFAULT,
    TTL_MS_CAP_DEFAULT,
    TTL_MS_DEFAULT,
    ErrorCode,
    ExpiryPolicy,
    TenantStatus,
)
from bursar.wire import admin as wire
from bursar.wire.codec import decode, encode

log = logging.getLogger(__name__)
RESERVED = frozenset({"bulk-action"})


async def create_tenant(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/tenants`: 201, or 200 with the stored one for the same id and name."""
    request = decode(wire.TenantCreateRequest, call.body)
    if request.tenant_id in RESERVED:
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            f"tenant_id: {request.tenant_id!r} names an operation at this path; choose another id",
        )
    ttl_max_ms = request.max_reservation_ttl_ms or TTL_MS_CAP_DEFAULT
    extensions_max = request.max_reservation_extensions
    record = Tenant(
        tenant_id=request.tenant_id,
        name=request.name,
        status=TenantStatus.ACTIVE,
        created_at_ms=0,
        parent_tenant_id=request.parent_tenant_id,
        overage_policy=request.default_commit_overage_policy,
        ttl_default_ms=request.default_reservation_ttl_ms or TTL_MS_DEFAULT,
        ttl_max_ms=ttl_max_ms,
        extensions_max=EXTENSIONS_MAX_DEFAULT if extensions_max is None else extensions_max,
        expiry_policy=request.reservation_expiry_policy or ExpiryPolicy.AUTO_RELEASE,
        metadata=maybe_json(request.metadata),
    )
    command = CreateTenant(tenant=request.tenant_id, origin=origin(call), record=record)
    return await authority.answer(command)


async def get_tenant(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/tenants/{tenant_id}`."""
    tenant_id = call.path["tenant_id"]
    row = authority.reader.tenant(tenant_id)
    if row is None:
        raise refuse(ErrorCode.TENANT_NOT_FOUND, f"Tenant not found: {tenant_id[:80]}")
    return Answer(200, encode(render.tenant(_readable(row))))


async def list_tenants(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/tenants`: filtered, sorted, paged."""
    query = Query(call.query)
    wanted = TenantQuery(
        status=query.choice("status", TenantStatus),
        parent_tenant_id=query.text("parent_tenant_id"),
        search=query.text("search", SEARCH_LENGTH_MAX),
        sort_by=query.choice("sort_by", TenantSort) or TenantSort.CREATED_AT,
        descending=query.descending(),
        limit=query.limit(100),
        after=query.after("tenants"),
    )
    page = authority.reader.tenants(wanted)
    rows: list[render.Json] = []
    for row in page.rows:
        if row.status is None:
            log.error("tenant %s is left out of a list: its record cannot be read", row.tenant_id)
        else:
            rows.append(render.tenant(row))
    return Answer(200, query.page("tenants", rows, page))


async def update_tenant(authority: Authority, call: Call) -> Answer:
    """`PATCH /v1/admin/tenants/{tenant_id}`: settings, suspend, reactivate, close.

    Closing takes along whatever else the request changes, in one command.
    """
    tenant_id = call.path["tenant_id"]
    request = decode(wire.TenantUpdateRequest, call.body)
    edit = TenantEdit(
        name=request.name,
        metadata=maybe_json(request.metadata),
        overage_policy=request.default_commit_overage_policy,
        ttl_default_ms=request.default_reservation_ttl_ms,
        ttl_max_ms=request.max_reservation_ttl_ms,
        extensions_max=request.max_reservation_extensions,
    )
    if request.status is TenantStatus.CLOSED:
        return await authority.answer(CloseTenant(tenant=tenant_id, origin=origin(call), edit=edit))
    return await authority.answer(
        UpdateTenant(tenant=tenant_id, origin=origin(call), edit=edit, status=request.status)
    )


def _readable(row: Tenant) -> Tenant:
    if row.status is None:
        raise refuse(
            ErrorCode.INTERNAL_ERROR,
            f"Malformed tenant record: tenant:{row.tenant_id}; an operator must repair it",
        )
    return row
