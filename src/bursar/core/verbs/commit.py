"""Commit: settle a reservation with what the action really cost.

The ladder (protocol 1.4), first refusal wins; replay comes before all of it:

| # | guard                            | refusal                            |
|---|----------------------------------|------------------------------------|
| 1 | reservation known                | NOT_FOUND                          |
| 2 | tenant readable, not closed      | INTERNAL_ERROR, TENANT_CLOSED      |
| 3 | stored status is ACTIVE          | RESERVATION_EXPIRED, _FINALIZED    |
| 4 | unit of actual = unit of hold    | UNIT_MISMATCH                      |
| 5 | now <= expiry + grace            | RESERVATION_EXPIRED                |
| 6 | rate limit, if there is time to wait | LIMIT_EXCEEDED                 |
| 7 | overage policy can charge it     | BUDGET_EXCEEDED, OVERDRAFT_...     |

Frozen or closed budgets do not stop a commit: the action already happened. For the same
reason a rate limit only delays one: where the next minute begins after lease and grace have
ended, waiting would lose the cost, and the commit passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from bursar.core import guards, policy, settlement, throttle
from bursar.core.commands import Commit
from bursar.core.outcomes import Changes, Committed, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Reservation
from bursar.invariant import require
from bursar.vocabulary import ErrorCode, MeterKind


@dataclass(frozen=True, slots=True)
class Settle:
    """A commit that will succeed."""

    reservation: Reservation
    budgets: tuple[Budget, ...]
    charge: settlement.Charge
    limit: throttle.Limit | None = None


def evaluate(snapshot: Snapshot, command: Commit, now_ms: int) -> Settle | Refused:
    """Decide what the reservation's budgets are charged."""
    row = guards.known_reservation(snapshot, command.tenant, command.reservation_id)
    if isinstance(row, Refused):
        return row
    refusal = guards.tenant_closed(snapshot, command.tenant) or guards.still_active(row)
    if refusal is not None:
        return refusal
    if command.unit is not row.unit:
        return Refused(
            ErrorCode.UNIT_MISMATCH,
            f"Reservation {row.reservation_id} holds {row.unit}; actual is in {command.unit}",
            fix=f"Commit in {row.unit}.",
            details={
                "scope": row.scope_path,
                "requested_unit": command.unit.value,
                "expected_units": [row.unit.value],
            },
        )
    if now_ms > row.settle_by_ms:
        return guards.lapsed(row, f"lease and grace ended at {row.settle_by_ms}")
    rules = policy.governing(snapshot.owned_policies(row.tenant), row.scope_path, now_ms)
    limit = throttle.limit(snapshot, rules, row.scope_path, MeterKind.COMMIT, now_ms)
    if limit is not None and limit.reached and limit.retry_at_ms(now_ms) <= row.settle_by_ms:
        return limit.refusal(now_ms)
    budgets = snapshot.along(row.tenant, row.budgeted_scopes, row.unit)
    require(len(budgets) == len(row.budgeted_scopes), "budgets of a reservation exist")
    charge = settlement.evaluate(
        budgets, row.estimate_amount, command.actual_amount, row.overage_policy
    )
    return charge if isinstance(charge, Refused) else Settle(row, budgets, charge, limit)


def apply(command: Commit, settle: Settle, now_ms: int) -> Changes:
    """Charge the budgets and finalize the reservation."""
    charged, held = settle.charge.charged, settle.charge.held
    budgets = settlement.apply(settle.budgets, settle.charge, now_ms)
    row = settle.reservation.committed(charged, now_ms, command.metadata, command.metrics)
    return Changes(
        Committed(
            row.unit,
            charged,
            held - charged if charged < held else None,
            budgets,
            row.overage_policy,
            settlement.debt_incurred(settle.budgets, budgets),
        ),
        budgets=budgets,
        reservations=(row,),
        meters=() if settle.limit is None else (settle.limit.counted_once_more(),),
    )
