"""What a review and a run of the first design found: each is a test here, on every store."""

import ast
import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

import bursar
from bursar.payments.book import Book, Limits
from bursar.payments.operate import Refund, document, mark_refunded
from bursar.payments.outcome import (
    Disposition,
    Money,
    Remedy,
    Trigger,
    WireOutcome,
    WireStatus,
    Work,
    wire_outcome,
    wire_status,
)
from bursar.payments.ports import PaymentQuery, PaymentStore
from bursar.payments.records import Evidence, Finding, PaymentRecord, Topic, Transfer
from bursar.payments.schedule import Pace
from bursar.payments.sealing import Sealer
from bursar.payments.store import open_payments
from bursar.payments.worker import PaymentWorker, WorkerMetrics, WorkerSettings
from bursar.testing.clock import FakeClock
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402 import reconcile
from bursar.x402.facilitators import DIALECTS
from bursar.x402.ingress import stripped
from bursar.x402.prover import ChainProver
from bursar.x402.reconcile import (
    PAYMENT_ORPHANED,
    reconcile_failed_payments,
    run_x402_reconciliation_loop,
)
from bursar.x402.rpc import Rpc
from payments.world import NOW_MS, payment

SAID = Evidence(source="test")
SRC = Path(bursar.__file__).parent
LATER_MS = 60_000
Say = Callable[[PaymentRecord], Trigger]


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
    return Book(store, clock=clock, sealer=Sealer(b"k" * 32))


class Witness:
    """A prover that says what it is told, and counts whom it was asked about."""

    def __init__(self, says: Trigger | Say = Trigger.SETTLED) -> None:
        self.says = says
        self.asked = Counter[str]()

    def endpoint(self, record: PaymentRecord) -> str:
        return "witness"

    async def prove(self, record: PaymentRecord) -> Finding:
        self.asked[record.payment_id] += 1
        await asyncio.sleep(0)
        said = self.says if isinstance(self.says, Trigger) else self.says(record)
        return Finding(said, Evidence("rpc:witness", "it {was} %s seen"))


def lost(book: Book, name: str = "1", **changes: Any) -> PaymentRecord:
    """Return a payment whose answer was lost; its work failed."""
    book.record(payment(name, **changes), SAID, payload=b"signed")
    assert book.sending(f"pay_{name}", SAID) is not None
    book.heard(f"pay_{name}", Trigger.LOST, SAID)
    return book.work(f"pay_{name}", Work.FAILED, SAID)


def sweep(book: Book, witness: Any, **more: Any) -> WorkerMetrics:
    return asyncio.run(
        reconcile_failed_payments(
            book.store, prover=witness, clock=book.clock, rng=random.Random(7), **more
        )
    )


def later(clock: FakeClock, by_ms: int = LATER_MS) -> None:
    clock.advance_ms(by_ms)


# What the review said.


def test_finding_retries_back_off_with_a_cap_that_parks_and_tells(
    book: Book, clock: FakeClock
) -> None:
    """A payment that cannot be asked about is not asked about for ever."""
    lost(book)
    witness, pace = Witness(Trigger.UNREACHABLE), Pace(rpc_failures_max=8)
    times = list[int]()
    while book.get("pay_1").money is Money.UNKNOWN:
        clock.set_ms(book.get("pay_1").next_check_at_ms or 0)
        times.append(clock.now_ms())
        sweep(book, witness, pace=pace)
    assert witness.asked["pay_1"] == 8
    assert all(after - before >= pace.floor_ms for before, after in pairwise(times))
    parked = book.get("pay_1")
    assert (parked.money, parked.rpc_failures, parked.checks) == (Money.PARKED, 8, 8)
    told = [each.notice.dedupe_key for each in book.store.outbox(Topic.ALERT, 2**62, 9)]
    assert told == ["payment.parked:pay_1"]


