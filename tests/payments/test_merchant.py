"""A merchant over real HTTP, a real chain and a facilitator that goes wrong when told to."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from bursar.payments.outcome import Disposition, Money, Trigger, Work
from bursar.payments.ports import PaymentQuery, PaymentStoreError
from bursar.payments.records import Evidence, Topic
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.results import MemoryResults, StoredAnswer
from payments.paying import MALLORY, PRICE, SHOP, Payer
from payments.selling import Shop, offer, paying, payload, receipt_of


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@pytest.fixture
def shop(dollar: Dollar, facilitator: ScriptedFacilitator) -> Iterator[Shop]:
    with Shop(dollar, facilitator) as opened:
        yield opened


def settles(facilitator: ScriptedFacilitator, said: Any) -> int:
    nonce = said["payload"]["authorization"]["nonce"]
    return facilitator.journal.settles.get(nonce, 0)


def is_pending(answer: httpx2.Response) -> bool:
    """Say whether an answer is the one that keeps a payer from paying anew."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["cache-control"] == "no-store"
    said = receipt_of(answer)
    assert not said["success"]
    return bool(said["errorReason"] == "settlement_pending")


def test_without_a_payment_both_versions_are_told_the_price(shop: Shop, dollar: Dollar) -> None:
    answer = shop.get()
    assert answer.status_code == 402
    assert answer.headers["cache-control"] == "no-store"
    asked = json.loads(base64.b64decode(answer.headers["payment-required"]))
    assert asked["x402Version"] == 2
    assert asked["accepts"][0] == offer(dollar).to_wire()
    assert asked["resource"]["url"] == f"{shop.url}/report"
    assert answer.json()["x402Version"] == 1
    assert shop.handlers.calls == []


def test_a_payment_buys_one_answer(
    shop: Shop, payer: Payer, dollar: Dollar, facilitator: ScriptedFacilitator
) -> None:
    before, said = dollar.balance(SHOP), payload(payer)
    answer = shop.get(said=said)
    assert (answer.status_code, answer.json()["report"]) == (200, 1)
    assert dollar.balance(SHOP) - before == PRICE
    told, record = receipt_of(answer), shop.only()
    assert told["success"]
    assert told["transaction"] == record.tx_hash
    assert told["payer"] == payer.address
    assert (record.money, record.work) == (Money.PROVISIONAL, Work.DELIVERED)
    paid = shop.handlers.calls[0]["paid"]
    assert (paid.payment_id, paid.value, paid.final) == (record.payment_id, PRICE, False)
    whats = [event.what for event in shop.store.events(record.payment_id)]
    assert whats[:3] == ["RECORDED", "SENDING", "ACKNOWLEDGED"]
    assert settles(facilitator, said) == 1


