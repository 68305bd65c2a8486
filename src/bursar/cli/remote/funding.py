"""`bursar budget fund` and the other verbs that move an amount.

The rule that lives here: whatever moves an amount carries one idempotency key through all
its attempts, and shows it, so that nobody funds twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from cyclopts import Parameter

from bursar.cli.remote import amounts
from bursar.cli.remote.options import HERE, Reason, Remote
from bursar.cli.remote.show import Facts
from bursar.cli.remote.show import amount as shown
from bursar.vocabulary import FundOperation, Unit

Json = dict[str, Any]
PATH = "/v1/admin/budgets/fund"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Once:
    """What the log keeps of an operation, and how it happens once."""

    reason: Reason = None
    idempotency_key: str | None = None
    """Key of an earlier attempt: then it happens once. By default a new one, which is shown."""


ASKED = Once()


def fund(scope: str, amount: str, /, *, once: Once = ASKED, remote: Remote = HERE) -> None:
    """Raise a budget by an amount.

    Example: bursar budget fund tenant:acme 20USD --reason "November top-up"

    Parameters
    ----------
    scope
        Its scope.
    amount
        By how much, such as 20USD.
    """
    _fund(remote, FundOperation.CREDIT, scope, amount, once)


def debit(scope: str, amount: str, /, *, once: Once = ASKED, remote: Remote = HERE) -> None:
    """Lower a budget by an amount, by no more than remains.

    Example: bursar budget debit tenant:acme 5USD --reason "moved to research"

    Parameters
    ----------
    scope
        Its scope.
    amount
        By how much.
    """
    _fund(remote, FundOperation.DEBIT, scope, amount, once)


def reset(scope: str, amount: str, /, *, once: Once = ASKED, remote: Remote = HERE) -> None:
    """Set a budget to an amount; what is spent and held stays, so little may remain.

    Example: bursar budget reset tenant:acme 100USD

    Parameters
    ----------
    scope
        Its scope.
    amount
        To how much.
    """
    _fund(remote, FundOperation.RESET, scope, amount, once)


def reset_spent(
    scope: str,
    amount: str,
    /,
    *,
    spent: str | None = None,
    once: Once = ASKED,
    remote: Remote = HERE,
) -> None:
    """Begin a period: set a budget to an amount, and what it has spent to nothing.

    Example: bursar budget reset-spent tenant:acme 100USD --reason "December"

    Parameters
    ----------
    scope
        Its scope.
    amount
        To how much.
    spent
        What counts as spent already; by default nothing.
    """
    operation = FundOperation.RESET_SPENT
    _fund(remote, operation, scope, amount, once, spent=spent)


def repay(scope: str, amount: str, /, *, once: Once = ASKED, remote: Remote = HERE) -> None:
    """Pay a budget's debt back; what is more than the debt raises the budget.

    Example: bursar budget repay tenant:acme 0.50USD

    Parameters
    ----------
    scope
        Its scope.
    amount
        How much.
    """
    _fund(remote, FundOperation.REPAY_DEBT, scope, amount, once)


def _fund(
    remote: Remote,
    operation: FundOperation,
    scope: str,
    written: str,
    once: Once,
    *,
    spent: str | None = None,
) -> None:
    tenant, key = amounts.tenant_of(scope), once.idempotency_key or f"cli-{uuid4()}"
    value = amounts.read("AMOUNT", written)
    unit = Unit(value["unit"])
    body = amounts.present(
        operation=operation,
        amount=value,
        spent=amounts.maybe("--spent", spent, unit),
        reason=once.reason,
        idempotency_key=key,
    )
    query = {"tenant_id": tenant, "scope": scope, "unit": unit}
    with remote.connected() as caller:
        done = caller.call("POST", PATH, query, body, key=key)
    facts: Facts = [
        *((name, _change(done, name)) for name in ("allocated", "remaining", "spent", "debt")),
        ("idempotency key", key),
    ]
    said = f"{operation.replace('_', ' ').lower()} {shown(value)} at {scope}"
    remote.show.result({"idempotency_key": key} | done, said, facts)


def _change(done: Json, name: str) -> str:
    before, after = shown(done.get(f"previous_{name}")), shown(done.get(f"new_{name}"))
    return after if before == after else f"{before} -> {after}"
