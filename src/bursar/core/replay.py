"""Replay: the same key and the same request get the recorded answer; another request none.

The rule that lives here (protocol 1.5): replay comes before every guard, because it looks
at the past. Only accepted commands are recorded, so a refused key may be used again.
"""

from __future__ import annotations

from bursar.core.commands import (
    AnyCommand,
    Command,
    Commit,
    Debit,
    Extend,
    FinishBulk,
    Release,
    Reserve,
)
from bursar.core.outcomes import Changes, Extended, Refused, Replayed, Reserved
from bursar.core.snapshot import Snapshot
from bursar.vocabulary import ErrorCode, ReservationStatus

DAY_MS = 86_400_000
BULK_MS = 15 * 60_000
PLANNED = 202
"""The status of a plan: what a bulk action's key is answered with until the action ends."""


def find(snapshot: Snapshot, command: Command, now_ms: int) -> Replayed | Refused | None:
    """Return the recorded answer, the refusal of a reused key, or None for a fresh key."""
    identity = command.idempotency
    if identity is None:
        return None
    recorded = snapshot.recorded.get((command.tenant, identity.endpoint, identity.key))
    if recorded is None or now_ms > recorded.keep_until_ms:
        return None
    if recorded.fingerprint != identity.fingerprint:
        return Refused(
            ErrorCode.IDEMPOTENCY_MISMATCH,
            f"idempotency_key {identity.key!r} was already used for a different request on this "
            "endpoint; send the original request again, or use a new key",
        )
    if isinstance(command, FinishBulk) and recorded.status == PLANNED:
        return None  # the end of a bulk action takes the place of its plan
    active = False
    if recorded.reservation_id is not None:
        row = snapshot.reservation(command.tenant, recorded.reservation_id)
        active = row is not None and row.status is ReservationStatus.ACTIVE
    return Replayed(recorded, active)


def keep_until_ms(command: AnyCommand, changes: Changes, now_ms: int) -> int:
    """Return until when the answer to `command` is replayed, in epoch milliseconds.

    A day for most; as long as the reservation may still settle, if that is longer; a
    month for settlements and a week for debits, whose retries may be late; a quarter of an
    hour for a finished bulk action, as the protocol has it, but a day for one that was cut
    short, so that it is finished rather than done again.
    """
    match command:
        case Commit() | Release():
            return now_ms + 30 * DAY_MS
        case Debit():
            return now_ms + 7 * DAY_MS
        case FinishBulk():
            return now_ms + BULK_MS
        case Reserve() | Extend():
            answer = changes.answer
            if isinstance(answer, Reserved | Extended):
                return max(now_ms + DAY_MS, answer.reservation.settle_by_ms)
            return now_ms + DAY_MS
        case _:
            return now_ms + DAY_MS
