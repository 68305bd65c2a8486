"""What the ledger needs from a database, in the ledger's own words.

The rule that lives here: a store decides nothing. It loads what a plan names, hands over
a snapshot, saves what comes back in the same transaction, and returns only when that is
durable. A store for many workers locks the rows it loads in one fixed order (tenant heads
first, sorted, after inserting those that are missing; then budgets by scope and unit) and
calls `work` again, with a fresh snapshot, when its database refuses to serialize or a key
turns out to be taken; `work` is pure, so that is safe. Nothing in a batch links one tenant
to another, so a store that is distributed by tenant may be given one tenant at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from bursar.core.entry import Entry
from bursar.core.reads import Reads
from bursar.core.snapshot import MeterKey, RecordKey, Snapshot
from bursar.core.state import ApiKey, Budget, Head, Meter, Policy, Recorded, Reservation, Tenant
from bursar.core.trail import AuditLine, AuditQuery, Failure
from bursar.vocabulary import (
    BudgetStatus,
    KeyStatus,
    PolicyStatus,
    ReservationStatus,
    TenantStatus,
    Unit,
)

Row = TypeVar("Row")


class StoreError(Exception):
    """The database could not do its work; nothing of the transaction was saved."""


class UnreadableRow(StoreError):
    """One stored row makes no sense; commands that do not touch it can go on."""


class StoreFull(StoreError):
    """No space is left; the transaction was rolled back and may be tried again later."""


class StoreOutcomeUnknown(StoreError):
    """The commit itself failed: it may or may not be on disk. Ask again with the same key."""


class StoreUnusable(StoreError):
    """The database cannot be opened: foreign, corrupt, from a newer version, or in use."""


@dataclass(slots=True)
class Saves:
    """The last state of every record that a unit of work touched, and its new entries.

    A tenant's meters of windows that began before `meters_from_ms` are forgotten, before
    `meters` are saved: no command can count in them again. A failure that is saved again,
    under its request id, replaces nothing but its count of repetitions.
    """

    tenants: dict[str, Tenant] = field(default_factory=dict)
    budgets: dict[tuple[str, str, Unit], Budget] = field(default_factory=dict)
    reservations: dict[tuple[str, str], Reservation] = field(default_factory=dict)
    keys: dict[tuple[str, str], ApiKey] = field(default_factory=dict)
    policies: dict[tuple[str, str], Policy] = field(default_factory=dict)
    meters: dict[MeterKey, Meter] = field(default_factory=dict)
    meters_from_ms: dict[str, int] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    recorded: dict[RecordKey, tuple[Recorded, int]] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


Work = Callable[[Snapshot], Saves]


class ReservationSort(StrEnum):
    """Keys that a list of reservations sorts by."""

    RESERVATION_ID = "reservation_id"
    TENANT = "tenant"
    SCOPE_PATH = "scope_path"
    STATUS = "status"
    RESERVED = "reserved"
    CREATED_AT_MS = "created_at_ms"
    EXPIRES_AT_MS = "expires_at_ms"


class BudgetSort(StrEnum):
    """Keys that a list of budgets sorts by."""

    TENANT_ID = "tenant_id"
    SCOPE = "scope"
    UNIT = "unit"
    STATUS = "status"
    COMMIT_OVERAGE_POLICY = "commit_overage_policy"
    UTILIZATION = "utilization"
    DEBT = "debt"


class TenantSort(StrEnum):
    """Keys that a list of tenants sorts by."""

    TENANT_ID = "tenant_id"
    NAME = "name"
    STATUS = "status"
    CREATED_AT = "created_at"


class KeySort(StrEnum):
    """Keys that a list of API keys sorts by."""

    KEY_ID = "key_id"
    NAME = "name"
    TENANT_ID = "tenant_id"
    STATUS = "status"
    CREATED_AT = "created_at"
    EXPIRES_AT = "expires_at"


SortValue = int | float | str
After = tuple[SortValue, str]
"""Where a page ends: the last row's sort value and its id, which breaks ties ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationQuery:
    """Filters combine with AND; bounds are inclusive epoch milliseconds.

    `within` is an API key's scope filter (`core.scopes.within_filter`); empty admits all.
    """

    tenant: str
    within: tuple[str, ...] = ()
    idempotency_key: str | None = None
    status: ReservationStatus | None = None
    segments: Mapping[str, str] = field(default_factory=dict)
    created_from_ms: int | None = None
    created_to_ms: int | None = None
    expires_from_ms: int | None = None
    expires_to_ms: int | None = None
    finalized_from_ms: int | None = None
    finalized_to_ms: int | None = None
    sort_by: ReservationSort = ReservationSort.CREATED_AT_MS
    descending: bool = True
    after: After | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetQuery:
    """Filters combine with AND; `tenant` None means all tenants (operators only).

    `scope_prefix` is a path and means itself and what lies below it, by whole segments.

    `utilization` is spent / allocated, 0 where nothing is allocated. The id that breaks
    ties is `tenant/scope/unit`. `within` is an API key's scope filter; empty admits all.
    """

    tenant: str | None
    within: tuple[str, ...] = ()
    segments: Mapping[str, str] = field(default_factory=dict)
    scope_prefix: str | None = None
    unit: Unit | None = None
    status: BudgetStatus | None = None
    over_limit: bool | None = None
    has_debt: bool | None = None
    utilization_min: float | None = None
    utilization_max: float | None = None
    search: str | None = None
    sort_by: BudgetSort = BudgetSort.SCOPE
    descending: bool = False
    after: After | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantQuery:
    """Filters combine with AND; `search` is a case-insensitive part of id or name."""

    status: TenantStatus | None = None
    parent_tenant_id: str | None = None
    search: str | None = None
    sort_by: TenantSort = TenantSort.CREATED_AT
    descending: bool = True
    after: After | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyQuery:
    """Filters combine with AND; `tenant` None means all tenants.

    `search` is a case-insensitive part of id or name. A status is that of `now_ms`: an
    ACTIVE key whose time has come counts, and sorts, as EXPIRED; the row is as stored. The
    id that breaks ties is `key_id/tenant`.
    """

    now_ms: int
    tenant: str | None = None
    status: KeyStatus | None = None
    key_prefix: str | None = None
    search: str | None = None
    sort_by: KeySort = KeySort.CREATED_AT
    descending: bool = True
    after: After | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyQuery:
    """Policies of one tenant by creation; filters combine with AND, the pattern is exact.

    `within` is an API key's scope filter, which a policy's pattern must fit; empty admits all.
    """

    tenant: str
    within: tuple[str, ...] = ()
    scope_pattern: str | None = None
    status: PolicyStatus | None = None
    descending: bool = True
    after: After | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How many there are, at one moment, and how many reservations were denied for what."""

    tenants: Mapping[TenantStatus, int]
    budgets: Mapping[BudgetStatus, int]
    budgets_by_unit: Mapping[Unit, int]
    over_limit: int
    with_debt: int
    denials: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows of one page, and where the next one starts if there is more."""

    rows: Sequence[Row]
    after: After | None


