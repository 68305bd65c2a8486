"""`bursar budget`: how much may be spent at a scope, and changes to it.

The rule that lives here: a budget is named by its scope; its unit is asked for only where
the scope has several. What moves amounts is in `funding`.
"""

from __future__ import annotations

from typing import Any

from cyclopts import App

from bursar.cli.exits import EXIT_NOT_FOUND, CommandError
from bursar.cli.remote import amounts, budget_bulk, funding
from bursar.cli.remote.caller import As, Caller
from bursar.cli.remote.options import HERE, Flag, Reason, Remote
from bursar.cli.remote.renewal import SAME, Renewal, told
from bursar.cli.remote.show import Facts, amount, status, text_of
from bursar.cli.remote.usage import COLUMNS, bar
from bursar.vocabulary import BudgetStatus, OveragePolicy, Unit

Json = dict[str, Any]
PATH = "/v1/admin/budgets"

ABOUT = """A budget is what may be spent at a scope, in one unit.

A subject is charged in every budget along its path: an agent in its own, its workspace's and its
tenant's. Put the outer limits on outer scopes. A scope may have one budget in each of
USD_MICROCENTS, TOKENS, CREDITS and RISK_POINTS; they never mix.

Example: bursar budget create tenant:acme/workspace:research 25USD
"""

app = App(name="budget", help=ABOUT)
for _verb in (funding.fund, funding.debit, funding.reset, funding.reset_spent, funding.repay):
    app.command(_verb)
app.command(budget_bulk.app)


@app.command
def create(
    scope: str,
    allocated: str,
    /,
    *,
    overdraft: str | None = None,
    overage: OveragePolicy | None = None,
    renewal: Renewal = SAME,
    remote: Remote = HERE,
) -> None:
    """Create a budget; the unit of the amount is the budget's for good.

    Example: bursar budget create tenant:acme/agent:reader 1.5Mtokens

    Example: bursar budget create tenant:acme 20USD --every MONTH --time-zone Europe/Berlin

    Parameters
    ----------
    scope
        Where, such as tenant:acme/workspace:research/agent:reader.
    allocated
        How much may be spent, such as 20USD or 300credits.
    overdraft
        How much debt it may take on, in the same unit.
    overage
        What happens to a cost above its estimate; beats the tenant's.
    renewal
        How it renews itself.
    """
    tenant = amounts.tenant_of(scope)
    value = amounts.read("ALLOCATED", allocated)
    unit = Unit(value["unit"])
    body = amounts.present(
        scope=scope,
        unit=unit,
        allocated=value,
        overdraft_limit=amounts.maybe("--overdraft", overdraft, unit),
        commit_overage_policy=overage,
        **renewal.body(),
    )
    with remote.connected() as caller:
        # A tenant must not name itself; the operator must name the tenant.
        body |= {"tenant_id": tenant} if caller.is_operator() else {}
        row = caller.call("POST", PATH, body=body, look=f"bursar budget show {scope}")
    _result(remote, row, f"budget {scope} exists")


@app.command(name="list")
def list_(
    *,
    tenant: str | None = None,
    scope: str | None = None,
    unit: str | None = None,
    status: BudgetStatus | None = None,
    over_limit: Flag = False,
    in_debt: Flag = False,
    used_from: float | None = None,
    used_to: float | None = None,
    search: str | None = None,
    limit: int = 1_000,
    remote: Remote = HERE,
) -> None:
    """List budgets, the most used first.

    Example: bursar budget list --tenant acme --used-from 0.9

    Parameters
    ----------
    tenant
        Only this tenant's.
    scope
        Only those whose scope begins like this.
    unit
        Only those that count in this unit.
    status
        Only those with this status.
    over_limit
        Only those over their limit, which stop new reservations.
    in_debt
        Only those that owe something.
    used_from
        Only those that have spent at least so much of what they have, from 0 to 1.
    used_to
        Only those that have spent at most so much of it, from 0 to 1.
    search
        Only those with this text in tenant or scope.
    limit
        Show at most so many.
    """
    query = {
        "tenant_id": tenant,
        "scope_prefix": scope,
        "unit": amounts.read_unit("--unit", unit),
        "status": status,
        "over_limit": over_limit or None,
        "has_debt": in_debt or None,
        "utilization_min": amounts.fraction("--used-from", used_from),
        "utilization_max": amounts.fraction("--used-to", used_to),
        "search": search,
    }
    at_most = amounts.positive("--limit", limit)
    with remote.connected() as caller:
        found = caller.pages(PATH, query, "ledgers", at_most=at_most, page_max=100)
    document = {"ledgers": found.rows, "has_more": found.more}
    none = "no budget; create one with: bursar budget create SCOPE AMOUNT"
    remote.show.listing(document, found.rows, COLUMNS, none)


@app.command
def show(scope: str, /, *, unit: str | None = None, remote: Remote = HERE) -> None:
    """Show one budget with its whole state.

    Example: bursar budget show tenant:acme/agent:reader

    Parameters
    ----------
    scope
        Its scope.
    unit
        Its unit; needed where the scope has several budgets.
    """
    with remote.connected() as caller:
        where = _where(caller, scope, unit)
        row = caller.get(f"{PATH}/lookup", where)
        plan = None if remote.as_json else caller.get(f"{PATH}/period", where)
    _result(remote, row, f"budget {scope}", plan)


