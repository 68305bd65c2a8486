"""What a sender writes: one record, one send, and nothing that is heard gets lost."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.payments.book import Book, Limits, NoSuchPayment
from bursar.payments.checking import checked
from bursar.payments.outcome import (
    BudgetState,
    Disposition,
    IllegalTransition,
    Money,
    Remedy,
    Trigger,
    Work,
)
from bursar.payments.ports import PaymentConflict, PaymentStore, Saved
from bursar.payments.records import Change, Evidence, PaymentRecord, Topic
from bursar.payments.schedule import Pace, mandatory_ms
from bursar.payments.sealing import Sealer
from bursar.payments.store import open_payments
from bursar.testing.clock import FakeClock
from bursar.testing.memory_payments import MemoryPayments
from payments.world import NOW_MS, payment

SAID = Evidence(source="test")
TX = "0x" + "7" * 64
PACE = Pace()
LIMITS = Limits()


class NoJitter:
    def uniform(self, a: float, b: float, /) -> float:
        return b


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PaymentStore]:
    made: PaymentStore = (
        MemoryPayments() if request.param == "memory" else open_payments(tmp_path / "ledger.db")
    )
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW_MS)


@pytest.fixture
def book(store: PaymentStore, clock: FakeClock) -> Book:
    return Book(store, clock=clock)


def put(book: Book, name: str = "1", **changes: Any) -> PaymentRecord:
    record, new = book.record(payment(name, **changes), SAID)
    assert new
    return record


def sent(book: Book, name: str = "1", **changes: Any) -> PaymentRecord:
    put(book, name, **changes)
    record = book.sending(f"pay_{name}", SAID)
    assert record is not None
    return record


def look(book: Book, finding: Any = None) -> PaymentRecord:
    """Do what the worker does when it looks at the payment now."""
    now_ms = book.clock.now_ms()
    [record] = book.store.claim("worker", now_ms, 1_000, 10)
    [result] = book.store.save([checked(record, finding, now_ms, PACE, NoJitter())])
    assert result.saved is Saved.SAVED
    return book.get(record.payment_id)


def test_a_record_gets_its_schedule(book: Book) -> None:
    """It is looked at when its send is overdue, and parked long after its window."""
    record = put(book)
    assert record.money is Money.RECORDED
    assert record.next_check_at_ms == NOW_MS + LIMITS.send_within_ms
    window_ms = 60_000 + PACE.finality_ms + PACE.skew_ms
    assert record.hard_deadline_ms == NOW_MS + window_ms + PACE.hard_after_ms
    assert [event.what for event in book.store.events("pay_1")] == ["RECORDED"]


def test_a_replay_is_the_same_record_and_a_conflict_is_none(book: Book) -> None:
    first = sent(book)
    again = payment("1", payment_id="pay_2", intent_id="intent_2")
    assert book.record(again, SAID) == (first, False)
    with pytest.raises(PaymentConflict) as conflict:
        book.record(replace(again, resource="https://shop.test/other"), SAID)
    assert conflict.value.existing == first


def test_a_record_begins_as_one(book: Book) -> None:
    with pytest.raises(ValueError, match="RECORDED"):
        book.record(payment(money=Money.SETTLED), SAID)


def test_a_payload_is_sealed_or_not_kept(store: PaymentStore) -> None:
    """Without a key nothing is stored; with one it opens, and it goes when money is final."""
    plain = Book(store)
    record, _ = plain.record(payment("1"), SAID, payload=b"signed")
    assert record.sealed_payload is None
    assert plain.payload(record) is None
    sealing = Book(store, sealer=Sealer(b"k" * 32))
    record, _ = sealing.record(payment("2"), SAID, payload=b"signed")
    assert b"signed" not in (record.sealed_payload or b"")
    assert sealing.payload(record) == b"signed"
    over = sealing.heard("pay_2", Trigger.REFUSED, SAID)
    assert over.money is Money.REJECTED
    assert over.sealed_payload is None


def test_one_of_sixteen_threads_may_send(book: Book) -> None:
    put(book)
    barrier = threading.Barrier(16)

    def race(_: int) -> PaymentRecord | None:
        barrier.wait()
        return book.sending("pay_1", SAID)

    with ThreadPoolExecutor(16) as pool:
        won = [record for record in pool.map(race, range(16)) if record is not None]
    assert [record.money for record in won] == [Money.SUBMITTING]
    dead_ms = NOW_MS + LIMITS.call_ms + LIMITS.margin_ms
    assert won[0].next_check_at_ms == dead_ms
    assert [event.what for event in book.store.events("pay_1")] == ["RECORDED", "SENDING"]


def test_every_one_of_sixteen_answers_is_kept(book: Book) -> None:
    """Whoever loses a race tries again on what is there, and overwrites nothing."""
    sent(book)
    barrier = threading.Barrier(16)

    def tell(number: int) -> None:
        barrier.wait()
        book.heard("pay_1", Trigger.LOST, Evidence(source=f"thread:{number}"))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(tell, range(16)))
    sources = {event.evidence.source for event in book.store.events("pay_1")}
    assert sources == {"test", *(f"thread:{number}" for number in range(16))}
    assert book.get("pay_1").money is Money.UNKNOWN


@pytest.mark.parametrize(
    ("trigger", "money"),
    [
        (Trigger.REFUSED, Money.REJECTED),
        (Trigger.ACKNOWLEDGED, Money.PENDING),
        (Trigger.LOST, Money.UNKNOWN),
        (Trigger.INCLUDED, Money.PROVISIONAL),
        (Trigger.SETTLED, Money.SETTLED),
    ],
)
def test_an_answer_moves_the_money(book: Book, trigger: Trigger, money: Money) -> None:
    sent(book)
    heard = book.heard("pay_1", trigger, replace(SAID, tx_hash=TX), facilitator_ref="ref-1")
    assert (heard.money, heard.tx_hash, heard.facilitator_ref) == (money, TX, "ref-1")
    looks = {Money.SETTLED: None, Money.REJECTED: mandatory_ms(heard, PACE)}
    assert heard.next_check_at_ms == looks.get(money, NOW_MS + PACE.first_ms)


def test_who_asks_for_time_gets_it_within_a_bound(book: Book) -> None:
    sent(book)
    heard = book.heard("pay_1", Trigger.ACKNOWLEDGED, SAID, retry_after_ms=9_000)
    assert heard.next_check_at_ms == NOW_MS + 9_000
    heard = book.heard("pay_1", Trigger.LOST, SAID, retry_after_ms=10**12)
    assert heard.next_check_at_ms == NOW_MS + PACE.retry_after_max_ms


def test_a_sender_that_was_taken_for_dead_is_still_heard(book: Book, clock: FakeClock) -> None:
    """The worker called its answer lost; the transaction it names is kept all the same."""
    sent(book)
    clock.advance_ms(LIMITS.call_ms + LIMITS.margin_ms)
    assert look(book).money is Money.UNKNOWN
    heard = book.heard("pay_1", Trigger.ACKNOWLEDGED, replace(SAID, tx_hash=TX))
    assert (heard.money, heard.tx_hash) == (Money.PENDING, TX)


def test_an_answer_after_the_proof_is_a_line_of_history(book: Book) -> None:
    sent(book)
    book.heard("pay_1", Trigger.SETTLED, SAID)
    heard = book.heard("pay_1", Trigger.LOST, SAID)
    assert heard.money is Money.SETTLED
    assert book.store.events("pay_1")[-1].what == "SEEN_LOST"


def test_a_refusal_after_the_answer_was_lost_closes_nothing(book: Book) -> None:
    sent(book)
    book.heard("pay_1", Trigger.LOST, SAID)
    assert book.heard("pay_1", Trigger.REFUSED, SAID).money is Money.UNKNOWN


def test_nobody_sends_what_the_worker_refused(book: Book, clock: FakeClock) -> None:
    put(book)
    clock.advance_ms(LIMITS.send_within_ms)
    assert look(book).money is Money.REJECTED
    assert book.sending("pay_1", SAID) is None


def test_the_same_authorization_is_presented_again_only_while_it_is_unknown(book: Book) -> None:
    put(book)
    assert book.resending("pay_1", SAID) is None
    assert book.sending("pay_1", SAID) is not None
    book.heard("pay_1", Trigger.LOST, SAID)
    again = book.resending("pay_1", SAID)
    assert again is not None
    assert again.money is Money.UNKNOWN
    book.heard("pay_1", Trigger.SETTLED, SAID)
    assert book.resending("pay_1", SAID) is None


@pytest.mark.parametrize("who", ["the first", "the second"])
def test_of_two_who_present_it_neither_closes_it(book: Book, who: str) -> None:
    """The second begins before the first has its answer: what one did not send, the other may."""
    put(book)
    assert book.sending("pay_1", SAID) is not None
    beside = book.resending("pay_1", SAID)
    assert beside is not None
    assert beside.money is Money.UNKNOWN
    refused = book.heard("pay_1", Trigger.REFUSED, Evidence(who, "not sent"))
    assert refused.money is Money.UNKNOWN


def test_paid_work_that_fails_is_told_once(book: Book, clock: FakeClock) -> None:
    sent(book)
    book.heard("pay_1", Trigger.SETTLED, SAID)
    assert (
        book.work("pay_1", Work.RUNNING, SAID, until_ms=NOW_MS + 500).next_check_at_ms is not None
    )
    failed = book.work("pay_1", Work.FAILED, SAID)
    assert (failed.disposition, failed.next_check_at_ms) == (Disposition.ORPHANED, None)
    assert book.work("pay_1", Work.FAILED, SAID) == failed
    told = book.store.outbox(Topic.ALERT, clock.now_ms(), 10)
    assert [each.notice.dedupe_key for each in told] == ["payment.orphaned:pay_1"]
    with pytest.raises(IllegalTransition):
        book.work("pay_1", Work.RUNNING, SAID)


def test_one_of_sixteen_threads_begins_the_work(book: Book) -> None:
    sent(book)
    book.heard("pay_1", Trigger.SETTLED, SAID)

    def race(_: int) -> PaymentRecord | None:
        return book.begin("pay_1", SAID, NOW_MS + 1_000)

    with ThreadPoolExecutor(16) as pool:
        assert sum(record is not None for record in pool.map(race, range(16))) == 1


def test_an_orphan_is_delivered_late_by_one(book: Book, clock: FakeClock) -> None:
    """A late run is claimed; it ends as delivered late, or may be tried again."""
    sent(book)
    book.heard("pay_1", Trigger.SETTLED, SAID)
    assert book.begin("pay_1", SAID, NOW_MS + 1_000) is not None
    assert book.begin_late("pay_1", SAID, NOW_MS + 2_000) is None  # it is no orphan yet
    clock.advance_ms(1_000)
    assert look(book).disposition is Disposition.ORPHANED
    until_ms = clock.now_ms() + 1_000
    late = book.begin_late("pay_1", SAID, until_ms)
    assert late is not None
    assert (late.work, late.disposition) == (Work.CANCELED, Disposition.ORPHANED)
    assert book.begin_late("pay_1", SAID, until_ms) is None
    book.give_up_late("pay_1", SAID)
    assert book.begin_late("pay_1", SAID, until_ms) is not None
    done = book.work("pay_1", Work.DELIVERED, SAID)
    assert (done.remedy, done.disposition) == (Remedy.DELIVERED_LATE, Disposition.DELIVERED_LATE)
    assert book.begin_late("pay_1", SAID, until_ms) is None


def test_the_budget_is_told_what_the_outcome_asks(book: Book, clock: FakeClock) -> None:
    sent(book, budget_ref="res_1", budget_state=BudgetState.RESERVED)
    book.heard("pay_1", Trigger.SETTLED, SAID)
    [told] = book.store.outbox(Topic.BUDGET, clock.now_ms(), 10)
    assert '"duty":"COMMIT"' in told.notice.payload
    assert book.budget("pay_1", BudgetState.COMMITTED, SAID).budget_state is BudgetState.COMMITTED
    before = book.get("pay_1")
    assert book.budget("pay_1", BudgetState.COMMITTED, SAID) == before
    with pytest.raises(IllegalTransition):
        book.budget("pay_1", BudgetState.RELEASED, SAID)


def test_what_is_not_there_is_said_so(book: Book) -> None:
    with pytest.raises(NoSuchPayment, match="pay_9"):
        book.heard("pay_9", Trigger.LOST, SAID)


def test_who_is_slower_writes_on_what_is_there(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change between the read and the save is read again, not overwritten."""
    sent(book)
    save, meanwhile = book.store.save, [True]

    def slow(changes: list[Change]) -> Any:
        if meanwhile.pop() if meanwhile else False:
            other = Book(book.store, clock=book.clock)
            other.heard("pay_1", Trigger.ACKNOWLEDGED, replace(SAID, tx_hash=TX))
        return save(changes)

    monkeypatch.setattr(book.store, "save", slow)
    book.heard("pay_1", Trigger.LOST, SAID)
    assert book.get("pay_1").money is Money.PENDING
    whats = [event.what for event in book.store.events("pay_1")]
    assert whats == ["RECORDED", "SENDING", "ACKNOWLEDGED", "LOST"]
