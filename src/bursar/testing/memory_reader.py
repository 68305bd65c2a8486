"""The read side of a `MemoryStore`: lookups, lists, and what the sweep and the audit ask.

The rule that lives here: every call looks at the tables once, under their lock, and so
sees one committed state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bursar.core import scopes
from bursar.core.entry import Entry
from bursar.core.state import ApiKey, Budget, Head, Policy, Reservation, Tenant
from bursar.core.trail import AuditLine, AuditQuery
from bursar.ledger.ports import (
    BudgetQuery,
    Census,
    KeyQuery,
    Page,
    PolicyQuery,
    ReservationQuery,
    TenantQuery,
)
from bursar.testing import memory_trail, paging
from bursar.testing.tables import Tables
from bursar.vocabulary import ReservationStatus, Unit


class MemoryReader:
    """A `Reader` over dictionaries."""

    def __init__(self, tables: Tables, pepper: bytes) -> None:
        """Read from `tables`; `pepper` is the store's secret."""
        self._tables = tables
        self._pepper = pepper

    def tenant(self, tenant_id: str) -> Tenant | None:
        """Return one tenant, or None."""
        with self._tables.locked():
            return self._tables.tenants.get(tenant_id)

    def tenants(self, query: TenantQuery) -> Page[Tenant]:
        """Return a page of tenants."""
        with self._tables.locked():
            return paging.page(
                (row for row in self._tables.tenants.values() if _tenant_fits(row, query)),
                lambda row: paging.tenant_place(row, query.sort_by),
                descending=query.descending,
                after=query.after,
                limit=query.limit,
            )

    def budget(self, tenant: str, scope: str, unit: Unit) -> Budget | None:
        """Return one budget, or None."""
        with self._tables.locked():
            return self._tables.budgets.get((tenant, scope, unit))

    def budgets(self, query: BudgetQuery) -> Page[Budget]:
        """Return a page of budgets."""
        with self._tables.locked():
            return paging.page(
                (row for row in self._tables.budgets.values() if _budget_fits(row, query)),
                lambda row: paging.budget_place(row, query.sort_by),
                descending=query.descending,
                after=query.after,
                limit=query.limit,
            )

    def count(self, query: TenantQuery | BudgetQuery) -> int:
        """Return how many rows match a query, on all pages."""
        with self._tables.locked():
            if isinstance(query, TenantQuery):
                return sum(_tenant_fits(row, query) for row in self._tables.tenants.values())
            return sum(_budget_fits(row, query) for row in self._tables.budgets.values())

    def reservation(self, tenant: str, reservation_id: str) -> Reservation | None:
        """Return one reservation of a tenant, or None."""
        with self._tables.locked():
            return self._tables.reservations.get((tenant, reservation_id))

    def reservations(self, query: ReservationQuery) -> Page[Reservation]:
        """Return a page of reservations."""
        with self._tables.locked():
            rows = self._tables.reservations.values()
            return paging.page(
                (row for row in rows if _reservation_fits(row, query)),
                lambda row: paging.reservation_place(row, query.sort_by),
                descending=query.descending,
                after=query.after,
                limit=query.limit,
            )

    def owner_of(self, reservation_id: str) -> str | None:
        """Return the tenant that owns a reservation, or None if nobody does."""
        with self._tables.locked():
            owners = (
                row.tenant
                for row in self._tables.reservations.values()
                if row.reservation_id == reservation_id
            )
            return next(owners, None)

    def key(self, key_id: str) -> ApiKey | None:
        """Return one API key whoever owns it, or None."""
        with self._tables.locked():
            found = (row for row in self._tables.keys.values() if row.key_id == key_id)
            return next(found, None)

    def keys(self, query: KeyQuery) -> Page[ApiKey]:
        """Return a page of API keys."""
        with self._tables.locked():
            return paging.page(
                (row for row in self._tables.keys.values() if _key_fits(row, query)),
                lambda row: paging.key_place(row, query.sort_by, query.now_ms),
                descending=query.descending,
                after=query.after,
                limit=query.limit,
            )

    def key_by_hash(self, secret_hash: str) -> ApiKey | None:
        """Return the API key with this keyed hash of its secret, or None."""
        with self._tables.locked():
            found = (row for row in self._tables.keys.values() if row.secret_hash == secret_hash)
            return next(found, None)

    def policy(self, policy_id: str) -> Policy | None:
        """Return one policy whoever owns it, or None."""
        with self._tables.locked():
            found = (row for row in self._tables.policies.values() if row.policy_id == policy_id)
            return next(found, None)

    def policies(self, query: PolicyQuery) -> Page[Policy]:
        """Return a page of policies."""
        with self._tables.locked():
            return paging.page(
                (
                    row
                    for row in self._tables.policies.values()
                    if row.tenant == query.tenant
                    and scopes.within_filter(row.scope_pattern, query.within)
                    and query.scope_pattern in (None, row.scope_pattern)
                    and query.status in (None, row.status)
                ),
                lambda row: (row.created_at_ms, row.policy_id),
                descending=query.descending,
                after=query.after,
                limit=query.limit,
            )

    def due(self, now_ms: int, limit: int) -> Sequence[tuple[str, str]]:
        """Return `(tenant, reservation_id)` of active leases past grace, oldest first."""
        with self._tables.locked():
            lapsed = [
                (row.settle_by_ms, row.tenant, row.reservation_id)
                for row in self._tables.reservations.values()
                if row.status is ReservationStatus.ACTIVE
                and row.sweepable
                and row.settle_by_ms < now_ms
            ]
        return [(tenant, reservation_id) for _, tenant, reservation_id in sorted(lapsed)[:limit]]

    def ended(self, now_ms: int, limit: int, tenant: str | None = None) -> Sequence[Budget]:
        """Return budgets whose period is over, earliest end first; of all tenants if None."""
        with self._tables.locked():
            found = [
                row
                for row in self._tables.budgets.values()
                if row.ended_at(now_ms) and tenant in (None, row.tenant)
            ]
            found.sort(key=lambda row: (row.period_end_ms, row.tenant, row.scope, row.unit))
            return found[:limit]

    def held(self) -> Mapping[tuple[str, str, Unit], int]:
        """Return what active reservations hold, by tenant, scope and unit."""
        sums: Counter[tuple[str, str, Unit]] = Counter()
        with self._tables.locked():
            for row in self._tables.reservations.values():
                if row.status is ReservationStatus.ACTIVE:
                    for scope in row.budgeted_scopes:
                        sums[row.tenant, scope, row.unit] += row.estimate_amount
        return dict(sums)

    def heads(self) -> Mapping[str, Head]:
        """Return the end of every tenant's log."""
        with self._tables.locked():
            return dict(self._tables.heads)

    def entries(self, tenant: str, after_seq: int = 0) -> Iterator[Entry]:
        """Yield a tenant's entries in order, from the one after `after_seq`.

        The list is taken at the call; entries appended later are not in it.
        """
        with self._tables.locked():
            log = self._tables.entries.get(tenant, {})
            return iter([log[seq] for seq in sorted(log) if seq > after_seq])

    def audit(self, query: AuditQuery) -> Page[AuditLine]:
        """Return a page of the audit log: entries and failures, in one order."""
        with self._tables.locked():
            logs = self._tables.entries.values()
            lines: list[AuditLine] = [line for log in logs for line in log.values()]
            lines += self._tables.failures.values()
        return memory_trail.page(lines, query)

    def census(self, denials: Sequence[str], since_ms: int) -> Census:
        """Return the counts of everything, and of refused reserves with these codes."""
        with self._tables.locked():
            return memory_trail.census(self._tables, denials, since_ms)

    def expired(self, since_ms: int, limit: int) -> Sequence[Reservation]:
        """Return expired reservations whose time was over at `since_ms` or later, newest first."""
        with self._tables.locked():
            over = [
                row
                for row in self._tables.reservations.values()
                if row.status is ReservationStatus.EXPIRED and row.settle_by_ms >= since_ms
            ]
        return sorted(over, key=lambda row: (-row.settle_by_ms, row.reservation_id))[:limit]

    def pepper(self) -> bytes:
        """Return the store's own random secret, which keys the hashes of API secrets."""
        with self._tables.locked():
            return self._pepper


