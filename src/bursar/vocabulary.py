"""The words every floor shares: one name for one thing, spelled as the protocol spells it.

The rule that lives here: an enum value *is* the wire spelling, so no other module
translates words. Order matters where it says so.
"""

from __future__ import annotations

from enum import StrEnum, unique


@unique
class Unit(StrEnum):
    """Units of account, in the order the protocol lists them (`expected_units` uses it)."""

    USD_MICROCENTS = "USD_MICROCENTS"  # 10**-8 USD
    TOKENS = "TOKENS"
    CREDITS = "CREDITS"
    RISK_POINTS = "RISK_POINTS"


@unique
class Decision(StrEnum):
    """What an evaluation answers: go ahead, go ahead within caps, or no."""

    ALLOW = "ALLOW"
    ALLOW_WITH_CAPS = "ALLOW_WITH_CAPS"
    DENY = "DENY"


@unique
class OveragePolicy(StrEnum):
    """What happens when the actual cost exceeds the estimate."""

    REJECT = "REJECT"
    ALLOW_IF_AVAILABLE = "ALLOW_IF_AVAILABLE"
    ALLOW_WITH_OVERDRAFT = "ALLOW_WITH_OVERDRAFT"


@unique
class ReservationStatus(StrEnum):
    """Life of a reservation; everything but ACTIVE is final."""

    ACTIVE = "ACTIVE"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


@unique
class BudgetStatus(StrEnum):
    """Life of a budget; CLOSED is final."""

    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"


@unique
class TenantStatus(StrEnum):
    """Life of a tenant; CLOSED is final."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    CLOSED = "CLOSED"


@unique
class KeyStatus(StrEnum):
    """Life of an API key; everything but ACTIVE is final."""

    ACTIVE = "ACTIVE"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"


@unique
class PolicyStatus(StrEnum):
    """Whether a policy is looked at."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


@unique
class MeterKind(StrEnum):
    """What a policy's rate limits count."""

    RESERVE = "reserve"
    COMMIT = "commit"


@unique
class ExpiryPolicy(StrEnum):
    """What the sweep does with a reservation whose lease and grace are over."""

    AUTO_RELEASE = "AUTO_RELEASE"
    MANUAL_CLEANUP = "MANUAL_CLEANUP"
    GRACE_ONLY = "GRACE_ONLY"


@unique
class RolloverPolicy(StrEnum):
    """What a budget carries into its next period."""

    NONE = "NONE"
    CARRY_FORWARD = "CARRY_FORWARD"
    CAP_AT_ALLOCATED = "CAP_AT_ALLOCATED"


@unique
class Every(StrEnum):
    """How the periods of a budget follow one another; weeks begin on Monday."""

    ROLLING = "ROLLING"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    QUARTER = "QUARTER"
    YEAR = "YEAR"
    NEVER = "NEVER"


@unique
class FundOperation(StrEnum):
    """Operator changes to one budget."""

    CREDIT = "CREDIT"
    DEBIT = "DEBIT"
    RESET = "RESET"
    REPAY_DEBT = "REPAY_DEBT"
    RESET_SPENT = "RESET_SPENT"


@unique
class TenantAction(StrEnum):
    """What a bulk action does to tenants; for budgets it is a `FundOperation`."""

    SUSPEND = "SUSPEND"
    REACTIVATE = "REACTIVATE"
    CLOSE = "CLOSE"


@unique
class RowError(StrEnum):
    """Why one row of a bulk action failed; wider and coarser than `ErrorCode`."""

    INVALID_TRANSITION = "INVALID_TRANSITION"
    NOT_FOUND = "NOT_FOUND"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    TENANT_CLOSED = "TENANT_CLOSED"
    INTERNAL_ERROR = "INTERNAL_ERROR"


@unique
class SkipReason(StrEnum):
    """Why there was nothing to do for one row of a bulk action."""

    ALREADY_IN_TARGET_STATE = "ALREADY_IN_TARGET_STATE"


@unique
class ActorType(StrEnum):
    """Who asked for a change."""

    ADMIN = "admin"
    API_KEY = "api_key"
    ADMIN_ON_BEHALF_OF = "admin_on_behalf_of"
    SYSTEM = "system"


