"""One look at one payment, or one answer about it, as a change: pure, for who asks and saves.

The rule that lives here: a sender that died is a lost answer, never a failure; what was never
sent is refused; and whatever a prover says of a final payment either contradicts it, which
reopens it, or changes nothing. A refusal is closed at once and looked at once more, when nothing
can move any more: whoever refused may have sent it all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bursar.payments.alerts import (
    AlertKind,
    alerts_of,
    duty_notice,
    funding_notice,
    late_alerts,
    notice_of,
)
from bursar.payments.outcome import (
    FINAL_PROOFS,
    TERMINAL,
    TRANSITIONS,
    Money,
    Trigger,
    read_evidence,
)
from bursar.payments.records import (
    Change,
    Evidence,
    Finding,
    PaymentEvent,
    PaymentRecord,
    move,
    note,
)
from bursar.payments.schedule import (
    Pace,
    Rng,
    awaits_proof,
    closed_check_ms,
    first_check_ms,
    is_overdue,
    next_check_ms,
)

WORKER = "worker"


def needs_prover(record: PaymentRecord) -> bool:
    """Return whether the chain has to be asked: not for what was never sent, nor what is proved."""
    if record.money in TERMINAL:
        return awaits_proof(record)
    return record.money is not Money.RECORDED


def checked(
    record: PaymentRecord,
    finding: Finding | None,
    now_ms: int,
    pace: Pace,
    rng: Rng,
    *,
    counts: bool = True,
) -> Change:
    """Return the change that a look at a payment makes.

    Args:
        record: as it was claimed.
        finding: what the prover says; None where it was not asked.
        now_ms: the time.
        pace: how often payments are looked at.
        rng: for the jitter.
        counts: the look is one of the worker's: a failure to ask brings parking nearer. One
            that a person asked for does not.
    """
    after, events = _applied(record, _triggers(record, finding), now_ms, pace)
    if finding is not None and counts:
        failed = finding.trigger is Trigger.UNREACHABLE
        counted = after.rpc_failures + 1 if failed else after.rpc_failures
        after = replace(after, checks=after.checks + 1, rpc_failures=counted)
        if awaits_proof(after) and finding.trigger in FINAL_PROOFS:  # it was no mere word
            after = replace(after, hard_deadline_ms=None)
    may_park = (after.money, Trigger.OVERDUE) in TRANSITIONS and after.money is not Money.PARKED
    if may_park and counts and is_overdue(after, now_ms, pace):
        said = Evidence(source=WORKER, reason=f"{after.rpc_failures} failures to ask")
        after, event = move(after, Trigger.OVERDUE, said, now_ms)
        events.append(event)
    if not events:  # the time of its work is over: its disposition is computed anew
        after, event = note(after, "WORK_OVERDUE", Evidence(source=WORKER), now_ms)
        events.append(event)
    wait_ms = None if finding is None else finding.retry_after_ms
    at_ms = next_check_ms(after, now_ms, pace, rng, retry_after_ms=wait_ms)
    after = replace(after, next_check_at_ms=at_ms)
    disagree = finding is not None and finding.disagreement
    more = [AlertKind.WITNESSES_DISAGREE] if disagree else []
    more += late_alerts(record, after, now_ms, pace)
    return replace(change_of(record, after, events, now_ms, more), fence=record.fence)


def heard(
    record: PaymentRecord,
    trigger: Trigger,
    evidence: Evidence,
    now_ms: int,
    pace: Pace,
    *,
    retry_after_ms: int | None = None,
    facilitator_ref: str | None = None,
) -> Change:
    """Return the change that a sender's answer makes, whatever was learned before it came.

    Args:
        record: as it is.
        trigger: what the answer means.
        evidence: the answer.
        now_ms: the time.
        pace: how soon the chain is asked.
        retry_after_ms: when the other side wants to be asked again.
        facilitator_ref: the other side's own name for the payment.
    """
    after, events = _applied(record, [(trigger, evidence)], now_ms, pace)
    if after.money in TERMINAL:
        at_ms = closed_check_ms(after, now_ms, pace)
    else:
        wait_ms = min(max(0, retry_after_ms or 0), pace.retry_after_max_ms)
        at_ms = max(first_check_ms(now_ms, pace), now_ms + wait_ms)
    known = facilitator_ref or after.facilitator_ref
    after = replace(after, next_check_at_ms=at_ms, facilitator_ref=known)
    return change_of(record, after, events, now_ms)


def change_of(
    before: PaymentRecord,
    after: PaymentRecord,
    events: Sequence[PaymentEvent],
    now_ms: int,
    more: Sequence[AlertKind] = (),
) -> Change:
    """Return a change with all that others must be told of it; it needs no claim."""
    reopened = [Trigger.CONTRADICTED] if any(e.what == "CONTRADICTED" for e in events) else []
    kinds = [*alerts_of(before, after, reopened), *more]
    told = tuple(notice_of(kind, after, now_ms) for kind in kinds)
    duties = (*duty_notice(before, after, now_ms), *funding_notice(before, after, now_ms))
    return Change(after, before.version, events=tuple(events), notices=told + duties)


def postponed(record: PaymentRecord, until_ms: int) -> Change:
    """Return the change of a payment that was not looked at; it costs no version and no failure."""
    return Change(replace(record, next_check_at_ms=until_ms), record.version, record.fence)


def _triggers(record: PaymentRecord, finding: Finding | None) -> Sequence[tuple[Trigger, Evidence]]:
    if record.money is Money.RECORDED:
        said = Evidence(source=WORKER, reason="nothing was sent in the time it was given")
        return [(Trigger.REFUSED, said)]
    found = [] if finding is None else [(finding.trigger, finding.evidence)]
    if record.money is Money.SUBMITTING:
        said = Evidence(source=WORKER, reason="the sender stored no answer in its time")
        return [(Trigger.LOST, said), *found]
    return found


def _applied(
    record: PaymentRecord,
    triggers: Sequence[tuple[Trigger, Evidence]],
    now_ms: int,
    pace: Pace,
) -> tuple[PaymentRecord, list[PaymentEvent]]:
    """Return a record after triggers; one that changes nothing leaves a line of history."""
    after, events = record, list[PaymentEvent]()
    for trigger, evidence in triggers:
        meant = read_evidence(after.money, trigger)
        if meant is None or (after.money, meant) not in TRANSITIONS:
            after, event = note(after, f"SEEN_{trigger.value}", evidence, now_ms)
        else:
            after, event = move(after, meant, evidence, now_ms)
        events.append(event)
        if meant is Trigger.REFUSED and record.money is Money.RECORDED and not record.facilitator:
            after = replace(after, hard_deadline_ms=None)  # nobody ever had it
        if meant is Trigger.CONTRADICTED:  # it gets a new time to be proved in
            deadline_ms = now_ms + pace.hard_after_ms
            after = replace(after, rpc_failures=0, hard_deadline_ms=deadline_ms)
    return after, events
