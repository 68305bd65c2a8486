"""Every route of the server, once: method, path, operation, and who may call it.

The rule that lives here: a path is written nowhere else. `operation_id` is the published
specification's. `reads` marks operations that only read, and may take long; they run on a
worker thread so that a slow page never delays a reservation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bursar.authority import (
    budgets,
    bulk,
    keys,
    listing,
    overview,
    periods,
    policies,
    runtime,
    tenants,
    trail,
)
from bursar.authority.authority import Authority
from bursar.authority.call import Answer, Call
from bursar.server.auth import Access

Operation = Callable[[Authority, Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One operation at one method and path."""

    method: str
    path: str
    operation_id: str
    operation: Operation
    access: Access
    reads: bool = False
    forgets_keys: bool = False


_RESERVATION = "/v1/reservations/{reservation_id}"

ROUTES: tuple[ApiRoute, ...] = (
    # The runtime plane; of the paths with an id, those that agents wait for come first.
    ApiRoute("POST", "/v1/reservations", "createReservation", runtime.reserve, Access.TENANT),
    ApiRoute(
        "GET",
        "/v1/reservations",
        "listReservations",
        listing.list_reservations,
        Access.EITHER,
        reads=True,
    ),
    ApiRoute("POST", f"{_RESERVATION}/commit", "commitReservation", runtime.commit, Access.TENANT),
    ApiRoute(
        "POST", f"{_RESERVATION}/release", "releaseReservation", runtime.release, Access.EITHER
    ),
    ApiRoute("POST", f"{_RESERVATION}/extend", "extendReservation", runtime.extend, Access.TENANT),
    ApiRoute("POST", "/v1/decide", "decide", runtime.decide, Access.TENANT),
    ApiRoute("POST", "/v1/events", "createEvent", runtime.debit, Access.TENANT),
    ApiRoute("GET", "/v1/balances", "getBalances", listing.get_balances, Access.TENANT, reads=True),
    ApiRoute("GET", _RESERVATION, "getReservation", listing.get_reservation, Access.EITHER),
    # Provisioning on the admin plane.
    ApiRoute("POST", "/v1/admin/tenants", "createTenant", tenants.create_tenant, Access.OPERATOR),
    ApiRoute(
        "GET",
        "/v1/admin/tenants",
        "listTenants",
        tenants.list_tenants,
        Access.OPERATOR,
        reads=True,
    ),
    ApiRoute(
        "POST",
        "/v1/admin/tenants/bulk-action",
        "bulkActionTenants",
        bulk.bulk_tenants,
        Access.OPERATOR,
        forgets_keys=True,
    ),
    ApiRoute(
        "GET", "/v1/admin/tenants/{tenant_id}", "getTenant", tenants.get_tenant, Access.OPERATOR
    ),
    ApiRoute(
        "PATCH",
        "/v1/admin/tenants/{tenant_id}",
        "updateTenant",
        tenants.update_tenant,
        Access.OPERATOR,
        forgets_keys=True,
    ),
    ApiRoute("POST", "/v1/admin/api-keys", "createApiKey", keys.create_key, Access.OPERATOR),
    ApiRoute(
        "GET", "/v1/admin/api-keys", "listApiKeys", keys.list_keys, Access.OPERATOR, reads=True
    ),
    ApiRoute(
        "PATCH",
        "/v1/admin/api-keys/{key_id}",
        "updateApiKey",
        keys.update_key,
        Access.OPERATOR,
        forgets_keys=True,
    ),
    ApiRoute(
        "DELETE",
        "/v1/admin/api-keys/{key_id}",
        "revokeApiKey",
        keys.revoke_key,
        Access.OPERATOR,
        forgets_keys=True,
    ),
    ApiRoute("POST", "/v1/admin/budgets", "createBudget", budgets.create_budget, Access.EITHER),
    ApiRoute(
        "GET", "/v1/admin/budgets", "listBudgets", budgets.list_budgets, Access.EITHER, reads=True
    ),
    ApiRoute("PATCH", "/v1/admin/budgets", "updateBudget", budgets.update_budget, Access.OPERATOR),
    ApiRoute(
        "GET",
        "/v1/admin/budgets/lookup",
        "lookupBudget",
        budgets.lookup_budget,
        Access.EITHER,
        reads=True,
    ),
    ApiRoute(
        "GET",
        "/v1/admin/budgets/period",
        "getBudgetPeriod",
        periods.get_period,
        Access.EITHER,
        reads=True,
    ),
    ApiRoute(
        "POST",
        "/v1/admin/budgets/bulk-action",
        "bulkActionBudgets",
        bulk.bulk_budgets,
        Access.OPERATOR,
    ),
    ApiRoute("POST", "/v1/admin/budgets/fund", "fundBudget", budgets.fund_budget, Access.EITHER),
    ApiRoute(
        "POST", "/v1/admin/budgets/freeze", "freezeBudget", budgets.freeze_budget, Access.OPERATOR
    ),
    ApiRoute(
        "POST",
        "/v1/admin/budgets/unfreeze",
        "unfreezeBudget",
        budgets.unfreeze_budget,
        Access.OPERATOR,
    ),
    ApiRoute("POST", "/v1/admin/policies", "createPolicy", policies.create_policy, Access.EITHER),
    ApiRoute(
        "GET",
        "/v1/admin/policies",
        "listPolicies",
        policies.list_policies,
        Access.EITHER,
        reads=True,
    ),
    ApiRoute(
        "PATCH",
        "/v1/admin/policies/{policy_id}",
        "updatePolicy",
        policies.update_policy,
        Access.EITHER,
    ),
    ApiRoute(
        "POST", "/v1/auth/validate", "validateApiKey", keys.validate, Access.OPERATOR, reads=True
    ),
    ApiRoute(
        "GET",
        "/v1/admin/audit/logs",
        "listAuditLogs",
        trail.list_lines,
        Access.OPERATOR,
        reads=True,
    ),
    ApiRoute(
        "GET", "/v1/admin/overview", "getAdminOverview", overview.show, Access.OPERATOR, reads=True
    ),
    ApiRoute("GET", "/v1/auth/introspect", "introspectAuth", keys.introspect, Access.EITHER),
)