def test_the_record_is_there_before_the_facilitator_is_asked(
    shop: Shop, payer: Payer, facilitator: ScriptedFacilitator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    settle = facilitator.settle

    def spying(request: Any) -> Any:
        seen.append(shop.only().money)
        return settle(request)

    monkeypatch.setattr(facilitator, "settle", spying)
    assert shop.get(said=payload(payer)).status_code == 200
    assert seen == [Money.SUBMITTING]


def test_a_large_sum_waits_for_finality(
    dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """Above the limit a block that is not final is not enough; the same payload gets it later."""
    with Shop(dollar, facilitator, provisional_max=PRICE - 1, wait_s=0.5) as shop:
        said = payload(payer)
        assert is_pending(shop.get(said=said))
        assert shop.handlers.calls == []
        chain.finalize()
        answer = shop.get(said=said)
        assert (answer.status_code, receipt_of(answer)["success"]) == (200, True)
        assert shop.only().money is Money.SETTLED
        assert shop.handlers.calls[0]["paid"].final
        assert settles(facilitator, said) == 1


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault.PENDING, Fault.PENDING_500, Fault.LOSE, Fault.STALL, Fault.FAILED),
        *(Fault.HTML_500, Fault.NO_TRANSACTION, Fault.ID_202, Fault.LATE),
    ],
)
def test_money_that_moved_is_found_whatever_the_answer_was(
    fault: Fault, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """The chain tells, in the same request or when the same payload comes again."""
    with Shop(dollar, facilitator, settle_timeout_s=0.5, wait_s=30.0) as shop:
        facilitator.script(fault)
        said = payload(payer)
        answer = shop.get(said=said)
        assert answer.status_code == 200, answer.text
        assert receipt_of(answer)["success"]
        assert (settles(facilitator, said), len(shop.handlers.calls)) == (1, 1)


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.UNPAID_500, Fault.UNPAID_FAILED])
def test_while_nobody_knows_the_answer_is_never_402(
    fault: Fault, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    with Shop(dollar, facilitator, wait_s=0.2) as shop:
        facilitator.script(fault)
        said = payload(payer)
        for _ in range(3):
            assert is_pending(shop.get(said=said))
        assert shop.only().money is Money.UNKNOWN
        assert settles(facilitator, said) == 1
        assert shop.handlers.calls == []


def test_a_payment_that_expired_unpaid_is_asked_for_anew(
    dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    with Shop(dollar, facilitator, wait_s=0.2) as shop:
        facilitator.script(Fault.DROP)
        said = payload(payer, window_s=60)
        assert is_pending(shop.get(said=said))
        chain.next_block_at(chain.now() + 61)
        chain.finalize()
        answer = shop.get(said=said)
        assert answer.status_code == 402
        assert answer.json()["error"] == "EXPIRED_PAYMENT"
        assert shop.only().money is Money.EXPIRED


def test_a_refused_settlement_is_402_and_closed(
    shop: Shop, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    facilitator.script(Fault.REFUSE)
    answer = shop.get(said=payload(payer))
    assert (answer.status_code, answer.json()["error"]) == (402, "SETTLEMENT_FAILED")
    assert receipt_of(answer) == {
        "success": False,
        "transaction": "",
        "network": shop.only().network,
        "payer": payer.address,
        "errorReason": "SETTLEMENT_FAILED",
    }
    assert shop.only().money is Money.REJECTED


def test_the_same_payload_gets_the_same_answer_and_pays_once(
    shop: Shop, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    said = payload(payer)
    first, again = shop.get(said=said), shop.get(said=said)
    assert (again.status_code, again.content) == (200, first.content)
    assert receipt_of(again)["success"]
    assert (settles(facilitator, said), len(shop.handlers.calls)) == (1, 1)


def test_many_at_once_pay_once_and_run_once(
    shop: Shop, payer: Payer, facilitator: ScriptedFacilitator, dollar: Dollar
) -> None:
    before, said = dollar.balance(SHOP), payload(payer)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: shop.get(said=said).status_code, range(12)))
    assert set(found) <= {200, 503}
    assert 200 in found
    assert (settles(facilitator, said), len(shop.handlers.calls)) == (1, 1)
    assert dollar.balance(SHOP) - before == PRICE


def test_an_answer_that_is_gone_is_not_worked_for_again(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """A merchant that began anew knows what it delivered, and says so."""
    store, said = MemoryPayments(), payload(payer)
    with Shop(dollar, facilitator, store=store) as shop:
        assert shop.get(said=said).status_code == 200
    with Shop(dollar, facilitator, store=store) as shop:
        answer = shop.get(said=said)
        assert (answer.status_code, answer.json()["error"]) == (409, "already_delivered")
        assert receipt_of(answer)["success"]
        assert shop.handlers.calls == []


@pytest.mark.parametrize(
    ("path", "more"), [("/report?page=2", {}), ("/report", {"method": "POST", "content": b"x"})]
)
def test_the_same_payment_for_something_else_is_a_conflict(
    path: str, more: dict[str, Any], shop: Shop, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    said = payload(payer)
    assert shop.get(said=said).status_code == 200
    before = shop.only()
    assert shop.get(path, said=said, **more).status_code == 409
    assert shop.only() == before
    assert settles(facilitator, said) == 1


def test_another_payload_under_the_same_nonce_is_a_conflict(shop: Shop, payer: Payer) -> None:
    """What can be read on the chain is not enough to get somebody else's answer."""
    said = payload(payer)
    assert shop.get(said=said).status_code == 200
    forged = json.loads(json.dumps(said)) | {"extensions": {"forged": True}}
    assert shop.get(said=forged).status_code == 409


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"to": MALLORY}, "INVALID_PAYEE"),
        ({"value": PRICE - 1}, "INVALID_AMOUNT"),
        ({"window_s": 4000}, "INVALID_WINDOW"),
        ({"window_s": -400}, "EXPIRED_PAYMENT"),
        ({"network": "eip155:1"}, "NETWORK_MISMATCH"),
    ],
)
def test_what_was_not_asked_for_is_refused(
    changes: dict[str, Any], error: str, shop: Shop, payer: Payer
) -> None:
    answer = shop.get(said=payload(payer, **changes))
    assert (answer.status_code, answer.json()["error"]) == (402, error)
    assert shop.store.page(PaymentQuery()) == []


