"""The read side: pages, lookups and the log, each from one committed state.

The rule that lives here: a reader never writes and never waits for the writer (WAL). Each
thread has its own connection. Pages are cut by key, not by offset, so a page costs the
same wherever it lies and no row is seen twice.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bursar.core.entry import Entry
from bursar.core.state import ApiKey, Budget, Head, Policy, Reservation, Tenant
from bursar.core.trail import AuditLine, AuditQuery, resource_id_of
from bursar.ledger.ports import (
    BudgetQuery,
    BudgetSort,
    Census,
    KeyQuery,
    KeySort,
    Page,
    PolicyQuery,
    ReservationQuery,
    ReservationSort,
    SortValue,
    StoreError,
    TenantQuery,
    TenantSort,
)
from bursar.storage import rows
from bursar.storage.sqlite import trail
from bursar.storage.sqlite.connect import connect, translated
from bursar.storage.sqlite.where import Where
from bursar.vocabulary import Unit

Row = TypeVar("Row")

_UTILIZATION = "(CASE WHEN allocated = 0 THEN 0.0 ELSE CAST(spent AS REAL) / allocated END)"
_RESERVATION_SORT = {
    ReservationSort.RESERVATION_ID: "reservation_id",
    ReservationSort.TENANT: "tenant",
    ReservationSort.SCOPE_PATH: "scope_path",
    ReservationSort.STATUS: "status",
    ReservationSort.RESERVED: "estimate_amount",
    ReservationSort.CREATED_AT_MS: "created_at_ms",
    ReservationSort.EXPIRES_AT_MS: "expires_at_ms",
}
_BUDGET_ID = "(tenant || '/' || scope || '/' || unit)"
_BUDGET_SORT = {
    BudgetSort.TENANT_ID: "tenant",
    BudgetSort.SCOPE: "scope",
    BudgetSort.UNIT: "unit",
    BudgetSort.STATUS: "status",
    BudgetSort.COMMIT_OVERAGE_POLICY: "coalesce(overage_policy, '')",
    BudgetSort.UTILIZATION: _UTILIZATION,
    BudgetSort.DEBT: "debt",
}
_TENANT_SORT = {
    TenantSort.TENANT_ID: "tenant",
    TenantSort.NAME: "name",
    TenantSort.STATUS: "coalesce(status, '')",
    TenantSort.CREATED_AT: "created_at_ms",
}

_KEY_ID = "(key_id || '/' || tenant)"
_KEY_SORT = {
    KeySort.KEY_ID: "key_id",
    KeySort.NAME: "name",
    KeySort.TENANT_ID: "tenant",
    KeySort.STATUS: "status_now",
    KeySort.CREATED_AT: "created_at_ms",
    KeySort.EXPIRES_AT: "expires_at_ms",
}


def _tenants_where(query: TenantQuery) -> Where:
    where = Where()
    where.add("status = ?", query.status)
    where.add("parent_tenant_id = ?", query.parent_tenant_id)
    where.search("tenant", "name", query.search)
    return where


def _budgets_where(query: BudgetQuery) -> Where:
    where = Where()
    where.add("tenant = ?", query.tenant)
    where.within("scope", query.within)
    where.segments("scope", query.segments)
    if query.scope_prefix:
        where.conditions.append("(scope = ? OR instr(scope, ?) = 1)")
        where.values += [query.scope_prefix, query.scope_prefix + "/"]
    where.add("unit = ?", query.unit)
    where.add("status = ?", query.status)
    where.add("is_over_limit = ?", query.over_limit)
    where.add("(debt > 0) = ?", query.has_debt)
    where.add(f"{_UTILIZATION} >= ?", query.utilization_min)
    where.add(f"{_UTILIZATION} <= ?", query.utilization_max)
    where.search("tenant", "scope", query.search)
    return where


class SqliteReader:
    """Reads of one ledger file; see `ledger.ports.Reader` for what each call means."""

    def __init__(
        self, path: Path, opened: Callable[[Path], sqlite3.Connection] | None = None
    ) -> None:
        """Read `path`; connections are made, with `opened`, when a thread first needs one."""
        self._path = path
        self._opened = opened or _sharing
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] | None = []

    def tenant(self, tenant_id: str) -> Tenant | None:
        """Return one tenant, or None."""
        sql = f"SELECT {rows.TENANT} FROM tenant WHERE tenant = ?"
        return self._one(sql, (tenant_id,), rows.tenant)

    def tenants(self, query: TenantQuery) -> Page[Tenant]:
        """Return a page of tenants."""
        return self._page(
            "tenant",
            rows.TENANT,
            rows.tenant,
            _tenants_where(query),
            _TENANT_SORT[query.sort_by],
            "tenant",
            query,
        )

    def budget(self, tenant: str, scope: str, unit: Unit) -> Budget | None:
        """Return one budget, or None."""
        sql = f"SELECT {rows.BUDGET} FROM budget WHERE tenant = ? AND scope = ? AND unit = ?"
        return self._one(sql, (tenant, scope, unit), rows.budget)

    def budgets(self, query: BudgetQuery) -> Page[Budget]:
        """Return a page of budgets."""
        where, sort = _budgets_where(query), _BUDGET_SORT[query.sort_by]
        return self._page("budget", rows.BUDGET, rows.budget, where, sort, _BUDGET_ID, query)

    def count(self, query: TenantQuery | BudgetQuery) -> int:
        """Return how many rows match a query, on all pages."""
        if isinstance(query, TenantQuery):
            table, where = "tenant", _tenants_where(query)
        else:
            table, where = "budget", _budgets_where(query)
        found = self._all(f"SELECT count(*) FROM {table} WHERE {where.sql()}", where.values)
        return int(found[0][0])

    def reservation(self, tenant: str, reservation_id: str) -> Reservation | None:
        """Return one reservation of a tenant, or None."""
        sql = f"SELECT {rows.RESERVATION} FROM reservation WHERE tenant = ? AND reservation_id = ?"
        return self._one(sql, (tenant, reservation_id), rows.reservation)

    def reservations(self, query: ReservationQuery) -> Page[Reservation]:
        """Return a page of reservations."""
        where = Where()
        where.add("tenant = ?", query.tenant)
        where.add("idempotency_key = ?", query.idempotency_key)
        where.add("status = ?", query.status)
        where.within("scope_path", query.within)
        where.segments("scope_path", query.segments)
        where.add("created_at_ms >= ?", query.created_from_ms)
        where.add("created_at_ms <= ?", query.created_to_ms)
        where.add("expires_at_ms >= ?", query.expires_from_ms)
        where.add("expires_at_ms <= ?", query.expires_to_ms)
        where.add("finalized_at_ms >= ?", query.finalized_from_ms)
        where.add("finalized_at_ms <= ?", query.finalized_to_ms)
        return self._page(
            "reservation",
            rows.RESERVATION,
            rows.reservation,
            where,
            _RESERVATION_SORT[query.sort_by],
            "reservation_id",
            query,
        )

    def owner_of(self, reservation_id: str) -> str | None:
        """Return the tenant that owns a reservation, or None if nobody does."""
        sql = "SELECT tenant FROM reservation WHERE reservation_id = ?"
        return self._one(sql, (reservation_id,), lambda row: str(row[0]))

    def key(self, key_id: str) -> ApiKey | None:
        """Return one API key whoever owns it, or None."""
        return self._one(
            f"SELECT {rows.API_KEY} FROM api_key WHERE key_id = ?", (key_id,), rows.key
        )

    def keys(self, query: KeyQuery) -> Page[ApiKey]:
        """Return a page of API keys."""
        where = Where()
        where.add("tenant = ?", query.tenant)
        where.add("status_now = ?", query.status)
        where.add("key_prefix = ?", query.key_prefix)
        where.search("key_id", "name", query.search)
        # `now_ms` is an integer; in the text it keeps one order of values for all pages.
        table = (
            f"(SELECT *, CASE WHEN status = 'ACTIVE' AND expires_at_ms <= {int(query.now_ms)} "
            "THEN 'EXPIRED' ELSE status END AS status_now FROM api_key)"
        )
        sort = _KEY_SORT[query.sort_by]
        return self._page(table, rows.API_KEY, rows.key, where, sort, _KEY_ID, query)

    def key_by_hash(self, secret_hash: str) -> ApiKey | None:
        """Return the API key with this keyed hash of its secret, or None."""
        sql = f"SELECT {rows.API_KEY} FROM api_key WHERE secret_hash = ?"
        return self._one(sql, (secret_hash,), rows.key)

    def policy(self, policy_id: str) -> Policy | None:
        """Return one policy whoever owns it, or None."""
        sql = f"SELECT {rows.POLICY} FROM policy WHERE policy_id = ?"
        return self._one(sql, (policy_id,), rows.policy)

    def policies(self, query: PolicyQuery) -> Page[Policy]:
        """Return a page of policies."""
        where = Where()
        where.add("tenant = ?", query.tenant)
        where.within("scope_pattern", query.within)
        where.add("scope_pattern = ?", query.scope_pattern)
        where.add("status = ?", query.status)
        return self._page(
            "policy", rows.POLICY, rows.policy, where, "created_at_ms", "policy_id", query
        )

    def due(self, now_ms: int, limit: int) -> Sequence[tuple[str, str]]:
        """Return `(tenant, reservation_id)` of active leases past grace, oldest first."""
        return [
            (row[0], row[1])
            for row in self._all(
                "SELECT tenant, reservation_id FROM reservation "
                "WHERE status = 'ACTIVE' AND settle_by_ms < ? AND sweepable = 1 "
                "ORDER BY settle_by_ms LIMIT ?",
                (now_ms, limit),
            )
        ]

    def ended(self, now_ms: int, limit: int, tenant: str | None = None) -> Sequence[Budget]:
        """Return budgets whose period is over, earliest end first; of all tenants if None."""
        # The plus keeps SQLite from the primary key, by which it would look at every budget of
        # the tenant; nearly always none of them is due, and the index of those that are knows.
        of_tenant = "" if tenant is None else "AND +tenant = ? "
        found = self._all(
            f"SELECT {rows.BUDGET} FROM budget WHERE period_every IS NOT NULL "
            f"AND status <> 'CLOSED' AND period_end_ms <= ? {of_tenant}"
            "ORDER BY period_end_ms, tenant, scope, unit LIMIT ?",
            [now_ms, *([] if tenant is None else [tenant]), limit],
        )
        return [rows.budget(row) for row in found]

    def held(self) -> Mapping[tuple[str, str, Unit], int]:
        """Return what active reservations hold, by tenant, scope and unit."""
        sums: dict[tuple[str, str, Unit], int] = {}
        with translated("reading the ledger"):
            for row in self._connection().execute(
                f"SELECT {rows.RESERVATION} FROM reservation WHERE status = 'ACTIVE'"
            ):
                held = rows.reservation(row)
                for scope in held.budgeted_scopes:
                    where = (held.tenant, scope, held.unit)
                    sums[where] = sums.get(where, 0) + held.estimate_amount
        return sums

    def heads(self) -> Mapping[str, Head]:
        """Return the end of every tenant's log."""
        return dict(map(rows.head, self._all(f"SELECT {rows.HEAD} FROM head ORDER BY tenant", ())))

    def entries(self, tenant: str, after_seq: int = 0) -> Iterator[Entry]:
        """Yield a tenant's entries in order, from the one after `after_seq`."""
        while True:
            page = self._all(
                f"SELECT {rows.ENTRY} FROM entry WHERE tenant = ? AND seq > ? "
                "ORDER BY seq LIMIT 1000",
                (tenant, after_seq),
            )
            yield from map(rows.entry, page)
            if not page:
                return
            after_seq = page[-1][1]

    def audit(self, query: AuditQuery) -> Page[AuditLine]:
        """Return a page of the audit log: entries and failures, in one order."""
        return trail.page(query, self._all)

    def census(self, denials: Sequence[str], since_ms: int) -> Census:
        """Return the counts of everything, and of refused reserves with these codes."""
        return trail.census(denials, since_ms, self._all)

    def expired(self, since_ms: int, limit: int) -> Sequence[Reservation]:
        """Return expired reservations whose time was over at `since_ms` or later, newest first."""
        sql = (
            f"SELECT {rows.RESERVATION} FROM reservation WHERE status = 'EXPIRED' "
            "AND settle_by_ms >= ? ORDER BY settle_by_ms DESC, reservation_id LIMIT ?"
        )
        return list(map(rows.reservation, self._all(sql, (since_ms, limit))))

    def pepper(self) -> bytes:
        """Return the store's own random secret, which keys the hashes of API secrets."""
        value = self._one("SELECT value FROM meta WHERE name = 'pepper'", (), lambda row: row[0])
        if not isinstance(value, bytes):
            raise StoreError("the ledger file has lost its pepper")
        return value

    def close(self) -> None:
        """Close every thread's connection; further reads raise StoreError."""
        with self._lock:
            for connection in self._open or ():
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
            self._open = None

    def _connection(self) -> sqlite3.Connection:
        with self._lock:
            if self._open is None:
                raise StoreError("the ledger file is closed")
            mine: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if mine is None:
                mine = self._opened(self._path)
                # SQLite's own lower() knows ASCII only.
                mine.create_function("fold", 1, str.casefold, deterministic=True)
                mine.create_function("resource_id", 3, resource_id_of, deterministic=True)
                self._open.append(mine)
                self._local.connection = mine
            return mine

    def _one(self, sql: str, values: Sequence[Any], read: Callable[[Any], Row]) -> Row | None:
        found = self._all(sql, values)
        return read(found[0]) if found else None

    def _all(self, sql: str, values: Sequence[Any]) -> list[Any]:
        with translated("reading the ledger"):
            return self._connection().execute(sql, values).fetchall()

    def _page(
        self,
        table: str,
        columns: str,
        read: Callable[[Any], Row],
        where: Where,
        sort: str,
        row_id: str,
        query: TenantQuery | BudgetQuery | ReservationQuery | KeyQuery | PolicyQuery,
    ) -> Page[Row]:
        """Return up to `limit` rows; one more is fetched to know whether there are any."""
        where.after(sort, row_id, query.descending, query.after)
        direction = "DESC" if query.descending else "ASC"
        found = self._all(
            f"SELECT {columns}, {sort}, {row_id} FROM {table} WHERE {where.sql()} "
            f"ORDER BY {sort} {direction}, {row_id} ASC LIMIT ?",
            [*where.values, query.limit + 1],
        )
        page = found[: query.limit]
        last: tuple[SortValue, str] | None = (
            (page[-1][-2], page[-1][-1]) if len(found) > query.limit and page else None
        )
        return Page([read(row[:-2]) for row in page], last)  # without the two sort columns


def _sharing(path: Path) -> sqlite3.Connection:
    return connect(path, read_only=True)
