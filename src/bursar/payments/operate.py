"""What an operator does about payments: look again, note a refund, write off, export.

The rule that lives here: an operator adds evidence and never overrules it. A refund is noted
only if the chain shows it, a loss is written off by two people with a reason, and whoever
changed a payment meanwhile is not overwritten: the change is made again on what is there now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

from bursar.payments.alerts import alerts_of, notice_of, tell
from bursar.payments.checking import checked
from bursar.payments.outcome import IllegalTransition, Money, Remedy, Trigger
from bursar.payments.ports import PaymentQuery, PaymentStore, Prover, Saved
from bursar.payments.records import (
    Change,
    Evidence,
    PaymentEvent,
    PaymentRecord,
    Transfer,
    move,
    move_remedy,
)
from bursar.payments.schedule import Pace, Rng

TRIES_MAX: Final = 5
PAGE: Final = 500
_SECRET: Final = frozenset({"sealed_payload"})


class OperatorError(Exception):
    """A command that is refused; the message says why and what to do. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Refund:
    """What shows that a payment was paid back.

    Attributes:
        evidence: what it rests on.
        transfers: those in the transaction that pay back exactly this payment's value, after it
            was made; a batch may hold several, for several payments.
    """

    evidence: Evidence
    transfers: tuple[Transfer, ...]


class RefundChecker(Protocol):
    """Looks on the chain whether a transaction pays a payment's value back to its payer."""

    async def refund(self, record: PaymentRecord, tx_hash: str) -> Refund | None:
        """Return what shows a final refund; None if the transaction is no such thing."""
        ...


def show(store: PaymentStore, payment_id: str) -> dict[str, Any]:
    """Return a payment and its history, without its payload.

    Raises:
        OperatorError: there is no such payment.
    """
    record = _get(store, payment_id)
    return document(record) | {"history": [_line(event) for event in store.events(payment_id)]}


def document(record: PaymentRecord) -> dict[str, Any]:
    """Return a payment as JSON shows it; its value is text, for it may exceed 64 bits."""
    shown = {name: value for name, value in asdict(record).items() if name not in _SECRET}
    return shown | {"value": str(record.value), "has_payload": record.sealed_payload is not None}


def export(store: PaymentStore, query: PaymentQuery) -> Iterator[str]:
    """Yield every payment that a query finds, with its history, one line of JSON for each."""
    query = replace(query, limit=PAGE)
    while page := store.page(query):
        for record in page:
            history = [_line(event) for event in store.events(record.payment_id)]
            yield json.dumps(document(record) | {"history": history}, sort_keys=True)
        query = replace(query, before=(page[-1].created_at_ms, page[-1].payment_id))


async def recheck(
    store: PaymentStore,
    prover: Prover,
    payment_id: str,
    *,
    now_ms: int,
    rng: Rng,
    pace: Pace | None = None,
) -> PaymentRecord:
    """Ask the chain now, whatever the schedule says, and keep what it says.

    Evidence against a final state reopens it; a worker's lease and its schedule are left alone,
    and a failure to ask counts for nothing: it is the worker's that park a payment. The last
    line of the history says what was learned.

    Raises:
        OperatorError: there is no such payment, nothing was sent, or it kept changing.
    """
    record = _get(store, payment_id)
    if record.money in (Money.RECORDED, Money.SUBMITTING):
        raise OperatorError(
            f"payment {payment_id} is {record.money.value}: its sender has not stored an answer "
            "yet; a worker looks at it when the sender's time is over"
        )
    finding = await prover.prove(record)

    def again(now: PaymentRecord) -> Change:
        made = checked(now, finding, now_ms, pace or Pace(), rng, counts=False)
        after = made.after
        if after.money is now.money:
            after = replace(after, next_check_at_ms=now.next_check_at_ms)
        return replace(made, after=after, fence=None)

    return amend(store, payment_id, again)


async def mark_refunded(
    store: PaymentStore,
    checker: RefundChecker,
    payment_id: str,
    tx_hash: str,
    operator: str,
    now_ms: int,
) -> PaymentRecord:
    """Note a refund that the chain shows; noting the same one again changes nothing.

    One transfer pays one payment back, so that no loss is closed by another's refund.

    Raises:
        OperatorError: there is no such payment, the transaction does not refund it or refunds
            another one, it was refunded by another one, or there is nothing to refund.
    """
    record = _get(store, payment_id)
    _refuse_other_refund(record, tx_hash)
    if record.refund_tx is not None:
        return record
    proof = await checker.refund(record, tx_hash)
    if proof is None:
        raise OperatorError(
            f"transaction {tx_hash} does not pay {record.value} of {record.asset} back to "
            f"{record.payer} in a final block after the payment; check the hash, or wait until it "
            "is final"
        )
    evidence = replace(proof.evidence, source=f"operator:{operator}", tx_hash=tx_hash)

    def again(now: PaymentRecord) -> Change | None:
        _refuse_other_refund(now, tx_hash)
        if now.refund_tx is not None:
            return None
        made = _remedied(now, Remedy.REFUNDED, evidence, now_ms)
        return replace(made, refunds=proof.transfers)

    return amend(store, payment_id, again)


