"""Answers of the audit log and the overview, named as the published schema names them.

The rule that lives here: these answers are read, never stored, so what is open in the
published schema is open here.
"""

from __future__ import annotations

from bursar.wire.fields import Count, FreeObject, OpenWire, Signed, Timestamp
from bursar.wire.runtime import Action, Amount, Subject


class AuditLogEntry(OpenWire):
    """One line of the audit log: an accepted change, or a request that was refused.

    `tenant_id` may be `__admin__` or `__unauth__`; `error_code` is there when it was refused.
    """

    log_id: str
    timestamp: Timestamp
    tenant_id: str
    operation: str
    status: Count
    request_id: str | None = None
    trace_id: str | None = None
    key_id: str | None = None
    user_agent: str | None = None
    source_ip: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    error_code: str | None = None
    subject: Subject | None = None
    action: Action | None = None
    amount: Amount | None = None
    metadata: FreeObject | None = None


class AuditLogListResponse(OpenWire):
    """A page of the audit log; `next_cursor` exactly when there may be more."""

    logs: list[AuditLogEntry]
    has_more: bool
    next_cursor: str | None = None


class TenantCounts(OpenWire):
    """How many tenants there are, by status."""

    total: Count
    active: Count
    suspended: Count
    closed: Count


class BudgetCounts(OpenWire):
    """How many budgets there are, by status, trouble and unit."""

    total: Count
    active: Count
    frozen: Count
    closed: Count
    over_limit: Count
    with_debt: Count
    by_unit: dict[str, Count]


class OverLimitScope(OpenWire):
    """A budget over its limit."""

    scope: str
    unit: str
    allocated: Count
    remaining: Signed
    debt: Count


class DebtScope(OpenWire):
    """A budget that owes."""

    scope: str
    unit: str
    debt: Count
    overdraft_limit: Count


class WebhookCounts(OpenWire):
    """How many webhook subscriptions there are."""

    total: Count
    active: Count
    disabled: Count
    with_failures: Count


class EventCounts(OpenWire):
    """How many events there were in the window."""

    total_recent: Count
    by_category: dict[str, Count]


class AdminOverviewResponse(OpenWire):
    """The state of everything at one moment, for a first look."""

    as_of: Timestamp
    event_window_seconds: Count
    tenant_counts: TenantCounts
    budget_counts: BudgetCounts
    over_limit_scopes: list[OverLimitScope]
    debt_scopes: list[DebtScope]
    webhook_counts: WebhookCounts
    failing_webhooks: list[FreeObject]
    event_counts: EventCounts
    recent_denials: list[FreeObject]
    recent_expiries: list[FreeObject]
    recent_denials_by_reason: dict[str, Count]
