"""When a payment is looked at next.

The rule that lives here: uncertainty ends by the clock of the chain, not by a count of
attempts. One check comes after the authorization's time is over and final, whatever the
backoff says; only failures to ask consume the cap. Time and randomness are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bursar.payments.outcome import TERMINAL, Money, Work
from bursar.payments.records import PaymentRecord


class Rng(Protocol):
    """A source of randomness, such as a seeded `random.Random`."""

    def uniform(self, a: float, b: float, /) -> float:
        """Return a number between the two."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a payment is looked at.

    Attributes:
        first_ms: from the send to the first check.
        base_ms: of the backoff.
        floor_ms: the least time between two checks.
        cap_open_ms: the most while the authorization can still be used.
        cap_closed_ms: the most afterwards.
        parked_ms: between checks of a parked payment: an outage may end without an operator.
        finality_ms: how far the final block lags behind the newest.
        skew_ms: how far clocks may differ.
        hard_after_ms: from the mandatory check to the hard deadline.
        retry_after_max_ms: the longest wait that an answer may ask for.
        rpc_failures_max: so many failures to ask park a payment.
    """

    first_ms: int = 2_000
    base_ms: int = 2_000
    floor_ms: int = 1_000
    cap_open_ms: int = 60_000
    cap_closed_ms: int = 900_000
    parked_ms: int = 3_600_000
    finality_ms: int = 1_500_000
    skew_ms: int = 60_000
    hard_after_ms: int = 86_400_000
    retry_after_max_ms: int = 3_600_000
    rpc_failures_max: int = 20


def mandatory_ms(record: PaymentRecord, pace: Pace) -> int | None:
    """Return when a check must happen whatever the backoff; None without an end of validity."""
    if record.valid_before_s is None:
        return None
    return record.valid_before_s * 1_000 + pace.finality_ms + pace.skew_ms


def unresolved_ms(record: PaymentRecord, pace: Pace) -> int | None:
    """Return from when on an unresolved payment is late; None without an end of validity."""
    if record.valid_before_s is None:
        return None
    return record.valid_before_s * 1_000 + 2 * pace.finality_ms


def hard_deadline_ms(record: PaymentRecord, pace: Pace) -> int:
    """Return when a payment without evidence is parked."""
    mandatory = mandatory_ms(record, pace)
    return (record.created_at_ms if mandatory is None else mandatory) + pace.hard_after_ms


def awaits_proof(record: PaymentRecord) -> bool:
    """Return whether a refusal has still to be proved: it is somebody's word that nothing moved.

    The deadline goes with the look that proves it, and with a refusal of what never left.
    """
    refused = record.money is Money.REJECTED and record.hard_deadline_ms is not None
    return refused and record.nonce is not None and record.valid_before_s is not None


def closed_check_ms(record: PaymentRecord, now_ms: int, pace: Pace) -> int | None:
    """Return when a final payment is looked at: for its proof, else for its work, else never."""
    mandatory = mandatory_ms(record, pace)
    if mandatory is not None and awaits_proof(record):
        return max(mandatory, first_check_ms(now_ms, pace))
    return work_ends_ms(record, now_ms)


def first_check_ms(now_ms: int, pace: Pace) -> int:
    """Return when a payment is looked at for the first time after its send."""
    return now_ms + pace.first_ms


def is_overdue(record: PaymentRecord, now_ms: int, pace: Pace) -> bool:
    """Return whether a payment is to be parked: too many failures to ask, or too late."""
    deadline = record.hard_deadline_ms
    late = deadline is not None and now_ms >= deadline
    return late or record.rpc_failures >= pace.rpc_failures_max


def next_check_ms(
    record: PaymentRecord, now_ms: int, pace: Pace, rng: Rng, *, retry_after_ms: int | None = None
) -> int | None:
    """Return when a payment is looked at next; None if nothing is left to learn.

    Args:
        record: as it is after this check, with its `checks` counted.
        now_ms: the time of this check.
        pace: how often.
        rng: for the jitter.
        retry_after_ms: what the other side asked for; it is clamped, and it may delay the
            mandatory check by no more than that.
    """
    mandatory = mandatory_ms(record, pace)
    doubted = awaits_proof(record)
    early = mandatory is not None and now_ms < mandatory
    if record.money in TERMINAL and (early or not doubted):
        return closed_check_ms(record, now_ms, pace)
    if record.money is Money.PARKED or (doubted and is_overdue(record, now_ms, pace)):
        return now_ms + pace.parked_ms + round(rng.uniform(0, pace.parked_ms / 10))
    is_open = mandatory is None or now_ms < mandatory
    cap = pace.cap_open_ms if is_open else pace.cap_closed_ms
    most = min(cap, pace.base_ms * 2 ** min(record.checks, 32))
    at_ms = now_ms + max(pace.floor_ms, round(rng.uniform(0, most)))
    if mandatory is not None and now_ms < mandatory:
        at_ms = min(at_ms, mandatory)
    if retry_after_ms is not None:
        at_ms = max(at_ms, now_ms + min(max(0, retry_after_ms), pace.retry_after_max_ms))
    return at_ms


def backoff_ms(attempts: int, base_ms: int, cap_ms: int, rng: Rng) -> int:
    """Return how long to wait after so many attempts: doubled each time, half of it random."""
    most = min(cap_ms, base_ms << min(max(0, attempts - 1), 32))
    return round(most / 2 + rng.uniform(0, most / 2))


def work_ends_ms(record: PaymentRecord, now_ms: int) -> int | None:
    """Return when unfinished work makes a final payment an orphan; None if that is settled."""
    if record.work not in (Work.NOT_STARTED, Work.RUNNING) or record.work_until_ms is None:
        return None
    return record.work_until_ms if record.work_until_ms > now_ms else None
