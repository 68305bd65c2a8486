"""What the tests of payments share: a plain record, and words for evidence."""

from dataclasses import replace
from typing import Any

from bursar.payments.outcome import Trigger
from bursar.payments.records import (
    Change,
    Evidence,
    Kind,
    Notice,
    PaymentEvent,
    PaymentRecord,
    Topic,
    event_of,
    move,
)

NOW_MS = 1_800_000_000_000
SEEN = Evidence(source="rpc:test", block_hash="0x" + "b" * 64, block_number=7)


def payment(name: str = "1", **changes: Any) -> PaymentRecord:
    plain = PaymentRecord(
        tenant="acme",
        payment_id=f"pay_{name}",
        intent_id=f"intent_{name}",
        attempt_no=1,
        kind=Kind.X402,
        network="eip155:84532",
        asset="0xAbC0000000000000000000000000000000000001",
        payer="0xDeF0000000000000000000000000000000000002",
        pay_to="0xFee0000000000000000000000000000000000003",
        value=10**20,
        created_at_ms=NOW_MS,
        updated_at_ms=NOW_MS,
        nonce="0x" + name.rjust(64, "0"),
        resource="https://shop.test/report",
        valid_before_s=NOW_MS // 1_000 + 60,
    )
    return replace(plain, **changes)


def recorded(record: PaymentRecord) -> PaymentEvent:
    return event_of(record, "RECORDED", Evidence(source="test"), record.created_at_ms)


def moved(record: PaymentRecord, *triggers: Trigger, **changes: Any) -> Change:
    """Return a change that takes a record through triggers, without a fence."""
    after, events = replace(record, **changes), []
    for trigger in triggers:
        after, event = move(after, trigger, SEEN, NOW_MS)
        events.append(event)
    return Change(after, record.version, events=tuple(events))


def alert(record: PaymentRecord, key: str) -> Notice:

    return Notice(record.tenant, record.payment_id, Topic.ALERT, key, "{}", NOW_MS)
