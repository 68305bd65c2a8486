"""Release: give a reservation's hold back; the action did not happen.

The ladder (protocol 1.4), first refusal wins; replay comes before all of it:

| # | guard                       | refusal                         |
|---|-----------------------------|---------------------------------|
| 1 | reservation known           | NOT_FOUND                       |
| 2 | tenant readable, not closed | INTERNAL_ERROR, TENANT_CLOSED   |
| 3 | stored status is ACTIVE     | RESERVATION_EXPIRED, _FINALIZED |
| 4 | now <= expiry + grace       | RESERVATION_EXPIRED             |

Under the expiry policy MANUAL_CLEANUP the sweep leaves lapsed holds alone; releasing is
how somebody cleans up, so guard 4 does not apply to them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import Release
from bursar.core.outcomes import Changes, Refused, Released
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Reservation
from bursar.invariant import require
from bursar.vocabulary import ReservationStatus


@dataclass(frozen=True, slots=True)
class Return:
    """A hold that will be given back."""

    reservation: Reservation
    budgets: tuple[Budget, ...]


def evaluate(snapshot: Snapshot, command: Release, now_ms: int) -> Return | Refused:
    """Decide whether the hold can be given back."""
    row = guards.known_reservation(snapshot, command.tenant, command.reservation_id)
    if isinstance(row, Refused):
        return row
    refusal = guards.tenant_closed(snapshot, command.tenant) or guards.still_active(row)
    if refusal is not None:
        return refusal
    if now_ms > row.settle_by_ms and row.sweepable:
        return guards.lapsed(row, f"lease and grace ended at {row.settle_by_ms}")
    return held_in(snapshot, row)


def held_in(snapshot: Snapshot, row: Reservation) -> Return:
    """Return an active reservation with the budgets that hold its estimate."""
    budgets = snapshot.along(row.tenant, row.budgeted_scopes, row.unit)
    require(len(budgets) == len(row.budgeted_scopes), "budgets of a reservation exist")
    return Return(row, budgets)


def apply(command: Release, back: Return, now_ms: int) -> Changes:
    """Return the hold and finalize the reservation."""
    row = back.reservation
    budgets = give_back(back, now_ms)
    released = replace(
        row, status=ReservationStatus.RELEASED, finalized_at_ms=now_ms, reason=command.reason
    )
    return Changes(
        Released(row.unit, row.estimate_amount, budgets),
        budgets=budgets,
        reservations=(released,),
    )


def give_back(back: Return, now_ms: int) -> tuple[Budget, ...]:
    """Return the budgets with the reservation's estimate no longer held."""
    estimate = back.reservation.estimate_amount
    require(all(estimate <= budget.reserved for budget in back.budgets), "a hold is held")
    return tuple(budget.moved(now_ms, reserved=-estimate) for budget in back.budgets)
