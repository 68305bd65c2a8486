"""What becomes of an entry of the outbox that could not be done: later, or given up and told.

The rule that lives here: nothing is put off for ever in silence. After so many attempts an entry
is parked in the same transaction as the alert that says so, and waits for a person; nothing is
lost meanwhile, for what it rests on is on record.
"""

from __future__ import annotations

from typing import Final

from bursar.payments.alerts import AlertKind, notice_of, tell
from bursar.payments.ports import Outbox, Posted
from bursar.payments.records import PaymentRecord
from bursar.payments.schedule import Rng, backoff_ms

RETRY_MS: Final = 30_000
RETRY_MS_MAX: Final = 900_000
ATTEMPTS_MAX: Final = 20
"""With the backoff, some three hours: then a person must look."""
REASON_LENGTH_MAX: Final = 300


def not_done(
    store: Outbox,
    posted: Posted,
    record: PaymentRecord | None,
    kind: AlertKind,
    reason: str,
    now_ms: int,
    rng: Rng,
    *,
    attempts_max: int = ATTEMPTS_MAX,
) -> None:
    """Put an entry off for a growing pause, or park it and tell an operator.

    Args:
        store: whose entry it is.
        posted: the entry, as it was read.
        record: its payment; None where there is none to tell of.
        kind: what an operator is told when it is given up.
        reason: why it could not be done, without anything secret.
        now_ms: the time.
        rng: for the jitter.
        attempts_max: after so many it is given up.
    """
    attempts, said = posted.attempts + 1, reason[:REASON_LENGTH_MAX]
    if attempts < attempts_max:
        wait_ms = backoff_ms(attempts, RETRY_MS, RETRY_MS_MAX, rng)
        store.put_off(posted.number, now_ms + wait_ms, said)
        return
    told = [] if record is None else [notice_of(kind, record, now_ms, reason=said)]
    tell(store.park(posted.number, now_ms, said, told))
