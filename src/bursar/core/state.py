"""The records of the ledger: frozen, integer, and checked against their own identity.

The rule that lives here: `allocated = remaining + spent + reserved + debt`, always, for
every budget. `Budget.moved` is the only way a balance changes in a verb, and `check` is
called after every load and before every save.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import scopes
from bursar.invariant import require
from bursar.vocabulary import (
    AMOUNT_MAX,
    EXTENSIONS_MAX_DEFAULT,
    TTL_MS_CAP_DEFAULT,
    TTL_MS_DEFAULT,
    BudgetStatus,
    Every,
    ExpiryPolicy,
    KeyStatus,
    MeterKind,
    OveragePolicy,
    PolicyStatus,
    ReservationStatus,
    RolloverPolicy,
    TenantStatus,
    Unit,
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer of the ledger; the outermost scope and the unit of isolation.

    `status` is None when the stored record cannot be read; every command then fails
    rather than guess.
    """

    tenant_id: str
    name: str
    status: TenantStatus | None
    created_at_ms: int
    updated_at_ms: int | None = None
    suspended_at_ms: int | None = None
    closed_at_ms: int | None = None
    parent_tenant_id: str | None = None
    overage_policy: OveragePolicy | None = None
    ttl_default_ms: int = TTL_MS_DEFAULT
    ttl_max_ms: int = TTL_MS_CAP_DEFAULT
    extensions_max: int = EXTENSIONS_MAX_DEFAULT
    expiry_policy: ExpiryPolicy = ExpiryPolicy.AUTO_RELEASE
    metadata: str | None = None


@dataclass(frozen=True, slots=True)
class Renewal:
    """What makes a budget begin anew: how its periods follow, and what each one is given.

    `allocation` is the ceiling of a fresh period, apart from what was carried into this
    one; added up together the two would compound.
    """

    every: Every
    time_zone: str | None
    allocation: int


@dataclass(frozen=True, slots=True)
class Period:
    """How a budget is to renew itself, and its current period; NEVER has neither."""

    every: Every
    time_zone: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """One ledger: a scope, a unit, and five exact int64 amounts in that unit."""

    tenant: str
    scope: str
    unit: Unit
    ledger_id: str
    allocated: int
    remaining: int
    reserved: int
    spent: int
    debt: int
    overdraft_limit: int
    is_over_limit: bool
    status: BudgetStatus
    created_at_ms: int
    updated_at_ms: int
    overage_policy: OveragePolicy | None = None
    rollover_policy: RolloverPolicy = RolloverPolicy.NONE
    period_start_ms: int | None = None
    period_end_ms: int | None = None
    metadata: str | None = None
    renewal: Renewal | None = None

    def ended_at(self, now_ms: int) -> bool:
        """Return whether this budget's period is over and another one follows it."""
        return (
            self.renewal is not None
            and self.period_end_ms is not None
            and self.period_end_ms <= now_ms
            and self.status is not BudgetStatus.CLOSED
        )

    def moved(
        self,
        now_ms: int,
        *,
        reserved: int = 0,
        spent: int = 0,
        debt: int = 0,
        over_limit: bool = False,
    ) -> Budget:
        """Return this budget after moving amounts; `remaining` absorbs what is moved.

        Spelled out rather than `replace()`: it runs for every scope of every command.
        """
        return Budget(
            self.tenant,
            self.scope,
            self.unit,
            self.ledger_id,
            self.allocated,
            self.remaining - reserved - spent - debt,
            self.reserved + reserved,
            self.spent + spent,
            self.debt + debt,
            self.overdraft_limit,
            self.is_over_limit or over_limit,
            self.status,
            self.created_at_ms,
            now_ms,
            self.overage_policy,
            self.rollover_policy,
            self.period_start_ms,
            self.period_end_ms,
            self.metadata,
            self.renewal,
        )

    def closed(self, now_ms: int) -> Budget:
        """Return this budget closed, its holds drained back into `remaining`."""
        return replace(
            self,
            status=BudgetStatus.CLOSED,
            remaining=self.remaining + self.reserved,
            reserved=0,
            updated_at_ms=now_ms,
        )


def check(budget: Budget) -> Budget:
    """Return `budget` if it keeps the ledger identity, else raise `InvariantBroken`."""
    committed = budget.spent + budget.reserved + budget.debt
    require(
        budget.allocated == budget.remaining + committed,
        "allocated = remaining + spent + reserved + debt",
    )
    require(
        min(budget.allocated, budget.reserved, budget.spent, budget.debt) >= 0,
        "allocated, reserved, spent and debt are never negative",
    )
    require(
        budget.allocated <= AMOUNT_MAX and committed <= AMOUNT_MAX,
        "amounts of a budget fit int64",
    )
    if budget.renewal is not None:
        start_ms, end_ms = budget.period_start_ms, budget.period_end_ms
        require(
            start_ms is not None and end_ms is not None and start_ms < end_ms,
            "a budget that renews itself is in a period that runs forward",
        )
        require(0 <= budget.renewal.allocation <= AMOUNT_MAX, "an allocation fits int64")
    return budget


