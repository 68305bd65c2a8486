"""Create a tenant, change it, and close one with everything it owns.

Closing is the one command that touches a whole tenant (protocol 10.9, mode A): in one
step ACTIVE reservations become RELEASED, budgets become CLOSED with their holds drained,
keys become REVOKED, and the tenant becomes CLOSED. There is no moment in between.

| create: id known? | same name          | other name         |
|-------------------|--------------------|--------------------|
| no                | created            | created            |
| yes               | the stored record  | DUPLICATE_RESOURCE |

| from      | no status      | to ACTIVE       | to SUSPENDED    | close                   |
|-----------|----------------|-----------------|-----------------|-------------------------|
| ACTIVE    | settings alone | settings alone  | suspended       | closed with the cascade |
| SUSPENDED | settings alone | reactivated     | settings alone  | closed with the cascade |
| CLOSED    | settings alone | INVALID_REQUEST | INVALID_REQUEST | what still lives, ended |

Before that: tenant known (TENANT_NOT_FOUND), record readable (INTERNAL_ERROR). A command
that changes nothing answers the stored record and leaves no entry, so closing twice is
closing once. Something can only live under a closed tenant if its status was changed past
the ledger; closing again then finishes what closing does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import CloseTenant, CreateTenant, UpdateTenant, edited
from bursar.core.outcomes import Changes, Refused, TenantAnswer
from bursar.core.snapshot import Snapshot
from bursar.core.state import ApiKey, Budget, Reservation, Tenant
from bursar.invariant import require
from bursar.vocabulary import (
    BudgetStatus,
    ErrorCode,
    KeyStatus,
    ReservationStatus,
    TenantStatus,
)

CLOSE_REASON = "tenant_closed"


@dataclass(frozen=True, slots=True)
class Open:
    """A tenant to create, or the stored one that answers a repeated create."""

    tenant: Tenant
    known: bool


@dataclass(frozen=True, slots=True)
class Update:
    """A tenant before and after; equal where nothing changes."""

    before: Tenant
    after: Tenant


@dataclass(frozen=True, slots=True)
class Cascade:
    """Everything live that a closing tenant owns."""

    tenant: Tenant
    budgets: tuple[Budget, ...]
    reservations: tuple[Reservation, ...]
    keys: tuple[ApiKey, ...]


def evaluate_create(snapshot: Snapshot, command: CreateTenant, now_ms: int) -> Open | Refused:
    """Decide between creating, answering with the stored record, and refusing."""
    stored, new = snapshot.tenant(command.tenant), command.record
    if stored is None:
        return Open(replace(new, created_at_ms=now_ms, updated_at_ms=now_ms), known=False)
    if stored.status is None:
        return guards.malformed(command.tenant)
    if stored.name != new.name:
        return Refused(
            ErrorCode.DUPLICATE_RESOURCE,
            f"Tenant {command.tenant} already exists under the name {stored.name!r}",
        )
    return Open(stored, known=True)


def apply_create(command: CreateTenant, plan: Open, now_ms: int) -> Changes:
    """Save the new tenant; a known one changes nothing and needs no log entry."""
    del command, now_ms
    if plan.known:
        return Changes(TenantAnswer(plan.tenant), recorded=False)
    return Changes(TenantAnswer(plan.tenant, created=True), tenants=(plan.tenant,))


def evaluate_update(snapshot: Snapshot, command: UpdateTenant, now_ms: int) -> Update | Refused:
    """Decide what the settings and the status make of the tenant."""
    require(command.status is not TenantStatus.CLOSED, "closing a tenant is a command of its own")
    before = _readable(snapshot, command.tenant)
    if isinstance(before, Refused):
        return before
    after = replace(before, **edited(command.edit))
    if command.status is None or command.status is before.status:
        return Update(before, after)
    if before.status is TenantStatus.CLOSED:
        return Refused(
            ErrorCode.INVALID_REQUEST,
            f"status: Cannot transition from CLOSED: closing tenant {command.tenant} was final; "
            "leave status out to change the rest",
        )
    suspended = command.status is TenantStatus.SUSPENDED
    since_ms = now_ms if suspended else None
    return Update(before, replace(after, status=command.status, suspended_at_ms=since_ms))


def apply_update(command: UpdateTenant, plan: Update, now_ms: int) -> Changes:
    """Save the tenant; one that stays as it was needs no log entry."""
    del command
    if plan.after == plan.before:
        return Changes(TenantAnswer(plan.before), recorded=False)
    after = replace(plan.after, updated_at_ms=now_ms)
    return Changes(TenantAnswer(after), tenants=(after,))


def evaluate_close(snapshot: Snapshot, command: CloseTenant, now_ms: int) -> Cascade | Refused:
    """Collect what the cascade will end."""
    del now_ms
    tenant = _readable(snapshot, command.tenant)
    if isinstance(tenant, Refused):
        return tenant
    return Cascade(
        tenant,
        tuple(
            budget
            for budget in snapshot.owned_budgets(command.tenant)
            if budget.status is not BudgetStatus.CLOSED
        ),
        tuple(
            row
            for row in snapshot.owned_reservations(command.tenant)
            if row.status is ReservationStatus.ACTIVE
        ),
        tuple(key for key in snapshot.owned_keys(command.tenant) if key.status is KeyStatus.ACTIVE),
    )


def apply_close(command: CloseTenant, cascade: Cascade, now_ms: int) -> Changes:
    """End everything at once, and change the settings that were to change with it."""
    before = cascade.tenant
    tenant = replace(before, **edited(command.edit), status=TenantStatus.CLOSED)
    if tenant == before and not (cascade.budgets or cascade.reservations or cascade.keys):
        return Changes(TenantAnswer(before), recorded=False)
    closed_at_ms = before.closed_at_ms if before.status is TenantStatus.CLOSED else now_ms
    tenant = replace(tenant, closed_at_ms=closed_at_ms, updated_at_ms=now_ms)
    return Changes(
        TenantAnswer(tenant),
        tenants=(tenant,),
        budgets=tuple(budget.closed(now_ms) for budget in cascade.budgets),
        reservations=tuple(
            replace(
                row,
                status=ReservationStatus.RELEASED,
                finalized_at_ms=now_ms,
                reason=CLOSE_REASON,
            )
            for row in cascade.reservations
        ),
        keys=tuple(
            replace(
                key,
                status=KeyStatus.REVOKED,
                revoked_at_ms=now_ms,
                revoked_reason=CLOSE_REASON,
            )
            for key in cascade.keys
        ),
    )


def _readable(snapshot: Snapshot, tenant_id: str) -> Tenant | Refused:
    tenant = snapshot.tenant(tenant_id)
    if tenant is None:
        return Refused(ErrorCode.TENANT_NOT_FOUND, f"Tenant not found: {tenant_id}")
    return guards.malformed(tenant_id) if tenant.status is None else tenant
