"""Alerts that only time gives cause for: each at its limit, once, and never without cause."""

import json
import random
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from bursar.payments.alerts import AlertKind, late_alerts
from bursar.payments.checking import checked
from bursar.payments.outcome import Money, Trigger
from bursar.payments.records import Finding, PaymentRecord, Topic
from bursar.payments.schedule import Pace, mandatory_ms, unresolved_ms
from bursar.testing.memory_payments import MemoryPayments
from payments.world import NOW_MS, SEEN, payment, recorded

PACE = Pace()
HASH = "0x" + "7" * 64
END_MS = (NOW_MS // 1_000 + 60) * 1_000
MANDATORY_MS = END_MS + PACE.finality_ms + PACE.skew_ms
LATE_MS = END_MS + 2 * PACE.finality_ms
LATE, UNPROVEN = AlertKind.UNRESOLVED_TOO_LONG, AlertKind.UNPROVEN_SUCCESS


def test_limits_are_those_of_the_pace() -> None:
    """Twice the finality after the authorization's end; none without an end."""
    assert (mandatory_ms(payment(), PACE), unresolved_ms(payment(), PACE)) == (
        *(MANDATORY_MS, LATE_MS),
    )
    assert unresolved_ms(payment(valid_before_s=None), PACE) is None


@pytest.mark.parametrize(
    ("before", "after", "now_ms", "told"),
    [
        # Unresolved for too long, whoever is to blame; final or parked in time is neither.
        ({"money": Money.UNKNOWN}, Money.UNKNOWN, LATE_MS - 1, []),
        ({"money": Money.UNKNOWN}, Money.UNKNOWN, LATE_MS, [LATE]),
        ({"money": Money.PROVISIONAL}, Money.PROVISIONAL, LATE_MS, [LATE]),
        ({"money": Money.PARKED}, Money.PARKED, LATE_MS, [LATE]),
        ({"money": Money.UNKNOWN}, Money.EXPIRED, LATE_MS, []),
        ({"money": Money.UNKNOWN, "valid_before_s": None}, Money.UNKNOWN, LATE_MS * 2, []),
        # A transaction was named, and the mandatory look does not find it.
        ({"money": Money.PENDING, "tx_hash": HASH}, Money.PENDING, MANDATORY_MS - 1, []),
        ({"money": Money.PENDING, "tx_hash": HASH}, Money.PENDING, MANDATORY_MS, [UNPROVEN]),
        ({"money": Money.PENDING, "tx_hash": HASH}, Money.PARKED, MANDATORY_MS, [UNPROVEN]),
        ({"money": Money.PENDING, "tx_hash": HASH}, Money.UNKNOWN, LATE_MS, [UNPROVEN, LATE]),
        # ... or the chain proves that nobody was paid, at any time.
        ({"money": Money.PENDING, "tx_hash": HASH}, Money.EXPIRED, NOW_MS, [UNPROVEN]),
        ({"money": Money.PENDING, "tx_hash": HASH}, Money.VOIDED, NOW_MS, [UNPROVEN]),
        ({"money": Money.PENDING, "tx_hash": HASH}, Money.MISDIRECTED, NOW_MS, [UNPROVEN]),
        ({"money": Money.PENDING, "tx_hash": HASH}, Money.SETTLED, LATE_MS, []),
        # Nobody named one: it is missing to nobody.
        ({"money": Money.UNKNOWN}, Money.EXPIRED, MANDATORY_MS, []),
        # It comes from the chain itself, where it was seen.
        ({"money": Money.PROVISIONAL, "tx_hash": HASH}, Money.PROVISIONAL, MANDATORY_MS, []),
    ],
)
def test_what_a_look_tells(
    before: dict[str, Any], after: Money, now_ms: int, told: list[AlertKind]
) -> None:
    record = payment(**before)
    assert late_alerts(record, replace(record, money=after), now_ms, PACE) == told


def look(store: MemoryPayments, record: PaymentRecord, trigger: Trigger, now_ms: int) -> Any:
    [claimed] = store.claim("w", now_ms, 1, 1)
    change = checked(claimed, Finding(trigger, SEEN), now_ms, PACE, random.Random(1))
    [result] = store.save([change])
    return [json.loads(notice.payload)["event"] for notice in result.told]


def test_each_is_told_once() -> None:
    """However many looks find it: the outbox knows its key, and holds the entry for a webhook."""
    record = payment(
        money=Money.PENDING, tx_hash=HASH, facilitator="shop", next_check_at_ms=MANDATORY_MS
    )
    with closing(MemoryPayments()) as store:
        store.add(record, recorded(record))
        assert look(store, record, Trigger.UNDECIDED, MANDATORY_MS) == [UNPROVEN]
        day = 86_400_000
        assert look(store, record, Trigger.UNDECIDED, LATE_MS + day // 2) == [LATE]
        assert look(store, record, Trigger.UNDECIDED, LATE_MS + day) == []
        posted = [one.notice for one in store.outbox(Topic.ALERT, LATE_MS + day, 9)]
        assert [one.dedupe_key for one in posted] == [
            f"{UNPROVEN}:{record.payment_id}",
            f"{LATE}:{record.payment_id}",
        ]
        facts = json.loads(posted[0].payload)
        assert (facts["tx_hash"], facts["money"], facts["tenant"]) == (HASH, "PENDING", "acme")
