"""Extend: move a live lease's expiry further out (protocol 4.4).

The ladder, first refusal wins; replay comes before all of it:

| # | guard                       | refusal                         |
|---|-----------------------------|---------------------------------|
| 1 | reservation known           | NOT_FOUND                       |
| 2 | tenant readable, not closed | INTERNAL_ERROR, TENANT_CLOSED   |
| 3 | stored status is ACTIVE     | RESERVATION_EXPIRED, _FINALIZED |
| 4 | now <= expiry (no grace)    | RESERVATION_EXPIRED             |
| 5 | extensions left             | MAX_EXTENSIONS_EXCEEDED         |

The new expiry counts from the old one, not from now. Budgets are not consulted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.core import guards
from bursar.core.commands import Extend
from bursar.core.outcomes import Changes, Extended, Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Reservation
from bursar.vocabulary import AMOUNT_MAX, ErrorCode


@dataclass(frozen=True, slots=True)
class Lengthen:
    """An extension that will succeed."""

    reservation: Reservation
    budgets: tuple[Budget, ...]
    expires_at_ms: int


def evaluate(snapshot: Snapshot, command: Extend, now_ms: int) -> Lengthen | Refused:
    """Decide whether the lease can move."""
    row = guards.known_reservation(snapshot, command.tenant, command.reservation_id)
    if isinstance(row, Refused):
        return row
    refusal = guards.tenant_closed(snapshot, command.tenant) or guards.still_active(row)
    if refusal is not None:
        return refusal
    if now_ms > row.expires_at_ms:
        return guards.lapsed(row, f"the lease ended at {row.expires_at_ms}; grace is for settling")
    expires_at_ms = row.expires_at_ms + command.extend_by_ms
    unstorable = expires_at_ms + row.grace_ms > AMOUNT_MAX
    if row.extensions >= row.extensions_max or unstorable:
        return Refused(
            ErrorCode.MAX_EXTENSIONS_EXCEEDED,
            f"Reservation {row.reservation_id} has used all of its {row.extensions_max} extensions",
            fix="Commit or release it; the limit was its tenant's or its policy's.",
        )
    budgets = snapshot.along(row.tenant, row.budgeted_scopes, row.unit)
    return Lengthen(row, budgets, expires_at_ms)


def apply(command: Extend, lengthen: Lengthen, now_ms: int) -> Changes:
    """Move the expiry and count the extension."""
    del command, now_ms
    row = replace(
        lengthen.reservation,
        expires_at_ms=lengthen.expires_at_ms,
        extensions=lengthen.reservation.extensions + 1,
    )
    return Changes(Extended(row, lengthen.budgets), reservations=(row,))
