"""Fund: an operator changes a budget's ceiling, spend or debt (protocol 3.8).

The ladder, first refusal wins; replay comes before all of it:

| # | guard                             | refusal                        |
|---|-----------------------------------|--------------------------------|
| 1 | tenant readable, not closed       | INTERNAL_ERROR, TENANT_CLOSED  |
| 2 | budget known                      | BUDGET_NOT_FOUND               |
| 3 | units of amounts = budget's unit  | UNIT_MISMATCH                  |
| 4 | not closed, not frozen            | BUDGET_CLOSED, BUDGET_FROZEN   |
| 5 | DEBIT: amount <= remaining        | BUDGET_EXCEEDED                |
| 6 | the result fits int64             | INVALID_REQUEST                |

| operation     | allocated            | spent | debt         |
|---------------|----------------------|-------|--------------|
| CREDIT a      | + a                  |       |              |
| DEBIT a       | - a                  |       |              |
| RESET a       | = a                  |       |              |
| RESET_SPENT a | = a                  | = s   |              |
| REPAY_DEBT a  | + max(0, a - debt)   |       | - min(a, debt) |

A bulk action skips a budget that would stay as it is, and repays no debt where there is none.
A reset also sets what the budget is given in each period, where it has periods; the other
operations are for the current period alone. `remaining` follows from the identity and may
become negative after a reset. Afterwards `is_over_limit` is `debt > overdraft_limit`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import Fund
from bursar.core.outcomes import Changes, Funded, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget
from bursar.vocabulary import AMOUNT_MAX, ErrorCode, FundOperation

RESETS = (FundOperation.RESET, FundOperation.RESET_SPENT)


@dataclass(frozen=True, slots=True)
class Funding:
    """A funding that will succeed: the budget before and after."""

    before: Budget
    after: Budget


def evaluate(snapshot: Snapshot, command: Fund, now_ms: int) -> Funding | Refused:
    """Decide what the operation makes of the budget."""
    refusal = guards.tenant_closed(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    budget = guards.known_budget(snapshot, command.tenant, command.scope, command.unit)
    if isinstance(budget, Refused):
        return budget
    refusal = guards.counts_in(budget, "amount", command.amount_unit) or guards.counts_in(
        budget, "spent", command.spent_unit
    )
    if refusal is not None:
        return refusal
    refusal = guards.budget_open(budget)
    if refusal is not None:
        return refusal
    if command.operation is FundOperation.DEBIT and budget.remaining < command.amount:
        return Refused(
            ErrorCode.BUDGET_EXCEEDED,
            f"Cannot debit {command.amount} from {budget.scope}: {budget.remaining} "
            f"{budget.unit} remaining",
            scope=budget.scope,
            remaining=budget.remaining,
            fix=f"Debit at most {budget.remaining}."
            if budget.remaining > 0
            else "RESET the budget to a lower ceiling instead.",
        )
    after = _result(budget, command, now_ms)
    if command.skip_done and _done(budget, after, command):
        return Funding(budget, budget)
    return _too_large(after) or Funding(budget, after)


def apply(command: Fund, funding: Funding, now_ms: int) -> Changes:
    """Save the budget as the operation leaves it; one that was skipped needs no entry."""
    del now_ms
    if funding.after is funding.before:
        return Changes(Funded(command.operation, funding.before, funding.after), recorded=False)
    return Changes(
        Funded(command.operation, funding.before, funding.after), budgets=(funding.after,)
    )


def _result(budget: Budget, command: Fund, now_ms: int) -> Budget:
    amount, allocated, spent, debt = command.amount, budget.allocated, budget.spent, budget.debt
    renewal = budget.renewal
    match command.operation:
        case FundOperation.CREDIT:
            allocated += amount
        case FundOperation.DEBIT:
            allocated -= amount
        case FundOperation.RESET:
            allocated = amount
        case FundOperation.RESET_SPENT:
            allocated, spent = amount, command.spent or 0
        case FundOperation.REPAY_DEBT:
            allocated += max(0, amount - debt)
            debt -= min(amount, debt)
    if renewal is not None and command.operation in RESETS:
        renewal = replace(renewal, allocation=amount)
    return replace(
        budget,
        allocated=allocated,
        remaining=allocated - spent - budget.reserved - debt,
        spent=spent,
        debt=debt,
        is_over_limit=debt > budget.overdraft_limit,
        updated_at_ms=now_ms,
        renewal=renewal,
    )


def _done(before: Budget, after: Budget, command: Fund) -> bool:
    """Return whether nothing is left to do: the same amounts, or no debt to repay."""
    if command.operation is FundOperation.REPAY_DEBT and before.debt == 0:
        return True
    return replace(after, updated_at_ms=before.updated_at_ms) == before


def _too_large(budget: Budget) -> Refused | None:
    committed = budget.spent + budget.reserved + budget.debt
    if budget.allocated <= AMOUNT_MAX and committed <= AMOUNT_MAX:
        return None
    return Refused(
        ErrorCode.INVALID_REQUEST,
        f"amount: the budget would exceed {AMOUNT_MAX} (allocated {budget.allocated}, spent + "
        f"reserved + debt {committed}); send a smaller amount",
    )
