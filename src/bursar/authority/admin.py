"""Provisioning on the admin plane: tenants, API keys, budgets, introspection (10.2, 10.3).

The rule that lives here: an operator names the tenant it acts for and a tenant acts for
itself alone. A budget's scope begins with the tenant that owns it, so the scope says whose
budget it is.
"""

from __future__ import annotations

from bursar import ids
from bursar.authority import render
from bursar.authority.authority import (
    Authority,
    idempotency,
    origin,
    require_permission,
    require_reach,
)
from bursar.authority.call import Answer, Call, refuse
from bursar.authority.paging import SEARCH_LENGTH_MAX, Query
from bursar.authority.principal import capabilities, hash_secret
from bursar.core import scopes
from bursar.core.commands import (
    CreateBudget,
    CreateKey,
    CreateTenant,
    Freeze,
    Fund,
    RevokeKey,
    Unfreeze,
)
from bursar.core.outcomes import KeyAnswer
from bursar.core.state import ApiKey, Budget, Tenant
from bursar.invariant import require
from bursar.ledger.ports import BudgetQuery, BudgetSort, TenantQuery, TenantSort
from bursar.vocabulary import (
    DEFAULT_PERMISSIONS,
    EXTENSIONS_MAX_DEFAULT,
    TTL_MS_CAP_DEFAULT,
    TTL_MS_DEFAULT,
    BudgetStatus,
    ErrorCode,
    ExpiryPolicy,
    FundOperation,
    KeyStatus,
    Permission,
    TenantStatus,
    Unit,
)
from bursar.wire import admin as wire
from bursar.wire.codec import canonical, decode, encode
from bursar.wire.timestamps import format_timestamp, parse_timestamp

KEY_LIFETIME_MS = 90 * 86_400_000
REASON_LENGTH_MAX = 512
IDEMPOTENCY_KEY_LENGTH_MAX = 256


