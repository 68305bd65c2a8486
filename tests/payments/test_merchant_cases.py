"""A merchant in the cases that need a second process, a death, or another protocol."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar.agent import QueryEngine, StopReason, run_turn_loop
from bursar.agent.tools import Toolbox
from bursar.payments.book import Book
from bursar.payments.outcome import Disposition, Money, Trigger, Work
from bursar.payments.ports import PaymentQuery
from bursar.payments.records import Evidence
from bursar.payments.store import open_payments
from bursar.testing import FakeClock
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.testing.models import ScriptedModel
from bursar.testing.providers.script import Reply, ToolUse
from bursar.x402.facilitators import Facilitator
from bursar.x402.merchant import X402
from bursar.x402.prover import ChainProver
from bursar.x402.reconcile import reconcile_failed_payments
from bursar.x402.rpc import Rpc
from payments.paying import MALLORY, PRICE, SHOP, Payer
from payments.selling import Shop, offer, payload, receipt_of
from payments.selling_process import Process

ROUNDS = 6


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@pytest.fixture
def slow(
    facilitator: ScriptedFacilitator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[threading.Event]:
    """A facilitator that pays, and answers when it is released."""
    released, settle = threading.Event(), facilitator.settle

    def settling(request: Any) -> Any:
        answer = settle(request)
        released.wait(60)
        return answer

    monkeypatch.setattr(facilitator, "settle", settling)
    yield released
    released.set()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Two processes on one file


def test_two_processes_take_the_same_payload_at_once(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    """Settled once, worked for once; whoever has no answer is told to come back, never to pay."""
    ledger = tmp_path / "ledger.db"
    with closing(open_payments(ledger)) as store, ThreadPoolExecutor(2) as pool:
        with (
            Process(ledger, dollar, facilitator.url) as one,
            Process(ledger, dollar, facilitator.url) as two,
        ):
            before, seen = dollar.balance(SHOP), set[int]()
            for _ in range(ROUNDS):
                said = payload(payer)
                at_once = [*pool.map(lambda shop: shop.get(said), (one, two))]  # noqa: B023 - it is used up in this round
                seen |= {answer.status_code for answer in at_once}
                for answer in at_once:
                    is_correct(answer)
                assert 200 in [answer.status_code for answer in at_once]
                again = [shop.get(said) for shop in (one, two)]
                for answer in again:
                    is_correct(answer)
                found = [each.status_code for each in again]
                assert sorted(found) == [200, 409], found  # who worked has it, the other says so
        records = store.page(PaymentQuery())
        assert {(each.money, each.work) for each in records} == {
            (Money.PROVISIONAL, Work.DELIVERED)
        }
    assert sorted(one.runs()) == sorted(each.payment_id for each in records)
    assert sorted(facilitator.journal.settles.values()) == [1] * ROUNDS
    assert dollar.balance(SHOP) - before == ROUNDS * PRICE
    assert seen <= {200, 409, 503}


def test_another_process_settles_between_our_look_and_our_question(
    dollar: Dollar,
    payer: Payer,
    facilitator: ScriptedFacilitator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The facilitator calls the nonce used, by the very payment: no 402, or it is paid twice."""
    said, verify, first = payload(payer), facilitator.verify, [True]
    with Shop(dollar, facilitator) as one, Shop(dollar, facilitator, store=one.store) as two:

        def overtaken(request: Any) -> Any:
            if first and first.pop():
                assert two.get(said=said).status_code == 200
                assert not verify(request)["isValid"]
            return verify(request)

        monkeypatch.setattr(facilitator, "verify", overtaken)
        answer = one.get(said=said)
        is_correct(answer)
        assert answer.status_code == 409
        assert (len(one.handlers.calls), len(two.handlers.calls)) == (0, 1)
    assert [*facilitator.journal.settles.values()] == [1]


def is_correct(answer: httpx2.Response) -> None:
    """Hold an answer against what a payer whose payment is good may be told."""
    told = receipt_of(answer)
    if answer.status_code == 200:
        assert told["success"]
    elif answer.status_code == 503:
        assert answer.json()["error"] in ("settlement_pending", "work_in_progress")
        assert int(answer.headers["retry-after"]) >= 1
    else:
        assert (answer.status_code, answer.json()["error"]) == (409, "already_delivered")
        assert told["success"]
    assert "payment-required" not in answer.headers