def write_off(
    store: PaymentStore, payment_id: str, *, reason: str, operator: str, second: str, now_ms: int
) -> PaymentRecord:
    """Accept a loss: with a reason, and by two people.

    Raises:
        OperatorError: a name or the reason is missing, both names are one, or there is nothing
            to write off.
    """
    for name, value in (("reason", reason), ("operator", operator), ("second person", second)):
        if not value.strip():
            raise OperatorError(f"the {name} is empty; a loss is written off by two, with a reason")
    if operator.strip().casefold() == second.strip().casefold():
        raise OperatorError(f"{operator} cannot be the second person too; ask somebody else")
    said = f"{reason.strip()} (second person: {second.strip()})"
    evidence = Evidence(source=f"operator:{operator.strip()}", reason=said)

    def again(now: PaymentRecord) -> Change | None:
        if now.remedy is Remedy.WRITTEN_OFF:
            return None
        return _remedied(now, Remedy.WRITTEN_OFF, evidence, now_ms)

    return amend(store, payment_id, again)


def distrust(store: PaymentStore, now_ms: int) -> int:
    """Take every payment that was not sent for one that may have been; return how many.

    A backup does not know what happened since. What it says was never sent would be refused, and
    its payer asked for a second payment; as an unknown outcome it is looked up on the chain.
    """
    said = Evidence("operator:restore", "from a backup: it may have been sent since then")
    count = 0
    while page := store.page(PaymentQuery(money=Money.RECORDED, limit=PAGE)):
        changes: list[Change] = []
        for record in page:
            after, events = replace(record, next_check_at_ms=now_ms), list[PaymentEvent]()
            for trigger in (Trigger.SENDING, Trigger.LOST):
                after, event = move(after, trigger, said, now_ms)
                events.append(event)
            changes.append(Change(after, record.version, events=tuple(events)))
        count += sum(result.saved is Saved.SAVED for result in store.save(changes))
    return count


def _get(store: PaymentStore, payment_id: str) -> PaymentRecord:
    record = store.get(payment_id)
    if record is None:
        raise OperatorError(f"there is no payment {payment_id}; list them to see their ids")
    return record


def _line(event: PaymentEvent) -> dict[str, Any]:
    evidence = json.loads(event.evidence.to_json())
    return {
        "seq": event.seq,
        "at_ms": event.at_ms,
        "what": event.what,
        "money": event.money.value,
        "work": event.work.value,
        "disposition": event.disposition.value,
        "evidence": evidence,
    }


def _refuse_other_refund(record: PaymentRecord, tx_hash: str) -> None:
    other = record.refund_tx
    if other is not None and other.lower() != tx_hash.lower():
        raise OperatorError(f"payment {record.payment_id} was refunded by {other} already")


def _remedied(record: PaymentRecord, remedy: Remedy, evidence: Evidence, now_ms: int) -> Change:
    try:
        after, event = move_remedy(record, remedy, evidence, now_ms)
    except IllegalTransition as error:
        raise OperatorError(
            f"payment {record.payment_id} is {record.disposition.value} ({record.money.value}, "
            f"work {record.work.value}): there is nothing to mark {remedy.value}"
        ) from error
    told = tuple(notice_of(kind, after, now_ms) for kind in alerts_of(record, after))
    return Change(after, record.version, events=(event,), notices=told)


def amend(
    store: PaymentStore, payment_id: str, make: Callable[[PaymentRecord], Change | None]
) -> PaymentRecord:
    """Make a change on what is there, again where somebody else was faster.

    Raises:
        OperatorError: there is no such payment, or it kept changing.
    """
    for _ in range(TRIES_MAX):
        record = _get(store, payment_id)
        change = make(record)
        if change is None:
            return record
        [result] = store.save([change])
        if result.saved is Saved.SAVED:
            tell(result.told)
            return _get(store, payment_id)
        if result.saved is Saved.TAKEN:
            raise OperatorError(
                f"transaction {change.after.refund_tx} pays another payment back already, and no "
                "transfer in it is left for this one; one transfer pays one payment back"
            )
    raise OperatorError(f"payment {payment_id} keeps changing; try again in a moment")
