"""Scope by scope: what blocks, and the commands that would let the request pass.

The rule that lives here: reasons and fixes come from the ledger's own ladder. A fix is tried on
the records before it is told: its effect is applied as the ledger would apply it, and the
ladder is climbed again, until the request passes or nothing can help.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from bursar import money
from bursar.authority import refusals
from bursar.cli.explain.question import Question
from bursar.core import policy, throttle
from bursar.core.commands import Fund
from bursar.core.execute import execute
from bursar.core.outcomes import Changes, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Policy
from bursar.core.verbs import reserve
from bursar.vocabulary import (
    BudgetStatus,
    ErrorCode,
    FundOperation,
    MeterKind,
    TenantStatus,
    Unit,
)

STEPS_MAX = 20
PASSES = "passes"


@dataclass(frozen=True, slots=True)
class Scope:
    """One level of the path: its budget in the unit asked for, and what it says to the request."""

    scope: str
    budget: Budget | None
    other_units: tuple[Unit, ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the request is denied, and the way through.

    `commands` are to be run in order; empty if it passes, or if nothing can help. `fits` is
    the largest estimate that would pass as things are, where a smaller one would help. `limit`
    is the policy's rate limit with what it has counted this minute.
    """

    scopes: Sequence[Scope]
    policy: Policy | None
    reason_code: str | None
    denial: dict[str, Any] | None
    message: str | None
    commands: Sequence[str]
    fits: int | None
    limit: throttle.Limit | None


def judge(snapshot: Snapshot, question: Question, now_ms: int) -> Verdict:
    """Return what the ledger's rules say of a question, from these records."""
    outcome = _climb(snapshot, question, now_ms)
    rules = policy.governing(snapshot.owned_policies(question.tenant), question.path[-1], now_ms)
    limit = throttle.limit(snapshot, rules, question.path[-1], MeterKind.RESERVE, now_ms)
    if not isinstance(outcome, Refused) and limit is not None and limit.reached:
        outcome = limit.refusal(now_ms)  # last, because it is over without anybody's help
    refused = outcome if isinstance(outcome, Refused) else None
    details = refusals.details(refused) if refused is not None else None
    return Verdict(
        [_scope(snapshot, question, scope, now_ms) for scope in question.path],
        rules,
        None if refused is None else refused.reason_code,
        None if details is None else details.get("deny_detail", details),
        None if refused is None else refused.message,
        _way_through(snapshot, question, now_ms),
        _fits(snapshot, question, now_ms) if refused is not None else None,
        limit,
    )


def _climb(snapshot: Snapshot, question: Question, now_ms: int) -> reserve.Hold | Refused:
    return reserve.ladder(
        snapshot,
        question.tenant,
        question.path,
        question.unit,
        question.estimate_amount,
        now_ms,
    )


def _scope(snapshot: Snapshot, question: Question, scope: str, now_ms: int) -> Scope:
    """Judge one level alone, as if the path had no other budget."""
    budget = snapshot.budget(question.tenant, scope, question.unit)
    units = snapshot.units_at(question.tenant, scope)
    others = tuple(unit for unit in units if unit is not question.unit)
    if budget is None:
        return Scope(scope, None, others, "no budget")
    alone = Snapshot(budgets={(question.tenant, scope, question.unit): budget})
    outcome = _climb(alone, question, now_ms)
    verdict = outcome.reason_code if isinstance(outcome, Refused) else PASSES
    return Scope(scope, budget, others, verdict)


def _fits(snapshot: Snapshot, question: Question, now_ms: int) -> int | None:
    """Return the largest smaller estimate that would pass, or None."""
    path = snapshot.along(question.tenant, question.path, question.unit)
    least = min((budget.remaining for budget in path), default=0)
    if not 0 < least < question.estimate_amount:
        return None
    smaller = replace(question, estimate_amount=least)
    return None if isinstance(_climb(snapshot, smaller, now_ms), Refused) else least


