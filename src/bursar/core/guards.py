"""Guards that more than one ladder uses, each a refusal or None.

The rule that lives here: a guard answers from the snapshot alone, and its refusal says
what blocked, with the numbers, and the cheapest change that would let the request pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bursar.core import scopes
from bursar.core.outcomes import Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Reservation
from bursar.vocabulary import (
    BudgetStatus,
    ErrorCode,
    ReservationStatus,
    TenantStatus,
    Unit,
)

FIX_LENGTH_MAX = 512
STEP = " Then: "


def malformed(tenant_id: str) -> Refused:
    """Return the refusal for a stored tenant that cannot be read; nothing is guessed."""
    return Refused(
        ErrorCode.INTERNAL_ERROR,
        f"Malformed tenant record: tenant:{tenant_id}; an operator must repair it",
    )


def tenant_closed(snapshot: Snapshot, tenant_id: str) -> Refused | None:
    """Refuse anything under a closed or unreadable tenant; no record means no guard."""
    tenant = snapshot.tenant(tenant_id)
    if tenant is None:
        return None
    if tenant.status is None:
        return malformed(tenant_id)
    if tenant.status is TenantStatus.CLOSED:
        return Refused(
            ErrorCode.TENANT_CLOSED,
            f"Tenant {tenant_id} is closed; nothing it owns can change any more",
            scope=f"tenant:{tenant_id}",
            fix="None: closing a tenant is final. Use another tenant.",
        )
    return None


def tenant_admits(snapshot: Snapshot, tenant_id: str) -> Refused | None:
    """Refuse new work under a tenant that is closed or suspended."""
    refusal = tenant_closed(snapshot, tenant_id)
    if refusal is not None:
        return refusal
    tenant = snapshot.tenant(tenant_id)
    if tenant is not None and tenant.status is TenantStatus.SUSPENDED:
        return Refused(
            ErrorCode.FORBIDDEN,
            f"Tenant {tenant_id} is suspended: existing reservations may settle, new work may not "
            "start",
            reason="TENANT_SUSPENDED",
            scope=f"tenant:{tenant_id}",
            fix=f"Reactivate tenant {tenant_id}.",
        )
    return None


def budget_open(budget: Budget) -> Refused | None:
    """Refuse a frozen or closed budget."""
    if budget.status is BudgetStatus.ACTIVE:
        return None
    frozen = budget.status is BudgetStatus.FROZEN
    return Refused(
        ErrorCode.BUDGET_FROZEN if frozen else ErrorCode.BUDGET_CLOSED,
        f"Budget {budget.scope} ({budget.unit}) is {budget.status.lower()}",
        scope=budget.scope,
        remaining=budget.remaining,
        fix=f"Unfreeze {scopes.shown(budget.scope)} ({budget.unit})."
        if frozen
        else "None: closing a budget is final. Use another scope.",
    )


def combined(refusals: Sequence[Refused]) -> Refused:
    """Return the first refusal of a path, with what else must change for the request to pass.

    Each refusal's fix is one step; together, in order, they are the cheapest way through. A
    scope that is closed for good has no way through, so it is all there is to say.
    """
    first = refusals[0]
    fixes = list(dict.fromkeys(one.fix for one in refusals if one.fix is not None))
    final = next((fix for fix in fixes if fix.startswith("None:")), None)
    if final is not None:
        return replace(first, fix=final)
    steps = ""
    for fix in fixes:
        if len(steps) + len(fix) > FIX_LENGTH_MAX - len(STEP):
            break
        steps += STEP + fix if steps else fix
    return replace(first, fix=steps or None)


def counts_in(budget: Budget, field: str, unit: Unit | None) -> Refused | None:
    """Refuse an operator's amount (`field`) in another unit than the budget's."""
    if unit is None or unit is budget.unit:
        return None
    return Refused(
        ErrorCode.UNIT_MISMATCH,
        f"{field}.unit is {unit}; budget {budget.scope} counts in {budget.unit}",
        fix=f"Send {field} in {budget.unit}.",
        details={
            "scope": budget.scope,
            "requested_unit": unit.value,
            "expected_units": [budget.unit.value],
        },
    )


def unbudgeted(snapshot: Snapshot, tenant: str, path: Sequence[str], unit: Unit) -> Refused:
    """Say why no budget along `path` counts in `unit`: the wrong unit, or none at all."""
    for scope in path:
        units = snapshot.units_at(tenant, scope)
        if units:
            names = ", ".join(units)
            return Refused(
                ErrorCode.UNIT_MISMATCH,
                f"No budget along {path[-1]} counts in {unit}; {scope} counts in {names}",
                scope=scope,
                fix=f"Ask in {names}, or create a {unit} budget at {scopes.shown(scope)}.",
                details={
                    "scope": scope,
                    "requested_unit": unit.value,
                    "expected_units": [known.value for known in units],
                },
            )
    return Refused(
        ErrorCode.NOT_FOUND,
        f"Budget not found for provided scope: {path[-1]}",
        reason="BUDGET_NOT_FOUND",
        scope=path[-1],
        fix=_where_to_create(path, unit),
    )


def _where_to_create(path: Sequence[str], unit: Unit) -> str:
    if not path[0].startswith("tenant:"):
        return "Name the tenant in the subject; budgets lie under tenant:<tenant_id>."
    deeper = f", or at any scope from there to {scopes.shown(path[-1])}" if path[1:] else ""
    return f"Create a {unit} budget at {scopes.shown(path[0])}{deeper}."


def known_reservation(
    snapshot: Snapshot, tenant: str, reservation_id: str
) -> Reservation | Refused:
    """Return the tenant's reservation, or the refusal for an unknown one."""
    row = snapshot.reservation(tenant, reservation_id)
    if row is None:
        return Refused(ErrorCode.NOT_FOUND, f"Reservation not found: {reservation_id}")
    return row


def still_active(row: Reservation) -> Refused | None:
    """Refuse a reservation whose stored status is final."""
    match row.status:
        case ReservationStatus.ACTIVE:
            return None
        case ReservationStatus.EXPIRED:
            return lapsed(row, "the sweep has returned its hold")
        case ReservationStatus.COMMITTED | ReservationStatus.RELEASED:
            return Refused(
                ErrorCode.RESERVATION_FINALIZED,
                f"Reservation {row.reservation_id} is already {row.status.lower()}",
            )


def lapsed(row: Reservation, why: str) -> Refused:
    """Return the refusal of a reservation that came too late."""
    return Refused(
        ErrorCode.RESERVATION_EXPIRED,
        f"Reservation {row.reservation_id} has expired: {why}. If the action did happen, account "
        "for it with POST /v1/events",
    )


def known_budget(snapshot: Snapshot, tenant: str, scope: str, unit: Unit) -> Budget | Refused:
    """Return one budget, or the refusal for an unknown one."""
    budget = snapshot.budget(tenant, scope, unit)
    if budget is None:
        return Refused(ErrorCode.BUDGET_NOT_FOUND, f"Budget not found: scope {scope}, unit {unit}")
    return budget
