"""What operations of the admin plane have in common: who may, whose it is, which budget.

The rule that lives here: an operator names the tenant it acts for and a tenant acts for
itself alone.
"""

from __future__ import annotations

from bursar.authority.authority import require_permission
from bursar.authority.call import Call, refuse
from bursar.authority.paging import Query
from bursar.core import scopes
from bursar.vocabulary import ErrorCode, Permission, Unit
from bursar.wire.codec import canonical


def may(call: Call, permission: Permission) -> None:
    """Refuse a caller that does not hold `permission`, in the admin plane's words."""
    require_permission(call.principal, permission, ErrorCode.INSUFFICIENT_PERMISSIONS)


def owner(call: Call, named: str | None) -> str:
    """Return the tenant of a new object: the operator must name it, a tenant must not."""
    if call.principal.tenant is None:
        if named is None:
            raise refuse(
                ErrorCode.INVALID_REQUEST,
                "tenant_id: is required when using admin key authentication",
            )
        return named
    if named is not None:
        raise refuse(
            ErrorCode.INVALID_REQUEST,
            "tenant_id: must be left out; it follows from the API key",
        )
    return call.principal.tenant


def scope_of(scope: str, tenant: str) -> str:
    """Return a budget's scope as it is stored; one that is not the tenant's is refused."""
    problem = scopes.problem(scope, tenant)
    if problem is not None:
        raise refuse(ErrorCode.INVALID_REQUEST, f"scope: {problem}")
    return scope.lower()


def budget_named(call: Call) -> tuple[str, str, Unit]:
    """Return tenant, scope and unit of the budget that the query names.

    Raises:
        Refusal: scope or unit is missing or malformed, or the scope is another tenant's.
    """
    query = Query(call.query)
    scope, unit = query.text("scope"), query.choice("unit", Unit)
    if scope is None or unit is None:
        missing = "scope" if scope is None else "unit"
        raise refuse(ErrorCode.INVALID_REQUEST, f"{missing}: query parameter is required")
    if call.principal.tenant is not None:
        tenant = call.principal.tenant
        if scope.lower().split("/")[0] != f"tenant:{tenant}":
            raise refuse(
                ErrorCode.FORBIDDEN, f"scope: {scope[:200]!r} is not under tenant:{tenant}"
            )
    else:
        tenant = query.text("tenant_id") or scope.lower().split("/")[0].removeprefix("tenant:")
    return tenant, scope_of(scope, tenant), unit


def maybe_json(value: object | None) -> str | None:
    """Return the canonical text of a JSON value that may be absent."""
    return None if value is None else canonical(value).decode()
