"""What a command comes to: accepted with changes, refused with a reason, or replayed.

The rule that lives here: a refusal is a value, and a pure function of snapshot, command
and time. Nothing is stored for it, so the same key may succeed later (protocol 1.5.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bursar.core.bulk import RowOutcome, Target
from bursar.core.state import ApiKey, Budget, Meter, Policy, Recorded, Reservation, Tenant
from bursar.vocabulary import Decision, ErrorCode, FundOperation, OveragePolicy, Unit


@dataclass(frozen=True, slots=True)
class Refused:
    """The command changes nothing.

    Attributes:
        code: the protocol's error code.
        message: for people; names what blocked, the numbers and the fix.
        reason: the decision's reason code, where it differs from `code`.
        scope: the scope that blocked, if one did.
        remaining: what that scope has left, in the command's unit.
        fix: the cheapest change that would let the command pass.
        details: further machine-readable facts (unit mismatch, rate limit).
        in_conflict: the request is in order, the state is not; tells an INVALID_REQUEST that
            may pass later (409) from one that never can (400).
        retry_after_ms: how long to wait, where waiting is all that it takes.
    """

    code: ErrorCode
    message: str
    reason: str | None = None
    scope: str | None = None
    remaining: int | None = None
    fix: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    in_conflict: bool = False
    retry_after_ms: int | None = None

    @property
    def reason_code(self) -> str:
        """The code a decision gives for this refusal."""
        return self.reason or self.code.value


@dataclass(frozen=True, slots=True)
class Replayed:
    """The key was answered before; `active` says if its reservation still is."""

    recorded: Recorded
    active: bool


# --- answers: what an accepted command tells its caller -------------------------------


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that held nothing (decide, dry run)."""

    decision: Decision
    scopes: tuple[str, ...]
    dry_run: bool
    unit: Unit
    estimate_amount: int
    balances: tuple[Budget, ...] = ()
    caps: str | None = None
    reason_code: str | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """A live reservation."""

    reservation: Reservation
    decision: Decision
    balances: tuple[Budget, ...]
    caps: str | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """A settled reservation; `released_amount` is None when nothing went back.

    `debt_incurred` is what all its budgets together came to owe by it.
    """

    unit: Unit
    charged_amount: int
    released_amount: int | None
    balances: tuple[Budget, ...]
    overage_policy: OveragePolicy
    debt_incurred: int


@dataclass(frozen=True, slots=True)
class Released:
    """A reservation given back."""

    unit: Unit
    released_amount: int
    balances: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class Extended:
    """A lease moved out."""

    reservation: Reservation
    balances: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class Expired:
    """A lapsed reservation given back by the sweep."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Debited:
    """A direct debit; `charged_amount` is None when the whole cost was charged.

    `debt_incurred` is what all its budgets together came to owe by it.
    """

    event_id: str
    unit: Unit
    charged_amount: int | None
    balances: tuple[Budget, ...]
    overage_policy: OveragePolicy
    debt_incurred: int


@dataclass(frozen=True, slots=True)
class Funded:
    """A budget before and after a funding operation."""

    operation: FundOperation
    before: Budget
    after: Budget


@dataclass(frozen=True, slots=True)
class BudgetAnswer:
    """A budget as it now is."""

    budget: Budget
    created: bool = False


@dataclass(frozen=True, slots=True)
class TenantAnswer:
    """A tenant as it now is."""

    tenant: Tenant
    created: bool = False


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """An API key as it now is, without its secret."""

    key: ApiKey
    created: bool = False


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """A policy as it now is."""

    policy: Policy
    created: bool = False


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """A bulk action that has begun: the rows it is for, and the ids they have in common."""

    bulk_id: str
    begun_at_ms: int
    request_id: str | None
    correlation_id: str | None
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class BulkAnswer:
    """A bulk action that has ended, and what became of every row."""

    action: str
    key: str
    outcomes: tuple[RowOutcome, ...]


Answer = (
    Decided
    | Reserved
    | Committed
    | Released
    | Extended
    | Expired
    | Debited
    | Funded
    | BudgetAnswer
    | TenantAnswer
    | KeyAnswer
    | PolicyAnswer
    | BulkPlan
    | BulkAnswer
)


@dataclass(frozen=True, slots=True)
class Changes:
    """Records as they are after a command, and the answer to give.

    `recorded` False marks an accepted command that changed nothing and needs no entry.
    """

    answer: Answer
    budgets: tuple[Budget, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    policies: tuple[Policy, ...] = ()
    meters: tuple[Meter, ...] = ()
    recorded: bool = True