def test_finding_one_long_lived_client_for_every_payment(
    book: Book, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[httpx2.AsyncClient]()
    begin = httpx2.AsyncClient.__init__

    def counting(self: httpx2.AsyncClient, *values: Any, **more: Any) -> None:
        made.append(self)
        begin(self, *values, **more)

    monkeypatch.setattr(httpx2.AsyncClient, "__init__", counting)
    for number in range(20):
        lost(book, str(number))
    later(clock)

    async def main() -> None:
        prover = ChainProver({"eip155:84532": [Rpc("http://127.0.0.1:9", timeout_s=0.5)]})
        for _ in range(2):
            await reconcile_failed_payments(book.store, prover=prover, clock=clock)
            later(clock)
        await prover.aclose()

    asyncio.run(main())
    assert len(made) == 1
    assert made[0].is_closed


def test_finding_orphaned_is_one_constant() -> None:
    """Nobody writes the status by hand."""
    assert PAYMENT_ORPHANED is WireStatus.ORPHANED
    assert wire_status(Money.SETTLED, Disposition.ORPHANED) is PAYMENT_ORPHANED
    said = [
        path.name
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value == "payment-orphaned"
    ]
    assert said == ["outcome.py"]


def test_finding_details_are_in_the_log(
    book: Book, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """No placeholder is left as it is, and foreign text with braces breaks nothing."""
    lost(book)
    later(clock)
    sweep(book, Witness())
    [record] = [each for each in caplog.records if each.name == "bursar.payments"]
    assert record.getMessage() == "payment.orphaned pay_1"
    assert record.__dict__["payment"]["payment_id"] == "pay_1"
    assert record.levelno == logging.WARNING


def test_finding_a_shutdown_is_quiet_and_within_a_bound(book: Book, clock: FakeClock) -> None:
    """Cancelled in the middle of a look, the loop gives its leases back and says that it was."""
    lost(book)
    later(clock)
    looking = asyncio.Event()

    class Stuck(Witness):
        async def prove(self, record: PaymentRecord) -> Finding:
            looking.set()
            await asyncio.sleep(3600)
            raise AssertionError

    async def main() -> None:
        settings = WorkerSettings(start_s=0.0, poll_s=0.01)
        loop = asyncio.create_task(
            run_x402_reconciliation_loop(
                book.store, 0.01, prover=Stuck(), clock=clock, settings=settings
            )
        )
        await looking.wait()
        assert book.get("pay_1").lease_owner is not None
        loop.cancel()
        async with asyncio.timeout(30):
            with pytest.raises(asyncio.CancelledError):
                await loop

    asyncio.run(main())
    assert (book.get("pay_1").lease_owner, book.get("pay_1").money) == (None, Money.UNKNOWN)


def test_the_interval_holds_whatever_the_other_bounds_are(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`settings` bound the worker; how long it sleeps is said by `interval_seconds` alone."""
    made: list[WorkerSettings] = []

    class Watched(PaymentWorker):
        def __init__(self, *words: Any, **more: Any) -> None:
            made.append(more["settings"])
            super().__init__(*words, **more)

        async def run_forever(self) -> None:
            raise RuntimeError("it is not to run")

    monkeypatch.setattr(reconcile, "PaymentWorker", Watched)
    for given in (None, WorkerSettings(concurrency=3, poll_s=9.0)):
        with pytest.raises(ExceptionGroup):
            asyncio.run(
                run_x402_reconciliation_loop(
                    MemoryPayments(), 0.25, prover=ChainProver({}), clock=clock, settings=given
                )
            )
    assert [one.poll_s for one in made] == [0.25, 0.25]
    assert (made[0].start_s, made[1].concurrency) == (0.25, 3)


@pytest.mark.parametrize(
    ("says", "money", "about"),
    [
        (Trigger.SETTLED, Money.SETTLED, Disposition.ORPHANED),
        (Trigger.UNDECIDED, Money.UNKNOWN, Disposition.HELD),
        (Trigger.UNREACHABLE, Money.UNKNOWN, Disposition.HELD),
        (Trigger.INCLUDED, Money.PROVISIONAL, Disposition.HELD),
        (Trigger.REVERTED, Money.UNKNOWN, Disposition.HELD),
        (Trigger.EXPIRED, Money.EXPIRED, Disposition.CLOSED),
        (Trigger.VOIDED, Money.VOIDED, Disposition.CLOSED),
        (Trigger.MISDIRECTED, Money.MISDIRECTED, Disposition.CLOSED),
    ],
)
def test_finding_every_branch_is_tested_not_only_success(
    says: Trigger, money: Money, about: Disposition, book: Book, clock: FakeClock
) -> None:
    lost(book)
    later(clock)
    sweep(book, Witness(says))
    found = book.get("pay_1")
    assert (found.money, found.disposition) == (money, about)
    is_orphan = wire_status(found.money, found.disposition) is PAYMENT_ORPHANED
    assert is_orphan == (says is Trigger.SETTLED)


def test_finding_an_exception_is_one_payments_own(book: Book, clock: FakeClock) -> None:
    lost(book, "1")
    lost(book, "2")
    later(clock)

    def says(record: PaymentRecord) -> Trigger:
        if record.payment_id == "pay_1":
            raise RuntimeError("boom")
        return Trigger.SETTLED

    metrics = sweep(book, Witness(says))
    assert (metrics.claimed, metrics.saved, metrics.unreachable) == (2, 2, 1)
    assert [book.get(f"pay_{n}").money for n in (1, 2)] == [Money.UNKNOWN, Money.SETTLED]


def test_finding_what_is_final_or_fresh_is_left_alone(book: Book, clock: FakeClock) -> None:
    """A wrong state is not looked at: nothing that is settled, refused or not due."""
    book.record(payment("1"), SAID)
    lost(book, "2")
    book.heard("pay_2", Trigger.SETTLED, SAID)
    witness = Witness()
    sweep(book, witness)
    assert witness.asked == {}


# What running it showed.


def test_defect_1_a_payment_has_a_record_of_its_own(
    store: PaymentStore, book: Book, clock: FakeClock
) -> None:
    """All that is needed to find it is there, whatever became of the message or the task."""
    lost(book)
    later(clock)
    other = Book(store, clock=clock)  # a process that knows nothing but the store
    sweep(other, Witness())
    assert other.get("pay_1").money is Money.SETTLED


def test_defect_2_the_hundred_and_first_is_seen(book: Book, clock: FakeClock) -> None:
    """Every due payment is looked at once, however many there are and however old."""
    for number in range(130):
        lost(book, str(number))
    later(clock)
    witness = Witness()
    sweep(book, witness)
    assert set(witness.asked.values()) == {1}
    assert len(witness.asked) == 130


def test_defect_3_a_crash_after_the_send_is_found_and_not_sent_again(
    book: Book, clock: FakeClock
) -> None:
    book.record(payment("1"), SAID)
    assert book.sending("pay_1", SAID) is not None  # and here its process dies
    limits = Limits()
    later(clock, limits.call_ms + limits.margin_ms)
    sweep(book, Witness())
    assert book.get("pay_1").money is Money.SETTLED
    assert book.sending("pay_1", SAID) is None
    whats = [event.what for event in book.store.events("pay_1")]
    assert whats == ["RECORDED", "SENDING", "LOST", "SETTLED"]


def test_defect_4_a_later_payment_of_a_task_is_seen(book: Book, clock: FakeClock) -> None:
    lost(book, "1", task_id="task_1")
    lost(book, "2", task_id="task_1")
    later(clock)
    sweep(book, Witness())
    assert [book.get(f"pay_{n}").money for n in (1, 2)] == [Money.SETTLED] * 2


def test_defect_5_nobody_is_overwritten_and_history_only_grows(
    book: Book, clock: FakeClock
) -> None:
    """An operator notes a refund while the reconciler looks: both are kept."""
    lost(book)
    later(clock)
    tx_hash = "0x" + "5" * 64

    class Checker:
        async def refund(self, record: PaymentRecord, tx_hash: str) -> Refund:
            said = Evidence("rpc:test", tx_hash=tx_hash)
            return Refund(said, (Transfer(record.network, tx_hash, 1),))

    class Slow(Witness):
        async def prove(self, record: PaymentRecord) -> Finding:
            if book.get("pay_1").refund_tx is None:
                await mark_refunded(book.store, Checker(), "pay_1", tx_hash, "ann", clock.now_ms())
            return await super().prove(record)

    sweep(book, Slow())
    found = book.get("pay_1")
    assert (found.money, found.remedy) == (Money.SETTLED, Remedy.REFUNDED)
    events = book.store.events("pay_1")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {"REFUNDED", "SETTLED"} <= {event.what for event in events}


def test_defect_6_two_replicas_look_at_a_payment_once(book: Book, clock: FakeClock) -> None:
    for number in range(40):
        lost(book, str(number))
    later(clock)
    witness = Witness()

    async def main() -> None:
        await asyncio.gather(
            *(reconcile_failed_payments(book.store, prover=witness, clock=clock) for _ in range(4))
        )

    asyncio.run(main())
    assert len(witness.asked) == 40
    assert set(witness.asked.values()) == {1}


def test_defect_7_every_orphan_is_told_once(book: Book, clock: FakeClock) -> None:
    lost(book)
    later(clock)
    for _ in range(3):
        sweep(book, Witness())
        later(clock)
    [told] = book.store.outbox(Topic.ALERT, 2**62, 9)
    assert json.loads(told.notice.payload)["event"] == "payment.orphaned"


def test_defect_8_a_reconciler_cannot_settle() -> None:
    """None of what it is made of has a call that pays."""
    modules = ("x402/reconcile.py", "x402/prover.py", "x402/reading.py", "x402/rpc.py")
    for name in (*modules, "payments/worker.py", "payments/checking.py"):
        tree = ast.parse((SRC / name).read_text("utf-8"))
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert called.isdisjoint({"settle", "sending", "resending"}), name


def test_defect_9_reserved_names_are_gone_on_every_method() -> None:
    for method in ("message/send", "message/stream", "tasks/get"):
        body = {"method": method, "params": {"metadata": {"_payment_context": {"a": 1}, "b": 2}}}
        kept = json.loads(stripped(json.dumps(body).encode()))
        assert kept == {"method": method, "params": {"metadata": {"b": 2}}}
    batch = b'[{"metadata": {"x402.payment.status": "payment-completed"}}]'
    assert json.loads(stripped(batch)) == [{"metadata": {}}]


def test_defect_10_a_signature_is_sealed_hidden_and_dropped(book: Book, clock: FakeClock) -> None:
    record = lost(book)
    assert record.sealed_payload is not None
    assert b"signed" not in record.sealed_payload
    assert "sealed_payload" not in document(record)
    assert "sealed_payload" not in repr(record)
    later(clock)
    sweep(book, Witness())
    assert book.get("pay_1").sealed_payload is None


def test_defect_11_the_text_of_an_exception_is_nowhere(
    book: Book, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    lost(book)
    later(clock)

    def says(_: PaymentRecord) -> Trigger:
        raise RuntimeError("body with a signature in it")

    sweep(book, Witness(says))
    told = repr(book.store.events("pay_1")) + caplog.text
    assert "RuntimeError" in told
    assert "signature in it" not in told


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_defect_12_a_used_nonce_is_no_failure_and_no_success(dialect: str) -> None:
    """What facilitators say of a payment that is made already proves nothing."""
    said = {
        "success": False,
        "errorReason": "invalid_exact_evm_nonce_already_used",
        "transaction": "",
    }
    answer = DIALECTS[dialect].settle(200, {}, said, json.dumps(said))
    assert (answer.trigger, answer.success) == (Trigger.LOST, False)
    assert wire_outcome(Money.UNKNOWN) is WireOutcome.UNKNOWN


def test_the_loop_finds_what_falls_due_while_it_runs(book: Book, clock: FakeClock) -> None:
    """The surface of the first design, run as a server runs it: one task, stopped in a bound."""
    witness = Witness()

    async def main() -> None:
        loop = asyncio.create_task(
            run_x402_reconciliation_loop(book.store, 0.02, prover=witness, clock=clock)
        )
        await asyncio.to_thread(lost, book)
        later(clock)
        async with asyncio.timeout(60):
            while book.get("pay_1").money is not Money.SETTLED:  # noqa: ASYNC110  # the store has no event to wait for
                await asyncio.sleep(0.01)
        loop.cancel()
        async with asyncio.timeout(30):
            with pytest.raises(asyncio.CancelledError):
                await loop

    asyncio.run(main())
    assert witness.asked == {"pay_1": 1}


@pytest.mark.parametrize("wrong", [0, -1, 3601])
def test_an_interval_that_makes_no_sense_is_refused(wrong: float, store: PaymentStore) -> None:
    with pytest.raises(ValueError, match="interval_seconds must be above 0"):
        asyncio.run(run_x402_reconciliation_loop(store, wrong, prover=Witness()))


def test_old_and_closed_payments_cost_nothing(book: Book, clock: FakeClock) -> None:
    lost(book)
    later(clock)
    sweep(book, Witness())
    witness = Witness()
    later(clock, 10**9)
    assert sweep(book, witness).claimed == 0
    assert len(book.store.page(PaymentQuery())) == 1
    assert replace(book.get("pay_1"), next_check_at_ms=None) == book.get("pay_1")
