"""Debit: account for a cost that already happened (`POST /v1/events`).

The ladder (protocol 1.4), first refusal wins; replay comes before all of it:

| # | guard                                | refusal                        |
|---|--------------------------------------|--------------------------------|
| 1 | tenant readable, open, not suspended | INTERNAL_ERROR, TENANT_CLOSED, FORBIDDEN |
| 2 | per scope: not frozen, not closed    | BUDGET_FROZEN, BUDGET_CLOSED   |
|   | REJECT: actual <= remaining          | BUDGET_EXCEEDED                |
| 3 | at least one budget in the unit      | UNIT_MISMATCH, NOT_FOUND       |
| 4 | ALLOW_WITH_OVERDRAFT: debt in limit  | OVERDRAFT_LIMIT_EXCEEDED       |

Debt and the over-limit flag block reservations, not debits: the cost is already real.
"""

from __future__ import annotations

from dataclasses import dataclass

from bursar.core import guards, policy, settlement
from bursar.core.commands import Debit
from bursar.core.outcomes import Changes, Debited, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget
from bursar.vocabulary import OveragePolicy


@dataclass(frozen=True, slots=True)
class Charged:
    """A debit that will succeed."""

    budgets: tuple[Budget, ...]
    charge: settlement.Charge


def evaluate(snapshot: Snapshot, command: Debit, now_ms: int) -> Charged | Refused:
    """Decide what the budgets along the scopes are charged."""
    refusal = guards.tenant_admits(snapshot, command.tenant)
    if refusal is not None:
        return refusal
    budgets = snapshot.along(command.tenant, command.scopes, command.unit)
    owned = snapshot.owned_policies(command.tenant)
    terms = policy.terms(
        snapshot.tenant(command.tenant),
        budgets,
        policy.governing(owned, command.scopes[-1], now_ms),
        overage_policy=command.overage_policy,
    )
    rejecting = terms.overage_policy is OveragePolicy.REJECT
    refusals: list[Refused] = []
    for budget in budgets:
        closed = guards.budget_open(budget)
        unfunded = settlement.unfunded(budget, command.actual_amount) if rejecting else None
        refusals += [one for one in (closed, unfunded) if one is not None]
    if refusals and rejecting:
        return guards.combined(refusals)
    charge = settlement.evaluate(budgets, None, command.actual_amount, terms.overage_policy)
    if refusals:
        return guards.combined([*refusals, *([charge] if isinstance(charge, Refused) else [])])
    if not budgets:
        return guards.unbudgeted(snapshot, command.tenant, command.scopes, command.unit)
    return charge if isinstance(charge, Refused) else Charged(budgets, charge)


def apply(command: Debit, charged: Charged, now_ms: int) -> Changes:
    """Charge the budgets."""
    budgets = settlement.apply(charged.budgets, charged.charge, now_ms)
    answer = Debited(
        command.event_id,
        command.unit,
        charged.charge.charged if charged.charge.capped else None,
        budgets,
        charged.charge.policy,
        settlement.debt_incurred(charged.budgets, budgets),
    )
    return Changes(answer, budgets=budgets)
