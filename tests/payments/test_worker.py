"""The worker: lost answers are found, trouble stays with its payment, and it stops in time."""

import asyncio
import base64
import json
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bursar.payments.book import Book
from bursar.payments.outcome import BudgetState, Disposition, Money, Remedy, Trigger, Work
from bursar.payments.ports import PaymentStore, PaymentStoreError
from bursar.payments.records import Evidence, Finding, PaymentRecord, Topic, move_remedy, move_work
from bursar.payments.schedule import Pace, mandatory_ms
from bursar.payments.sealing import Sealer, SealError, sealer_from
from bursar.payments.store import open_payments
from bursar.payments.worker import PaymentWorker, WorkerSettings
from bursar.testing import FakeClock
from bursar.testing.memory_payments import MemoryPayments
from payments.world import NOW_MS, SEEN, moved, payment, recorded

QUICK = WorkerSettings(poll_s=0.005, start_s=0.0, stop_s=0.2)
Say = Callable[[PaymentRecord], Trigger]


class Scripted:
    """A prover that says what it is told to, and counts how often it was asked."""

    def __init__(self, say: Say | Trigger, *, endpoint: str = "rpc") -> None:
        self.say: Say = say if callable(say) else lambda record: say
        self.name = endpoint
        self.asked: list[str] = []
        self.before: Callable[[PaymentRecord], Awaitable[None]] | None = None

    def endpoint(self, record: PaymentRecord) -> str:
        return self.name

    async def prove(self, record: PaymentRecord) -> Finding:
        self.asked.append(record.payment_id)
        if self.before is not None:
            await self.before(record)
        return Finding(self.say(record), SEEN)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PaymentStore]:
    """A payment store of every kind in turn."""
    made: PaymentStore = (
        MemoryPayments() if request.param == "memory" else open_payments(tmp_path / "ledger.db")
    )
    with closing(made):
        yield made


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still at the time of the records."""
    return FakeClock(NOW_MS)


def put(store: PaymentStore, name: str = "1", *triggers: Trigger, **changes: Any) -> PaymentRecord:
    record = payment(name)
    store.add(record, recorded(record))
    change = moved(record, *triggers, **({"next_check_at_ms": NOW_MS} | changes))
    store.save([change])
    kept = store.get(record.payment_id)
    assert kept is not None
    return kept


def worker(store: PaymentStore, prover: Scripted, clock: FakeClock, **changes: Any) -> Any:
    settings = replace(QUICK, **changes)
    return PaymentWorker(
        store, prover, owner="w", clock=clock, rng=random.Random(1), settings=settings
    )


def now(store: PaymentStore, name: str = "1") -> PaymentRecord:
    record = store.get(f"pay_{name}")
    assert record is not None
    return record


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  # what is waited for happens in a store
            await asyncio.sleep(0.005)


def run(made: Any, holds: Callable[[], bool]) -> None:
    """Run a worker until something holds."""

    async def go() -> None:
        async with made():
            await until(holds)

    asyncio.run(go())


SENT = (Trigger.SENDING, Trigger.LOST)


def test_a_sender_that_died_leaves_a_lost_answer(store: PaymentStore, clock: FakeClock) -> None:
    """After the crash the record is unknown, then proved; nobody sends anything again."""
    put(store, "1", Trigger.SENDING)
    prover = Scripted(Trigger.SETTLED)
    run(lambda: worker(store, prover, clock), lambda: now(store).money is Money.SETTLED)
    whats = [event.what for event in store.events("pay_1")]
    assert whats == ["RECORDED", "SENDING", "LOST", "SETTLED"]
    assert prover.asked == ["pay_1"]
    assert now(store).next_check_at_ms is None


def refused(store: PaymentStore, clock: FakeClock, *triggers: Trigger, **changes: Any) -> int:
    """Have a payment refused, at its first send or before it; return when it is over for good."""
    book = Book(store, clock=clock)
    draft = payment(**changes)
    book.record(draft, SEEN)
    for trigger in triggers:
        assert trigger is Trigger.SENDING
        assert book.sending("pay_1", SEEN) is not None
    assert book.heard("pay_1", Trigger.REFUSED, SEEN).money is Money.REJECTED
    mandatory = mandatory_ms(draft, Pace())
    assert mandatory is not None
    return mandatory


@pytest.mark.parametrize(
    ("triggers", "facilitator"), [([Trigger.SENDING], None), ([], "shop"), ([], None)]
)
@pytest.mark.parametrize(
    ("said", "money"),
    [
        (Trigger.EXPIRED, Money.REJECTED),
        (Trigger.VOIDED, Money.REJECTED),
        (Trigger.MISDIRECTED, Money.REJECTED),
        (Trigger.SETTLED, Money.SETTLED),
    ],
)
def test_a_refusal_is_looked_at_once_when_nothing_can_move_any_more(
    triggers: list[Trigger],
    facilitator: str | None,
    said: Trigger,
    money: Money,
    store: PaymentStore,
    clock: FakeClock,
) -> None:
    """Whoever refused it may have sent it all the same; what nobody ever had is not looked at."""
    over_ms = refused(store, clock, *triggers, facilitator=facilitator)
    prover = Scripted(said)

    def sweep() -> None:
        asyncio.run(worker(store, prover, clock).sweep())

    clock.set_ms(over_ms - 1)
    sweep()
    assert prover.asked == []
    clock.set_ms(over_ms)
    sweep()
    if not triggers and facilitator is None:
        assert (prover.asked, now(store).next_check_at_ms) == ([], None)
        return
    assert prover.asked == ["pay_1"]
    whats = [event.what for event in store.events("pay_1")]
    assert whats[-1] == ("CONTRADICTED" if money is Money.SETTLED else f"SEEN_{said.value}")
    clock.advance_ms(3_600_000)
    sweep()
    assert (now(store).money, now(store).next_check_at_ms) == (money, None)
    assert len(prover.asked) == (2 if money is Money.SETTLED else 1)
    posted = store.outbox(Topic.ALERT, 2**53, 9)
    told = [one.notice.dedupe_key.partition(":")[0] for one in posted]
    assert told == (["payment.reopened"] if money is Money.SETTLED else [])


def test_a_refusal_that_nobody_can_prove_is_asked_about_until_somebody_can(
    store: PaymentStore, clock: FakeClock
) -> None:
    """An outage does not close it: after many failures it is asked about hourly, and told once."""
    clock.set_ms(refused(store, clock, Trigger.SENDING))
    prover = Scripted(Trigger.UNREACHABLE)
    made = worker(store, prover, clock, breaker_failures=99)
    for _ in range(25):
        asyncio.run(made.sweep())
        at_ms = now(store).next_check_at_ms
        assert at_ms is not None
        pause_ms = at_ms - clock.now_ms()
        clock.set_ms(at_ms)
    assert pause_ms >= Pace().parked_ms
    assert len(prover.asked) == 25
    posted = store.outbox(Topic.ALERT, 2**53, 9)
    told = [one.notice.dedupe_key.partition(":")[0] for one in posted]
    assert told == ["payment.unresolved_too_long"]
    prover.say = lambda record: Trigger.EXPIRED
    asyncio.run(made.sweep())
    assert (now(store).money, now(store).next_check_at_ms) == (Money.REJECTED, None)


def test_a_late_answer_or_work_does_not_take_the_look_away(
    store: PaymentStore, clock: FakeClock
) -> None:
    over_ms = refused(store, clock, Trigger.SENDING)
    book = Book(store, clock=clock)
    book.heard("pay_1", Trigger.REFUSED, SEEN)
    assert now(store).next_check_at_ms == over_ms
    book.work("pay_1", Work.RUNNING, SEEN, until_ms=over_ms + 5)
    assert now(store).next_check_at_ms == over_ms
    clock.set_ms(over_ms)
    asyncio.run(worker(store, Scripted(Trigger.EXPIRED), clock).sweep())
    assert now(store).next_check_at_ms == over_ms + 5
    clock.set_ms(over_ms + 5)
    unasked = Scripted(Trigger.SETTLED)
    asyncio.run(worker(store, unasked, clock).sweep())
    assert (now(store).next_check_at_ms, now(store).disposition) == (None, Disposition.CLOSED)
    assert unasked.asked == []


def test_what_was_never_sent_is_refused_without_asking(
    store: PaymentStore, clock: FakeClock
) -> None:
    """A record whose time to be sent is over is closed, and its sealed payload is gone."""
    put(store, "1", sealed_payload=b"sealed")
    prover = Scripted(Trigger.SETTLED)
    run(lambda: worker(store, prover, clock), lambda: now(store).money is Money.REJECTED)
    assert prover.asked == []
    assert now(store).sealed_payload is None
    assert now(store).disposition is Disposition.CLOSED


def test_an_orphan_is_told_once(
    store: PaymentStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Paid and failed: one alert in the outbox, one in the log, and the budget must commit."""
    put(store, "1", *SENT, work=Work.FAILED, budget_state=BudgetState.RESERVED, budget_ref="r1")
    with caplog.at_level(logging.WARNING, "bursar.payments"):
        run(
            lambda: worker(store, Scripted(Trigger.SETTLED), clock),
            lambda: now(store).disposition is Disposition.ORPHANED,
        )
    [posted] = store.outbox(Topic.ALERT, NOW_MS, 9)
    assert json.loads(posted.notice.payload)["event"] == "payment.orphaned"
    [duty] = store.outbox(Topic.BUDGET, NOW_MS, 9)
    assert (json.loads(duty.notice.payload)["duty"], duty.notice.payment_id) == ("COMMIT", "pay_1")
    assert [record.message for record in caplog.records] == ["payment.orphaned pay_1"]


