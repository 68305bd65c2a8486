"""Reserve: hold an estimate in every budget along the scopes, atomically, or say why not.

The ladder (protocol 1.4), first refusal wins:

| # | guard                                   | refusal                          |
|---|-----------------------------------------|----------------------------------|
| 1 | tenant record readable                  | 500 INTERNAL_ERROR               |
| 2 | tenant not closed                       | TENANT_CLOSED                    |
| 3 | tenant not suspended                    | FORBIDDEN                        |
| 4 | live: rate limit of the policy          | LIMIT_EXCEEDED                   |
| 5 | per scope, outermost first:             |                                  |
|   | not frozen, not closed                  | BUDGET_FROZEN, BUDGET_CLOSED     |
|   | not over limit                          | OVERDRAFT_LIMIT_EXCEEDED         |
|   | no debt, unless an overdraft is allowed | DEBT_OUTSTANDING                 |
|   | estimate <= remaining                   | BUDGET_EXCEEDED                  |
| 6 | at least one budget in the unit         | UNIT_MISMATCH, NOT_FOUND         |

The policy that governs the deepest scope (`core.policy`) gives the terms and the caps. A dry
run climbs the same ladder but for the rate limit, and answers a decision instead of holding
anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bursar.core import guards, policy, scopes, throttle
from bursar.core.commands import Reserve
from bursar.core.outcomes import Changes, Decided, Refused, Reserved
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Reservation
from bursar.invariant import require
from bursar.vocabulary import (
    BudgetStatus,
    Decision,
    ErrorCode,
    MeterKind,
    OveragePolicy,
    ReservationStatus,
    Unit,
)

DENIALS = frozenset(
    {
        ErrorCode.BUDGET_EXCEEDED,
        ErrorCode.BUDGET_FROZEN,
        ErrorCode.BUDGET_CLOSED,
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
        ErrorCode.DEBT_OUTSTANDING,
        ErrorCode.TENANT_CLOSED,
        ErrorCode.NOT_FOUND,
    }
)
"""Refusals that a decision reports as DENY; the others are errors for a decision too."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A reserve that will succeed."""

    budgets: tuple[Budget, ...]
    terms: policy.Terms
    limit: throttle.Limit | None = None

    @property
    def decision(self) -> Decision:
        """ALLOW, or ALLOW_WITH_CAPS exactly when there are caps."""
        return Decision.ALLOW if self.terms.caps is None else Decision.ALLOW_WITH_CAPS


def ladder(
    snapshot: Snapshot,
    tenant_id: str,
    scopes: Sequence[str],
    unit: Unit,
    estimate_amount: int,
    now_ms: int,
    *,
    live: bool = False,
    overage_policy: OveragePolicy | None = None,
    ttl_ms: int | None = None,
) -> Hold | Refused:
    """Climb the guards for holding `estimate_amount` of `unit` along `scopes`."""
    refusal = guards.tenant_admits(snapshot, tenant_id)
    if refusal is not None:
        return refusal
    rules = policy.governing(snapshot.owned_policies(tenant_id), scopes[-1], now_ms)
    limit = None
    if live:
        limit = throttle.limit(snapshot, rules, scopes[-1], MeterKind.RESERVE, now_ms)
        if limit is not None and limit.reached:
            return limit.refusal(now_ms)
    budgets = snapshot.along(tenant_id, scopes, unit)
    terms = policy.terms(
        snapshot.tenant(tenant_id), budgets, rules, overage_policy=overage_policy, ttl_ms=ttl_ms
    )
    refusals = [
        refusal
        for budget in budgets
        if (refusal := _blocked(budget, estimate_amount, budgets)) is not None
    ]
    if refusals:
        return guards.combined(refusals)
    if not budgets:
        return guards.unbudgeted(snapshot, tenant_id, scopes, unit)
    return Hold(budgets, terms, limit)


def evaluate(snapshot: Snapshot, command: Reserve, now_ms: int) -> Hold | Refused:
    """Decide whether the estimate can be held."""
    return ladder(
        snapshot,
        command.tenant,
        command.scopes,
        command.unit,
        command.estimate_amount,
        now_ms,
        live=not command.dry_run,
        overage_policy=command.overage_policy,
        ttl_ms=command.ttl_ms,
    )


