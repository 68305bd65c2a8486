"""Bulk actions on tenants and budgets (protocol 10.8).

The rule that lives here: a row changes by an ordinary command, under a key that is made of
the bulk action's id and the row's. However often a bulk action is sent, and wherever it was
cut short, no row changes twice. The action itself is two entries in the operator's own log:
the plan, and what became of every row, which is the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bursar import ids
from bursar.authority.authority import Authority, idempotency, origin
from bursar.authority.call import Answer, Call, refuse
from bursar.core.bulk import RowOutcome, Target
from bursar.core.commands import (
    AnyCommand,
    BeginBulk,
    CloseTenant,
    FinishBulkBudgets,
    FinishBulkTenants,
    Fund,
    Idempotency,
    Origin,
    TenantEdit,
    UpdateTenant,
)
from bursar.core.outcomes import Refused
from bursar.core.replay import PLANNED
from bursar.ledger.ports import (
    BudgetQuery,
    BudgetSort,
    StoreError,
    TenantQuery,
    TenantSort,
    UnreadableRow,
)
from bursar.ledger.service import Accepted, Failed, Outcome
from bursar.vocabulary import (
    BULK_ROWS_MAX,
    OPERATOR_LOG,
    ErrorCode,
    FundOperation,
    RowError,
    SkipReason,
    TenantAction,
    TenantStatus,
    Unit,
)
from bursar.wire import bulk as wire
from bursar.wire.codec import canonical, decode, payload_of

ROWS_AT_ONCE = 64
"""Rows between which agents get their turn at the ledger."""

_ROW_ERRORS = {
    ErrorCode.TENANT_NOT_FOUND: RowError.NOT_FOUND,
    ErrorCode.BUDGET_NOT_FOUND: RowError.NOT_FOUND,
    ErrorCode.BUDGET_EXCEEDED: RowError.BUDGET_EXCEEDED,
    ErrorCode.TENANT_CLOSED: RowError.TENANT_CLOSED,
    ErrorCode.INTERNAL_ERROR: RowError.INTERNAL_ERROR,
}
_STATUS_AFTER = {
    TenantAction.SUSPEND: TenantStatus.SUSPENDED,
    TenantAction.REACTIVATE: TenantStatus.ACTIVE,
}

Change = Callable[[Target, Origin, Idempotency], AnyCommand]


@dataclass(frozen=True, slots=True)
class _Bulk:
    """One bulk action as it was asked.

    Attributes:
        kind: `tenant` or `budget`, as correlation ids have it.
        finish: the command that accounts for the rows.
        action: what is done to each row.
        identity: the caller's key and what it stands for.
        request: what was asked, for the log.
        expected: how many rows the caller expects, if it says so.
        find: reads the rows that match, and how many there are.
        change: makes the command that changes one row.
    """

    kind: str
    finish: type[FinishBulkTenants] | type[FinishBulkBudgets]
    action: str
    identity: Idempotency
    request: str
    expected: int | None
    find: Callable[[], tuple[Sequence[Target], int]]
    change: Change


@dataclass(frozen=True, slots=True)
class _Plan:
    """A bulk action that has begun, maybe by a request that was cut short."""

    bulk_id: str
    begun_at_ms: int
    origin: Origin
    targets: Sequence[Target]


async def bulk_tenants(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/tenants/bulk-action`: suspend, reactivate or close what matches."""
    request = decode(wire.TenantBulkActionRequest, call.body)
    action, chosen = request.action, request.filter
    query = TenantQuery(
        status=chosen.status,
        parent_tenant_id=chosen.parent_tenant_id or None,
        search=chosen.search or None,
        sort_by=TenantSort.TENANT_ID,
        descending=False,
        limit=BULK_ROWS_MAX,
    )

    def find() -> tuple[Sequence[Target], int]:
        page = authority.reader.tenants(query)
        found = [Target(row.tenant_id) for row in page.rows]
        return found, len(found) if page.after is None else authority.reader.count(query)

    def change(target: Target, asker: Origin, identity: Idempotency) -> AnyCommand:
        if action is TenantAction.CLOSE:
            return CloseTenant(tenant=target.row_id, origin=asker, idempotency=identity)
        return UpdateTenant(
            tenant=target.row_id,
            origin=asker,
            idempotency=identity,
            edit=TenantEdit(),
            status=_STATUS_AFTER[action],
        )

    identity = idempotency(call, "bulkActionTenants", request, request.idempotency_key)
    asked = canonical(payload_of(request)).decode()
    bulk = _Bulk(
        "tenant",
        FinishBulkTenants,
        action.value,
        identity,
        asked,
        request.expected_count,
        find,
        change,
    )
    return await _perform(authority, call, bulk)


