"""The order of a list, and where its next page starts.

The rule that lives here: a row's place is its sort value and then its id, and ids break
ties ascending in both directions. A page continues strictly after the place of the row
before it, so no row comes twice and none is left out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TypeVar, assert_never

from bursar.core.state import ApiKey, Budget, Reservation, Tenant
from bursar.ledger.ports import (
    After,
    BudgetSort,
    KeySort,
    Page,
    ReservationSort,
    SortValue,
    TenantSort,
)

Row = TypeVar("Row")


def page(
    rows: Iterable[Row],
    place: Callable[[Row], After],
    *,
    descending: bool,
    after: After | None,
    limit: int,
) -> Page[Row]:
    """Return the first `limit` of `rows` behind `after`, in the order of their places."""
    beyond = operator.lt if descending else operator.gt
    placed = [(place(row), row) for row in rows]
    if after is not None:
        value, last_id = after
        placed = [
            (here, row)
            for here, row in placed
            if beyond(here[0], value) or (here[0] == value and here[1] > last_id)
        ]
    placed.sort(key=lambda item: item[0][1])
    # Sorting is stable, reversed too: rows with equal values stay in the order of their ids.
    placed.sort(key=lambda item: item[0][0], reverse=descending)
    shown = placed[:limit]
    more = len(placed) > limit
    return Page([row for _, row in shown], shown[-1][0] if more else None)


def utilization(row: Budget) -> float:
    """Return `spent / allocated`, 0 where nothing is allocated.

    Both become floats first, because that is how databases divide.
    """
    return float(row.spent) / float(row.allocated) if row.allocated else 0.0


def reservation_place(row: Reservation, sort_by: ReservationSort) -> After:
    """Return where a reservation stands in a list."""
    return _reservation_value(row, sort_by), row.reservation_id


def budget_place(row: Budget, sort_by: BudgetSort) -> After:
    """Return where a budget stands in a list."""
    return _budget_value(row, sort_by), f"{row.tenant}/{row.scope}/{row.unit}"


def tenant_place(row: Tenant, sort_by: TenantSort) -> After:
    """Return where a tenant stands in a list."""
    return _tenant_value(row, sort_by), row.tenant_id


def key_place(row: ApiKey, sort_by: KeySort, now_ms: int) -> After:
    """Return where an API key stands in a list."""
    return _key_value(row, sort_by, now_ms), f"{row.key_id}/{row.tenant}"


def _reservation_value(row: Reservation, sort_by: ReservationSort) -> SortValue:
    match sort_by:
        case ReservationSort.RESERVATION_ID:
            return row.reservation_id
        case ReservationSort.TENANT:
            return row.tenant
        case ReservationSort.SCOPE_PATH:
            return row.scope_path
        case ReservationSort.STATUS:
            return row.status.value
        case ReservationSort.RESERVED:
            return row.estimate_amount
        case ReservationSort.CREATED_AT_MS:
            return row.created_at_ms
        case ReservationSort.EXPIRES_AT_MS:
            return row.expires_at_ms
        case _:
            assert_never(sort_by)


def _budget_value(row: Budget, sort_by: BudgetSort) -> SortValue:
    match sort_by:
        case BudgetSort.TENANT_ID:
            return row.tenant
        case BudgetSort.SCOPE:
            return row.scope
        case BudgetSort.UNIT:
            return row.unit.value
        case BudgetSort.STATUS:
            return row.status.value
        case BudgetSort.COMMIT_OVERAGE_POLICY:
            return row.overage_policy.value if row.overage_policy else ""
        case BudgetSort.UTILIZATION:
            return utilization(row)
        case BudgetSort.DEBT:
            return row.debt
        case _:
            assert_never(sort_by)


def _tenant_value(row: Tenant, sort_by: TenantSort) -> SortValue:
    match sort_by:
        case TenantSort.TENANT_ID:
            return row.tenant_id
        case TenantSort.NAME:
            return row.name
        case TenantSort.STATUS:
            return row.status.value if row.status else ""
        case TenantSort.CREATED_AT:
            return row.created_at_ms
        case _:
            assert_never(sort_by)


def _key_value(row: ApiKey, sort_by: KeySort, now_ms: int) -> SortValue:
    match sort_by:
        case KeySort.KEY_ID:
            return row.key_id
        case KeySort.NAME:
            return row.name
        case KeySort.TENANT_ID:
            return row.tenant
        case KeySort.STATUS:
            return row.status_at(now_ms).value
        case KeySort.CREATED_AT:
            return row.created_at_ms
        case KeySort.EXPIRES_AT:
            return row.expires_at_ms
        case _:
            assert_never(sort_by)
