"""One frozen record per verb: everything a command needs, ids and defaults included.

The rule that lives here: a command is complete. Whatever is random (ids), taken from the
outside (who asks) or defaulted is settled before a command exists, so evaluating it twice
gives the same outcome. JSON texts are canonical and opaque.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from bursar.core.bulk import RowOutcome, Target
from bursar.core.state import ApiKey, Budget, LeaseRule, Period, Policy, RateLimits, Tenant
from bursar.vocabulary import (
    ActorType,
    FundOperation,
    OveragePolicy,
    PolicyStatus,
    RolloverPolicy,
    TenantStatus,
    Unit,
)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's key, the endpoint it belongs to, and the digest of what was asked."""

    endpoint: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, for the log: actor, credential, and the ids of the request.

    `correlation_id` is what the commands of one bulk action have in common (protocol 10.7).
    What nobody asked for has no request, but a trace of its own (protocol 7).
    """

    actor: ActorType
    key_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    correlation_id: str | None = None


SYSTEM = Origin(ActorType.SYSTEM)


def unasked(trace_id: str) -> Origin:
    """Return the origin of what a ledger does by itself, as one of the steps of `trace_id`."""
    return Origin(ActorType.SYSTEM, trace_id=trace_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What every command has: the owning tenant, the asker, and maybe a key."""

    tenant: str
    origin: Origin = SYSTEM
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide(Command):
    """Ask what a reserve would answer, without holding anything."""

    unit: Unit
    estimate_amount: int
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve(Command):
    """Hold an estimate in every budget along the scopes, or in none."""

    reservation_id: str
    unit: Unit
    estimate_amount: int
    scopes: tuple[str, ...]
    subject: str
    action: str
    grace_ms: int
    ttl_ms: int | None = None
    overage_policy: OveragePolicy | None = None
    dry_run: bool = False
    metadata: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Command):
    """Settle a reservation with what the action really cost."""

    reservation_id: str
    unit: Unit
    actual_amount: int
    metrics: str | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Command):
    """Give a reservation's hold back; the action did not happen."""

    reservation_id: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend(Command):
    """Move a live lease's expiry further out."""

    reservation_id: str
    extend_by_ms: int
    metadata: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire(Command):
    """Give back the hold of a reservation whose lease and grace are over."""

    reservation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Debit(Command):
    """Account for a cost that already happened (`POST /v1/events`)."""

    event_id: str
    unit: Unit
    actual_amount: int
    scopes: tuple[str, ...]
    subject: str
    action: str
    overage_policy: OveragePolicy | None = None
    metrics: str | None = None
    metadata: str | None = None
    client_time_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCommand(Command):
    """A command on one budget, found by scope and unit."""

    scope: str
    unit: Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBudget(Command):
    """Open a budget; `budget` is complete but for its times."""

    budget: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Fund(BudgetCommand):
    """Change a budget's ceiling, spend or debt (protocol 3.8).

    With `skip_done`, as bulk actions have it, a budget that is already as the operation would
    leave it, or has no debt to repay, stays as it is.
    """

    operation: FundOperation
    amount_unit: Unit
    amount: int
    spent: int | None = None
    spent_unit: Unit | None = None
    reason: str | None = None
    metadata: str | None = None
    skip_done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze(BudgetCommand):
    """Stop new work and funding on a budget; existing work still settles."""

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfreeze(BudgetCommand):
    """Let a frozen budget work again."""

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseBudget(BudgetCommand):
    """End a budget for good; refused while anything is held in it."""

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll(BudgetCommand):
    """End the period of a budget that began at `ended_ms`, and begin the current one.

    Which period is current depends on calendars and time zones, so whoever asks has
    worked it out: its bounds, and how many periods on from the one that ends it is.
    """

    ended_ms: int
    start_ms: int
    end_ms: int
    periods: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEdit:
    """Properties of a budget to replace; None leaves one as it is."""

    overdraft_limit: int | None = None
    overage_policy: OveragePolicy | None = None
    rollover_policy: RolloverPolicy | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateBudget(BudgetCommand):
    """Change what a budget allows, but none of its amounts."""

    edit: BudgetEdit
    limit_unit: Unit | None = None
    period: Period | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantEdit:
    """Settings of a tenant to replace; None leaves one as it is."""

    name: str | None = None
    metadata: str | None = None
    overage_policy: OveragePolicy | None = None
    ttl_default_ms: int | None = None
    ttl_max_ms: int | None = None
    extensions_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTenant(Command):
    """Open a tenant; the same id and name again is a no-op."""

    record: Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateTenant(Command):
    """Change a tenant's settings, suspend it or reactivate it; closing is `CloseTenant`."""

    edit: TenantEdit
    status: TenantStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseTenant(Command):
    """End a tenant: budgets closed, reservations released, keys revoked, in one step.

    It carries the settings that were to change with it, so that both happen or neither.
    """

    edit: TenantEdit = field(default_factory=TenantEdit)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateKey(Command):
    """Register an API key by the hash of its secret."""

    record: ApiKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEdit:
    """Properties of a key to replace; None leaves one as it is."""

    name: str | None = None
    description: str | None = None
    permissions: tuple[str, ...] | None = None
    scope_filter: tuple[str, ...] | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateKey(Command):
    """Change what a key may do and how it is called, never its secret or its end."""

    key_id: str
    edit: KeyEdit


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeKey(Command):
    """End an API key for good."""

    key_id: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePolicy(Command):
    """Store a policy; `record` is complete but for its times."""

    record: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePolicy(Command):
    """Change a policy; what is None stays as it is, `lease` and `rates` are replaced whole.

    Empty caps (`{}`) take the caps away. A pattern cannot change: another pattern is
    another policy.
    """

    policy_id: str
    name: str | None = None
    description: str | None = None
    status: PolicyStatus | None = None
    priority: int | None = None
    caps: str | None = None
    overage_policy: OveragePolicy | None = None
    lease: LeaseRule | None = None
    rates: RateLimits | None = None
    effective_from_ms: int | None = None
    effective_until_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginBulk(Command):
    """Write down which rows a bulk action is for, before the first of them changes.

    `request` is what was asked, as canonical JSON; `matched` counts the rows of its filter.
    """

    bulk_id: str
    action: str
    request: str
    targets: tuple[Target, ...]
    matched: int
    expected: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBulk(Command):
    """Account for every row of a bulk action; its answer is the one that the caller gets."""

    bulk_id: str
    action: str
    request: str
    outcomes: tuple[RowOutcome, ...]
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBulkTenants(FinishBulk):
    """Account for a bulk action on tenants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBulkBudgets(FinishBulk):
    """Account for a bulk action on budgets."""


AnyCommand = (
    Decide
    | Reserve
    | Commit
    | Release
    | Extend
    | Expire
    | Debit
    | CreateBudget
    | Fund
    | Freeze
    | Unfreeze
    | CloseBudget
    | UpdateBudget
    | Roll
    | CreateTenant
    | UpdateTenant
    | CloseTenant
    | CreateKey
    | UpdateKey
    | RevokeKey
    | CreatePolicy
    | UpdatePolicy
    | BeginBulk
    | FinishBulkTenants
    | FinishBulkBudgets
)


def edited(edit: BudgetEdit | TenantEdit | KeyEdit) -> dict[str, Any]:
    """Return what an edit replaces, by the name of the field."""
    sent = {part.name: getattr(edit, part.name) for part in fields(edit)}
    return {name: value for name, value in sent.items() if value is not None}
