"""Create, update, freeze, unfreeze and close one budget (protocol 3.9).

| from   | freeze          | unfreeze        | close                      | update        |
|--------|-----------------|-----------------|----------------------------|---------------|
| ACTIVE | FROZEN          | INVALID_REQUEST | CLOSED, if nothing is held | updated       |
| FROZEN | INVALID_REQUEST | ACTIVE          | CLOSED, if nothing is held | updated       |
| CLOSED | BUDGET_CLOSED   | BUDGET_CLOSED   | BUDGET_CLOSED              | BUDGET_CLOSED |

The ladder of an update, first refusal wins: tenant readable and not closed (INTERNAL_ERROR,
TENANT_CLOSED), budget known (BUDGET_NOT_FOUND), unit of the limit (UNIT_MISMATCH), not
closed (BUDGET_CLOSED). Whatever it changes, `is_over_limit` is `debt > overdraft_limit`
afterwards; one that changes nothing at all leaves no entry. A new period moves no amount: what
is spent stays spent until the period ends, and a budget that had no periods before is given
in each what it is allocated now.

An INVALID_REQUEST here travels as 409: the request is in order, the state is not.

A budget with live holds cannot be closed alone: the reservations would later settle into
nothing, and that spend would be unaccounted. Freeze it and let them settle first. The
tenant's close releases the reservations in the same step and so may close everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import (
    BudgetCommand,
    CloseBudget,
    CreateBudget,
    Freeze,
    Unfreeze,
    UpdateBudget,
    edited,
)
from bursar.core.outcomes import BudgetAnswer, Changes, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Period, Renewal
from bursar.vocabulary import BudgetStatus, ErrorCode, Every, TenantStatus


@dataclass(frozen=True, slots=True)
class Open:
    """A budget that will be created."""

    budget: Budget


@dataclass(frozen=True, slots=True)
class Turn:
    """A status change that will succeed."""

    after: Budget


@dataclass(frozen=True, slots=True)
class Update:
    """New properties that a budget can take; equal ones where nothing changes."""

    before: Budget
    after: Budget


def evaluate_create(snapshot: Snapshot, command: CreateBudget, now_ms: int) -> Open | Refused:
    """Decide whether the budget may exist: tenant active, no twin at (scope, unit)."""
    refusal = guards.tenant_closed(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    tenant, new = snapshot.tenant(command.tenant), command.budget
    if tenant is None:
        return Refused(ErrorCode.TENANT_NOT_FOUND, f"Tenant not found: {command.tenant}")
    if tenant.status is not TenantStatus.ACTIVE:
        return Refused(
            ErrorCode.INVALID_REQUEST,
            f"Tenant {command.tenant} is {tenant.status}; reactivate it before creating budgets",
        )
    if snapshot.budget(command.tenant, new.scope, new.unit) is not None:
        return Refused(
            ErrorCode.DUPLICATE_RESOURCE,
            f"Budget already exists: scope {new.scope}, unit {new.unit}; fund it instead",
        )
    return Open(replace(new, created_at_ms=now_ms, updated_at_ms=now_ms))


def apply_create(command: CreateBudget, plan: Open, now_ms: int) -> Changes:
    """Save the new budget."""
    del command, now_ms
    return Changes(BudgetAnswer(plan.budget, created=True), budgets=(plan.budget,))


def evaluate_update(snapshot: Snapshot, command: UpdateBudget, now_ms: int) -> Update | Refused:
    """Decide what the new properties make of the budget."""
    del now_ms
    refusal = guards.tenant_closed(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    budget = guards.known_budget(snapshot, command.tenant, command.scope, command.unit)
    if isinstance(budget, Refused):
        return budget
    refusal = guards.counts_in(budget, "overdraft_limit", command.limit_unit)
    if refusal is None and budget.status is BudgetStatus.CLOSED:
        refusal = guards.budget_open(budget)
    if refusal is not None:
        return refusal
    after = replace(budget, **edited(command.edit))
    if command.period is not None:
        after = in_period(after, command.period)
    return Update(budget, replace(after, is_over_limit=after.debt > after.overdraft_limit))


def in_period(budget: Budget, period: Period) -> Budget:
    """Return the budget as it renews itself from now on; its amounts stay."""
    renewal = None
    if period.every is not Every.NEVER:
        known = budget.renewal
        allocation = budget.allocated if known is None else known.allocation
        renewal = Renewal(period.every, period.time_zone, allocation)
    return replace(
        budget, period_start_ms=period.start_ms, period_end_ms=period.end_ms, renewal=renewal
    )


def apply_update(command: UpdateBudget, plan: Update, now_ms: int) -> Changes:
    """Save the budget with its new properties."""
    del command
    if plan.after == plan.before:
        return Changes(BudgetAnswer(plan.before), recorded=False)
    after = replace(plan.after, updated_at_ms=now_ms)
    return Changes(BudgetAnswer(after), budgets=(after,))


def evaluate_freeze(snapshot: Snapshot, command: Freeze, now_ms: int) -> Turn | Refused:
    """ACTIVE to FROZEN."""
    return _turn(snapshot, command, now_ms, BudgetStatus.ACTIVE, BudgetStatus.FROZEN)


def evaluate_unfreeze(snapshot: Snapshot, command: Unfreeze, now_ms: int) -> Turn | Refused:
    """FROZEN to ACTIVE."""
    return _turn(snapshot, command, now_ms, BudgetStatus.FROZEN, BudgetStatus.ACTIVE)


def evaluate_close(snapshot: Snapshot, command: CloseBudget, now_ms: int) -> Turn | Refused:
    """ACTIVE or FROZEN to CLOSED, once nothing is held."""
    budget = _changeable(snapshot, command)
    if isinstance(budget, Refused):
        return budget
    if budget.reserved:
        return Refused(
            ErrorCode.INVALID_REQUEST,
            f"Budget {budget.scope} still holds {budget.reserved} {budget.unit} for live "
            "reservations; freeze it and close it once they have settled",
            in_conflict=True,
        )
    return Turn(budget.closed(now_ms))


def apply_turn(command: BudgetCommand, plan: Turn, now_ms: int) -> Changes:
    """Save the budget in its new status."""
    del command, now_ms
    return Changes(BudgetAnswer(plan.after), budgets=(plan.after,))


def _changeable(snapshot: Snapshot, command: BudgetCommand) -> Budget | Refused:
    refusal = guards.tenant_closed(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    budget = guards.known_budget(snapshot, command.tenant, command.scope, command.unit)
    if isinstance(budget, Budget) and budget.status is BudgetStatus.CLOSED:
        return guards.budget_open(budget) or budget
    return budget


def _turn(
    snapshot: Snapshot,
    command: BudgetCommand,
    now_ms: int,
    before: BudgetStatus,
    after: BudgetStatus,
) -> Turn | Refused:
    budget = _changeable(snapshot, command)
    if isinstance(budget, Refused):
        return budget
    if budget.status is not before:
        return Refused(
            ErrorCode.INVALID_REQUEST,
            f"Budget {budget.scope} ({budget.unit}) is already {budget.status.lower()}",
            in_conflict=True,
        )
    return Turn(replace(budget, status=after, updated_at_ms=now_ms))
