"""Requests and responses of the admin plane: tenants, budgets, policies, keys, introspection.

The rule that lives here: a request may not carry what its resource could not store. Where
the published schema of a request is looser than that of the resource it creates (names,
descriptions, metadata), the resource's limit holds. One field is our own: `period` says how a
budget renews itself, and it and the fields of a period can be changed too.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from bursar.vocabulary import RolloverPolicy
from bursar.wire.fields import (
    NOT_BLANK,
    TENANT_ID,
    TEXT,
    Count,
    FreeObject,
    IdempotencyKey,
    OpenWire,
    PlainText,
    Request,
    Timestamp,
    Wire,
    WireBudgetStatus,
    WireEvery,
    WireExpiryPolicy,
    WireFundOperation,
    WireKeyStatus,
    WireOveragePolicy,
    WirePermission,
    WireRolloverPolicy,
    WireTenantStatus,
    WireUnit,
)
from bursar.wire.runtime import Amount, LeaseMs, SignedAmount
from bursar.wire.timestamps import parse_timestamp

TenantId = Annotated[str, Field(min_length=3, max_length=64, pattern=TENANT_ID)]
Name = Annotated[str, Field(max_length=256, pattern=NOT_BLANK)]
Description = Annotated[str, Field(max_length=1024, pattern=TEXT)]
Reason = Annotated[str, Field(max_length=512, pattern=TEXT)]
Labels = Annotated[dict[PlainText, PlainText], Field(max_length=32)]
"""Metadata of a tenant: at most 32 pairs of text."""


# Tenants.


class TenantCreateRequest(Request):
    """Create a tenant; repeating it with the same name changes nothing."""

    tenant_id: TenantId
    name: Name
    parent_tenant_id: TenantId | None = None
    metadata: Labels | None = None
    default_commit_overage_policy: WireOveragePolicy | None = None
    default_reservation_ttl_ms: LeaseMs | None = None
    max_reservation_ttl_ms: LeaseMs | None = None
    max_reservation_extensions: Count | None = None
    reservation_expiry_policy: WireExpiryPolicy | None = None


class TenantUpdateRequest(Request):
    """Change a tenant; an absent field is left as it is, `metadata` is replaced whole."""

    name: Name | None = None
    status: WireTenantStatus | None = None
    metadata: Labels | None = None
    default_commit_overage_policy: WireOveragePolicy | None = None
    default_reservation_ttl_ms: LeaseMs | None = None
    max_reservation_ttl_ms: LeaseMs | None = None
    max_reservation_extensions: Count | None = None


class Tenant(Wire):
    """A tenant as it is stored."""

    tenant_id: TenantId
    name: Name
    status: WireTenantStatus
    created_at: Timestamp
    parent_tenant_id: str | None = None
    default_commit_overage_policy: WireOveragePolicy | None = None
    default_reservation_ttl_ms: LeaseMs | None = None
    max_reservation_ttl_ms: LeaseMs | None = None
    max_reservation_extensions: Count | None = None
    reservation_expiry_policy: WireExpiryPolicy | None = None
    metadata: Labels | None = None
    updated_at: Timestamp | None = None
    suspended_at: Timestamp | None = None
    closed_at: Timestamp | None = None


class TenantListResponse(OpenWire):
    """A page of tenants; `next_cursor` exactly when there may be more."""

    tenants: list[Tenant]
    next_cursor: str | None = None
    has_more: bool | None = None


# Budgets.


class BudgetPeriod(Request):
    """How a budget renews itself; our own. Calendars are those of an IANA time zone."""

    every: WireEvery
    time_zone: PlainText | None = None


def _runs_forward(start: str | None, end: str | None) -> None:
    if start and end and parse_timestamp(end) <= parse_timestamp(start):
        raise PydanticCustomError(
            "period_backwards", "must be later than period_start", {"path": "period_end"}
        )


class BudgetCreateRequest(Request):
    """Create a budget at a scope. `tenant_id` is for the admin key only.

    The grammar of `scope` and the agreement of the three units are rules of the ledger and
    are checked there.
    """

    scope: PlainText
    unit: WireUnit
    allocated: Amount
    tenant_id: PlainText | None = None
    overdraft_limit: Amount | None = None
    commit_overage_policy: WireOveragePolicy | None = None
    rollover_policy: WireRolloverPolicy = RolloverPolicy.NONE
    period_start: Timestamp | None = None
    period_end: Timestamp | None = None
    period: BudgetPeriod | None = None
    metadata: FreeObject | None = None

    @model_validator(mode="after")
    def _period_runs_forward(self) -> Self:
        _runs_forward(self.period_start, self.period_end)
        return self


class BudgetFundingRequest(Request):
    """Change one budget. `spent` is used by RESET_SPENT only and ignored elsewhere.

    The schema leaves `idempotency_key` optional; without one a retry funds twice.
    """

    operation: WireFundOperation
    amount: Amount
    spent: Amount | None = None
    reason: Reason | None = None
    idempotency_key: IdempotencyKey | None = None
    metadata: FreeObject | None = None


class BudgetUpdateRequest(Request):
    """Change what a budget allows; an absent field is left as it is, `metadata` replaced whole.

    The fields of a period are our own here, and mean what they mean at creation.
    """

    overdraft_limit: Amount | None = None
    commit_overage_policy: WireOveragePolicy | None = None
    rollover_policy: WireRolloverPolicy | None = None
    period_start: Timestamp | None = None
    period_end: Timestamp | None = None
    period: BudgetPeriod | None = None
    metadata: FreeObject | None = None

    @model_validator(mode="after")
    def _period_runs_forward(self) -> Self:
        _runs_forward(self.period_start, self.period_end)
        return self


class BudgetStatusTransitionRequest(Request):
    """Freeze or unfreeze a budget; the body is optional and so is everything in it."""

    reason: Reason | None = None
    metadata: FreeObject | None = None


class BudgetLedger(Wire):
    """A budget with its whole state, as the admin plane shows it."""

    ledger_id: str
    scope: str
    unit: WireUnit
    allocated: Amount
    remaining: SignedAmount
    status: WireBudgetStatus
    created_at: Timestamp
    tenant_id: str | None = None
    scope_path: str | None = None
    reserved: Amount | None = None
    spent: Amount | None = None
    debt: Amount | None = None
    overdraft_limit: Amount | None = None
    is_over_limit: bool | None = None
    commit_overage_policy: WireOveragePolicy | None = None
    rollover_policy: WireRolloverPolicy | None = None
    period_start: Timestamp | None = None
    period_end: Timestamp | None = None
    updated_at: Timestamp | None = None


class BudgetPeriodResponse(Wire):
    """How a budget renews itself, and its current period; our own.

    `allocation` is what each period is given, where the budget renews itself.
    """

    scope: str
    unit: WireUnit
    every: WireEvery
    rollover_policy: WireRolloverPolicy
    time_zone: str | None = None
    allocation: Amount | None = None
    period_start: Timestamp | None = None
    period_end: Timestamp | None = None


class BudgetFundingResponse(OpenWire):
    """A budget before and after one funding operation."""

    operation: str
    previous_allocated: Amount
    new_allocated: Amount
    previous_remaining: SignedAmount
    new_remaining: SignedAmount
    previous_debt: Amount | None = None
    new_debt: Amount | None = None
    previous_spent: Amount | None = None
    new_spent: Amount | None = None
    timestamp: Timestamp | None = None


class BudgetListResponse(Wire):
    """A page of budgets; `next_cursor` exactly when there may be more."""

    ledgers: list[BudgetLedger]
    next_cursor: str | None = None
    has_more: bool | None = None


class BalanceListResponse(Wire):
    """A page of budgets in the admin form of `GET /v1/balances`."""

    balances: list[BudgetLedger]
    next_cursor: str | None = None
    has_more: bool | None = None


# API keys and introspection.


class ApiKeyCreateRequest(Request):
    """Create an API key. Absent `permissions` mean the default set."""

    tenant_id: PlainText
    name: Name
    description: Description | None = None
    permissions: list[WirePermission] | None = None
    scope_filter: list[PlainText] | None = None
    expires_at: Timestamp | None = None
    metadata: FreeObject | None = None


class ApiKeyUpdateRequest(Request):
    """Change a key; an absent field is left as it is, a list or `metadata` replaced whole."""

    name: Name | None = None
    description: Description | None = None
    permissions: list[WirePermission] | None = None
    scope_filter: list[PlainText] | None = None
    metadata: FreeObject | None = None


class ApiKeyValidationRequest(Request):
    """Ask whether a secret is that of a key which may be used now."""

    key_secret: PlainText


class ApiKeyValidationResponse(OpenWire):
    """What a secret is good for. `reason` exactly when `valid` is false."""

    valid: bool
    tenant_id: str
    key_id: str | None = None
    permissions: list[str] | None = None
    scope_filter: list[str] | None = None
    expires_at: Timestamp | None = None
    reason: str | None = None


class ApiKeyCreateResponse(OpenWire):
    """A new key: the only answer that ever contains its secret."""

    key_id: str
    key_secret: str
    key_prefix: str
    tenant_id: str
    created_at: Timestamp
    expires_at: Timestamp
    permissions: list[str] | None = None


class ApiKey(Wire):
    """A key as it is stored, without its secret."""

    key_id: str
    tenant_id: str
    key_prefix: str
    status: WireKeyStatus
    created_at: Timestamp
    expires_at: Timestamp
    name: Name | None = None
    description: Description | None = None
    permissions: list[str] | None = None
    scope_filter: list[str] | None = None
    last_used_at: Timestamp | None = None
    revoked_at: Timestamp | None = None
    revoked_reason: Reason | None = None
    metadata: FreeObject | None = None


class ApiKeyListResponse(OpenWire):
    """A page of keys; `next_cursor` exactly when there may be more."""

    keys: list[ApiKey]
    next_cursor: str | None = None
    has_more: bool | None = None


class Capabilities(OpenWire):
    """What the caller may look at and change, as explicit booleans."""

    view_overview: bool
    view_budgets: bool
    view_events: bool
    view_webhooks: bool
    view_audit: bool
    view_tenants: bool
    view_api_keys: bool
    view_policies: bool
    view_reservations: bool | None = None
    manage_budgets: bool | None = None
    manage_policies: bool | None = None
    manage_webhooks: bool | None = None
    manage_tenants: bool | None = None
    manage_api_keys: bool | None = None
    manage_reservations: bool | None = None


class AuthIntrospectResponse(OpenWire):
    """Who the caller is. `tenant_id` exactly when the caller is a tenant."""

    authenticated: bool
    auth_type: Literal["admin", "tenant"]
    permissions: list[str]
    capabilities: Capabilities
    tenant_id: str | None = None
    scope_filter: list[str] | None = None
