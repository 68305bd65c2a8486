"""What a sender writes: before the effect, around it, and after it.

The rule that lives here: a payment is on record before anything can leave, exactly one of all
callers may send it, and whatever is heard later is kept, even if a worker has called the
answer lost by then. Every method blocks for one short transaction: call it from a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from bursar.clock import Clock, SystemClock
from bursar.payments import checking
from bursar.payments.alerts import AlertKind, tell
from bursar.payments.outcome import (
    REMEDY_TRANSITIONS,
    TERMINAL,
    UNDELIVERED,
    BudgetState,
    Disposition,
    Money,
    Remedy,
    Trigger,
    Work,
)
from bursar.payments.ports import PaymentStore, PaymentStoreError, Saved
from bursar.payments.records import (
    Change,
    Evidence,
    PaymentRecord,
    event_of,
    move,
    move_budget,
    move_remedy,
    move_work,
    note,
)
from bursar.payments.schedule import Pace, awaits_proof, hard_deadline_ms, work_ends_ms
from bursar.payments.sealing import Sealer

TRIES_MAX: Final = 100
"""Each lost race means that somebody else's change was saved, so this many is a fault."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a sender may take.

    Attributes:
        send_within_ms: from the record to the send; afterwards the worker refuses the payment.
        call_ms: the longest that the send may take.
        margin_ms: what a sender gets on top of it to store the answer, before it counts as dead.
    """

    send_within_ms: int = 60_000
    call_ms: int = 60_000
    margin_ms: int = 15_000


class NoSuchPayment(LookupError):
    """There is no payment with this id in this store."""


class Book:
    """A sender's side of a payment store; safe to use from several threads.

    Args:
        store: where payments are kept.
        clock: the time.
        pace: when payments are looked at.
        limits: how long a sender may take.
        sealer: encrypts signed payloads; without one they are not stored.
    """

    def __init__(
        self,
        store: PaymentStore,
        *,
        clock: Clock | None = None,
        pace: Pace | None = None,
        limits: Limits | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        self.store = store
        self.clock = clock or SystemClock()
        self.pace = pace or Pace()
        self._limits = limits or Limits()
        self._sealer = sealer

    def record(
        self, draft: PaymentRecord, evidence: Evidence, *, payload: bytes | None = None
    ) -> tuple[PaymentRecord, bool]:
        """Put a payment on record; return what is there, and whether it is new.

        The same authorization or attempt for the same purchase is answered with what is there,
        unchanged. Times and schedule of the draft are set here.

        Args:
            draft: the payment, as nothing was sent of it.
            evidence: who accepted it, and why.
            payload: the signed authorization, kept only if there is a key to seal it.

        Raises:
            PaymentConflict: it is on record for another purchase.
            PaymentStoreError: the database failed; nothing may be sent.
        """
        if draft.money is not Money.RECORDED or draft.version != 1:
            raise ValueError(f"a payment is put on record once, as RECORDED; got {draft.money}")
        now_ms, sealed = self.clock.now_ms(), None
        if payload is not None and self._sealer is not None:
            sealed = self._sealer.seal(draft.payment_id, payload)
        made = replace(draft, created_at_ms=now_ms, updated_at_ms=now_ms, sealed_payload=sealed)
        made = replace(
            made,
            next_check_at_ms=now_ms + self._limits.send_within_ms,
            hard_deadline_ms=hard_deadline_ms(made, self.pace),
        )
        return self.store.add(made, event_of(made, "RECORDED", evidence, now_ms))

    def sending(self, payment_id: str, evidence: Evidence) -> PaymentRecord | None:
        """Claim the one send of a payment; None if somebody else has it, or it is over.

        Whoever gets the record sends, and tells what came of it with `heard`. A sender that
        does not is taken for dead after its time, and its answer for lost.
        """
        return self._step(payment_id, self._sent(Trigger.SENDING, {Money.RECORDED}, evidence))

    def resending(self, payment_id: str, evidence: Evidence) -> PaymentRecord | None:
        """Note that the same authorization is presented again; None where that helps nobody."""
        unproved = {Money.SUBMITTING, Money.PENDING, Money.UNKNOWN}
        return self._step(payment_id, self._sent(Trigger.RESENDING, unproved, evidence))

    def heard(
        self,
        payment_id: str,
        trigger: Trigger,
        evidence: Evidence,
        *,
        retry_after_ms: int | None = None,
        facilitator_ref: str | None = None,
    ) -> PaymentRecord:
        """Keep what was heard of a payment, however late, and tell who must know.

        It may move nothing: a refusal after an earlier send, or an answer that came after the
        proof. It is a line of the history all the same.
        """

        def step(now: PaymentRecord, now_ms: int) -> Change:
            return checking.heard(
                *(now, trigger, evidence, now_ms, self.pace),
                retry_after_ms=retry_after_ms,
                facilitator_ref=facilitator_ref,
            )

        return self._must(payment_id, step)

    def work(
        self, payment_id: str, work: Work, evidence: Evidence, *, until_ms: int | None = None
    ) -> PaymentRecord:
        """Keep how the work went on; staying where it is changes nothing.

        What is delivered after all, when it had been given up, is delivered late.

        Args:
            payment_id: the payment.
            work: where the work is now.
            evidence: who says so.
            until_ms: how long it may run; a paid payment whose work is not done is an orphan.

        Raises:
            IllegalTransition: work does not go there.
        """

        def step(now: PaymentRecord, now_ms: int) -> Change | None:
            may = REMEDY_TRANSITIONS.get(now.disposition, frozenset())
            late = Remedy.DELIVERED_LATE in may and now.work in UNDELIVERED
            if work is Work.DELIVERED and late:
                after, event = move_remedy(now, Remedy.DELIVERED_LATE, evidence, now_ms)
                return checking.change_of(now, after, [event], now_ms)
            if now.work is work:
                return None
            began = work is Work.RUNNING
            until = (until_ms or now.work_until_ms) if began else None
            after, event = move_work(replace(now, work_until_ms=until), work, evidence, now_ms)
            return checking.change_of(now, _timed(after, now_ms), [event], now_ms)

        return self._must(payment_id, step)

    def begin(self, payment_id: str, evidence: Evidence, until_ms: int) -> PaymentRecord | None:
        """Claim the one run of the work; None if somebody else has it or had it."""

        def step(now: PaymentRecord, now_ms: int) -> Change | None:
            if now.work is not Work.NOT_STARTED or now.disposition is Disposition.ORPHANED:
                return None
            running = replace(now, work_until_ms=until_ms)
            after, event = move_work(running, Work.RUNNING, evidence, now_ms)
            return checking.change_of(now, _timed(after, now_ms), [event], now_ms)

        return self._step(payment_id, step)

    def begin_late(
        self, payment_id: str, evidence: Evidence, until_ms: int
    ) -> PaymentRecord | None:
        """Claim a late run of an orphan's work; None if there is none, or another runs.

        It ends with `work(DELIVERED)`, which makes it delivered late, or when `until_ms` is
        over. What was under way when its time was over counts as canceled.
        """

        def step(now: PaymentRecord, now_ms: int) -> Change | None:
            runs = now.work_until_ms is not None and now.work_until_ms > now_ms
            if now.disposition is not Disposition.ORPHANED or runs:
                return None
            after, events = now, []
            if now.work not in UNDELIVERED:
                after, event = move_work(after, Work.CANCELED, evidence, now_ms)
                events.append(event)
            after, event = note(after, "DELIVERING_LATE", evidence, now_ms)
            after = replace(after, work_until_ms=until_ms)
            return checking.change_of(now, after, [*events, event], now_ms)

        return self._step(payment_id, step)

    def renew(
        self, payment_id: str, evidence: Evidence, until_ms: int, *, late: bool = False
    ) -> bool:
        """Hold a claim of the work for longer; say whether it is still held.

        Args:
            payment_id: the payment.
            evidence: who is at work.
            until_ms: when the claim ends if it is not renewed again.
            late: it was claimed by `begin_late`.
        """

        def step(now: PaymentRecord, now_ms: int) -> Change | None:
            held = now.work is Work.RUNNING
            if late:
                held = now.disposition is Disposition.ORPHANED and now.work in UNDELIVERED
            if not held or now.work_until_ms is None:
                return None
            kept = replace(now, work_until_ms=max(until_ms, now.work_until_ms))
            after, event = note(kept, "WORK_GOES_ON", evidence, now_ms)
            return checking.change_of(now, _timed(after, now_ms), [event], now_ms)

        return self._step(payment_id, step) is not None

    def give_up_late(self, payment_id: str, evidence: Evidence) -> PaymentRecord:
        """End a late run that delivered nothing; it may be tried again."""

        def step(now: PaymentRecord, now_ms: int) -> Change | None:
            if now.disposition is not Disposition.ORPHANED or now.work not in UNDELIVERED:
                return None
            after, event = note(now, "NOT_DELIVERED_LATE", evidence, now_ms)
            return checking.change_of(now, replace(after, work_until_ms=None), [event], now_ms)

        return self._must(payment_id, step)

    def budget(
        self,
        payment_id: str,
        state: BudgetState,
        evidence: Evidence,
        *,
        alert: AlertKind | None = None,
    ) -> PaymentRecord:
        """Keep what became of the reservation; staying where it is changes nothing.

        Args:
            payment_id: the payment.
            state: where the reservation stands.
            evidence: who says so.
            alert: what an operator is told with the change.

        Raises:
            IllegalTransition: a budget does not go there.
        """

        def step(now: PaymentRecord, now_ms: int) -> Change | None:
            if now.budget_state is state:
                return None
            after, event = move_budget(now, state, evidence, now_ms)
            more = () if alert is None else (alert,)
            return checking.change_of(now, after, [event], now_ms, more)

        return self._must(payment_id, step)

    def payload(self, record: PaymentRecord) -> bytes | None:
        """Return the signed payload of a payment that may still be presented, if it was kept.

        Raises:
            SealError: it was sealed with another key.
        """
        if record.sealed_payload is None or self._sealer is None:
            return None
        return self._sealer.unseal(record.payment_id, record.sealed_payload)

    def _sent(
        self, trigger: Trigger, sendable: set[Money], evidence: Evidence
    ) -> Callable[[PaymentRecord, int], Change | None]:
        def step(now: PaymentRecord, now_ms: int) -> Change | None:
            if now.money not in sendable:
                return None
            after, event = move(now, trigger, evidence, now_ms)
            dead_ms = now_ms + self._limits.call_ms + self._limits.margin_ms
            after = replace(after, next_check_at_ms=dead_ms)
            return checking.change_of(now, after, [event], now_ms)

        return step

    def _must(
        self, payment_id: str, step: Callable[[PaymentRecord, int], Change | None]
    ) -> PaymentRecord:
        """Make a change, or return the record as it is where there is none to make."""
        return self._step(payment_id, step) or self.get(payment_id)

    def get(self, payment_id: str) -> PaymentRecord:
        """Return a payment.

        Raises:
            NoSuchPayment: there is none with this id.
        """
        found = self.store.get(payment_id)
        if found is None:
            raise NoSuchPayment(f"there is no payment {payment_id}")
        return found

    def _step(
        self, payment_id: str, step: Callable[[PaymentRecord, int], Change | None]
    ) -> PaymentRecord | None:
        """Make a change on what is there, again where somebody else was faster."""
        for _ in range(TRIES_MAX):
            change = step(self.get(payment_id), self.clock.now_ms())
            if change is None:
                return None
            [result] = self.store.save([change])
            if result.saved is Saved.SAVED:
                tell(result.told)
                return change.after
        raise PaymentStoreError(f"payment {payment_id} changed {TRIES_MAX} times in a moment")


def _timed(record: PaymentRecord, now_ms: int) -> PaymentRecord:
    """Return a record whose next look is right for its work, where only that is awaited."""
    if record.money not in TERMINAL or awaits_proof(record):
        return record
    return replace(record, next_check_at_ms=work_ends_ms(record, now_ms))
