"""One command against one snapshot: replay, else evaluate, else apply.

The rule that lives here: every command takes this path, whichever door it came through,
and `decide` and dry runs stop after `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, assert_never

from bursar.core import commands as c
from bursar.core import replay
from bursar.core.outcomes import Changes, Refused, Replayed
from bursar.core.snapshot import Snapshot
from bursar.core.verbs import (
    budget,
    bulk,
    commit,
    debit,
    decide,
    expire,
    extend,
    fund,
    key,
    policy,
    release,
    reserve,
    roll,
    tenant,
)

C = TypeVar("C", bound=c.Command)
P = TypeVar("P")


def execute(snapshot: Snapshot, command: c.AnyCommand, now_ms: int) -> Changes | Refused | Replayed:
    """Return what `command` comes to at `now_ms`; the snapshot itself is not changed."""
    return replay.find(snapshot, command, now_ms) or _fresh(snapshot, command, now_ms)


def _fresh(snapshot: Snapshot, command: c.AnyCommand, now: int) -> Changes | Refused:
    match command:
        case c.Reserve():
            hold = reserve.evaluate(snapshot, command, now)
            if isinstance(hold, Refused):
                denied = command.dry_run and hold.code in reserve.DENIALS
                return reserve.deny(command, hold) if denied else hold
            return reserve.apply(command, hold, now)
        case c.Decide():
            hold = decide.evaluate(snapshot, command, now)
            if isinstance(hold, Refused):
                return decide.deny(command, hold) if hold.code in reserve.DENIALS else hold
            return decide.apply(command, hold, now)
        case c.Commit():
            return _run(commit.evaluate, commit.apply, snapshot, command, now)
        case c.Release():
            return _run(release.evaluate, release.apply, snapshot, command, now)
        case c.Extend():
            return _run(extend.evaluate, extend.apply, snapshot, command, now)
        case c.Expire():
            return _run(expire.evaluate, expire.apply, snapshot, command, now)
        case c.Debit():
            return _run(debit.evaluate, debit.apply, snapshot, command, now)
        case c.Fund():
            return _run(fund.evaluate, fund.apply, snapshot, command, now)
        case c.CreateBudget():
            return _run(budget.evaluate_create, budget.apply_create, snapshot, command, now)
        case c.Freeze():
            return _run(budget.evaluate_freeze, budget.apply_turn, snapshot, command, now)
        case c.Unfreeze():
            return _run(budget.evaluate_unfreeze, budget.apply_turn, snapshot, command, now)
        case c.CloseBudget():
            return _run(budget.evaluate_close, budget.apply_turn, snapshot, command, now)
        case c.UpdateBudget():
            return _run(budget.evaluate_update, budget.apply_update, snapshot, command, now)
        case c.Roll():
            return _run(roll.evaluate, roll.apply, snapshot, command, now)
        case c.CreateTenant():
            return _run(tenant.evaluate_create, tenant.apply_create, snapshot, command, now)
        case c.UpdateTenant():
            return _run(tenant.evaluate_update, tenant.apply_update, snapshot, command, now)
        case c.CloseTenant():
            return _run(tenant.evaluate_close, tenant.apply_close, snapshot, command, now)
        case c.CreateKey():
            return _run(key.evaluate_create, key.apply_create, snapshot, command, now)
        case c.UpdateKey():
            return _run(key.evaluate_update, key.apply_update, snapshot, command, now)
        case c.RevokeKey():
            return _run(key.evaluate_revoke, key.apply_revoke, snapshot, command, now)
        case c.CreatePolicy():
            return _run(policy.evaluate_create, policy.apply_create, snapshot, command, now)
        case c.UpdatePolicy():
            return _run(policy.evaluate_update, policy.apply_update, snapshot, command, now)
        case c.BeginBulk():
            return _run(bulk.evaluate_begin, bulk.apply_begin, snapshot, command, now)
        case c.FinishBulkTenants() | c.FinishBulkBudgets():
            return _run(bulk.evaluate_finish, bulk.apply_finish, snapshot, command, now)
        case _:
            assert_never(command)


def _run(
    evaluate: Callable[[Snapshot, C, int], P | Refused],
    apply: Callable[[C, P, int], Changes],
    snapshot: Snapshot,
    command: C,
    now_ms: int,
) -> Changes | Refused:
    plan = evaluate(snapshot, command, now_ms)
    return plan if isinstance(plan, Refused) else apply(command, plan, now_ms)
