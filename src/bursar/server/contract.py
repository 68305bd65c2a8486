"""What every operation takes and gives: the facts that a description of the API is made of.

The rule that lives here: a limit or a field is told by its model, and only what no model can
say stands in this table: the sentence, the parameters, the statuses and the refusals. A test
holds it against the routes, the published specification and real answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from bursar.core.trail import AuditSort
from bursar.ledger.ports import BudgetSort, KeySort, ReservationSort, TenantSort
from bursar.vocabulary import (
    SCOPE_KINDS,
    BudgetStatus,
    ErrorCode,
    KeyStatus,
    PolicyStatus,
    ReservationStatus,
    TenantStatus,
    Unit,
)
from bursar.wire import admin, audit, bulk, policies, runtime

E = ErrorCode
Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
HTTP_STATUS: Schema = {"type": "integer", "minimum": 100, "maximum": 599}
SEARCH: Schema = {"type": "string", "maxLength": 128}
SEVERAL: Schema = {"type": "string", "description": "Up to 25 values, separated by commas."}


def one_of(kind: Any) -> Schema:
    """Return the schema of a parameter that names a member of an enum."""
    return {"type": "string", "enum": [member.value for member in kind]}


def paging(most: int, sort: Any = None) -> dict[str, Schema]:
    """Return the parameters of a list."""
    page = {"type": "integer", "minimum": 1, "maximum": most, "default": 50}
    plain: dict[str, Schema] = {"limit": page, "cursor": TEXT}
    if sort is None:
        return plain
    direction = {"type": "string", "enum": ["asc", "desc"]}
    return {"sort_by": one_of(sort), "sort_dir": direction, **plain}


SUBJECT: Mapping[str, Schema] = dict.fromkeys(SCOPE_KINDS, TEXT)
BUDGET: Mapping[str, Schema] = {"scope": TEXT, "unit": one_of(Unit)}
ALWAYS = (E.INVALID_REQUEST, E.UNAUTHORIZED, E.LIMIT_EXCEEDED, E.INTERNAL_ERROR)
OWNED = (E.INSUFFICIENT_PERMISSIONS, E.FORBIDDEN)
DENIED = (
    *(E.NOT_FOUND, E.UNIT_MISMATCH, E.BUDGET_EXCEEDED, E.BUDGET_FROZEN, E.BUDGET_CLOSED),
    *(E.OVERDRAFT_LIMIT_EXCEEDED, E.DEBT_OUTSTANDING, E.TENANT_CLOSED, E.IDEMPOTENCY_MISMATCH),
)
SETTLED = (
    *(E.NOT_FOUND, E.RESERVATION_FINALIZED, E.RESERVATION_EXPIRED, E.IDEMPOTENCY_MISMATCH),
    E.TENANT_CLOSED,
)


@dataclass(frozen=True, slots=True)
class Contract:
    """What one operation takes and gives.

    Attributes:
        says: one sentence, for people.
        gives: the answer's model.
        takes: the body's model, if it has one.
        status: of success.
        again: of success when the very same thing was there already, if that differs.
        query: parameters and their schemas.
        required: names of parameters that must be there.
        refuses: codes beyond those that every operation can give.
        body_optional: whether the body may be left out.
    """

    says: str
    gives: type[BaseModel]
    takes: type[BaseModel] | None = None
    status: int = 200
    again: int | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    refuses: tuple[ErrorCode, ...] = ()
    body_optional: bool = False


_RUNTIME: Mapping[str, Contract] = {
    "createReservation": Contract(
        "Hold an estimate in every budget above the subject, or say why not.",
        runtime.ReservationCreateResponse,
        runtime.ReservationCreateRequest,
        refuses=(E.FORBIDDEN, *DENIED),
    ),
    "listReservations": Contract(
        "List reservations, newest first.",
        runtime.ReservationListResponse,
        query={
            **SUBJECT,
            "idempotency_key": TEXT,
            "status": one_of(ReservationStatus),
            **{
                f"{what}{end}": TIME
                for what in ("", "expires_", "finalized_")
                for end in ("from", "to")
            },
            "include": {
                "type": "string",
                "description": "metadata, committed_metadata; separated by commas.",
            },
            **paging(200, ReservationSort),
        },
        refuses=(E.FORBIDDEN,),
    ),
    "getReservation": Contract(
        "Read one reservation.", runtime.ReservationDetail, refuses=(E.FORBIDDEN, E.NOT_FOUND)
    ),
    "commitReservation": Contract(
        "Account for what a reserved action really cost.",
        runtime.CommitResponse,
        runtime.CommitRequest,
        refuses=(
            *(E.FORBIDDEN, *SETTLED, E.UNIT_MISMATCH, E.BUDGET_EXCEEDED),
            E.OVERDRAFT_LIMIT_EXCEEDED,
        ),
    ),
    "releaseReservation": Contract(
        "Give back what a reservation holds: the action did not happen.",
        runtime.ReleaseResponse,
        runtime.ReleaseRequest,
        refuses=(E.FORBIDDEN, *SETTLED),
    ),
    "extendReservation": Contract(
        "Keep a lease alive beyond its present end.",
        runtime.ReservationExtendResponse,
        runtime.ReservationExtendRequest,
        refuses=(E.FORBIDDEN, *SETTLED, E.MAX_EXTENSIONS_EXCEEDED),
    ),
    "decide": Contract(
        "Ask whether an action would be allowed; nothing is held.",
        runtime.DecisionResponse,
        runtime.DecisionRequest,
        refuses=(E.FORBIDDEN, E.IDEMPOTENCY_MISMATCH, E.UNIT_MISMATCH),
    ),
    "createEvent": Contract(
        "Account for a cost that was never reserved.",
        runtime.EventCreateResponse,
        runtime.EventCreateRequest,
        status=201,
        refuses=(E.FORBIDDEN, *DENIED),
    ),
    "getBalances": Contract(
        "Read what remains, is held and is spent, for every budget that a subject touches.",
        runtime.BalanceResponse,
        query={
            **SUBJECT,
            "include_children": FLAG,
            "scope_prefix": TEXT,
            "unit": one_of(Unit),
            **paging(200),
        },
        refuses=(E.FORBIDDEN,),
    ),
}

_TENANTS: Mapping[str, Contract] = {
    "createTenant": Contract(
        "Create a tenant; the same id with the same name is the same tenant.",
        admin.Tenant,
        admin.TenantCreateRequest,
        status=201,
        again=200,
        refuses=(E.DUPLICATE_RESOURCE,),
    ),
    "listTenants": Contract(
        "List tenants.",
        admin.TenantListResponse,
        query={
            "status": one_of(TenantStatus),
            "parent_tenant_id": TEXT,
            "search": SEARCH,
            **paging(100, TenantSort),
        },
    ),
    "getTenant": Contract("Read one tenant.", admin.Tenant, refuses=(E.TENANT_NOT_FOUND,)),
    "updateTenant": Contract(
        "Change a tenant, suspend it, reactivate it, or close it with everything it owns.",
        admin.Tenant,
        admin.TenantUpdateRequest,
        refuses=(E.TENANT_NOT_FOUND,),
    ),
    "bulkActionTenants": Contract(
        "Suspend, reactivate or close every tenant that a filter matches.",
        bulk.TenantBulkActionResponse,
        bulk.TenantBulkActionRequest,
        refuses=(E.COUNT_MISMATCH, E.IDEMPOTENCY_MISMATCH),
    ),
}

_BUDGETS: Mapping[str, Contract] = {
    "createBudget": Contract(
        "Create a budget on a scope and a unit.",
        admin.BudgetLedger,
        admin.BudgetCreateRequest,
        status=201,
        refuses=(
            *(*OWNED, E.TENANT_NOT_FOUND, E.UNIT_MISMATCH, E.DUPLICATE_RESOURCE),
            E.TENANT_CLOSED,
        ),
    ),
    "listBudgets": Contract(
        "List budgets, the fullest first.",
        admin.BudgetListResponse,
        query={
            "tenant_id": TEXT,
            "scope_prefix": TEXT,
            "unit": one_of(Unit),
            "status": one_of(BudgetStatus),
            "over_limit": FLAG,
            "has_debt": FLAG,
            "utilization_min": SHARE,
            "utilization_max": SHARE,
            "search": SEARCH,
            **paging(100, BudgetSort),
        },
        refuses=OWNED,
    ),
    "lookupBudget": Contract(
        "Read one budget.",
        admin.BudgetLedger,
        query=BUDGET,
        required=("scope", "unit"),
        refuses=(*OWNED, E.BUDGET_NOT_FOUND),
    ),
    "getBudgetPeriod": Contract(
        "Read how a budget renews itself, and its current period; Bursar's own.",
        admin.BudgetPeriodResponse,
        query=BUDGET,
        required=("scope", "unit"),
        refuses=(*OWNED, E.BUDGET_NOT_FOUND),
    ),
    "updateBudget": Contract(
        "Change a budget's overdraft limit, overage policy, periods or metadata.",
        admin.BudgetLedger,
        admin.BudgetUpdateRequest,
        query=BUDGET,
        required=("scope", "unit"),
        refuses=(E.BUDGET_NOT_FOUND, E.UNIT_MISMATCH, E.BUDGET_CLOSED, E.TENANT_CLOSED),
    ),
    "fundBudget": Contract(
        "Credit, debit or reset a budget, or repay its debt.",
        admin.BudgetFundingResponse,
        admin.BudgetFundingRequest,
        query={"tenant_id": TEXT, **BUDGET},
        required=("scope", "unit"),
        refuses=(
            *(*OWNED, E.BUDGET_NOT_FOUND, E.UNIT_MISMATCH, E.BUDGET_FROZEN, E.BUDGET_CLOSED),
            *(E.BUDGET_EXCEEDED, E.IDEMPOTENCY_MISMATCH, E.TENANT_CLOSED),
        ),
    ),
    **{
        f"{verb}Budget": Contract(
            says,
            admin.BudgetLedger,
            admin.BudgetStatusTransitionRequest,
            query=BUDGET,
            required=("scope", "unit"),
            refuses=(E.BUDGET_NOT_FOUND, E.BUDGET_CLOSED, E.TENANT_CLOSED),
            body_optional=True,
        )
        for verb, says in (
            ("freeze", "Stop new spending from a budget; what is held may still settle."),
            ("unfreeze", "Let a frozen budget be spent from again."),
        )
    },
    "bulkActionBudgets": Contract(
        "Fund every budget of a tenant that a filter matches.",
        bulk.BudgetBulkActionResponse,
        bulk.BudgetBulkActionRequest,
        refuses=(E.TENANT_NOT_FOUND, E.COUNT_MISMATCH, E.IDEMPOTENCY_MISMATCH),
    ),
}

_KEYS_AND_POLICIES: Mapping[str, Contract] = {
    "createApiKey": Contract(
        "Create an API key; its secret is in this answer and never again.",
        admin.ApiKeyCreateResponse,
        admin.ApiKeyCreateRequest,
        status=201,
        refuses=(E.TENANT_NOT_FOUND, E.TENANT_CLOSED),
    ),
    "listApiKeys": Contract(
        "List API keys, never their secrets.",
        admin.ApiKeyListResponse,
        query={
            "tenant_id": TEXT,
            "status": one_of(KeyStatus),
            "search": SEARCH,
            **paging(100, KeySort),
        },
    ),
    "updateApiKey": Contract(
        "Change an API key's name, permissions or scope filter.",
        admin.ApiKey,
        admin.ApiKeyUpdateRequest,
        refuses=(E.NOT_FOUND, E.KEY_REVOKED, E.KEY_EXPIRED, E.TENANT_CLOSED),
    ),
    "revokeApiKey": Contract(
        "Revoke an API key for good.",
        admin.ApiKey,
        query={"reason": {"type": "string", "maxLength": 512}},
        refuses=(E.NOT_FOUND, E.KEY_REVOKED, E.TENANT_CLOSED),
    ),
    "validateApiKey": Contract(
        "Say whether a secret is a valid key, and of whom; an invalid one is an answer too.",
        admin.ApiKeyValidationResponse,
        admin.ApiKeyValidationRequest,
    ),
    "introspectAuth": Contract(
        "Say who is asking and what they may do.", admin.AuthIntrospectResponse
    ),
    "createPolicy": Contract(
        "Create a policy: caps, overage, leases and rates for the scopes a pattern matches.",
        policies.Policy,
        policies.PolicyCreateRequest,
        status=201,
        refuses=(*OWNED, E.DUPLICATE_RESOURCE, E.TENANT_NOT_FOUND, E.TENANT_CLOSED),
    ),
    "listPolicies": Contract(
        "List a tenant's policies.",
        policies.PolicyListResponse,
        query={
            "tenant_id": TEXT,
            "scope_pattern": TEXT,
            "status": one_of(PolicyStatus),
            **paging(100),
        },
        refuses=OWNED,
    ),
    "updatePolicy": Contract(
        "Change a policy, disable it or enable it again.",
        policies.Policy,
        policies.PolicyUpdateRequest,
        refuses=(*OWNED, E.NOT_FOUND, E.DUPLICATE_RESOURCE, E.TENANT_CLOSED),
    ),
}

_LOOKING: Mapping[str, Contract] = {
    "listAuditLogs": Contract(
        "List who changed what, and what was refused.",
        audit.AuditLogListResponse,
        query={
            "tenant_id": TEXT,
            "key_id": TEXT,
            "operation": SEVERAL,
            "resource_type": SEVERAL,
            "resource_id": TEXT,
            "error_code": SEVERAL,
            "error_code_exclude": SEVERAL,
            "status": HTTP_STATUS,
            "status_min": HTTP_STATUS,
            "status_max": HTTP_STATUS,
            "from": TIME,
            "to": TIME,
            "trace_id": TEXT,
            "request_id": TEXT,
            "search": SEARCH,
            **paging(100, AuditSort),
        },
    ),
    "getAdminOverview": Contract(
        "Read the state of everything at one moment.", audit.AdminOverviewResponse
    ),
}

GROUPS: Mapping[str, Mapping[str, Contract]] = MappingProxyType(
    {
        "Spending": _RUNTIME,
        "Tenants": _TENANTS,
        "Budgets": _BUDGETS,
        "Keys and policies": _KEYS_AND_POLICIES,
        "Looking": _LOOKING,
    }
)
"""Every operation by what it is about, in the order that people read."""