def test_failures_to_ask_park_and_a_late_answer_resolves(
    store: PaymentStore, clock: FakeClock
) -> None:
    """Twenty failures park the payment; once the chain answers again no operator is needed."""
    put(store, "1", *SENT, rpc_failures=19)
    prover = Scripted(Trigger.UNREACHABLE)
    run(lambda: worker(store, prover, clock), lambda: now(store).money is Money.PARKED)
    [posted] = store.outbox(Topic.ALERT, NOW_MS, 9)
    assert json.loads(posted.notice.payload)["event"] == "payment.parked"
    assert now(store).next_check_at_ms is not None
    clock.advance_ms(4_000_000)
    run(
        lambda: worker(store, Scripted(Trigger.SETTLED), clock),
        lambda: now(store).money is Money.SETTLED,
    )


def test_work_that_is_overdue_makes_an_orphan(store: PaymentStore, clock: FakeClock) -> None:
    """Settled, never delivered, and nobody said so: the time that the work had decides."""
    put(store, "1", *SENT, work=Work.RUNNING, work_until_ms=NOW_MS + 50)
    prover = Scripted(Trigger.SETTLED)
    run(lambda: worker(store, prover, clock), lambda: now(store).money is Money.SETTLED)
    assert now(store).disposition is Disposition.OPEN
    clock.advance_ms(50)
    run(
        lambda: worker(store, prover, clock),
        lambda: now(store).disposition is Disposition.ORPHANED,
    )
    assert prover.asked == ["pay_1"]