def _within(value: int | None, first: int | None, last: int | None) -> bool:
    """Return whether a time lies in inclusive bounds; a missing one lies in no bounds."""
    if first is None and last is None:
        return True
    if value is None:
        return False
    return (first is None or value >= first) and (last is None or value <= last)


def _mentions(search: str | None, *texts: str) -> bool:
    return search is None or any(search.casefold() in text.casefold() for text in texts)


def _tenant_fits(row: Tenant, query: TenantQuery) -> bool:
    return (
        (query.status is None or row.status is query.status)
        and query.parent_tenant_id in (None, row.parent_tenant_id)
        and _mentions(query.search, row.tenant_id, row.name)
    )


def _budget_fits(row: Budget, query: BudgetQuery) -> bool:
    used = paging.utilization(row)
    return (
        query.tenant in (None, row.tenant)
        and query.unit in (None, row.unit)
        and query.status in (None, row.status)
        and query.over_limit in (None, row.is_over_limit)
        and query.has_debt in (None, row.debt > 0)
        and (query.utilization_min is None or used >= query.utilization_min)
        and (query.utilization_max is None or used <= query.utilization_max)
        and (query.scope_prefix is None or _under(row.scope, query.scope_prefix))
        and scopes.within_filter(row.scope, query.within)
        and scopes.contains(row.scope, query.segments)
        and _mentions(query.search, row.tenant, row.scope)
    )


def _key_fits(row: ApiKey, query: KeyQuery) -> bool:
    return (
        query.tenant in (None, row.tenant)
        and query.status in (None, row.status_at(query.now_ms))
        and query.key_prefix in (None, row.key_prefix)
        and _mentions(query.search, row.key_id, row.name)
    )


def _under(scope: str, prefix: str) -> bool:
    """Return whether a scope is `prefix` or a descendant of it, segment by segment."""
    return scope == prefix or scope.startswith(prefix + "/")


def _reservation_fits(row: Reservation, query: ReservationQuery) -> bool:
    return (
        row.tenant == query.tenant
        and query.idempotency_key in (None, row.idempotency_key)
        and query.status in (None, row.status)
        and scopes.within_filter(row.scope_path, query.within)
        and scopes.contains(row.scope_path, query.segments)
        and _within(row.created_at_ms, query.created_from_ms, query.created_to_ms)
        and _within(row.expires_at_ms, query.expires_from_ms, query.expires_to_ms)
        and _within(row.finalized_at_ms, query.finalized_from_ms, query.finalized_to_ms)
    )
