"""One look at one payment, as a change: pure, so that the worker only asks and saves.

The rule that lives here: a sender that died is a lost answer, never a failure; what was never
sent is refused; and whatever a prover says of a final payment either contradicts it, which
reopens it, or changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bursar.payments.alerts import AlertKind, alerts_of, duty_notice, notice_of
from bursar.payments.outcome import TERMINAL, TRANSITIONS, Money, Trigger, read_evidence
from bursar.payments.records import (
    Change,
    Evidence,
    Finding,
    PaymentEvent,
    PaymentRecord,
    move,
    note,
)
from bursar.payments.schedule import Pace, Rng, is_overdue, next_check_ms

WORKER = "worker"


def needs_prover(record: PaymentRecord) -> bool:
    """Return whether the chain has to be asked: not for what was never sent, nor what is final."""
    return record.money is not Money.RECORDED and record.money not in TERMINAL


def checked(
    record: PaymentRecord, finding: Finding | None, now_ms: int, pace: Pace, rng: Rng
) -> Change:
    """Return the change that a look at a claimed payment makes.

    Args:
        record: as it was claimed.
        finding: what the prover says; None where it was not asked.
        now_ms: the time.
        pace: how often payments are looked at.
        rng: for the jitter.
    """
    after, events = record, list[PaymentEvent]()
    triggers = list(_triggers(record, finding))
    for trigger, evidence in triggers:
        meant = read_evidence(after.money, trigger)
        if meant is None or (after.money, meant) not in TRANSITIONS:
            after, event = note(after, f"SEEN_{trigger.value}", evidence, now_ms)
        else:
            after, event = move(after, meant, evidence, now_ms)
        events.append(event)
        if meant is Trigger.CONTRADICTED:  # it gets a new time to be proved in
            deadline_ms = now_ms + pace.hard_after_ms
            after = replace(after, rpc_failures=0, hard_deadline_ms=deadline_ms)
    if finding is not None:
        failed = finding.trigger is Trigger.UNREACHABLE
        counted = after.rpc_failures + 1 if failed else after.rpc_failures
        after = replace(after, checks=after.checks + 1, rpc_failures=counted)
    may_park = (after.money, Trigger.OVERDUE) in TRANSITIONS and after.money is not Money.PARKED
    if may_park and is_overdue(after, now_ms, pace):
        said = Evidence(source=WORKER, reason=f"{after.rpc_failures} failures to ask")
        after, event = move(after, Trigger.OVERDUE, said, now_ms)
        events.append(event)
    if not events:  # the time of its work is over: its disposition is computed anew
        after, event = note(after, "WORK_OVERDUE", Evidence(source=WORKER), now_ms)
        events.append(event)
    wait_ms = None if finding is None else finding.retry_after_ms
    at_ms = next_check_ms(after, now_ms, pace, rng, retry_after_ms=wait_ms)
    after = replace(after, next_check_at_ms=at_ms)
    reopened = [Trigger.CONTRADICTED] if any(e.what == "CONTRADICTED" for e in events) else []
    kinds = alerts_of(record, after, reopened)
    if finding is not None and finding.disagreement:
        kinds.append(AlertKind.WITNESSES_DISAGREE)
    told = tuple(notice_of(kind, after, now_ms) for kind in kinds)
    duties = tuple(duty_notice(record, after, now_ms))
    return Change(after, record.version, record.fence, tuple(events), told + duties)


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
