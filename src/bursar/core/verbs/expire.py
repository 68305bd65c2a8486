"""Expire: give back the hold of a reservation whose lease and grace are over.

A command like any other, so that replaying the log reproduces expiries (protocol 4.5).
Closed tenants and frozen budgets do not stop it. It is idempotent: a reservation that
settled first, or whose lease moved, is refused and nothing changes.
"""

from __future__ import annotations

from dataclasses import replace

from bursar.core import guards
from bursar.core.commands import Expire
from bursar.core.outcomes import Changes, Expired, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.verbs.release import Return, give_back, held_in
from bursar.vocabulary import ErrorCode, ReservationStatus


def evaluate(snapshot: Snapshot, command: Expire, now_ms: int) -> Return | Refused:
    """Decide whether the lease is over and its hold still there."""
    row = guards.known_reservation(snapshot, command.tenant, command.reservation_id)
    if isinstance(row, Refused):
        return row
    refusal = guards.still_active(row)
    if refusal is not None:
        return refusal
    if now_ms <= row.settle_by_ms or not row.sweepable:
        return Refused(
            ErrorCode.INVALID_REQUEST, f"Reservation {row.reservation_id} is not due for expiry"
        )
    return held_in(snapshot, row)


def apply(command: Expire, back: Return, now_ms: int) -> Changes:
    """Return the hold and mark the reservation expired."""
    del command
    row = replace(back.reservation, status=ReservationStatus.EXPIRED)
    return Changes(Expired(row), budgets=give_back(back, now_ms), reservations=(row,))
