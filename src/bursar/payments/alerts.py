"""What an operator must be told of a payment, and how often: once.

The rule that lives here: an alert is decided from a record before and after a change, kept in
the outbox in the same transaction, and logged only if its key was new there. It names the
payment and never carries a signature or a payload.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from enum import StrEnum, unique

from bursar.payments.outcome import (
    NEVER,
    UNRESOLVED,
    BudgetState,
    Disposition,
    Duty,
    Money,
    Remedy,
    Trigger,
    duty,
)
from bursar.payments.records import Notice, PaymentRecord, Topic
from bursar.payments.schedule import Pace, awaits_proof, mandatory_ms, unresolved_ms

_log = logging.getLogger("bursar.payments")
# Elsewhere a transaction comes from the chain itself, and was seen there.
_NAMED = frozenset({Money.PENDING, Money.UNKNOWN, Money.PARKED})


@unique
class AlertKind(StrEnum):
    """What is worth waking somebody for."""

    ORPHANED = "payment.orphaned"
    PARKED = "payment.parked"
    MISDIRECTED = "payment.misdirected"
    UNPAID_DELIVERY = "payment.unpaid_delivery"
    REOPENED = "payment.reopened"
    REFUNDED_UNPAID = "payment.refunded_unpaid"
    BUDGET_DISAGREES = "payment.budget_disagrees"
    WITNESSES_DISAGREE = "payment.witnesses_disagree"
    UNRESOLVED_TOO_LONG = "payment.unresolved_too_long"
    UNPROVEN_SUCCESS = "payment.unproven_success"
    FUNDING_FAILED = "payment.funding_failed"
    BUDGET_FAILED = "payment.budget_failed"


def alerts_of(
    before: PaymentRecord, after: PaymentRecord, triggers: Iterable[Trigger] = ()
) -> list[AlertKind]:
    """Return what a change gives cause for; what was so before is not said again."""

    def is_new(now: object, then: object, wanted: object) -> bool:
        return now is wanted and then is not wanted

    found: list[AlertKind] = []
    if Trigger.CONTRADICTED in triggers:
        found.append(AlertKind.REOPENED)
    for about, kind in (
        (Disposition.ORPHANED, AlertKind.ORPHANED),
        (Disposition.UNPAID_DELIVERY, AlertKind.UNPAID_DELIVERY),
    ):
        if is_new(after.disposition, before.disposition, about):
            found.append(kind)
    for money, kind in (
        (Money.PARKED, AlertKind.PARKED),
        (Money.MISDIRECTED, AlertKind.MISDIRECTED),
    ):
        if is_new(after.money, before.money, money):
            found.append(kind)
    if after.remedy is Remedy.REFUNDED and is_never(after) and not is_never(before):
        found.append(AlertKind.REFUNDED_UNPAID)
    now, then = (duty(each.money, each.budget_state) for each in (after, before))
    if is_new(now, then, Duty.ALERT):
        found.append(AlertKind.BUDGET_DISAGREES)
    return found


def late_alerts(
    before: PaymentRecord, after: PaymentRecord, now_ms: int, pace: Pace
) -> list[AlertKind]:
    """Return what a look gives cause for that only time shows.

    A transaction that a facilitator named must be on the chain by the mandatory look, or the
    named success is none that anybody can prove. A payment that is not resolved when twice the
    chain's finality has passed since its authorization ended waits for a person: the chain is
    not read, or it cannot say. That holds for a refusal that is not proved yet, too.
    """
    found: list[AlertKind] = []
    mandatory, limit = mandatory_ms(after, pace), unresolved_ms(after, pace)
    named = before.tx_hash is not None and before.money in _NAMED
    unproven = mandatory is not None and after.money in UNRESOLVED and now_ms >= mandatory
    if named and (unproven or is_never(after)):
        found.append(AlertKind.UNPROVEN_SUCCESS)
    waits = after.money in UNRESOLVED or awaits_proof(after)
    if limit is not None and waits and now_ms >= limit:
        found.append(AlertKind.UNRESOLVED_TOO_LONG)
    return found


def is_never(record: PaymentRecord) -> bool:
    """Return whether a payment is proved not to have been paid."""
    return record.money in NEVER


def notice_of(
    kind: AlertKind, record: PaymentRecord, now_ms: int, *, reason: str | None = None
) -> Notice:
    """Return the outbox entry of an alert: webhook-ready, and the same key for the same cause.

    A reopened payment may be reopened again, so that key counts, and what a budget must do may be
    given up again after somebody had it retried; the others are told once, however often a look
    finds them.
    """
    counts = {AlertKind.REOPENED: record.version}
    counts |= {AlertKind.FUNDING_FAILED: now_ms, AlertKind.BUDGET_FAILED: now_ms}
    count = f":{counts[kind]}" if kind in counts else ""
    facts = {
        "event": kind.value,
        "tenant": record.tenant,
        "payment_id": record.payment_id,
        "intent_id": record.intent_id,
        "network": record.network,
        "asset": record.asset,
        "payer": record.payer,
        "pay_to": record.pay_to,
        "value": str(record.value),
        "money": record.money.value,
        "work": record.work.value,
        "disposition": record.disposition.value,
        "tx_hash": record.tx_hash,
        "at_ms": now_ms,
    }
    if reason is not None:
        facts["reason"] = reason
    return Notice(
        tenant=record.tenant,
        payment_id=record.payment_id,
        topic=Topic.ALERT,
        dedupe_key=f"{kind.value}:{record.payment_id}{count}",
        payload=json.dumps(facts, sort_keys=True, separators=(",", ":")),
        available_at_ms=now_ms,
    )


def funding_notice(before: PaymentRecord, after: PaymentRecord, now_ms: int) -> list[Notice]:
    """Return the outbox entry of a payment that funds a budget, when it is final: once.

    An incoming payment has no reservation; the budget that it names is the one to fund.
    """
    funds = after.budget_ref is not None and after.budget_state is BudgetState.NONE
    if not funds or after.money is not Money.SETTLED or before.money is Money.SETTLED:
        return []
    return [
        Notice(
            tenant=after.tenant,
            payment_id=after.payment_id,
            topic=Topic.FUNDING,
            dedupe_key=f"FUND:{after.payment_id}",
            payload=json.dumps({"budget": after.budget_ref, "payment_id": after.payment_id}),
            available_at_ms=now_ms,
        )
    ]


def duty_notice(before: PaymentRecord, after: PaymentRecord, now_ms: int) -> list[Notice]:
    """Return the outbox entry for the budget, where the outcome asks something new of it."""
    now, then = (duty(each.money, each.budget_state) for each in (after, before))
    if now is then or now in (Duty.NONE, Duty.HOLD, Duty.ALERT):
        return []
    facts = {
        "duty": now.value,
        "payment_id": after.payment_id,
        "budget_ref": after.budget_ref,
        "value": str(after.value),
    }
    return [
        Notice(
            tenant=after.tenant,
            payment_id=after.payment_id,
            topic=Topic.BUDGET,
            dedupe_key=f"{now.value}:{after.payment_id}:{after.version}",
            payload=json.dumps(facts, sort_keys=True, separators=(",", ":")),
            available_at_ms=now_ms,
        )
    ]


def tell(notices: Iterable[Notice]) -> None:
    """Log alerts that were new when they were saved, as one structured event each."""
    for notice in notices:
        if notice.topic is Topic.ALERT:
            facts = json.loads(notice.payload)
            _log.warning("%s %s", facts["event"], notice.payment_id, extra={"payment": facts})