class Reader(Protocol):
    """Consistent reads outside the write path; each call sees one committed state."""

    def tenant(self, tenant_id: str) -> Tenant | None:
        """Return one tenant, or None."""
        ...

    def tenants(self, query: TenantQuery) -> Page[Tenant]:
        """Return a page of tenants."""
        ...

    def count(self, query: TenantQuery | BudgetQuery) -> int:
        """Return how many rows match a query, on all pages."""
        ...

    def budget(self, tenant: str, scope: str, unit: Unit) -> Budget | None:
        """Return one budget, or None."""
        ...

    def budgets(self, query: BudgetQuery) -> Page[Budget]:
        """Return a page of budgets."""
        ...

    def reservation(self, tenant: str, reservation_id: str) -> Reservation | None:
        """Return one reservation of a tenant, or None."""
        ...

    def reservations(self, query: ReservationQuery) -> Page[Reservation]:
        """Return a page of reservations."""
        ...

    def owner_of(self, reservation_id: str) -> str | None:
        """Return the tenant that owns a reservation, or None if nobody does."""
        ...

    def key(self, key_id: str) -> ApiKey | None:
        """Return one API key whoever owns it, or None."""
        ...

    def keys(self, query: KeyQuery) -> Page[ApiKey]:
        """Return a page of API keys."""
        ...

    def key_by_hash(self, secret_hash: str) -> ApiKey | None:
        """Return the API key with this keyed hash of its secret, or None."""
        ...

    def policy(self, policy_id: str) -> Policy | None:
        """Return one policy whoever owns it, or None."""
        ...

    def policies(self, query: PolicyQuery) -> Page[Policy]:
        """Return a page of policies."""
        ...

    def due(self, now_ms: int, limit: int) -> Sequence[tuple[str, str]]:
        """Return `(tenant, reservation_id)` of active leases past grace, oldest first."""
        ...

    def ended(self, now_ms: int, limit: int, tenant: str | None = None) -> Sequence[Budget]:
        """Return budgets whose period is over, earliest end first; of all tenants if None."""
        ...

    def held(self) -> Mapping[tuple[str, str, Unit], int]:
        """Return what active reservations hold, by tenant, scope and unit."""
        ...

    def heads(self) -> Mapping[str, Head]:
        """Return the end of every tenant's log."""
        ...

    def entries(self, tenant: str, after_seq: int = 0) -> Iterator[Entry]:
        """Yield a tenant's entries in order, from the one after `after_seq`."""
        ...

    def audit(self, query: AuditQuery) -> Page[AuditLine]:
        """Return a page of the audit log: entries and failures, in one order."""
        ...

    def census(self, denials: Sequence[str], since_ms: int) -> Census:
        """Return the counts of everything, and of refused reserves with these codes."""
        ...

    def expired(self, since_ms: int, limit: int) -> Sequence[Reservation]:
        """Return expired reservations whose time was over at `since_ms` or later, newest first."""
        ...

    def pepper(self) -> bytes:
        """Return the store's own random secret, which keys the hashes of API secrets."""
        ...


class Store(Protocol):
    """A durable ledger: transactions for the write path, a reader for the rest."""

    @property
    def reader(self) -> Reader:
        """Return the read side."""
        ...

    def transact(self, reads: Reads, work: Work) -> None:
        """Load what `reads` names, run `work` on it, save the result, and make it durable.

        Raises:
            StoreFull: nothing was saved.
            StoreOutcomeUnknown: the commit failed half way; ask again with the same keys.
            StoreError: nothing was saved.
        """
        ...

    def forget_failures(self, *, of: str | None, before_ms: int, limit: int) -> int:
        """Delete up to `limit` failures from before a time and return how many it were.

        Args:
            of: those of this tenant (or sentinel) alone; None means everybody's but the
                unauthenticated ones.
            before_ms: failures of this time and later stay.
            limit: most to delete, so that a writer never waits for long.
        """
        ...

    def close(self) -> None:
        """Finish and let go of the database; further calls raise StoreError."""
        ...
