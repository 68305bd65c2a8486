"""Budgets on the admin plane (protocol 10.2, 3.8, 3.9).

The rule that lives here: scope and unit name a budget, and its scope begins with the tenant
that owns it, so the scope says whose budget it is.
"""

from __future__ import annotations

from bursar import ids
from bursar.authority import periods, render
from bursar.authority.admin import budget_named, may, maybe_json, owner, scope_of
from bursar.authority.authority import Authority, idempotency, origin, require_reach
from bursar.authority.call import Answer, Call, refuse
from bursar.authority.paging import SEARCH_LENGTH_MAX, Query
from bursar.core.commands import (
    BudgetEdit,
    CreateBudget,
    Freeze,
    Fund,
    Unfreeze,
    UpdateBudget,
)
from bursar.core.state import Budget
from bursar.core.verbs.budget import in_period
from bursar.ledger.ports import BudgetQuery, BudgetSort
from bursar.vocabulary import BudgetStatus, ErrorCode, FundOperation, Permission, Unit
from bursar.wire import admin as wire
from bursar.wire.codec import decode, encode

IDEMPOTENCY_KEY_LENGTH_MAX = 256


async def create_budget(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets`."""
    may(call, Permission.BUDGETS_WRITE)
    request = decode(wire.BudgetCreateRequest, call.body)
    tenant = owner(call, request.tenant_id)
    scope = scope_of(request.scope, tenant)
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
        metadata=maybe_json(request.metadata),
    )
    period = periods.at_creation(request, authority.clock.now_ms())
    command = CreateBudget(
        tenant=tenant, origin=origin(call, on_behalf=True), budget=in_period(budget, period)
    )
    return await authority.answer(command)


async def list_budgets(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/budgets`: a tenant's own; the operator's choice or all."""
    may(call, Permission.BUDGETS_READ)
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
        within=call.principal.scope_filter,
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
    authority.begin_periods(tenant)
    page = authority.reader.budgets(wanted)
    rows = [render.budget(row) for row in page.rows]
    return Answer(200, query.page("ledgers", rows, page))


async def lookup_budget(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/budgets/lookup?scope&unit`: exact match."""
    may(call, Permission.BUDGETS_READ)
    tenant, scope, unit = budget_named(call)
    require_reach(call.principal, scope)
    authority.begin_periods(tenant)
    row = authority.reader.budget(tenant, scope, unit)
    if row is None:
        raise refuse(ErrorCode.BUDGET_NOT_FOUND, f"Budget not found: scope {scope}, unit {unit}")
    return Answer(200, encode(render.budget(row)))


async def update_budget(authority: Authority, call: Call) -> Answer:
    """`PATCH /v1/admin/budgets?scope&unit`: what it allows and when it renews itself."""
    tenant, scope, unit = budget_named(call)
    request = decode(wire.BudgetUpdateRequest, call.body)
    limit = request.overdraft_limit
    command = UpdateBudget(
        tenant=tenant,
        origin=origin(call, on_behalf=True),
        scope=scope,
        unit=unit,
        limit_unit=limit.unit if limit else None,
        edit=BudgetEdit(
            overdraft_limit=limit.amount if limit else None,
            overage_policy=request.commit_overage_policy,
            rollover_policy=request.rollover_policy,
            metadata=maybe_json(request.metadata),
        ),
        period=periods.in_patch(request, authority.clock.now_ms()),
    )
    return await authority.answer(command)


async def fund_budget(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets/fund?scope&unit[&tenant_id]` (protocol 3.8)."""
    may(call, Permission.BUDGETS_WRITE)
    request = decode(wire.BudgetFundingRequest, call.body)
    if call.principal.is_operator and not call.query.get("tenant_id"):
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            "tenant_id: query parameter is required when using admin key authentication",
        )
    tenant, scope, unit = budget_named(call)
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
        metadata=maybe_json(request.metadata),
    )
    return await authority.answer(command)


async def freeze_budget(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets/freeze?scope&unit`."""
    tenant, scope, unit = budget_named(call)
    reason = _transition(call).reason
    command = Freeze(tenant=tenant, origin=origin(call), scope=scope, unit=unit, reason=reason)
    return await authority.answer(command)


async def unfreeze_budget(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets/unfreeze?scope&unit`."""
    tenant, scope, unit = budget_named(call)
    reason = _transition(call).reason
    command = Unfreeze(tenant=tenant, origin=origin(call), scope=scope, unit=unit, reason=reason)
    return await authority.answer(command)


def _transition(call: Call) -> wire.BudgetStatusTransitionRequest:
    return decode(wire.BudgetStatusTransitionRequest, call.body or b"{}")


def _header_key(call: Call) -> str | None:
    header = call.idempotency_header
    if header is not None and not 1 <= len(header) <= IDEMPOTENCY_KEY_LENGTH_MAX:
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            f"X-Idempotency-Key: must be 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} characters, got "
            f"{len(header)}",
        )
    return header