def test_one_payments_trouble_is_its_own(
    store: PaymentStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A check that raises, one that hangs, and one that is well: the last one is settled.

    And the text of the error, which quotes the payload, is in no log and no history.
    """

    def say(record: PaymentRecord) -> Trigger:
        if record.payment_id == "pay_1":
            raise ValueError("signature 0xdeadbeef")
        return Trigger.SETTLED

    async def hang(record: PaymentRecord) -> None:
        if record.payment_id == "pay_2":
            await asyncio.sleep(60)

    for name in "123":
        put(store, name, *SENT)
    prover = Scripted(say)
    prover.before = hang
    with caplog.at_level(logging.DEBUG):
        run(
            lambda: worker(store, prover, clock, call_s=0.05),
            lambda: (
                now(store, "3").money is Money.SETTLED
                and all(now(store, name).rpc_failures == 1 for name in "12")
            ),
        )
    said = caplog.text + "".join(str(store.events(f"pay_{name}")) for name in "123")
    assert "deadbeef" not in said
    assert "the check failed: ValueError" in said
    assert "the check failed: TimeoutError" in said


def test_a_dead_endpoint_is_left_alone(store: PaymentStore, clock: FakeClock) -> None:
    """After five failures in a row the rest is put off; that costs them nothing of their cap."""
    for number in range(30):
        put(store, str(number), *SENT)
    prover = Scripted(Trigger.UNREACHABLE)
    made: list[Any] = []

    def make() -> Any:
        made.append(worker(store, prover, clock, concurrency=1))
        return made[-1]

    run(make, lambda: made[-1].metrics.postponed == 25)
    assert len(prover.asked) == 5
    assert sum(now(store, str(n)).rpc_failures for n in range(30)) == 5


def test_a_worker_that_stalls_past_its_lease_writes_nothing(
    store: PaymentStore, clock: FakeClock
) -> None:
    """The second worker decides; the first one comes back late and is refused."""
    put(store, "1", *SENT)

    async def go() -> int:
        late = asyncio.Event()
        slow, fast = Scripted(Trigger.EXPIRED), Scripted(Trigger.SETTLED)

        async def wait(record: PaymentRecord) -> None:
            await late.wait()

        slow.before = wait
        # Alone with what it looks at, or it could claim the payment again by itself.
        async with worker(store, slow, clock, concurrency=1) as first:
            await until(lambda: slow.asked == ["pay_1"])
            clock.advance_ms(QUICK.lease_ms)
            async with worker(store, fast, clock):
                await until(lambda: now(store).money is Money.SETTLED)
            late.set()
            await until(lambda: first.metrics.fenced == 1)
            fenced: int = first.metrics.fenced
            return fenced

    assert asyncio.run(go()) == 1
    assert [e.what for e in store.events("pay_1")] == ["RECORDED", "SENDING", "LOST", "SETTLED"]


def test_a_refund_during_a_check_is_kept(store: PaymentStore, clock: FakeClock) -> None:
    """The operator writes while the worker looks: its change is stale, the next one keeps both."""
    put(store, "1", *SENT, work=Work.FAILED)

    async def refund(record: PaymentRecord) -> None:
        if now(store).remedy is Remedy.NONE:
            proof = Evidence(source="operator:ann", tx_hash="0xrefund")
            after, event = move_remedy(now(store), Remedy.REFUNDED, proof, NOW_MS)
            store.save([replace(moved(record), after=after, events=(event,))])

    prover = Scripted(Trigger.SETTLED)
    prover.before = refund
    run(lambda: worker(store, prover, clock), lambda: now(store).money is Money.SETTLED)
    record = now(store)
    assert (record.remedy, record.refund_tx) == (Remedy.REFUNDED, "0xrefund")
    assert record.disposition is Disposition.REFUNDED
    whats = [event.what for event in store.events("pay_1")]
    assert whats == ["RECORDED", "SENDING", "LOST", "REFUNDED", "SETTLED"]
    assert store.outbox(Topic.ALERT, NOW_MS, 9) == []


def test_work_delivered_during_a_check_is_kept(store: PaymentStore, clock: FakeClock) -> None:
    """The handler finishes while the worker looks: the payment ends closed, not orphaned."""
    put(store, "1", *SENT)

    async def deliver(record: PaymentRecord) -> None:
        if now(store).work is Work.NOT_STARTED:
            done = Evidence(source="handler")
            after, event = move_work(now(store), Work.DELIVERED, done, NOW_MS)
            store.save([replace(moved(record), after=after, events=(event,))])

    prover = Scripted(Trigger.SETTLED)
    prover.before = deliver
    run(lambda: worker(store, prover, clock), lambda: now(store).money is Money.SETTLED)
    assert now(store).disposition is Disposition.CLOSED


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_it_ends_in_time_and_gives_its_leases_back(
    store: PaymentStore, clock: FakeClock, how: str
) -> None:
    """With a check that never ends: it stops within its bound, and the payment is free at once."""
    put(store, "1", *SENT)
    prover = Scripted(Trigger.SETTLED)

    async def never(record: PaymentRecord) -> None:
        await asyncio.Event().wait()

    prover.before = never

    async def go() -> float:
        made = worker(store, prover, clock)
        task = asyncio.create_task(made.run())
        await until(lambda: prover.asked == ["pay_1"])
        began = time.monotonic()
        if how == "stop":
            made.stop()
            await task
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return time.monotonic() - began

    assert asyncio.run(go()) < 20  # the look would never end
    assert [record.payment_id for record in store.claim("next", NOW_MS, 1, 9)] == ["pay_1"]


def test_a_store_that_fails_is_tried_again(clock: FakeClock) -> None:
    """An error of the database ends no worker; afterwards everything is found."""

    class Failing(MemoryPayments):
        claims = 0

        def claim(self, *arguments: Any) -> Any:
            self.claims += 1
            if self.claims < 3:
                raise PaymentStoreError("disk I/O error")
            return super().claim(*arguments)

    store = Failing()
    put(store, "1", *SENT)
    run(
        lambda: worker(store, Scripted(Trigger.SETTLED), clock),
        lambda: now(store).money is Money.SETTLED,
    )


def test_a_worker_that_fails_as_a_whole_begins_again(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After a pause each time, counted and said without its text; a stop ends the pause."""

    class Broken(MemoryPayments):
        claims: ClassVar[list[float]] = []

        def claim(self, *arguments: Any) -> Any:
            self.claims.append(time.monotonic())
            if len(self.claims) <= 3:
                raise ValueError("signature 0xdeadbeef")
            return super().claim(*arguments)

    store = Broken()
    put(store, "1", *SENT)

    async def go() -> int:
        made = worker(store, Scripted(Trigger.SETTLED), clock)
        task = asyncio.create_task(made.run_forever(0.2))
        await until(lambda: now(store).money is Money.SETTLED)
        made.stop()
        await task
        failed: int = made.metrics.restarts
        return failed

    with caplog.at_level(logging.ERROR, "bursar.payments"):
        assert asyncio.run(go()) == 3
    times = store.claims[:4]
    assert all(after - before >= 0.19 for before, after in pairwise(times))
    assert caplog.messages.count("the payment worker failed, and begins again: ValueError") == 3
    assert "deadbeef" not in caplog.text


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_pause_after_a_failure_delays_no_end(clock: FakeClock, how: str) -> None:
    class Broken(MemoryPayments):
        def claim(self, *arguments: Any) -> Any:
            raise ValueError("odd")

    async def go() -> float:
        made = worker(Broken(), Scripted(Trigger.SETTLED), clock)
        task = asyncio.create_task(made.run_forever(3_600.0))
        await until(lambda: made.metrics.restarts == 1)
        began = time.monotonic()
        if how == "stop":
            made.stop()
            await task
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return time.monotonic() - began

    assert asyncio.run(go()) < 20


def test_a_storm_of_failures_starves_nobody(tmp_path: Path, clock: FakeClock) -> None:
    """Every due payment is looked at once while most fail for ever, and a fresh one among them."""
    with closing(open_payments(tmp_path / "ledger.db")) as store:
        for number in range(300):
            put(store, str(number), *SENT, next_check_at_ms=NOW_MS if number % 2 else None)
        put(store, "fresh", *SENT)
        prover = Scripted(
            lambda r: Trigger.SETTLED if r.payment_id == "pay_fresh" else Trigger.UNDECIDED
        )
        run(
            lambda: worker(store, prover, clock, poll_s=0.02),
            lambda: len(prover.asked) == 151 and now(store, "fresh").money is Money.SETTLED,
        )
        due = [f"pay_{number}" for number in range(300) if number % 2]
        assert sorted(prover.asked) == sorted([*due, "pay_fresh"])


def test_bounds_that_would_let_two_workers_look_are_refused() -> None:
    """A lease shorter than a look and its margin is refused, with both figures."""
    with pytest.raises(ValueError, match=r"lease_ms is 30000.*40000 ms together"):
        WorkerSettings(lease_ms=30_000)
    with pytest.raises(ValueError, match="at least 1"):
        WorkerSettings(concurrency=0)


def test_a_payload_is_sealed_to_its_payment() -> None:
    """It opens with its key for its payment, and for no other key, payment or text."""
    sealer = Sealer(b"k" * 32)
    sealed = sealer.seal("pay_1", b"signature")
    assert b"signature" not in sealed
    assert sealer.unseal("pay_1", sealed) == b"signature"
    for other, name, text in (
        (sealer, "pay_2", sealed),
        (Sealer(b"x" * 32), "pay_1", sealed),
        (sealer, "pay_1", sealed[:-1] + b"?"),
        (sealer, "pay_1", b""),
    ):
        with pytest.raises(SealError, match=f"payment {name} was not sealed"):
            other.unseal(name, text)


def test_the_operators_key(tmp_path: Path) -> None:
    """From the environment or a file; none is none, and a bad one is refused without showing it."""
    text = base64.b64encode(b"k" * 32).decode()
    (tmp_path / "key").write_text(text + "\n")
    for environment in (
        {"BURSAR_PAYMENT_KEY": text},
        {"BURSAR_PAYMENT_KEY_FILE": str(tmp_path / "key")},
    ):
        sealer = sealer_from(environment)
        assert sealer is not None
        assert sealer.unseal("p", Sealer(b"k" * 32).seal("p", b"x")) == b"x"
    assert sealer_from({}) is None
    for bad in ("secret!", base64.b64encode(b"secret").decode()):
        with pytest.raises(SealError) as caught:
            sealer_from({"BURSAR_PAYMENT_KEY": bad})
        assert bad not in str(caught.value)
    with pytest.raises(SealError, match="cannot be read"):
        sealer_from({"BURSAR_PAYMENT_KEY_FILE": str(tmp_path / "none")})


def test_a_claim_that_was_cancelled_gives_its_leases_back(
    store: PaymentStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that claims goes on after the cancellation: what it leased is nobody's."""
    put(store, "1", *SENT)
    claiming, go_on = threading.Event(), threading.Event()
    claim = store.claim

    def slow(*words: Any) -> Any:
        claiming.set()
        assert go_on.wait(60)
        return claim(*words)

    monkeypatch.setattr(store, "claim", slow)

    async def go() -> None:
        prover = Scripted(Trigger.SETTLED)
        looking = asyncio.create_task(worker(store, prover, clock).run())
        await asyncio.to_thread(claiming.wait, 60)
        looking.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        async with asyncio.timeout(60):
            with pytest.raises(asyncio.CancelledError):
                await looking
        assert prover.asked == []

    asyncio.run(go())
    assert (now(store).lease_owner, now(store).lease_until_ms) == (None, 0)
    assert now(store).fence > 0
    assert [one.payment_id for one in claim("other", NOW_MS, 60_000, 10)] == ["pay_1"]
