"""What is kept of a payment: the record, its evidence, and what others must be told.

The rule that lives here: a record changes only together with the evidence for the change.
`move` and its siblings make both at once, so a store never sees one without the other.
Everything is pure: time is an argument and nothing is written here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum, unique
from typing import Any, Final

from bursar.payments.outcome import (
    TERMINAL,
    BudgetState,
    Disposition,
    Money,
    Remedy,
    Trigger,
    Work,
    advance,
    advance_budget,
    advance_remedy,
    advance_work,
    disposition,
)

VALUE_MAX: Final = 2**256 - 1
"""Values are in the smallest unit of the asset, which a chain counts in 256 bits."""
REASON_LENGTH_MAX: Final = 2_000


@unique
class Kind(StrEnum):
    """Which rail a payment moves on."""

    X402 = "x402"
    PSP = "psp"
    AP2 = "ap2"


@unique
class Topic(StrEnum):
    """Who an outbox entry is for."""

    ALERT = "alert"
    BUDGET = "budget"
    FUNDING = "funding"  # an incoming payment is final: its budget may be funded


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a change rests on; whatever is not known is None.

    Attributes:
        source: who says so: `worker`, `facilitator:NAME`, `rpc:NAME`, `operator:NAME`.
        reason: raw words of the other side, cut to a bound; shown to operators only.
        block_hash: the one block that everything was read at.
        block_number: its number.
        block_time_s: its timestamp, in epoch seconds.
        tx_hash: the transaction that proves it.
        software: the version of what was asked with.
    """

    source: str
    reason: str | None = None
    block_hash: str | None = None
    block_number: int | None = None
    block_time_s: int | None = None
    tx_hash: str | None = None
    software: str | None = None

    def to_json(self) -> str:
        """Return canonical JSON without what is not known."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        if self.reason is not None:
            known["reason"] = self.reason[:REASON_LENGTH_MAX]
        return json.dumps(known, sort_keys=True, separators=(",", ":"))


def evidence_from_json(text: str) -> Evidence:
    """Read what `Evidence.to_json` wrote."""
    return Evidence(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Finding:
    """What a prover says of one payment.

    Attributes:
        trigger: what was seen.
        evidence: what that rests on.
        retry_after_ms: when the other side wants to be asked again.
        disagreement: those who were asked contradict each other.
    """

    trigger: Trigger
    evidence: Evidence
    retry_after_ms: int | None = None
    disagreement: bool = False


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    """One payment, from before its effect until nothing is left to do about it.

    `sealed_payload` is the signed authorization, encrypted; it is gone once the money is final.
    """

    tenant: str
    payment_id: str
    intent_id: str
    attempt_no: int
    kind: Kind
    network: str
    asset: str
    payer: str
    pay_to: str
    value: int
    created_at_ms: int
    updated_at_ms: int
    nonce: str | None = None
    resource: str | None = None
    task_id: str | None = None
    valid_after_s: int | None = None
    valid_before_s: int | None = None
    from_block: int | None = None
    sealed_payload: bytes | None = field(default=None, repr=False)
    requirements: str | None = None
    facilitator: str | None = None
    facilitator_ref: str | None = None
    money: Money = Money.RECORDED
    work: Work = Work.NOT_STARTED
    work_until_ms: int | None = None
    remedy: Remedy = Remedy.NONE
    refund_tx: str | None = None
    disposition: Disposition = Disposition.OPEN
    budget_ref: str | None = None
    budget_state: BudgetState = BudgetState.NONE
    tx_hash: str | None = None
    checks: int = 0
    rpc_failures: int = 0
    next_check_at_ms: int | None = None
    hard_deadline_ms: int | None = None
    lease_owner: str | None = None
    lease_until_ms: int = 0
    fence: int = 0
    version: int = 1

    def authorization(self) -> tuple[str, str, str, str] | None:
        """Return what a chain lets happen once, spelled one way; None without a nonce."""
        if self.nonce is None:
            return None
        return self.network, self.asset.lower(), self.payer.lower(), self.nonce.lower()

    def same_purchase(self, other: PaymentRecord) -> bool:
        """Return whether another record of the same authorization buys the same thing."""
        mine, theirs = (
            (record.pay_to.lower(), record.value, record.resource) for record in (self, other)
        )
        return mine == theirs


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """One line of a payment's history; `seq` is the record's version that it led to."""

    tenant: str
    payment_id: str
    seq: int
    at_ms: int
    what: str
    money: Money
    work: Work
    disposition: Disposition
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that others must be told, once for each `dedupe_key`."""

    tenant: str
    payment_id: str
    topic: Topic
    dedupe_key: str
    payload: str
    available_at_ms: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer on a chain: the entry of a transaction's log, by its index in the block."""

    network: str
    tx_hash: str
    log_index: int