@unique
class ErrorCode(StrEnum):
    """Every refusal this server can give, runtime codes first, then the admin plane's.

    Status, meaning and retry advice of each are in `wire.problems`.
    """

    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    BUDGET_FROZEN = "BUDGET_FROZEN"
    BUDGET_CLOSED = "BUDGET_CLOSED"
    RESERVATION_EXPIRED = "RESERVATION_EXPIRED"
    RESERVATION_FINALIZED = "RESERVATION_FINALIZED"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    UNIT_MISMATCH = "UNIT_MISMATCH"
    OVERDRAFT_LIMIT_EXCEEDED = "OVERDRAFT_LIMIT_EXCEEDED"
    DEBT_OUTSTANDING = "DEBT_OUTSTANDING"
    MAX_EXTENSIONS_EXCEEDED = "MAX_EXTENSIONS_EXCEEDED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    TENANT_CLOSED = "TENANT_CLOSED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    INSUFFICIENT_PERMISSIONS = "INSUFFICIENT_PERMISSIONS"
    TENANT_NOT_FOUND = "TENANT_NOT_FOUND"
    BUDGET_NOT_FOUND = "BUDGET_NOT_FOUND"
    DUPLICATE_RESOURCE = "DUPLICATE_RESOURCE"
    KEY_REVOKED = "KEY_REVOKED"
    KEY_EXPIRED = "KEY_EXPIRED"
    COUNT_MISMATCH = "COUNT_MISMATCH"


@unique
class ScopeKind(StrEnum):
    """Levels of the budget hierarchy, outermost first."""

    TENANT = "tenant"
    WORKSPACE = "workspace"
    APP = "app"
    WORKFLOW = "workflow"
    AGENT = "agent"
    TOOLSET = "toolset"


SCOPE_KINDS: tuple[str, ...] = tuple(kind.value for kind in ScopeKind)


@unique
class Permission(StrEnum):
    """What an API key may do (governance spec, 27 values)."""

    RESERVATIONS_CREATE = "reservations:create"
    RESERVATIONS_COMMIT = "reservations:commit"
    RESERVATIONS_RELEASE = "reservations:release"
    RESERVATIONS_EXTEND = "reservations:extend"
    RESERVATIONS_LIST = "reservations:list"
    BALANCES_READ = "balances:read"
    BUDGETS_READ = "budgets:read"
    BUDGETS_WRITE = "budgets:write"
    POLICIES_READ = "policies:read"
    POLICIES_WRITE = "policies:write"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    EVENTS_READ = "events:read"
    ADMIN_READ = "admin:read"
    ADMIN_WRITE = "admin:write"
    ADMIN_TENANTS_READ = "admin:tenants:read"
    ADMIN_TENANTS_WRITE = "admin:tenants:write"
    ADMIN_BUDGETS_READ = "admin:budgets:read"
    ADMIN_BUDGETS_WRITE = "admin:budgets:write"
    ADMIN_POLICIES_READ = "admin:policies:read"
    ADMIN_POLICIES_WRITE = "admin:policies:write"
    ADMIN_APIKEYS_READ = "admin:apikeys:read"
    ADMIN_APIKEYS_WRITE = "admin:apikeys:write"
    ADMIN_WEBHOOKS_READ = "admin:webhooks:read"
    ADMIN_WEBHOOKS_WRITE = "admin:webhooks:write"
    ADMIN_EVENTS_READ = "admin:events:read"
    ADMIN_AUDIT_READ = "admin:audit:read"


DEFAULT_PERMISSIONS: tuple[Permission, ...] = (
    Permission.RESERVATIONS_CREATE,
    Permission.RESERVATIONS_COMMIT,
    Permission.RESERVATIONS_RELEASE,
    Permission.RESERVATIONS_EXTEND,
    Permission.RESERVATIONS_LIST,
    Permission.BALANCES_READ,
    Permission.BUDGETS_READ,
    Permission.BUDGETS_WRITE,
    Permission.POLICIES_READ,
    Permission.POLICIES_WRITE,
)


# Limits of the protocol that more than one floor has to name.
AMOUNT_MAX = 2**63 - 1
TTL_MS_MIN, TTL_MS_MAX, TTL_MS_DEFAULT = 1_000, 86_400_000, 60_000
TTL_MS_CAP_DEFAULT = 3_600_000
GRACE_MS_MAX, GRACE_MS_DEFAULT = 60_000, 5_000
EXTENSIONS_MAX_DEFAULT = 10
POLICIES_ACTIVE_MAX = 200
BULK_ROWS_MAX = 500

OPERATOR_LOG = "__admin__"
"""Whose log holds what the operator did to no one tenant; no tenant id has an underscore."""

PERIOD_MS_MIN = 1_000