@app.command
def update(
    scope: str,
    /,
    *,
    unit: str | None = None,
    overdraft: str | None = None,
    overage: OveragePolicy | None = None,
    renewal: Renewal = SAME,
    remote: Remote = HERE,
) -> None:
    """Change what a budget allows and when it renews itself; needs the admin key.

    Example: bursar budget update tenant:acme --overdraft 0.50USD

    Parameters
    ----------
    scope
        Its scope.
    unit
        Its unit; needed where the scope has several budgets.
    overdraft
        How much debt it may take on; below what it owes puts it over its limit.
    overage
        What happens to a cost above its estimate.
    renewal
        How it renews itself; no amount changes with it.
    """
    limit = amounts.maybe("--overdraft", overdraft, amounts.read_unit("--unit", unit))
    body = amounts.present(overdraft_limit=limit, commit_overage_policy=overage, **renewal.body())
    amounts.changes(body)
    with remote.connected() as caller:
        where = _where(caller, scope, limit["unit"] if limit else unit)
        row = caller.call("PATCH", PATH, where, body, who=As.OPERATOR, repeatable=True)
    _result(remote, row, f"budget {scope} changed")


@app.command
def freeze(
    scope: str,
    /,
    *,
    unit: str | None = None,
    reason: Reason = None,
    remote: Remote = HERE,
) -> None:
    """Stop new spending under a scope at once; what is reserved can still settle.

    Example: bursar budget freeze tenant:acme/agent:reader --reason "looking into a loop"

    Parameters
    ----------
    scope
        Its scope.
    unit
        Its unit; needed where the scope has several budgets.
    """
    row = _turn(remote, "freeze", scope, unit, reason)
    undo = f"bursar budget unfreeze {scope} --unit {row.get('unit')}"
    _result(remote, row, f"budget {scope} is frozen; undo: {undo}")


@app.command
def unfreeze(
    scope: str,
    /,
    *,
    unit: str | None = None,
    reason: Reason = None,
    remote: Remote = HERE,
) -> None:
    """Let a frozen budget be spent again.

    Example: bursar budget unfreeze tenant:acme/agent:reader

    Parameters
    ----------
    scope
        Its scope.
    unit
        Its unit; needed where the scope has several budgets.
    """
    _result(remote, _turn(remote, "unfreeze", scope, unit, reason), f"budget {scope} works again")


def _turn(remote: Remote, verb: str, scope: str, unit: str | None, reason: str | None) -> Json:
    with remote.connected() as caller:
        where = _where(caller, scope, unit)
        return caller.call(
            "POST",
            f"{PATH}/{verb}",
            where,
            amounts.present(reason=reason),
            who=As.OPERATOR,
            look=f"bursar budget show {scope}",
        )


def _where(caller: Caller, scope: str, unit: str | None) -> dict[str, str]:
    """Return the query that names a budget; the unit is looked up where the scope has one.

    Raises:
        CommandError: the scope has no budget, or several and no unit says which.
    """
    tenant, named = amounts.tenant_of(scope), amounts.read_unit("--unit", unit)
    if named is None:
        query = {"tenant_id": tenant, "scope_prefix": scope, "sort_by": "scope", "sort_dir": "asc"}
        page = caller.pages(PATH, query, "ledgers", at_most=len(Unit), page_max=len(Unit))
        units = [row["unit"] for row in page.rows if row.get("scope") == scope.lower()]
        if not units:
            raise CommandError(
                EXIT_NOT_FOUND,
                f"there is no budget at {scope}; `bursar budget list --tenant {tenant}` shows them",
            )
        if len(units) > 1:
            raise amounts.bad(f"{scope} has several budgets; add --unit with {' or '.join(units)}")
        named = amounts.read_unit("--unit", units[0])
    return {"tenant_id": tenant, "scope": scope, "unit": str(named)}


def _result(remote: Remote, row: Json, said: str, plan: Json | None = None) -> None:
    shown = remote.show
    facts: Facts = [
        ("status", status(row)),
        ("allocated", amount(row.get("allocated"))),
        ("remaining", amount(row.get("remaining"))),
        ("spent", amount(row.get("spent"))),
        ("reserved", amount(row.get("reserved"))),
        ("debt", amount(row.get("debt"))),
        ("used", bar(row, ascii_only=shown.console.options.ascii_only)),
        ("overdraft limit", amount(row.get("overdraft_limit"))),
        ("over limit", "yes: new reservations stop" if row.get("is_over_limit") else ""),
        ("overage", text_of(row, "commit_overage_policy")),
        ("renews", told(plan or {})),
        ("period", _period(row)),
        ("created", text_of(row, "created_at")),
        ("changed", text_of(row, "updated_at")),
    ]
    shown.result(row, said, facts)


def _period(row: Json) -> str:
    start, end = text_of(row, "period_start"), text_of(row, "period_end")
    return f"{start or '...'} to {end or '...'}" if start or end else ""