def apply(command: Reserve, hold: Hold, now_ms: int) -> Changes:
    """Hold the estimate, or answer a dry run without holding it."""
    if command.dry_run:
        return Changes(
            Decided(
                decision=hold.decision,
                scopes=command.scopes,
                dry_run=True,
                unit=command.unit,
                estimate_amount=command.estimate_amount,
                balances=hold.budgets,
                caps=hold.terms.caps,
            )
        )
    estimate = command.estimate_amount
    require(all(estimate <= budget.remaining for budget in hold.budgets), "a hold is funded")
    budgets = tuple(budget.moved(now_ms, reserved=estimate) for budget in hold.budgets)
    require(command.idempotency is not None, "a live reserve carries an idempotency key")
    row = Reservation(
        tenant=command.tenant,
        reservation_id=command.reservation_id,
        status=ReservationStatus.ACTIVE,
        unit=command.unit,
        estimate_amount=estimate,
        scope_path=command.scopes[-1],
        budgeted_scopes=tuple(budget.scope for budget in budgets),
        overage_policy=hold.terms.overage_policy,
        created_at_ms=now_ms,
        expires_at_ms=now_ms + hold.terms.ttl_ms,
        grace_ms=command.grace_ms,
        extensions_max=hold.terms.extensions_max,
        idempotency_key=command.idempotency.key if command.idempotency else "",
        subject=command.subject,
        action=command.action,
        sweepable=hold.terms.sweepable,
        metadata=command.metadata,
    )
    return Changes(
        Reserved(row, hold.decision, budgets, hold.terms.caps),
        budgets=budgets,
        reservations=(row,),
        meters=() if hold.limit is None else (hold.limit.counted_once_more(),),
    )


def deny(command: Reserve, refusal: Refused) -> Changes:
    """Answer a refused dry run with a decision."""
    return Changes(
        Decided(
            decision=Decision.DENY,
            scopes=command.scopes,
            dry_run=True,
            unit=command.unit,
            estimate_amount=command.estimate_amount,
            reason_code=refusal.reason_code,
        )
    )


def _blocked(budget: Budget, estimate: int, path: Sequence[Budget]) -> Refused | None:
    """Climb one scope's rungs; the whole rung set of an ancestor precedes its children's."""
    refusal = guards.budget_open(budget)
    if refusal is not None:
        thawed = replace(budget, status=BudgetStatus.ACTIVE)
        further = _blocked(thawed, estimate, (thawed,))
        return guards.combined([refusal, further] if further is not None else [refusal])
    unit, scope = budget.unit, budget.scope
    if budget.is_over_limit:
        return Refused(
            ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
            f"Budget {scope} ({unit}) is over its limit: debt {budget.debt}, overdraft limit "
            f"{budget.overdraft_limit}, remaining {budget.remaining}",
            scope=scope,
            remaining=budget.remaining,
            fix=_refund(budget, estimate),
        )
    if budget.debt > 0 and budget.overdraft_limit == 0:
        return Refused(
            ErrorCode.DEBT_OUTSTANDING,
            f"Budget {scope} ({unit}) owes {budget.debt} and allows no overdraft",
            scope=scope,
            remaining=budget.remaining,
            fix=_refund(budget, estimate),
        )
    if budget.remaining < estimate:
        return Refused(
            ErrorCode.BUDGET_EXCEEDED,
            f"Insufficient remaining budget for scope {scope}: {budget.remaining} {unit} "
            f"remaining, {estimate} requested",
            scope=scope,
            remaining=budget.remaining,
            fix=_fewer_or_more(estimate, path),
        )
    return None


def _refund(budget: Budget, estimate: int) -> str:
    """Name the smallest funding that clears debt and flag and then funds the estimate.

    Any funding clears a flag that debt no longer justifies; repaying beyond the debt adds
    the surplus to the budget, so one operation is always enough.
    """
    excess = max(0, budget.debt - budget.overdraft_limit)
    missing = max(0, estimate - budget.remaining)
    scope = scopes.shown(budget.scope)
    if excess:
        return f"REPAY_DEBT {max(excess, missing)} {budget.unit} at {scope}."
    return f"CREDIT {max(1, missing)} {budget.unit} to {scope}."


def _fewer_or_more(estimate: int, path: Sequence[Budget]) -> str:
    """Name both cheap changes: the largest estimate that fits, or the credits that are missing.

    The list of credits is cut where the protocol's 512 characters would not hold it. Frozen and
    closed budgets take no credit; they have a refusal, and a fix, of their own.
    """
    fits = min(budget.remaining for budget in path)
    short = [
        budget
        for budget in path
        if budget.remaining < estimate and budget.status is BudgetStatus.ACTIVE
    ]
    credits = [
        f"{estimate - budget.remaining} {budget.unit} to {scopes.shown(budget.scope)}"
        for budget in short
    ]
    fix = "Lower the estimate to at most " + str(fits) + ", or credit " if fits > 0 else "Credit "
    listed = credits[0]
    for credit in credits[1:]:
        if len(fix) + len(listed) + len(credit) > 480:
            return f"{fix}{listed}, and more."
        listed += f" and {credit}"
    return f"{fix}{listed}."
