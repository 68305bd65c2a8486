"""`bursar balances`: where every budget stands, outer scopes first.

The rule that lives here: the operator looks across tenants, a tenant at its own; both see
the same table.
"""

from __future__ import annotations

from bursar.cli.exits import EXIT_CREDENTIAL, CommandError
from bursar.cli.remote import amounts
from bursar.cli.remote.caller import As
from bursar.cli.remote.options import HERE, Remote
from bursar.cli.remote.show import text_of
from bursar.cli.remote.usage import COLUMNS
from bursar.cli.remote.usage import scope as whole_scope


def balances(
    *,
    tenant: str | None = None,
    scope: str | None = None,
    unit: str | None = None,
    limit: int = 1_000,
    remote: Remote = HERE,
) -> None:
    """Show what is allocated, left, spent, held and owed at every scope.

    Remaining is what can still be reserved. What is reserved is held for actions under way; a
    budget in debt must be repaid before it allows more.

    Example: bursar balances --tenant acme --unit USD

    Parameters
    ----------
    tenant
        Only this tenant's; a tenant's key sees its own in any case.
    scope
        Only scopes that begin like this, such as tenant:acme/workspace:research.
    unit
        Only budgets that count in this unit.
    limit
        Show at most so many.
    """
    at_most = amounts.positive("--limit", limit)
    query = {"unit": amounts.read_unit("--unit", unit), "scope_prefix": scope}
    with remote.connected() as caller:
        if caller.is_operator():
            query |= {"tenant_id": tenant, "sort_by": "scope", "sort_dir": "asc"}
            found = caller.pages(
                "/v1/admin/budgets", query, "ledgers", at_most=at_most, page_max=100
            )
        else:
            own = str(caller.get("/v1/auth/introspect", who=As.TENANT).get("tenant_id"))
            if tenant not in (None, own):
                raise CommandError(
                    EXIT_CREDENTIAL, f"the API key is {own}'s and does not see {tenant}"
                )
            query["scope_prefix"] = scope or f"tenant:{own}"
            found = caller.pages(
                "/v1/balances", query, "balances", at_most=at_most, page_max=100, who=As.TENANT
            )
    rows = sorted(found.rows, key=lambda row: (whole_scope(row), text_of(row, "unit")))
    document = {"balances": rows, "has_more": found.more}
    none = "no budget; create one with: bursar budget create SCOPE AMOUNT"
    remote.show.listing(document, rows, COLUMNS, none)