def _way_through(snapshot: Snapshot, question: Question, now_ms: int) -> list[str]:
    """Return the commands that let the request pass, each tried on the records."""
    tried, commands = deepcopy(snapshot), list[str]()
    for _ in range(STEPS_MAX):
        outcome = _climb(tried, question, now_ms)
        if not isinstance(outcome, Refused):
            return commands
        command = _step(tried, question, outcome, now_ms)
        if command is None:
            return []
        commands.append(command)
    return []


def _step(snapshot: Snapshot, question: Question, refused: Refused, now_ms: int) -> str | None:
    """Apply the fix of the first refusal to the records; return its command, or None."""
    tenant = snapshot.tenant(question.tenant)
    if refused.reason_code == "TENANT_SUSPENDED" and tenant is not None:
        snapshot.tenants[question.tenant] = replace(tenant, status=TenantStatus.ACTIVE)
        return f"bursar tenant reactivate {question.tenant}"
    if refused.reason_code in ("BUDGET_NOT_FOUND", ErrorCode.UNIT_MISMATCH):
        return _create(snapshot, question)
    budget = snapshot.budget(question.tenant, refused.scope or "", question.unit)
    if budget is None:
        return None
    if refused.code is ErrorCode.BUDGET_FROZEN:
        opened = replace(budget, status=BudgetStatus.ACTIVE)
        snapshot.budgets[budget.tenant, budget.scope, budget.unit] = opened
        return _words("budget", "unfreeze", budget.scope, "--unit", budget.unit.value)
    if refused.code in (
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
        ErrorCode.DEBT_OUTSTANDING,
        ErrorCode.BUDGET_EXCEEDED,
    ):
        return _fund(snapshot, budget, question.estimate_amount, now_ms)
    return None


def without_tenant(verdict: Verdict, tenant: str) -> Verdict:
    """Return a verdict for a tenant that does not exist: that is the first thing to change."""
    return replace(
        verdict,
        message=f"Tenant {tenant} does not exist, so it has no budget",
        commands=[_words("tenant", "create", tenant), *verdict.commands],
    )


def _create(snapshot: Snapshot, question: Question) -> str:
    """Add the budget that is missing, just large enough, at the outermost scope."""
    scope, unit, amount = question.path[0], question.unit, question.estimate_amount
    snapshot.budgets[question.tenant, scope, unit] = Budget(
        tenant=question.tenant,
        scope=scope,
        unit=unit,
        ledger_id="",
        allocated=amount,
        remaining=amount,
        reserved=0,
        spent=0,
        debt=0,
        overdraft_limit=0,
        is_over_limit=False,
        status=BudgetStatus.ACTIVE,
        created_at_ms=0,
        updated_at_ms=0,
    )
    return _words("budget", "create", scope, written(amount, unit))


def _fund(snapshot: Snapshot, budget: Budget, estimate: int, now_ms: int) -> str | None:
    """Repay the debt that blocks, or credit what is missing: one operation is enough."""
    excess = max(0, budget.debt - budget.overdraft_limit)
    missing = max(0, estimate - budget.remaining)
    operation = FundOperation.REPAY_DEBT if excess else FundOperation.CREDIT
    amount = max(excess, missing, 1)
    command = Fund(
        tenant=budget.tenant,
        scope=budget.scope,
        unit=budget.unit,
        operation=operation,
        amount_unit=budget.unit,
        amount=amount,
    )
    done = execute(snapshot, command, now_ms)
    if not isinstance(done, Changes):
        return None
    snapshot.merge(done)
    verb = "repay" if excess else "fund"
    return _words("budget", verb, budget.scope, written(amount, budget.unit))


def written(amount: int, unit: Unit) -> str:
    """Return an amount as an option takes it, exactly: `0.5USD`, `1500TOKENS`."""
    if unit is Unit.USD_MICROCENTS:
        return f"{Decimal(amount) / money.USD:f}USD"
    return f"{amount}{unit.value}"


def _words(*words: str) -> str:
    return shlex.join(["bursar", *words])
