"""The operator's verbs: shown without secrets, refunds proved, losses by two, nothing lost."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.payments import operate
from bursar.payments.operate import OperatorError, Refund
from bursar.payments.outcome import Disposition, Money, Remedy, Trigger, Work
from bursar.payments.ports import PaymentQuery, PaymentStore
from bursar.payments.records import Finding, PaymentRecord, Topic, Transfer
from bursar.payments.store import open_payments
from bursar.testing.memory_payments import MemoryPayments
from payments.world import NOW_MS, SEEN, moved, payment, recorded

SETTLED = (Trigger.SENDING, Trigger.LOST, Trigger.SETTLED)
TX = "0x" + "a" * 64


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PaymentStore]:
    """A payment store of every kind in turn."""
    made: PaymentStore = (
        MemoryPayments() if request.param == "memory" else open_payments(tmp_path / "ledger.db")
    )
    with closing(made):
        yield made


class Chain:
    """A chain that shows what it is told to, and may do something while it is asked."""

    def __init__(
        self,
        trigger: Trigger = Trigger.UNDECIDED,
        *,
        refunds: bool = True,
        logs: tuple[int, ...] = (3,),
    ) -> None:
        self.trigger, self.refunds, self.logs, self.asked = trigger, refunds, logs, 0
        self.meanwhile: Any = lambda: None

    def endpoint(self, record: PaymentRecord) -> str:
        return "rpc"

    async def prove(self, record: PaymentRecord) -> Finding:
        self.asked += 1
        self.meanwhile()
        return Finding(self.trigger, SEEN)

    async def refund(self, record: PaymentRecord, tx_hash: str) -> Refund | None:
        self.asked += 1
        self.meanwhile()
        found = tuple(Transfer(record.network, tx_hash.lower(), log) for log in self.logs)
        return Refund(SEEN, found) if self.refunds else None


def put(store: PaymentStore, *triggers: Trigger, name: str = "1", **changes: Any) -> PaymentRecord:
    record = payment(name)
    store.add(record, recorded(record))
    store.save([moved(record, *triggers, **changes)])
    return now(store, name)


def now(store: PaymentStore, name: str = "1") -> PaymentRecord:
    record = store.get(f"pay_{name}")
    assert record is not None
    return record


def refund(store: PaymentStore, chain: Chain, tx: str = TX, name: str = "1") -> PaymentRecord:
    return asyncio.run(operate.mark_refunded(store, chain, f"pay_{name}", tx, "ann", NOW_MS))


def test_one_transfer_pays_one_payment_back(store: PaymentStore) -> None:
    """A second payment is refused it, and changes nothing; a batch pays back as many as it has."""
    for name in "12345":
        put(store, *SETTLED, name=name, work=Work.FAILED)
    assert refund(store, Chain(), name="1").disposition is Disposition.REFUNDED
    before = now(store, "2")
    with pytest.raises(OperatorError, match="pays another payment back already"):
        refund(store, Chain(), name="2")
    assert now(store, "2") == before
    assert len(store.events("pay_2")) == 4
    batch = "0x" + "b" * 64
    for name in "23":
        assert refund(store, Chain(logs=(5, 9)), batch, name).refund_tx == batch
    with pytest.raises(OperatorError, match="pays another payment back already"):
        refund(store, Chain(logs=(5, 9)), batch, "4")
    assert refund(store, Chain(logs=(5, 9)), batch, "3").refund_tx == batch
    assert refund(store, Chain(), "0x" + "c" * 64, "4").disposition is Disposition.REFUNDED
    assert now(store, "5").disposition is Disposition.ORPHANED


def recheck(store: PaymentStore, chain: Chain, payment_id: str = "pay_1") -> PaymentRecord:
    made = operate.recheck(store, chain, payment_id, now_ms=NOW_MS, rng=random.Random(1))
    return asyncio.run(made)


def test_an_orphan_is_refunded_once(store: PaymentStore) -> None:
    """The refund is checked, noted with its transaction, and the same one again is no change."""
    put(store, *SETTLED, work=Work.FAILED)
    chain = Chain()
    first = refund(store, chain)
    assert (first.disposition, first.refund_tx) == (Disposition.REFUNDED, TX)
    assert refund(store, chain, TX.upper().replace("X", "x")) == first
    assert chain.asked == 1
    with pytest.raises(OperatorError, match="was refunded by 0xaaa"):
        refund(store, chain, "0xother")
    last = store.events("pay_1")[-1]
    assert (last.what, last.evidence.source, last.evidence.tx_hash) == (
        *("REFUNDED", "operator:ann", TX),
    )


def test_a_refund_that_the_chain_does_not_show_is_refused(store: PaymentStore) -> None:
    """Nothing is changed, and the message says what the transaction should have done."""
    before = put(store, *SETTLED, work=Work.FAILED)
    with pytest.raises(OperatorError, match=f"does not pay {10**20} of 0xAbC.* back to 0xDeF"):
        refund(store, Chain(refunds=False))
    assert now(store) == before


@pytest.mark.parametrize(
    ("triggers", "work"),
    [
        (SETTLED, Work.DELIVERED),
        ((Trigger.SENDING, Trigger.LOST, Trigger.EXPIRED), Work.FAILED),
        ((), Work.NOT_STARTED),
    ],
)
def test_there_must_be_something_to_refund(
    store: PaymentStore, triggers: tuple[Trigger, ...], work: Work
) -> None:
    """What was delivered, never paid or never sent is not refunded."""
    before = put(store, *triggers, work=work)
    with pytest.raises(OperatorError, match="there is nothing to mark REFUNDED"):
        refund(store, Chain())
    assert now(store) == before


def test_a_refund_survives_a_reconciler_that_is_faster(store: PaymentStore) -> None:
    """The record turns into an orphan while the refund is checked: both are kept, in order."""
    record = put(store, Trigger.SENDING, Trigger.LOST, work=Work.FAILED)
    chain = Chain()
    chain.meanwhile = lambda: store.save([moved(record, Trigger.SETTLED)])
    kept = refund(store, chain)
    assert (kept.money, kept.remedy, kept.refund_tx) == (Money.SETTLED, Remedy.REFUNDED, TX)
    assert [e.what for e in store.events("pay_1")][-2:] == ["SETTLED", "REFUNDED"]


def test_a_refund_of_what_was_never_paid_is_told(store: PaymentStore) -> None:
    """Refunded while held, then proved never to have been paid: that is an alert of its own."""
    put(store, Trigger.SENDING, Trigger.LOST, work=Work.FAILED)
    refund(store, Chain())
    recheck(store, Chain(Trigger.EXPIRED))
    [posted] = store.outbox(Topic.ALERT, NOW_MS, 9)
    assert json.loads(posted.notice.payload)["event"] == "payment.refunded_unpaid"


def test_a_loss_is_written_off_by_two(store: PaymentStore) -> None:
    """A reason and a second person, who is somebody else; once is enough."""
    put(store, *SETTLED, work=Work.FAILED)
    said = {"reason": "payer is gone", "operator": "ann", "second": "bob", "now_ms": NOW_MS}
    for wrong, message in (
        ({"reason": " "}, "the reason is empty"),
        ({"second": ""}, "the second person is empty"),
        ({"second": " Ann"}, "cannot be the second person"),
    ):
        with pytest.raises(OperatorError, match=message):
            operate.write_off(store, "pay_1", **(said | wrong))
    done = operate.write_off(store, "pay_1", **said)
    assert done.disposition is Disposition.WRITTEN_OFF
    assert operate.write_off(store, "pay_1", **said) == done
    assert "bob" in str(store.events("pay_1")[-1].evidence.reason)


def test_what_is_unknown_is_not_written_off(store: PaymentStore) -> None:
    """Nobody may end by decision what only evidence can end."""
    put(store, Trigger.SENDING, Trigger.LOST, Trigger.OVERDUE)
    with pytest.raises(OperatorError, match=r"is HELD \(PARKED"):
        operate.write_off(
            store, "pay_1", reason="tired", operator="ann", second="bob", now_ms=NOW_MS
        )


def test_a_recheck_resolves_and_reopens(store: PaymentStore) -> None:
    """A parked payment is settled by evidence; evidence against it opens it again, and is told."""
    put(store, Trigger.SENDING, Trigger.LOST, Trigger.OVERDUE, work=Work.DELIVERED)
    settled = recheck(store, Chain(Trigger.SETTLED), "pay_1")
    assert (settled.money, settled.disposition) == (Money.SETTLED, Disposition.CLOSED)
    reopened = recheck(store, Chain(Trigger.EXPIRED), "pay_1")
    assert (reopened.money, reopened.disposition) == (Money.UNKNOWN, Disposition.HELD)
    assert reopened.next_check_at_ms is not None
    [posted] = store.outbox(Topic.ALERT, NOW_MS, 9)
    assert json.loads(posted.notice.payload)["event"] == "payment.reopened"


def test_a_recheck_that_fails_counts_for_nothing(store: PaymentStore) -> None:
    """However often an operator asks a dead endpoint: only the worker's failures park."""
    before = put(store, Trigger.SENDING, Trigger.LOST, next_check_at_ms=NOW_MS + 7)
    chain = Chain(Trigger.UNREACHABLE)
    for _ in range(25):
        after = recheck(store, chain)
    assert (after.money, after.rpc_failures, after.checks) == (Money.UNKNOWN, 0, before.checks)
    assert after.next_check_at_ms == NOW_MS + 7  # and the worker looks when it would have
    assert store.outbox(Topic.ALERT, 2**53, 10) == []
    assert [event.what for event in store.events("pay_1")].count("UNREACHABLE") == 25