@dataclass(frozen=True, slots=True)
class Reservation:
    """A lease on spending authority, and what became of it.

    `budgeted_scopes` is frozen when the reservation is made: settlement touches these
    budgets and no others. JSON fields are canonical text, opaque to the rules.
    """

    tenant: str
    reservation_id: str
    status: ReservationStatus
    unit: Unit
    estimate_amount: int
    scope_path: str
    budgeted_scopes: tuple[str, ...]
    overage_policy: OveragePolicy
    created_at_ms: int
    expires_at_ms: int
    grace_ms: int
    extensions_max: int
    idempotency_key: str
    subject: str
    action: str
    extensions: int = 0
    sweepable: bool = True
    metadata: str | None = None
    charged_amount: int | None = None
    finalized_at_ms: int | None = None
    committed_metadata: str | None = None
    metrics: str | None = None
    reason: str | None = None

    def committed(
        self, charged_amount: int, now_ms: int, metadata: str | None, metrics: str | None
    ) -> Reservation:
        """Return this reservation settled with what its action cost.

        Spelled out rather than `replace()`, as `Budget.moved` is: half of all commands settle.
        """
        return Reservation(
            self.tenant,
            self.reservation_id,
            ReservationStatus.COMMITTED,
            self.unit,
            self.estimate_amount,
            self.scope_path,
            self.budgeted_scopes,
            self.overage_policy,
            self.created_at_ms,
            self.expires_at_ms,
            self.grace_ms,
            self.extensions_max,
            self.idempotency_key,
            self.subject,
            self.action,
            self.extensions,
            self.sweepable,
            self.metadata,
            charged_amount,
            now_ms,
            metadata,
            metrics,
            self.reason,
        )

    @property
    def affected_scopes(self) -> tuple[str, ...]:
        """Every derived scope, budgeted or not, outermost first."""
        return scopes.prefixes(self.scope_path)

    @property
    def settle_by_ms(self) -> int:
        """Last millisecond in which commit and release still work."""
        return self.expires_at_ms + self.grace_ms


@dataclass(frozen=True, slots=True)
class LeaseRule:
    """What a policy says about leases; None leaves it to the tenant."""

    ttl_default_ms: int | None = None
    ttl_max_ms: int | None = None
    extensions_max: int | None = None


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Most fresh commands of a kind that one scope may have accepted per minute."""

    reservations_per_minute_max: int | None = None
    commits_per_minute_max: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules of one tenant for the scopes that a pattern matches; None says nothing.

    `caps` is canonical JSON, and None where there are none. The window includes its ends.
    """

    tenant: str
    policy_id: str
    name: str
    scope_pattern: str
    status: PolicyStatus
    created_at_ms: int
    updated_at_ms: int
    priority: int = 0
    description: str | None = None
    caps: str | None = None
    overage_policy: OveragePolicy | None = None
    lease: LeaseRule = LeaseRule()
    rates: RateLimits = RateLimits()
    effective_from_ms: int | None = None
    effective_until_ms: int | None = None

    def acts_at(self, now_ms: int) -> bool:
        """Return whether the policy counts at a time: it is active and in its window."""
        return (
            self.status is PolicyStatus.ACTIVE
            and (self.effective_from_ms is None or self.effective_from_ms <= now_ms)
            and (self.effective_until_ms is None or now_ms <= self.effective_until_ms)
        )


@dataclass(frozen=True, slots=True)
class Meter:
    """How many commands of one kind a scope had accepted under a policy in one minute.

    Not part of the log: it is a count of commands that the log already holds.
    """

    tenant: str
    scope_path: str
    policy_id: str
    kind: MeterKind
    window_start_ms: int
    count: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A tenant's credential. The secret itself is never stored, only its keyed hash."""

    tenant: str
    key_id: str
    key_prefix: str
    secret_hash: str
    name: str
    status: KeyStatus
    permissions: tuple[str, ...]
    scope_filter: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int
    description: str | None = None
    metadata: str | None = None
    revoked_at_ms: int | None = None
    revoked_reason: str | None = None

    def status_at(self, now_ms: int) -> KeyStatus:
        """Return the status, EXPIRED once the time has come even if nobody wrote it down."""
        if self.status is KeyStatus.ACTIVE and now_ms >= self.expires_at_ms:
            return KeyStatus.EXPIRED
        return self.status


@dataclass(frozen=True, slots=True)
class Recorded:
    """The stored answer to an idempotency key.

    `lease_expires_at_ms` is the expiry that *that* answer announced; only
    `remaining_ttl_ms` is computed from it anew.
    """

    fingerprint: str
    keep_until_ms: int
    status: int
    body: bytes
    reservation_id: str | None = None
    lease_expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a tenant's entry log: its last sequence number, hash and time."""

    seq: int
    entry_hash: str
    at_ms: int


GENESIS = Head(seq=0, entry_hash="0" * 64, at_ms=0)