def test_who_has_no_money_is_refused_before_anything_is_written(
    shop: Shop, dollar: Dollar, facilitator: ScriptedFacilitator
) -> None:
    poor = Payer.rich(dollar, 1)
    answer = shop.get(said=payload(poor))
    assert (answer.status_code, answer.json()["error"]) == (402, "insufficient_funds")
    assert shop.store.page(PaymentQuery()) == []
    assert facilitator.journal.settles == {}


@pytest.mark.parametrize("header", ["%%%", base64.b64encode(b"[]").decode(), "e30=", "A" * 20_000])
def test_what_is_no_payment_is_malformed(header: str, shop: Shop) -> None:
    answer = shop.get(headers={"PAYMENT-SIGNATURE": header})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_payload")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("more", ["NaN", "-Infinity", "1e999", '"\\ud800"', '{"\\udfff": 1}'])
@pytest.mark.parametrize("place", ["extensions", "accepted", "payload"])
def test_what_cannot_be_sent_on_is_malformed(
    more: str, place: str, shop: Shop, payer: Payer
) -> None:
    """A number or a text that JSON does not have, anywhere in a payment that is good otherwise."""
    said = payload(payer)
    said[place] = said.get(place, {}) | {"x": "PLACE"}
    text = json.dumps(said).replace('"PLACE"', more)
    answer = shop.get(headers={"PAYMENT-SIGNATURE": base64.b64encode(text.encode()).decode()})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_payload")
    assert shop.store.page(PaymentQuery()) == []