async def create_tenant(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/tenants`: 201, or 200 with the stored one for the same id and name."""
    request = decode(wire.TenantCreateRequest, call.body)
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
        metadata=_maybe(request.metadata),
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
    rows = [render.tenant(_readable(row)) for row in page.rows]
    return Answer(200, query.page("tenants", rows, page))


async def create_key(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/api-keys`: the one answer that ever contains the secret."""
    request = decode(wire.ApiKeyCreateRequest, call.body)
    now_ms = authority.clock.now_ms()
    secret = ids.new_secret()
    permissions = request.permissions if request.permissions is not None else DEFAULT_PERMISSIONS
    record = ApiKey(
        tenant=request.tenant_id,
        key_id=ids.prefixed_id("key_"),
        key_prefix=secret[: ids.KEY_PREFIX_LENGTH],
        secret_hash=hash_secret(authority.pepper, secret),
        name=request.name,
        status=KeyStatus.ACTIVE,
        permissions=tuple(permission.value for permission in permissions),
        scope_filter=tuple(request.scope_filter or ()),
        created_at_ms=now_ms,
        expires_at_ms=parse_timestamp(request.expires_at)
        if request.expires_at
        else now_ms + KEY_LIFETIME_MS,
        description=request.description,
        metadata=_maybe(request.metadata),
    )
    command = CreateKey(tenant=request.tenant_id, origin=origin(call), record=record)
    sent, answer = await authority.perform(command)
    require(isinstance(answer, KeyAnswer), "creating a key answers with the key")
    body = {
        "key_id": record.key_id,
        "key_secret": secret,
        "key_prefix": record.key_prefix,
        "tenant_id": record.tenant,
        "permissions": list(record.permissions),
        "created_at": format_timestamp(
            answer.key.created_at_ms if isinstance(answer, KeyAnswer) else now_ms
        ),
        "expires_at": format_timestamp(record.expires_at_ms),
    }
    return Answer(sent.status, encode(body))


async def revoke_key(authority: Authority, call: Call) -> Answer:
    """`DELETE /v1/admin/api-keys/{key_id}`: final."""
    key_id = call.path["key_id"]
    reason = Query(call.query).text("reason", REASON_LENGTH_MAX)
    row = authority.reader.key(key_id)
    if row is None:
        raise refuse(ErrorCode.NOT_FOUND, f"API key not found: {key_id[:80]}")
    command = RevokeKey(tenant=row.tenant, origin=origin(call), key_id=key_id, reason=reason)
    return await authority.answer(command)


async def create_budget(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets`."""
    _may(call, Permission.BUDGETS_WRITE)
    request = decode(wire.BudgetCreateRequest, call.body)
    tenant = _owner(call, request.tenant_id)
    scope = _scope(request.scope, tenant)
    require_reach(call.principal, scope)
    for name in ("allocated", "overdraft_limit"):
        sent = getattr(request, name)
        if sent is not None and sent.unit is not request.unit:
            raise refuse(
                ErrorCode.UNIT_MISMATCH,
                f"{name}.unit is {sent.unit}; the budget counts in {request.unit}",
                details={
                    "scope": scope,
                    "requested_unit": sent.unit.value,
                    "expected_units": [request.unit.value],
                },
            )
    budget = Budget(
        tenant=tenant,
        scope=scope,
        unit=request.unit,
        ledger_id=ids.prefixed_id("ldg_"),
        allocated=request.allocated.amount,
        remaining=request.allocated.amount,
        reserved=0,
        spent=0,
        debt=0,
        overdraft_limit=request.overdraft_limit.amount if request.overdraft_limit else 0,
        is_over_limit=False,
        status=BudgetStatus.ACTIVE,
        created_at_ms=0,
        updated_at_ms=0,
        overage_policy=request.commit_overage_policy,
        rollover_policy=request.rollover_policy,
        period_start_ms=parse_timestamp(request.period_start) if request.period_start else None,
        period_end_ms=parse_timestamp(request.period_end) if request.period_end else None,
        metadata=_maybe(request.metadata),
    )
    command = CreateBudget(tenant=tenant, origin=origin(call, on_behalf=True), budget=budget)
    return await authority.answer(command)


async def list_budgets(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/budgets`: a tenant's own; the operator's choice or all."""
    _may(call, Permission.BUDGETS_READ)
    query = Query(call.query)
    least, most = query.fraction("utilization_min"), query.fraction("utilization_max")
    if least is not None and most is not None and least > most:
        raise refuse(
            ErrorCode.INVALID_REQUEST, "utilization_min: must not be above utilization_max"
        )
    tenant = call.principal.tenant or query.text("tenant_id")
    query.filters["tenant_id"] = tenant
    wanted = BudgetQuery(
        tenant=tenant,
        scope_prefix=(query.text("scope_prefix") or "").lower() or None,
        unit=query.choice("unit", Unit),
        status=query.choice("status", BudgetStatus),
        over_limit=query.flag("over_limit"),
        has_debt=query.flag("has_debt"),
        utilization_min=least,
        utilization_max=most,
        search=query.text("search", SEARCH_LENGTH_MAX),
        sort_by=query.choice("sort_by", BudgetSort) or BudgetSort.UTILIZATION,
        descending=query.descending(),
        limit=query.limit(100),
        after=query.after("budgets"),
    )
    page = authority.reader.budgets(wanted)
    rows = [render.budget(row) for row in page.rows if call.principal.reaches(row.scope)]
    return Answer(200, query.page("ledgers", rows, page))


async def lookup_budget(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/budgets/lookup?scope&unit`: exact match."""
    _may(call, Permission.BUDGETS_READ)
    tenant, scope, unit = _named(call)
    require_reach(call.principal, scope)
    row = authority.reader.budget(tenant, scope, unit)
    if row is None:
        raise refuse(ErrorCode.BUDGET_NOT_FOUND, f"Budget not found: scope {scope}, unit {unit}")
    return Answer(200, encode(render.budget(row)))


async def fund_budget(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets/fund?scope&unit[&tenant_id]` (protocol 3.8)."""
    _may(call, Permission.BUDGETS_WRITE)
    request = decode(wire.BudgetFundingRequest, call.body)
    if call.principal.is_operator and not call.query.get("tenant_id"):
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            "tenant_id: query parameter is required when using admin key authentication",
        )
    tenant, scope, unit = _named(call)
    require_reach(call.principal, scope)
    # The schema leaves the key optional; a key sent in the header alone is one all the same.
    key = request.idempotency_key or _header_key(call)
    identity = None
    if key is not None:
        keyed = request.model_copy(update={"idempotency_key": key})
        identity = idempotency(call, "fund", keyed, key, scope=scope, unit=unit.value)
    # Sent with another operation, `spent` is ignored (protocol 14, row 13).
    spent = request.spent if request.operation is FundOperation.RESET_SPENT else None
    command = Fund(
        tenant=tenant,
        origin=origin(call, on_behalf=True),
        idempotency=identity,
        scope=scope,
        unit=unit,
        operation=request.operation,
        amount_unit=request.amount.unit,
        amount=request.amount.amount,
        spent=spent.amount if spent else None,
        spent_unit=spent.unit if spent else None,
        reason=request.reason,
        metadata=_maybe(request.metadata),
    )
    return await authority.answer(command)


async def freeze_budget(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets/freeze?scope&unit`."""
    tenant, scope, unit = _named(call)
    reason = _transition(call).reason
    command = Freeze(tenant=tenant, origin=origin(call), scope=scope, unit=unit, reason=reason)
    return await authority.answer(command)


async def unfreeze_budget(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets/unfreeze?scope&unit`."""
    tenant, scope, unit = _named(call)
    reason = _transition(call).reason
    command = Unfreeze(tenant=tenant, origin=origin(call), scope=scope, unit=unit, reason=reason)
    return await authority.answer(command)


async def introspect(authority: Authority, call: Call) -> Answer:
    """`GET /v1/auth/introspect`: who is asking, and what they may do."""
    del authority
    principal = call.principal
    body: dict[str, object] = {
        "authenticated": True,
        "auth_type": "admin" if principal.is_operator else "tenant",
        "permissions": sorted(principal.permissions),
        "capabilities": capabilities(principal),
    }
    if principal.tenant is not None:
        body["tenant_id"] = principal.tenant
        if principal.scope_filter:
            body["scope_filter"] = list(principal.scope_filter)
    return Answer(200, encode(body))


def _header_key(call: Call) -> str | None:
    header = call.idempotency_header
    if header is not None and not 1 <= len(header) <= IDEMPOTENCY_KEY_LENGTH_MAX:
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            f"X-Idempotency-Key: must be 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} characters, got "
            f"{len(header)}",
        )
    return header


def _may(call: Call, permission: Permission) -> None:
    require_permission(call.principal, permission, ErrorCode.INSUFFICIENT_PERMISSIONS)


def _owner(call: Call, named: str | None) -> str:
    """Return the tenant of a new object: the operator must name it, a tenant must not."""
    if call.principal.tenant is None:
        if named is None:
            raise refuse(
                ErrorCode.INVALID_REQUEST,
                "tenant_id: is required when using admin key authentication",
            )
        return named
    if named is not None:
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            "tenant_id: must be left out; it follows from the API key",
        )
    return call.principal.tenant


def _scope(scope: str, tenant: str) -> str:
    problem = scopes.problem(scope, tenant)
    if problem is not None:
        raise refuse(ErrorCode.INVALID_REQUEST, f"scope: {problem}")
    return scope.lower()


def _named(call: Call) -> tuple[str, str, Unit]:
    """Return tenant, scope and unit of the budget that the query names.

    Raises:
        Refusal: scope or unit is missing or malformed, or the scope is another tenant's.
    """
    query = Query(call.query)
    scope, unit = query.text("scope"), query.choice("unit", Unit)
    if scope is None or unit is None:
        missing = "scope" if scope is None else "unit"
        raise refuse(ErrorCode.INVALID_REQUEST, f"{missing}: query parameter is required")
    if call.principal.tenant is not None:
        tenant = call.principal.tenant
        if scope.lower().split("/")[0] != f"tenant:{tenant}":
            raise refuse(
                ErrorCode.FORBIDDEN, f"scope: {scope[:200]!r} is not under tenant:{tenant}"
            )
    else:
        tenant = query.text("tenant_id") or scope.lower().split("/")[0].removeprefix("tenant:")
    return tenant, _scope(scope, tenant), unit


def _transition(call: Call) -> wire.BudgetStatusTransitionRequest:
    return decode(wire.BudgetStatusTransitionRequest, call.body or b"{}")


def _readable(row: Tenant) -> Tenant:
    if row.status is None:
        raise refuse(
            ErrorCode.INTERNAL_ERROR,
            f"Malformed tenant record: tenant:{row.tenant_id}; an operator must repair it",
        )
    return row


def _maybe(value: object | None) -> str | None:
    return None if value is None else canonical(value).decode()