@dataclass(frozen=True, slots=True)
class Change:
    """A record as it shall be, what it was read as, and what belongs to the change.

    Attributes:
        after: the record as it shall be.
        version: of the record that was read.
        fence: of the claim under which a worker looked; None for who holds no claim.
        events: the lines of history.
        notices: what others must be told.
        refunds: transfers that pay it back; the first that pays no other payment back is taken
            with the change, and where there is none nothing is saved.
    """

    after: PaymentRecord
    version: int
    fence: int | None = None
    events: tuple[PaymentEvent, ...] = ()
    notices: tuple[Notice, ...] = ()
    refunds: tuple[Transfer, ...] = ()


def event_of(record: PaymentRecord, what: str, evidence: Evidence, now_ms: int) -> PaymentEvent:
    """Return the line of history for a record as it is now."""
    return PaymentEvent(
        tenant=record.tenant,
        payment_id=record.payment_id,
        seq=record.version,
        at_ms=now_ms,
        what=what,
        money=record.money,
        work=record.work,
        disposition=record.disposition,
        evidence=evidence,
    )


def move(
    record: PaymentRecord, trigger: Trigger, evidence: Evidence, now_ms: int
) -> tuple[PaymentRecord, PaymentEvent]:
    """Return a record after a trigger, and the line of its history.

    The signed payload goes once the money is final: nothing may be sent any more. Work that
    waited for that has as long from then on as it was given at first.

    Raises:
        IllegalTransition: no row leads from here by this trigger.
    """
    money = advance(record.money, trigger)
    return _changed(
        record,
        trigger.value,
        evidence,
        now_ms,
        money=money,
        tx_hash=evidence.tx_hash or record.tx_hash,
        work_until_ms=_work_until_ms(record, money, now_ms),
        sealed_payload=None if money in TERMINAL else record.sealed_payload,
    )


def _work_until_ms(record: PaymentRecord, money: Money, now_ms: int) -> int | None:
    """Return until when the work may take: its time begins when it can be done."""
    until = record.work_until_ms
    waited = money is Money.SETTLED and record.work is Work.NOT_STARTED
    if until is None or not waited:
        return until
    return now_ms + max(0, until - record.created_at_ms)


def move_work(
    record: PaymentRecord, work: Work, evidence: Evidence, now_ms: int
) -> tuple[PaymentRecord, PaymentEvent]:
    """Return a record after its work went on.

    Raises:
        IllegalTransition: work does not go there.
    """
    after = advance_work(record.work, work)
    return _changed(record, f"WORK_{after.value}", evidence, now_ms, work=after)


def move_budget(
    record: PaymentRecord, budget: BudgetState, evidence: Evidence, now_ms: int
) -> tuple[PaymentRecord, PaymentEvent]:
    """Return a record after its budget changed.

    Raises:
        IllegalTransition: a budget does not go there.
    """
    after = advance_budget(record.budget_state, budget)
    return _changed(record, f"BUDGET_{after.value}", evidence, now_ms, budget_state=after)


def move_remedy(
    record: PaymentRecord, remedy: Remedy, evidence: Evidence, now_ms: int
) -> tuple[PaymentRecord, PaymentEvent]:
    """Return a record after an operator did something about it.

    Raises:
        IllegalTransition: there is nothing of that kind to remedy.
    """
    after = advance_remedy(record.disposition, remedy)
    refund = evidence.tx_hash if after is Remedy.REFUNDED else record.refund_tx
    return _changed(record, after.value, evidence, now_ms, remedy=after, refund_tx=refund)


def note(
    record: PaymentRecord, what: str, evidence: Evidence, now_ms: int
) -> tuple[PaymentRecord, PaymentEvent]:
    """Return a record whose history has one more line and which is otherwise the same."""
    return _changed(record, what, evidence, now_ms)


def _changed(
    record: PaymentRecord, what: str, evidence: Evidence, now_ms: int, **fields: Any
) -> tuple[PaymentRecord, PaymentEvent]:
    """Return the next version of a record, its disposition computed anew."""
    after = replace(record, **fields, version=record.version + 1, updated_at_ms=now_ms)
    overdue = after.work_until_ms is not None and now_ms >= after.work_until_ms
    about = disposition(after.money, after.work, after.remedy, overdue=overdue)
    after = replace(after, disposition=about)
    return after, event_of(after, what, evidence, now_ms)