@pytest.mark.parametrize("names", [("PAYMENT-SIGNATURE",) * 2, ("PAYMENT-SIGNATURE", "X-PAYMENT")])
def test_two_payments_in_one_request_are_refused(
    names: tuple[str, str], shop: Shop, payer: Payer
) -> None:
    headers = [(name, next(iter(paying(payload(payer)).values()))) for name in names]
    answer = shop.http.get(f"{shop.url}/report", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_payload")
    assert "one payment header" in answer.json()["message"]
    assert shop.store.page(PaymentQuery()) == []


def test_a_head_costs_what_its_get_costs(shop: Shop) -> None:
    assert shop.get(method="HEAD").status_code == 402
    assert shop.handlers.calls == []


def test_a_facilitator_that_is_not_there_keeps_nobody_guessing(
    dollar: Dollar, payer: Payer
) -> None:
    """It cannot verify, so nothing was sent, and the same payment may come again."""
    with Shop(dollar, "http://127.0.0.1:9") as shop:
        answer = shop.get(said=payload(payer))
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert "retry-after" in answer.headers
        assert shop.store.page(PaymentQuery()) == []


def test_without_a_database_nothing_is_sent(
    shop: Shop, payer: Payer, facilitator: ScriptedFacilitator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise PaymentStoreError("disk full")

    monkeypatch.setattr(shop.store, "add", broken)
    said = payload(payer)
    assert shop.get(said=said).status_code == 503
    assert settles(facilitator, said) == 0


def test_paid_work_that_cannot_be_begun_is_begun_later(
    shop: Shop, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database fails after the settlement: come back with the same payment, never pay anew."""
    begin, failures = shop.book.begin, [1]

    def flaky(*values: Any, **more: Any) -> Any:
        if failures:
            failures.pop()
            raise PaymentStoreError("busy")
        return begin(*values, **more)

    monkeypatch.setattr(shop.book, "begin", flaky)
    said = payload(payer)
    answer = shop.get(said=said)
    assert (answer.status_code, answer.json()["error"]) == (503, "work_in_progress")
    assert "retry-after" in answer.headers
    assert shop.handlers.calls == []
    assert shop.get(said=said).status_code == 200


def test_an_answer_that_cannot_be_kept_is_delivered(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    class Full(MemoryResults):
        def put(self, payment_id: str, answer: StoredAnswer) -> None:
            raise OSError("no room")

    with Shop(dollar, facilitator, middleware={"results": Full()}) as shop:
        assert shop.get(said=payload(payer)).status_code == 200
        assert shop.only().work is Work.DELIVERED


def test_an_answer_is_stored_even_if_the_database_hiccups(
    shop: Shop, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, failures = shop.book.heard, [1, 1]

    def flaky(*values: Any, **more: Any) -> Any:
        if failures:
            failures.pop()
            raise PaymentStoreError("busy")
        return heard(*values, **more)

    monkeypatch.setattr(shop.book, "heard", flaky)
    assert shop.get(said=payload(payer)).status_code == 200
    assert failures == []


def test_paid_work_that_fails_is_an_orphan_and_is_done_late(
    shop: Shop, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """The payer keeps its payment: the same payload has the work done after all."""

    def fail(_: Request) -> Any:
        raise RuntimeError("boom")

    shop.handlers.behave = fail
    said = payload(payer)
    answer = shop.get(said=said)
    assert answer.status_code == 500
    assert receipt_of(answer)["success"]
    assert (shop.only().work, shop.only().disposition) == (Work.FAILED, Disposition.HELD)
    shop.handlers.behave = None
    assert is_pending(shop.get(said=said))  # it is not final, so it is not an orphan yet
    chain.finalize()
    shop.book.heard(shop.only().payment_id, Trigger.SETTLED, Evidence(source="test"))
    assert shop.only().disposition is Disposition.ORPHANED
    assert len(shop.store.outbox(Topic.ALERT, 2**62, 9)) == 1
    answer = shop.get(said=said)
    assert (answer.status_code, answer.json()["report"]) == (200, 2)
    assert shop.handlers.calls[-1]["paid"].late
    assert shop.only().disposition is Disposition.DELIVERED_LATE
    again = shop.get(said=said)
    assert again.content == answer.content
    assert settles(facilitator, said) == 1


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_handler_is_no_delivery(status: int, shop: Shop, payer: Payer) -> None:
    shop.handlers.behave = lambda _: PlainTextResponse("no", status)
    answer = shop.get(said=payload(payer))
    assert (answer.status_code, answer.text) == (status, "no")
    assert answer.headers["cache-control"] == "no-store"
    assert receipt_of(answer)["success"]
    assert shop.only().work is Work.FAILED


def test_a_client_that_leaves_finds_everything_done(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the facilitator is stored, and the same payload gets the work."""
    released = threading.Event()
    settle = facilitator.settle

    def slow(request: Any) -> Any:
        released.wait(60)
        return settle(request)

    monkeypatch.setattr(facilitator, "settle", slow)
    with Shop(dollar, facilitator, settle_timeout_s=60) as shop:
        said = payload(payer)
        with pytest.raises(httpx2.TimeoutException):
            shop.get(said=said, timeout=0.5)
        _until(lambda: sent(shop))
        released.set()
        _until(lambda: shop.only().money is Money.PROVISIONAL)
        answer = shop.get(said=said)
        assert answer.status_code == 200
        assert (settles(facilitator, said), len(shop.handlers.calls)) == (1, 1)


def test_a_request_that_is_cancelled_settles_all_the_same(
    shop: Shop, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """Case 19: who waits sees its cancellation, and the outcome is stored."""
    said, sent = payload(payer), list[Any]()
    headers = [
        (name.lower().encode(), value.encode())
        for name, value in shop.http.build_request("GET", shop.url).headers.items()
        if name == "host"
    ]
    headers += [(name.lower().encode(), value.encode()) for name, value in paying(said).items()]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/report",
        "query_string": b"",
        "scheme": "http",
        "headers": headers,
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        request = asyncio.create_task(shop.sells(scope, receive, send))
        await asyncio.to_thread(_until, lambda: facilitator.journal.verifies)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await shop.sells.drain()

    facilitator.script(Fault.NONE)
    loop = shop.server.servers[0].get_loop()
    asyncio.run_coroutine_threadsafe(main(), loop).result(60)
    assert sent == []
    assert shop.only().money is Money.PROVISIONAL
    assert settles(facilitator, said) == 1


def test_a_shutdown_waits_for_what_is_under_way_within_a_bound(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    facilitator.script(Fault.STALL)
    shop = Shop(dollar, facilitator, settle_timeout_s=60, middleware={"drain_s": 0.5})
    with shop:
        with pytest.raises(httpx2.TimeoutException):
            shop.get(said=payload(payer), timeout=1.0)
        _until(lambda: sent(shop))
        began = time.monotonic()
    assert time.monotonic() - began < 30  # the facilitator would take 60
    assert shop.only().money is Money.SUBMITTING  # the worker takes it from here


def test_nobody_brings_in_reserved_names(shop: Shop) -> None:
    """On every method and at any depth; what has none arrives to the byte."""
    forged = {
        "jsonrpc": "2.0",
        "method": "message/stream",
        "params": {
            "message": {
                "metadata": {
                    "_payment_context": {"verified": True},
                    "x402.payment.status": "payment-completed",
                    "keep": 1,
                },
                "parts": [{"metadata": {"x402.payment.receipts": []}}],
            }
        },
    }
    answer = shop.get("/free", method="POST", json=forged)
    assert answer.status_code == 200
    seen = json.loads(shop.handlers.calls[-1]["body"])
    assert seen["params"]["message"] == {"metadata": {"keep": 1}, "parts": [{"metadata": {}}]}
    plain = b'{ "a" :  1.0, "b": "x402" }'
    shop.get("/free", method="POST", content=plain)
    assert shop.handlers.calls[-1]["body"].encode() == plain


def test_a_name_that_is_hidden_by_a_second_one_is_found(shop: Shop) -> None:
    hidden = b'{"metadata": {"\\u005fpayment_context": 1}, "metadata": {"a": 1}}'
    shop.get("/free", method="POST", content=hidden)
    assert "payment_context" not in shop.handlers.calls[-1]["body"]


def test_bodies_have_bounds(shop: Shop) -> None:
    upload = b"\x89PNG" + b"x" * (2 * 1024 * 1024)
    # What is no JSON passes as it comes where it costs nothing, and is bounded where it does.
    assert shop.get("/raw", method="POST", content=upload).json() == len(upload)
    assert shop.get(method="POST", content=upload).status_code == 413
    assert shop.get(method="POST", content=b'{"a": "' + upload + b'"}').status_code == 413


def test_a_body_belongs_to_what_is_bought(shop: Shop, payer: Payer) -> None:
    said = payload(payer)
    first = shop.get(said=said, method="POST", json={"question": 1})
    assert first.json()["body"] == '{"question":1}'
    assert shop.get(said=said, method="POST", json={"question": 2}).status_code == 409
    assert shop.get(said=said, method="POST", json={"question": 1}).content == first.content


def test_the_handler_cannot_be_told_of_a_payment_by_anybody_else(shop: Shop) -> None:
    shop.get("/free")
    assert shop.handlers.calls[-1]["paid"] is None


def test_a_store_on_disk_serves_as_well(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    store = open_payments(tmp_path / "ledger.db")
    with Shop(dollar, facilitator, store=store) as shop:
        assert shop.get(said=payload(payer)).status_code == 200
        assert shop.only().work is Work.DELIVERED
    store.close()


def test_signatures_are_never_logged(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with Shop(dollar, facilitator, wait_s=0.2) as shop:
        facilitator.script(Fault.DROP)
        said = payload(payer)
        shop.get(said=said)
        shop.handlers.behave = lambda _: JSONResponse({}, 500)
        other = payload(payer)
        shop.get(said=other)
        stored = repr([shop.store.events(r.payment_id) for r in shop.store.page(PaymentQuery())])
    for one in (said, other):
        secret = one["payload"]["signature"].removeprefix("0x")
        assert secret not in caplog.text
        assert secret not in stored


def sent(shop: Shop) -> bool:
    """Say whether the one payment is on its way."""
    return [one.money for one in shop.store.page(PaymentQuery())] == [Money.SUBMITTING]


def _until(true: Any, within_s: float = 60.0) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)