async def bulk_budgets(authority: Authority, call: Call) -> Answer:
    """`POST /v1/admin/budgets/bulk-action`: fund what matches, within one tenant."""
    request = decode(wire.BudgetBulkActionRequest, call.body)
    chosen, tenant = request.filter, request.filter.tenant_id
    identity = idempotency(call, "bulkActionBudgets", request, request.idempotency_key)
    if await asyncio.to_thread(authority.reader.tenant, tenant) is None:
        raise refuse(ErrorCode.TENANT_NOT_FOUND, f"Tenant not found: {tenant[:80]}")
    query = BudgetQuery(
        tenant=tenant,
        scope_prefix=(chosen.scope_prefix or "").lower() or None,
        unit=chosen.unit,
        status=chosen.status,
        over_limit=chosen.over_limit,
        has_debt=chosen.has_debt,
        utilization_min=chosen.utilization_min,
        utilization_max=chosen.utilization_max,
        search=chosen.search or None,
        sort_by=BudgetSort.SCOPE,
        descending=False,
        limit=BULK_ROWS_MAX,
    )

    def find() -> tuple[Sequence[Target], int]:
        page = authority.reader.budgets(query)
        found = [Target(row.ledger_id, row.scope, row.unit.value) for row in page.rows]
        return found, len(found) if page.after is None else authority.reader.count(query)

    asked = canonical(payload_of(request)).decode()
    bulk = _Bulk(
        "budget",
        FinishBulkBudgets,
        request.action.value,
        identity,
        asked,
        request.expected_count,
        find,
        _funding(request),
    )
    return await _perform(authority, call, bulk)


def _funding(request: wire.BudgetBulkActionRequest) -> Change:
    """Return how one budget is funded; `spent` counts for RESET_SPENT alone."""
    amount = request.amount
    if amount is None:  # the model refuses it; this is for the type
        raise refuse(ErrorCode.INVALID_REQUEST, f"amount: is required for {request.action}")
    spent = request.spent if request.action is FundOperation.RESET_SPENT else None

    def change(target: Target, asker: Origin, identity: Idempotency) -> AnyCommand:
        return Fund(
            tenant=request.filter.tenant_id,
            origin=asker,
            idempotency=identity,
            scope=target.scope,
            unit=Unit(target.unit),
            operation=request.action,
            amount_unit=amount.unit,
            amount=amount.amount,
            spent=spent.amount if spent else None,
            spent_unit=spent.unit if spent else None,
            reason=request.reason,
            skip_done=True,
        )

    return change


async def _perform(authority: Authority, call: Call, bulk: _Bulk) -> Answer:
    """Begin, change row after row, and finish; or go on where an earlier request stopped."""
    async with authority.one_bulk:
        targets, matched = await asyncio.to_thread(bulk.find)
        asker = replace(
            origin(call, on_behalf=True),
            correlation_id=f"{bulk.kind}_bulk_action:{bulk.action.lower()}:{call.request_id}",
        )
        begin = BeginBulk(
            tenant=OPERATOR_LOG,
            origin=asker,
            idempotency=bulk.identity,
            bulk_id=ids.prefixed_id("bulk_"),
            action=bulk.action,
            request=bulk.request,
            targets=tuple(targets),
            matched=matched,
            expected=bulk.expected,
        )
        sent, _ = await authority.perform(begin)
        if sent.status != PLANNED:
            return sent
        plan = _read(sent.body, asker)
        outcomes: list[RowOutcome] = []
        for first in range(0, len(plan.targets), ROWS_AT_ONCE):
            some = plan.targets[first : first + ROWS_AT_ONCE]
            outcomes += await _change(authority, plan, bulk, some)
        finish = bulk.finish(
            tenant=OPERATOR_LOG,
            origin=plan.origin,
            idempotency=bulk.identity,
            bulk_id=plan.bulk_id,
            action=bulk.action,
            request=bulk.request,
            outcomes=tuple(outcomes),
            duration_ms=max(0, authority.clock.now_ms() - plan.begun_at_ms),
        )
        return await authority.answer(finish)


async def _change(
    authority: Authority, plan: _Plan, bulk: _Bulk, targets: Sequence[Target]
) -> list[RowOutcome]:
    """Change some rows, and say what became of each.

    Raises:
        StoreError: the store could not say; the same request goes on from here later.
    """
    endpoint = f"bulk:{plan.bulk_id}"
    changes = [
        bulk.change(
            target,
            plan.origin,
            Idempotency(endpoint, target.row_id, bulk.identity.fingerprint),
        )
        for target in targets
    ]
    found = await asyncio.gather(*map(authority.batcher.execute, changes))
    return [_outcome(target, one) for target, one in zip(targets, found, strict=True)]


def _outcome(target: Target, outcome: Outcome) -> RowOutcome:
    match outcome:
        case Accepted():
            skipped = None if outcome.changed else SkipReason.ALREADY_IN_TARGET_STATE
            return RowOutcome(target.row_id, skipped=skipped)
        case Refused():
            # Whatever else is refused is refused for the state that the row is in.
            error = _ROW_ERRORS.get(outcome.code, RowError.INVALID_TRANSITION)
            return RowOutcome(target.row_id, error, outcome.message)
        case Failed():
            if isinstance(outcome.error, StoreError) and not isinstance(
                outcome.error, UnreadableRow
            ):
                raise outcome.error
            message = "This row could not be read or changed; an operator must look at it"
            return RowOutcome(target.row_id, RowError.INTERNAL_ERROR, message)


def _read(body: bytes, asker: Origin) -> _Plan:
    """Return the plan that was written down, with the ids of the request that began it."""
    said = json.loads(body)
    begun = replace(asker, request_id=said["request_id"], correlation_id=said["correlation_id"])
    targets = [Target(*row) for row in said["targets"]]
    return _Plan(said["bulk_id"], said["begun_at_ms"], begun, targets)