def test_a_recheck_waits_for_the_sender(store: PaymentStore) -> None:
    """What is being sent is not asked about, and what does not exist is said not to."""
    put(store, Trigger.SENDING)
    chain = Chain()
    with pytest.raises(OperatorError, match="is SUBMITTING: its sender"):
        recheck(store, chain, "pay_1")
    with pytest.raises(OperatorError, match="there is no payment nix"):
        recheck(store, chain, "nix")
    assert chain.asked == 0


def test_nothing_shown_or_exported_holds_a_payload(store: PaymentStore) -> None:
    """Every payment and its history, as JSON, without the sealed bytes."""
    put(store, Trigger.SENDING, sealed_payload=b"SEALED")
    for number in range(2, 5):
        record = replace(payment(str(number)), created_at_ms=NOW_MS + number)
        store.add(record, recorded(record))
    lines = list(operate.export(store, PaymentQuery()))
    assert [json.loads(line)["payment_id"] for line in lines] == [
        *("pay_4", "pay_3", "pay_2", "pay_1"),
    ]
    shown = json.dumps(operate.show(store, "pay_1"))
    assert "SEALED" not in shown + "".join(lines)
    assert json.loads(shown)["has_payload"] is True
    assert [line["what"] for line in json.loads(shown)["history"]] == ["RECORDED", "SENDING"]
    assert json.loads(shown)["value"] == str(10**20)
