"""Bulk actions of the admin plane: which rows, what to do with each, and what became of them.

The rule that lives here: an action on many rows says which ones. A filter that leaves nothing
out is refused, so nobody closes every tenant by leaving a field empty.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from bursar.wire.admin import Reason
from bursar.wire.fields import (
    TEXT,
    Count,
    PlainText,
    Request,
    Wire,
    WireBudgetStatus,
    WireFundOperation,
    WireTenantAction,
    WireTenantStatus,
    WireUnit,
)
from bursar.wire.runtime import Amount

BulkKey = Annotated[str, Field(min_length=1, max_length=128, pattern=TEXT)]
Search = Annotated[str, Field(max_length=128, pattern=TEXT)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class TenantBulkFilter(Wire):
    """Which tenants: what the list of tenants filters by, joined with AND.

    `observe_mode` belongs to a later revision; it is accepted and selects nothing.
    """

    status: WireTenantStatus | None = None
    parent_tenant_id: PlainText | None = None
    observe_mode: PlainText | None = None
    search: Search | None = None


class TenantBulkActionRequest(Request):
    """Suspend, reactivate or close every tenant that a filter matches."""

    filter: TenantBulkFilter
    action: WireTenantAction
    idempotency_key: BulkKey
    expected_count: Count | None = None

    @model_validator(mode="after")
    def _filter_selects(self) -> Self:
        selecting = (self.filter.status, self.filter.parent_tenant_id, self.filter.search)
        if not any(selecting):
            raise _filter_problem("name at least one of status, parent_tenant_id, search", "filter")
        return self


class BudgetBulkFilter(Wire):
    """Which budgets of one tenant: what the list of budgets filters by, joined with AND."""

    tenant_id: PlainText
    scope_prefix: PlainText | None = None
    unit: WireUnit | None = None
    status: WireBudgetStatus | None = None
    over_limit: bool | None = None
    has_debt: bool | None = None
    utilization_min: Fraction | None = None
    utilization_max: Fraction | None = None
    search: Search | None = None


class BudgetBulkActionRequest(Request):
    """Fund every budget that a filter matches in the same way.

    `amount` is optional in the schema, but every action needs it; `spent` is for RESET_SPENT
    alone.
    """

    filter: BudgetBulkFilter
    action: WireFundOperation
    idempotency_key: BulkKey
    amount: Amount | None = None
    spent: Amount | None = None
    reason: Reason | None = None
    expected_count: Count | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        least, most = self.filter.utilization_min, self.filter.utilization_max
        if not self.filter.tenant_id:
            raise _filter_problem("must name a tenant", "filter.tenant_id")
        if least is not None and most is not None and least > most:
            raise _filter_problem("must not be above utilization_max", "filter.utilization_min")
        if self.amount is None:
            raise _filter_problem(f"is required for {self.action}", "amount")
        return self


class BulkActionRowOutcome(Wire):
    """What became of one row."""

    id: str
    error_code: str | None = None
    message: str | None = None
    reason: str | None = None


class BulkResponse(Wire):
    """What became of every row, each in one of the three lists."""

    total_matched: Count
    succeeded: list[BulkActionRowOutcome]
    failed: list[BulkActionRowOutcome]
    skipped: list[BulkActionRowOutcome]
    idempotency_key: str


class TenantBulkActionResponse(BulkResponse):
    """What became of every tenant that matched."""

    action: WireTenantAction


class BudgetBulkActionResponse(BulkResponse):
    """What became of every budget that matched; a row's id is its ledger_id."""

    action: WireFundOperation


def _filter_problem(problem: str, path: str) -> PydanticCustomError:
    return PydanticCustomError("bulk_request", "{problem}", {"path": path, "problem": problem})
