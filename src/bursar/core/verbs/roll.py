"""Roll: end a budget's period and begin the current one.

A command like any other, so that replaying the log reproduces every period. It is asked for
by a job, and by the ledger itself ahead of the first command that finds a period over; both
may ask, and its identity is the budget and the period that ends, so only one of them does it.

The ladder, first refusal wins:

| # | guard                                                  | refusal          |
|---|--------------------------------------------------------|------------------|
| 1 | budget known                                           | BUDGET_NOT_FOUND |
| 2 | not closed: that is a final record                     | BUDGET_CLOSED    |
| 3 | it renews itself, this period is its own, and is over  | INVALID_REQUEST  |

With `a` the allocation of a fresh period, `u = max(0, allocated - spent)` what was not used,
and `n` the number of boundaries that were crossed at once (skipped periods were empty: whoever
had come in one of them would have begun it):

| rollover_policy  | allocated, n = 1 | allocated, any n                     |
|------------------|------------------|--------------------------------------|
| NONE             | a                | a                                    |
| CARRY_FORWARD    | a + u            | n * a + u                            |
| CAP_AT_ALLOCATED | a + min(a, u)    | a + min(a, u) if n is 1, else 2 * a  |

| value         | in the new period                                                          |
|---------------|----------------------------------------------------------------------------|
| spent         | 0                                                                          |
| reserved      | as it was: a hold that straddles a boundary is charged to the new period   |
| debt          | as it was: a new period forgives nothing                                   |
| remaining     | allocated - reserved - debt; negative where they are more than is given    |
| is_over_limit | debt > overdraft_limit, as after any funding                               |
| status        | as it was: a frozen budget stays frozen, and its calendar goes on          |

What is held or owed lowers `remaining` in the new period, so it is not taken off `u` as well:
under CARRY_FORWARD the new `remaining` is exactly the old one and `n` allocations. What would
not fit int64 is cut off there. Tenants are not asked: time passes for a suspended one too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from bursar.core import guards
from bursar.core.commands import Roll
from bursar.core.outcomes import BudgetAnswer, Changes, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Renewal
from bursar.invariant import require
from bursar.vocabulary import AMOUNT_MAX, BudgetStatus, ErrorCode, RolloverPolicy


@dataclass(frozen=True, slots=True)
class Turn:
    """A period that will begin: the budget in it."""

    after: Budget


def evaluate(snapshot: Snapshot, command: Roll, now_ms: int) -> Turn | Refused:
    """Decide whether the period is over, and what the budget is in the next."""
    budget = guards.known_budget(snapshot, command.tenant, command.scope, command.unit)
    if isinstance(budget, Refused):
        return budget
    if budget.status is BudgetStatus.CLOSED:
        return Refused(ErrorCode.BUDGET_CLOSED, f"Budget {budget.scope} is closed for good")
    renewal, end_ms = budget.renewal, budget.period_end_ms
    its_own = budget.period_start_ms == command.ended_ms
    if renewal is None or end_ms is None or not its_own or not budget.ended_at(now_ms):
        return Refused(
            ErrorCode.INVALID_REQUEST,
            f"Budget {budget.scope} ({budget.unit}) has no period that began at "
            f"{command.ended_ms} and is over",
            in_conflict=True,
        )
    # From here the command succeeds.
    require(end_ms <= command.start_ms < command.end_ms, "periods follow one another")
    require(command.start_ms <= now_ms, "a period does not begin before its time")
    return Turn(renewed(budget, renewal, command))


def apply(command: Roll, turn: Turn, now_ms: int) -> Changes:
    """Save the budget in its new period."""
    del command
    after = replace(turn.after, updated_at_ms=now_ms)
    return Changes(BudgetAnswer(after), budgets=(after,))


def renewed(budget: Budget, renewal: Renewal, command: Roll) -> Budget:
    """Return the budget in the period that the command begins."""
    given = allocated(
        budget.rollover_policy,
        renewal.allocation,
        unused=max(0, budget.allocated - budget.spent),
        periods=command.periods,
    )
    return replace(
        budget,
        allocated=given,
        remaining=given - budget.reserved - budget.debt,
        spent=0,
        is_over_limit=budget.debt > budget.overdraft_limit,
        period_start_ms=command.start_ms,
        period_end_ms=command.end_ms,
    )


def allocated(policy: RolloverPolicy, allocation: int, *, unused: int, periods: int) -> int:
    """Return what a budget is allocated after `periods` boundaries at once."""
    require(periods >= 1, "a roll crosses a boundary")
    match policy:
        case RolloverPolicy.NONE:
            given = allocation
        case RolloverPolicy.CARRY_FORWARD:
            given = periods * allocation + unused
        case RolloverPolicy.CAP_AT_ALLOCATED:
            given = allocation + (min(allocation, unused) if periods == 1 else allocation)
        case _:
            assert_never(policy)
    return min(given, AMOUNT_MAX)