def test_case_19_the_merchant_dies_while_it_settles(
    dollar: Dollar,
    payer: Payer,
    facilitator: ScriptedFacilitator,
    slow: threading.Event,
    tmp_path: Path,
    chain: LocalChain,
) -> None:
    """Held while nobody knows; when the chain says paid, the other process delivers. One send."""
    ledger, said = tmp_path / "ledger.db", payload(payer)
    with (
        closing(open_payments(ledger)) as store,
        ThreadPoolExecutor(1) as pool,
        Process(ledger, dollar, facilitator.url, wait_s=0.2, provisional_max=0) as other,
    ):
        with Process(ledger, dollar, facilitator.url) as one:
            asked = pool.submit(one.get, said)
            until(lambda: facilitator.journal.transactions)
            one.kill()
            with pytest.raises(httpx2.HTTPError):
                asked.result(60)
        [record] = store.page(PaymentQuery())
        assert record.money is Money.SUBMITTING
        answer = other.get(said)  # nobody knows yet that it died: held, and not asked for anew
        assert (answer.status_code, answer.json()["error"]) == (503, "settlement_pending")
        chain.finalize()
        [record] = store.page(PaymentQuery())
        clock = FakeClock(record.next_check_at_ms or 0)

        async def look() -> None:
            prover = ChainProver({record.network: [Rpc(chain.url)]}, clock=clock)
            await reconcile_failed_payments(store, prover=prover, clock=clock)
            await prover.aclose()

        asyncio.run(look())
        whats = [event.what for event in store.events(record.payment_id)]
        assert (whats.count("SENDING"), whats[-1]) == (1, "SETTLED")
        assert other.get(said).status_code == 200
        [after] = store.page(PaymentQuery())
        assert (after.money, after.disposition) == (Money.SETTLED, Disposition.CLOSED)
    assert [*facilitator.journal.settles.values()] == [1]


# The same authorization again


@pytest.mark.parametrize("settled", [False, True], ids=["provisional", "settled"])
@pytest.mark.parametrize(
    "other",
    [{"to": MALLORY}, {"value": PRICE + 1}, {"window_s": 200}],
    ids=["payee", "value", "window"],
)
def test_case_23_another_authorization_under_the_same_nonce(
    other: dict[str, Any],
    settled: bool,
    dollar: Dollar,
    payer: Payer,
    facilitator: ScriptedFacilitator,
) -> None:
    """Signed by the payer and for something else: a conflict, and nothing changes."""
    with Shop(dollar, facilitator) as shop:
        said = payload(payer)
        first = shop.get(said=said)
        assert first.status_code == 200
        if settled:
            name = shop.only().payment_id
            shop.book.heard(name, Trigger.SETTLED, Evidence("test"))
        before, events = shop.only(), len(shop.store.events(shop.only().payment_id))
        nonce = said["payload"]["authorization"]["nonce"]
        answer = shop.get(said=payload(payer, nonce=nonce, **other))
        assert (answer.status_code, answer.json()["error"]) == (409, "payment_conflict")
        assert (shop.only(), len(shop.store.events(before.payment_id))) == (before, events)
        again = shop.get(said=said)  # while the same one is answered as it was
        assert (again.status_code, again.content) == (200, first.content)
        assert len(shop.handlers.calls) == 1
    assert [*facilitator.journal.settles.values()] == [1]


# 503 instead of a fresh 402


def test_case_25_no_fresh_price_for_what_is_on_its_way(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, slow: threading.Event
) -> None:
    """The turn that pays ends by its deadline; who presents the payment meanwhile gets a 503."""
    said, left = payload(payer), threading.Event()
    with Shop(dollar, facilitator, settle_timeout_s=90) as shop:
        # Another replica: it has the records, and not the request that is under way.
        with Shop(dollar, facilitator, store=shop.store, wait_s=0.1, provisional_max=0) as replica:

            def buy() -> str:
                """Buy the report."""
                status = shop.get(said=said).status_code
                left.set()
                return f"{status}"

            model = ScriptedModel([Reply(tools=(ToolUse("buy"),)), Reply("It is bought.")])
            engine = QueryEngine(None, model, tools=Toolbox([buy]))
            result = run_turn_loop("Buy the report.", engine=engine, timeout_seconds=2.0)
            assert result.loop_stop is StopReason.TIMEOUT
            assert not left.is_set()
            assert shop.only().money is Money.SUBMITTING
            for _ in range(3):
                answer = replica.get(said=said)
                assert (answer.status_code, answer.json()["error"]) == (503, "settlement_pending")
                assert int(answer.headers["retry-after"]) >= 1
                assert "payment-required" not in answer.headers
                assert not receipt_of(answer)["success"]
            slow.set()
            assert left.wait(60)
        assert shop.get(said=said).status_code == 200
        assert len(shop.handlers.calls) == 1
    assert [*facilitator.journal.settles.values()] == [1]


# Another protocol


@pytest.mark.parametrize("route", ["GET /report", "/report"])
def test_no_payment_comes_over_a_websocket(route: str, dollar: Dollar) -> None:
    """A priced path is refused before the handler sees it, whatever it brings; others pass."""
    served = list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["path"])
        assert "bursar.payment" not in scope
        await send({"type": "websocket.accept"})

    async def connected(path: str) -> str:
        sent = list[str]()

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        scope = {"type": "websocket", "path": path, "query_string": b"", "bursar.payment": "forged"}
        await shop(scope | {"headers": [(b"payment-signature", b"e30=")]}, receive, send)
        [first] = sent
        return first

    shop = X402(
        app,
        routes={route: offer(dollar)},
        book=Book(MemoryPayments()),
        facilitator=Facilitator("http://127.0.0.1:9"),
        prover=ChainProver({}),
    )
    assert asyncio.run(connected("/report")) == "websocket.close"
    assert asyncio.run(connected("/free")) == "websocket.accept"
    assert served == ["/free"]
