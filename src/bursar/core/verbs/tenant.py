"""Create a tenant, and close one with everything it owns.

Closing is the one command that touches a whole tenant (protocol 10.9, mode A): in one
step ACTIVE reservations become RELEASED, budgets become CLOSED with their holds drained,
keys become REVOKED, and the tenant becomes CLOSED. There is no moment in between.

| create: id known? | same name          | other name         |
|-------------------|--------------------|--------------------|
| no                | created            | created            |
| yes               | the stored record  | DUPLICATE_RESOURCE |

| close: status | result                            |
|---------------|-----------------------------------|
| ACTIVE        | closed with the cascade           |
| SUSPENDED     | closed with the cascade           |
| CLOSED        | the stored record, nothing changes |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import CloseTenant, CreateTenant
from bursar.core.outcomes import Changes, Refused, TenantAnswer
from bursar.core.snapshot import Snapshot
from bursar.core.state import ApiKey, Budget, Reservation, Tenant
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


def evaluate_close(snapshot: Snapshot, command: CloseTenant, now_ms: int) -> Cascade | Refused:
    """Collect what the cascade will end."""
    del now_ms
    tenant = snapshot.tenant(command.tenant)
    if tenant is None:
        return Refused(ErrorCode.TENANT_NOT_FOUND, f"Tenant not found: {command.tenant}")
    if tenant.status is None:
        return guards.malformed(command.tenant)
    if tenant.status is TenantStatus.CLOSED:
        return Cascade(tenant, (), (), ())
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
    """End everything at once."""
    del command
    if cascade.tenant.status is TenantStatus.CLOSED:
        return Changes(TenantAnswer(cascade.tenant), recorded=False)
    tenant = replace(
        cascade.tenant,
        status=TenantStatus.CLOSED,
        closed_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
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
