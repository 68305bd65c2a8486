"""How an actual cost is charged to several budgets at once (protocol 3.2 to 3.5).

The rule that lives here: every budget along the path is charged the same amount, and all
checks come before the first change, so a refused settlement leaves every budget as it was.

With `extra = actual - held`, R the remaining of a budget before settling, D its debt, L
its overdraft limit:

| policy               | extra is funded by            | shortfall                           |
|----------------------|-------------------------------|-------------------------------------|
| REJECT               | a debit: R; a commit: nothing | refused                             |
| ALLOW_IF_AVAILABLE   | min over budgets of max(R, 0) | not charged; budgets with R < extra |
|                      |                               | become over limit                   |
| ALLOW_WITH_OVERDRAFT | R, then debt up to L          | refused if D + deficit > L; where   |
|                      |                               | L = 0, capped as above              |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bursar.core import guards, scopes
from bursar.core.outcomes import Refused
from bursar.core.state import Budget
from bursar.invariant import require
from bursar.vocabulary import AMOUNT_MAX, ErrorCode, OveragePolicy


@dataclass(frozen=True, slots=True)
class Charge:
    """A settlement that will succeed: what was held, what is charged, what was asked."""

    held: int
    actual: int
    charged: int
    policy: OveragePolicy

    @property
    def extra(self) -> int:
        """Charged beyond what was held; never negative."""
        return max(0, self.charged - self.held)

    @property
    def capped(self) -> bool:
        """Whether budget could not fund the whole actual cost."""
        return self.charged < self.actual


def evaluate(
    budgets: Sequence[Budget], held: int | None, actual: int, policy: OveragePolicy
) -> Charge | Refused:
    """Decide what to charge for `actual` against a hold of `held`; None is a direct debit.

    A debit under REJECT names every budget that cannot fund it (`unfunded`) before it asks.
    """
    if policy is OveragePolicy.REJECT:
        if held is not None and actual > held:
            return _above_estimate(held, actual)
        require(
            held is not None or all(unfunded(budget, actual) is None for budget in budgets),
            "a debit under REJECT comes here only when every budget can fund it",
        )
    held = held or 0
    extra = actual - held
    if extra <= 0:
        return Charge(held, actual, actual, policy)
    charged_extra = extra
    for budget in budgets:
        if _caps(budget, policy) and budget.remaining < extra:
            charged_extra = min(charged_extra, max(budget.remaining, 0))
    if policy is OveragePolicy.ALLOW_WITH_OVERDRAFT:
        refusals = [
            refusal
            for budget in budgets
            if (refusal := _beyond_overdraft(budget, charged_extra)) is not None
        ]
        if refusals:
            return guards.combined(refusals)
    return Charge(held, actual, held + charged_extra, policy)


def apply(budgets: Sequence[Budget], charge: Charge, now_ms: int) -> tuple[Budget, ...]:
    """Return `budgets` after the charge; it cannot fail."""
    wanted = charge.actual - charge.held
    moved: list[Budget] = []
    for budget in budgets:
        if wanted <= 0:
            moved.append(budget.moved(now_ms, reserved=-charge.held, spent=charge.charged))
            continue
        owed = _deficit(budget, charge.extra)
        capped_here = charge.capped and _caps(budget, charge.policy) and budget.remaining < wanted
        moved.append(
            budget.moved(
                now_ms,
                reserved=-charge.held,
                spent=charge.charged - owed,
                debt=owed,
                over_limit=capped_here,
            )
        )
    return tuple(moved)


def debt_incurred(before: Sequence[Budget], after: Sequence[Budget]) -> int:
    """Return what the same budgets together owe `after` that they did not owe `before`."""
    return sum(row.debt for row in after) - sum(row.debt for row in before)


def _caps(budget: Budget, policy: OveragePolicy) -> bool:
    """Return whether this budget limits the charge to what it has, rather than go into debt."""
    return policy is OveragePolicy.ALLOW_IF_AVAILABLE or budget.overdraft_limit == 0


def _deficit(budget: Budget, extra: int) -> int:
    """Return the part of `extra` that `remaining` cannot fund."""
    return max(0, extra - max(budget.remaining, 0))


def _above_estimate(held: int, actual: int) -> Refused:
    """REJECT: a commit above its estimate never passes, even where budget could fund it."""
    return Refused(
        ErrorCode.BUDGET_EXCEEDED,
        f"Actual {actual} exceeds the {held} held and the overage policy is REJECT; the "
        "reservation stays active",
        fix=f"Commit at most {held}, or reserve with another overage policy.",
    )


def unfunded(budget: Budget, actual: int) -> Refused | None:
    """REJECT: a direct debit is refused by any budget that cannot fund all of it."""
    if budget.remaining >= actual:
        return None
    short = actual - budget.remaining
    return Refused(
        ErrorCode.BUDGET_EXCEEDED,
        f"Actual {actual} exceeds the {budget.remaining} {budget.unit} remaining in "
        f"{budget.scope} and the overage policy is REJECT",
        scope=budget.scope,
        remaining=budget.remaining,
        fix=f"Credit {short} {budget.unit} to {scopes.shown(budget.scope)}.",
    )


def _beyond_overdraft(budget: Budget, extra: int) -> Refused | None:
    """Refuse if charging `extra` here needs more debt than the limit (or int64) allows."""
    owed = _deficit(budget, extra)
    if owed == 0 or budget.overdraft_limit == 0:
        return None
    debt = budget.debt + owed
    short = debt - budget.overdraft_limit
    if short <= 0:
        return _beyond_int64(budget, extra)
    scope = scopes.shown(budget.scope)
    # While the budget is below zero a credit only fills the hole; a repayment counts at once.
    funding = (
        f"REPAY_DEBT {short} {budget.unit} at {scope}"
        if short <= budget.debt
        else f"Credit {short + max(0, -budget.remaining)} {budget.unit} to {scope}"
    )
    return Refused(
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
        f"Charging {extra} {budget.unit} beyond the hold would bring the debt of {budget.scope} "
        f"to {debt}, above its overdraft limit of {budget.overdraft_limit}",
        scope=budget.scope,
        remaining=budget.remaining,
        fix=f"{funding}, or raise its overdraft limit by {short}.",
    )


def _beyond_int64(budget: Budget, extra: int) -> Refused | None:
    """Refuse if the amounts of an overdrawn budget would no longer fit."""
    room = AMOUNT_MAX - budget.spent - budget.reserved - budget.debt
    if extra <= room:
        return None
    return Refused(
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
        f"Charging {extra} {budget.unit} beyond the hold would bring what {budget.scope} has "
        f"spent, holds and owes above {AMOUNT_MAX}",
        scope=budget.scope,
        remaining=budget.remaining,
        fix=f"Lower the actual amount by {extra - room}.",
    )
