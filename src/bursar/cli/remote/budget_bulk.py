"""`bursar budget bulk`: one funding operation on every budget that the filters match.

The rule that lives here: the unit of the amount selects, too. Dollars go to budgets in
dollars, and a budget in tokens is left alone, not failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cyclopts import App, Parameter

from bursar.cli.remote import amounts, bulk
from bursar.cli.remote.options import HERE, Flag, Reason, Remote
from bursar.cli.remote.show import amount as shown
from bursar.cli.remote.usage import COLUMNS
from bursar.cli.remote.usage import scope as whole_scope
from bursar.vocabulary import BudgetStatus, FundOperation, Unit

Json = dict[str, Any]

ABOUT = """Fund every budget of a tenant that the filters match, at most 500 at once.

Only budgets in the amount's unit are meant. First it shows which they are and asks; what is sent
names their number, so that nothing is changed if others match by then. Each budget succeeds, fails
or is skipped by itself; if some failed it ends with 1. These commands need the admin key.

Example: bursar budget bulk credit 5USD --tenant acme --used-from 0.9
"""

app = App(name="bulk", help=ABOUT)

_WARNINGS: Final = {
    FundOperation.CREDIT: "This raises each of {count} by {amount}.",
    FundOperation.DEBIT: "This lowers each of {count} by {amount}.",
    FundOperation.RESET: "This sets each of {count} to {amount}; what is spent and held stays.",
    FundOperation.RESET_SPENT: "This sets each of {count} to {amount}, and what it has spent to "
    "{spent}.",
    FundOperation.REPAY_DEBT: "This pays {amount} into each of {count}, to its debt first.",
}


@Parameter(name="*", group=bulk.FILTERS)
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which budgets."""

    tenant: str
    """Whose; a bulk action stays within one tenant."""
    scope: str | None = None
    """Only those whose scope begins like this."""
    status: BudgetStatus | None = None
    """Only those with this status."""
    over_limit: Flag = False
    """Only those over their limit, which stop new reservations."""
    in_debt: Flag = False
    """Only those that owe something."""
    used_from: float | None = None
    """Only those that have spent at least so much of what they have, from 0 to 1."""
    used_to: float | None = None
    """Only those that have spent at most so much of it, from 0 to 1."""
    search: str | None = None
    """Only those with this text in tenant or scope."""

    def fields(self, unit: Unit) -> Json:
        """Return the filters by the names that the list and the action share."""
        return amounts.present(
            tenant_id=self.tenant,
            unit=unit,
            scope_prefix=self.scope or None,
            status=self.status,
            over_limit=self.over_limit or None,
            has_debt=self.in_debt or None,
            utilization_min=amounts.fraction("--used-from", self.used_from),
            utilization_max=amounts.fraction("--used-to", self.used_to),
            search=self.search or None,
        )


@app.command
def credit(
    amount: str,
    /,
    *,
    filters: Filters,
    reason: Reason = None,
    once: bulk.Once = bulk.ASKED,
    remote: Remote = HERE,
) -> int:
    """Raise every budget that matches by an amount.

    Example: bursar budget bulk credit 5USD --tenant acme --used-from 0.9 --reason "month end"

    Parameters
    ----------
    amount
        By how much each, such as 5USD; only budgets in its unit are meant.
    """
    return _perform(remote, FundOperation.CREDIT, amount, filters, reason, once)


@app.command
def debit(
    amount: str,
    /,
    *,
    filters: Filters,
    reason: Reason = None,
    once: bulk.Once = bulk.ASKED,
    remote: Remote = HERE,
) -> int:
    """Lower every budget that matches by an amount; one with less remaining fails.

    Example: bursar budget bulk debit 1USD --tenant acme --scope tenant:acme/workspace:lab

    Parameters
    ----------
    amount
        By how much each; only budgets in its unit are meant.
    """
    return _perform(remote, FundOperation.DEBIT, amount, filters, reason, once)


@app.command
def reset(
    amount: str,
    /,
    *,
    filters: Filters,
    reason: Reason = None,
    once: bulk.Once = bulk.ASKED,
    remote: Remote = HERE,
) -> int:
    """Set every budget that matches to an amount; what is spent and held stays.

    Example: bursar budget bulk reset 10USD --tenant acme --search agent:

    Parameters
    ----------
    amount
        To how much each; only budgets in its unit are meant.
    """
    return _perform(remote, FundOperation.RESET, amount, filters, reason, once)


@app.command
def reset_spent(
    amount: str,
    /,
    *,
    filters: Filters,
    spent: str | None = None,
    reason: Reason = None,
    once: bulk.Once = bulk.ASKED,
    remote: Remote = HERE,
) -> int:
    """Begin a period for every budget that matches: a new amount, and nothing spent.

    Example: bursar budget bulk reset-spent 10USD --tenant acme --reason December

    Parameters
    ----------
    amount
        To how much each; only budgets in its unit are meant.
    spent
        What counts as spent already; by default nothing.
    """
    operation = FundOperation.RESET_SPENT
    return _perform(remote, operation, amount, filters, reason, once, spent=spent)


@app.command
def repay(
    amount: str,
    /,
    *,
    filters: Filters,
    reason: Reason = None,
    once: bulk.Once = bulk.ASKED,
    remote: Remote = HERE,
) -> int:
    """Pay the debt of every budget that matches; one without a debt is skipped.

    What is more than a debt raises its budget.

    Example: bursar budget bulk repay 0.50USD --tenant acme --in-debt

    Parameters
    ----------
    amount
        How much to each; only budgets in its unit are meant.
    """
    return _perform(remote, FundOperation.REPAY_DEBT, amount, filters, reason, once)


def _perform(
    remote: Remote,
    operation: FundOperation,
    written: str,
    filters: Filters,
    reason: str | None,
    once: bulk.Once,
    *,
    spent: str | None = None,
) -> int:
    value = amounts.read("AMOUNT", written)
    unit = Unit(value["unit"])
    counted = amounts.maybe("--spent", spent, unit)
    chosen = filters.fields(unit)
    warning = _WARNINGS[operation].format(
        count="{count}", amount=shown(value), spent=shown(counted) or "nothing"
    )
    asked = bulk.Bulk(
        noun="budget",
        action=operation,
        path="/v1/admin/budgets",
        rows="ledgers",
        row_id="ledger_id",
        name=whole_scope,
        query={"sort_by": "scope", "sort_dir": "asc", **chosen},
        body=amounts.present(filter=chosen, amount=value, spent=counted, reason=reason),
        warning=warning,
        columns=COLUMNS,
    )
    return bulk.perform(remote, asked, once)
