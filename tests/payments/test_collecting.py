"""Payments that others collected, that nobody recorded, or that are for another shop."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bursar.payments.book import Book
from bursar.payments.outcome import Disposition, Money, Work
from bursar.payments.ports import PaymentQuery
from bursar.payments.records import Topic
from bursar.payments.store import open_payments
from bursar.testing import FakeClock
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.offers import Offer
from bursar.x402.pricing import Price
from bursar.x402.prover import ChainProver
from bursar.x402.reconcile import reconcile_failed_payments
from bursar.x402.results import MemoryResults
from bursar.x402.rpc import Rpc
from payments.paying import MALLORY, PRICE, SHOP, Payer
from payments.selling import WINDOW_S, Shop, payload, receipt_of


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


def settles(facilitator: ScriptedFacilitator, said: Any) -> int:
    return facilitator.journal.settles.get(said["payload"]["authorization"]["nonce"], 0)


def used_by(payer: Payer, **more: Any) -> Any:
    """Return a payment whose authorization somebody else submitted to the chain."""
    signed, signature = payer.authorize(window_s=WINDOW_S, **more)
    payer.dollar.submit(signed, signature)
    said = payload(payer)
    return said | {"payload": {"signature": signature, "authorization": signed.to_wire()}}


def pricing(dollar: Dollar, amount: int = PRICE, pay_to: str = SHOP) -> dict[str, Any]:
    offer = Offer(dollar.domain, amount, pay_to, timeout_s=600)
    return {"GET /report": Price((offer,), provisional_max=10 * PRICE, wait_s=0.3)}


@pytest.mark.parametrize(
    ("elsewhere", "tenant", "error"),
    [
        ({}, "other", "payment_conflict"),
        ({"pay_to": MALLORY}, "default", "already_delivered"),
        ({"amount": PRICE + 1}, "default", "already_delivered"),
        ({"amount": 10**9, "pay_to": MALLORY}, "other", "payment_conflict"),
    ],
)
def test_a_payment_to_one_shop_buys_nothing_in_another(
    elsewhere: dict[str, Any],
    tenant: str,
    error: str,
    dollar: Dollar,
    payer: Payer,
    facilitator: ScriptedFacilitator,
) -> None:
    """Both keep their payments in one store, and sell under the same path."""
    store, said = MemoryPayments(), payload(payer)
    first = Shop(dollar, facilitator, store=store, prices=pricing(dollar))
    second = Shop(
        *(dollar, facilitator),
        store=store,
        prices=pricing(dollar, **elsewhere),
        middleware={"tenant": tenant},
    )
    with first, second:
        facilitator.script(Fault.LOSE)
        assert first.get(said=said).status_code == 200
        before = first.only()
        answer = second.get(said=said)
        assert (answer.status_code, answer.json()["error"]) == (409, error)
        assert second.handlers.calls == []
        assert first.only() == before
        assert first.get(said=said).status_code == 200


@pytest.fixture(scope="module")
def other(chain: LocalChain) -> Dollar:
    """Another token on the same chain."""
    deployed = Dollar(chain)
    chain.finalize()
    return deployed


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dearer", [False, True])
def test_a_payment_outlives_the_price_list_that_it_was_made_for(
    version: int,
    dearer: bool,
    dollar: Dollar,
    other: Dollar,
    chain: LocalChain,
    payer: Payer,
    facilitator: ScriptedFacilitator,
) -> None:
    """In a token that is not taken any more, or at another price, nobody is asked to pay anew.

    Nothing is sold for it either: what it pays for now is not what it was made for.
    """
    changed = pricing(dollar, PRICE + 1) if dearer else pricing(other)
    store, said = MemoryPayments(), payload(payer, version)
    with Shop(dollar, facilitator, store=store, provisional_max=0, wait_s=0.2) as before:
        assert before.get(said=said).status_code == 503
    with Shop(dollar, facilitator, store=store, prices=changed) as after:
        waiting = after.get(said=said)
        assert (waiting.status_code, waiting.json()["error"]) == (503, "settlement_pending")
        chain.finalize()
        paid = after.get(said=said)
        assert (paid.status_code, paid.json()["error"]) == (409, "price_changed")
        assert receipt_of(paid)["success"]
        assert (after.only().money, after.only().work) == (Money.SETTLED, Work.NOT_STARTED)
        assert after.handlers.calls == []
    with Shop(dollar, facilitator, store=store) as again:  # the old list is back
        answer = again.get(said=said)
        assert answer.status_code == 200, answer.text
        assert settles(facilitator, said) == 1


def test_what_was_delivered_is_given_again_for_a_token_that_is_not_taken_any_more(
    dollar: Dollar, other: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    store, said, kept = MemoryPayments(), payload(payer), {"results": MemoryResults()}
    with Shop(dollar, facilitator, store=store, middleware=kept) as before:
        first = before.get(said=said)
        assert first.status_code == 200
    with Shop(dollar, facilitator, store=store, middleware=kept, prices=pricing(other)) as after:
        same = after.get(said=said)
        assert (same.status_code, same.content) == (200, first.content)
        assert after.get(path="/report?other", said=said).status_code == 409
        nonce = said["payload"]["authorization"]["nonce"]
        new = Payer(other, payer.key, payer.address)
        other.mint(payer.address, PRICE)
        fresh = payload(new, nonce=nonce)  # another token's authorization, under the same nonce
        assert after.get(said=fresh).status_code == 200
        assert len(after.handlers.calls) == 1


def test_what_was_not_sent_yet_is_not_sent_at_a_price_that_is_not_asked_any_more(
    dollar: Dollar, other: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """Its first process died before the send; the worker refuses it when its time is over."""
    store, said = MemoryPayments(), payload(payer)

    def died(*_: Any) -> None:
        return None

    with Shop(dollar, facilitator, store=store) as before:
        before.book.sending = died  # type: ignore[method-assign]  # it dies instead
        before.get(said=said)
        assert before.only().money is Money.RECORDED
    with Shop(dollar, facilitator, store=store, prices=pricing(other)) as after:
        assert after.get(said=said).status_code == 503
        assert (after.only().money, settles(facilitator, said)) == (Money.RECORDED, 0)


def test_two_shops_that_are_asked_at_once_cannot_both_sell(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """The other shop has written the payment down while this one checked it."""
    store, said = MemoryPayments(), payload(payer)
    first = Shop(dollar, facilitator, store=store, prices=pricing(dollar))
    second = Shop(
        *(dollar, facilitator),
        store=store,
        prices=pricing(dollar),
        middleware={"tenant": "other"},
    )
    with first, second:
        _hold(second, "verify", lambda: first.get(said=said))
        answer = second.get(said=said)
        assert (answer.status_code, answer.json()["error"]) == (409, "payment_conflict")
        assert second.handlers.calls == []


@pytest.mark.parametrize("step", ["newest", "verify"])
def test_who_is_slow_to_check_finds_what_was_collected_meanwhile(
    step: str, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    """Two processes over one file: nobody is asked to pay for what the other has collected."""
    file, said = tmp_path / "ledger.db", payload(payer)
    with (
        closing(open_payments(file)) as one,
        closing(open_payments(file)) as two,
        Shop(dollar, facilitator, store=one) as fast,
        Shop(dollar, facilitator, store=two) as slow,
    ):
        answers: list[Any] = []
        _hold(slow, step, lambda: answers.append(fast.get(said=said)))
        late = slow.get(said=said)
        assert answers[0].status_code == 200
        assert (late.status_code, late.json()["error"]) == (409, "already_delivered")
        assert (len(fast.handlers.calls), len(slow.handlers.calls)) == (1, 0)
        assert settles(facilitator, said) == 1


def _hold(shop: Shop, step: str, meanwhile: Any) -> None:
    """Have something done between a shop's look into its store and one of its checks."""
    till: Any = shop.sells._till
    asked = till._prover if step == "newest" else till._facilitator
    real, done = getattr(asked, step), threading.Event()

    async def held(*values: Any) -> Any:
        if not done.is_set():
            done.set()
            await asyncio.to_thread(meanwhile)
        return await real(*values)

    setattr(asked, step, held)


def test_a_payment_that_somebody_else_submitted_is_good(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """The money is ours: it is written down with the proof, and sold for once."""
    with Shop(dollar, facilitator) as shop:
        said = used_by(payer)
        answer = shop.get(said=said)
        assert answer.status_code == 200, answer.text
        assert shop.get(said=said).content == answer.content
        record = shop.only()
        assert (record.money, record.work) == (Money.PROVISIONAL, Work.DELIVERED)
        assert record.tx_hash is not None
        assert (settles(facilitator, said), len(shop.handlers.calls)) == (0, 1)


def test_many_at_once_sell_it_once(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    file, said = tmp_path / "ledger.db", used_by(payer)
    with (
        closing(open_payments(file)) as one,
        closing(open_payments(file)) as two,
        Shop(dollar, facilitator, store=one) as first,
        Shop(dollar, facilitator, store=two) as second,
        ThreadPoolExecutor(8) as pool,
    ):
        found = [a.status_code for a in pool.map(lambda s: s.get(said=said), [first, second] * 4)]
        assert set(found) <= {200, 503, 409}
        assert 402 not in found
        assert len(first.handlers.calls) + len(second.handlers.calls) == 1
        assert settles(facilitator, said) == 0


@pytest.mark.parametrize("after_s", [0, WINDOW_S + 30, WINDOW_S + 3000])
def test_a_restored_database_finds_the_payment_again(
    after_s: int, dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """The payer was told to come again with the same payment, and the record is gone."""
    said = payload(payer)
    with Shop(dollar, facilitator, provisional_max=0, wait_s=0.2) as shop:
        assert shop.get(said=said).status_code == 503
    chain.finalize()
    clock = FakeClock((chain.now() + after_s) * 1000)
    store = MemoryPayments()
    with Shop(dollar, facilitator, store=store, book=Book(store, clock=clock)) as shop:
        answer = shop.get(said=said)
        assert answer.status_code == 200, answer.text
        assert (shop.only().money, shop.only().work) == (Money.SETTLED, Work.DELIVERED)
        assert shop.only().disposition is Disposition.CLOSED
        assert settles(facilitator, said) == 1


def test_what_was_paid_long_ago_is_neither_sold_nor_asked_for_again(
    dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """Everybody can read an old payment to us on the chain, with its signature."""
    said = used_by(payer)
    chain.finalize()
    clock, store = FakeClock((chain.now() + WINDOW_S + 3700) * 1000), MemoryPayments()
    with Shop(dollar, facilitator, store=store, book=Book(store, clock=clock)) as shop:
        answer = shop.get(said=said)
        assert (answer.status_code, answer.json()["error"]) == (409, "payment_conflict")
        assert "do not pay again" in answer.json()["message"]
        assert shop.handlers.calls == []
        assert shop.store.page(PaymentQuery()) == []


@pytest.mark.parametrize("how", ["canceled", "another payee", "another value"])
def test_a_nonce_that_was_used_for_something_else_is_refused(
    how: str, dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """Only once that is final: until then nobody knows, and nobody is told to pay anew."""
    said = payload(payer)
    nonce = said["payload"]["authorization"]["nonce"]
    if how == "canceled":
        dollar.cancel(payer.address, nonce, payer.key)
    else:
        other: dict[str, Any] = {"to": MALLORY} if how == "another payee" else {"value": PRICE - 1}
        signed, signature = payer.authorize(window_s=WINDOW_S, nonce=nonce, **other)
        dollar.submit(signed, signature)
    with Shop(dollar, facilitator) as shop:
        answer = shop.get(said=said)
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        chain.finalize()
        answer = shop.get(said=said)
        assert (answer.status_code, answer.json()["error"]) == (402, "DUPLICATE_NONCE")
        assert shop.store.page(PaymentQuery()) == []
        assert settles(facilitator, said) == 0


def test_a_refusal_is_checked_before_the_payer_signs_anew(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """A facilitator refused it, and the authorization was used all the same."""
    facilitator.script(Fault.REFUSE)
    said = payload(payer)
    with Shop(dollar, facilitator) as shop:
        assert shop.get(said=said).status_code == 402
        assert shop.only().money is Money.REJECTED
        inner = said["payload"]
        signed, _ = payer.authorize()
        known = type(signed).parse(inner["authorization"])
        dollar.submit(known, inner["signature"])
        answer = shop.get(said=said)
        assert answer.status_code == 200, answer.text
        assert shop.only().money is Money.PROVISIONAL
        whats = [event.what for event in shop.store.events(shop.only().payment_id)]
        assert "CONTRADICTED" in whats
        assert settles(facilitator, said) == 1


def test_work_has_its_time_from_finality_on(
    dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """The default price: final after twenty minutes, and the client comes back for its answer."""
    chain.finalize()
    clock, store = FakeClock(chain.now() * 1000), MemoryPayments()
    book = Book(store, clock=clock)
    with Shop(dollar, facilitator, store=store, book=book, provisional_max=0, wait_s=0.3) as shop:
        said = payload(payer)
        assert shop.get(said=said).status_code == 503
        clock.set_ms(clock.now_ms() + 1_200_000)
        chain.mine(40, seconds=30)
        chain.finalize()
        look(shop, clock)
        record = shop.only()
        assert (record.money, record.disposition) == (Money.SETTLED, Disposition.OPEN)
        assert store.outbox(Topic.ALERT, 2**53, 9) == []
        assert shop.get(said=said).status_code == 200
        assert not shop.handlers.calls[-1]["paid"].late
        assert shop.only().disposition is Disposition.CLOSED


def test_who_never_comes_back_is_an_orphan_all_the_same(
    dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    chain.finalize()
    clock, store = FakeClock(chain.now() * 1000), MemoryPayments()
    book = Book(store, clock=clock)
    with Shop(dollar, facilitator, store=store, book=book, provisional_max=0, wait_s=0.3) as shop:
        shop.get(said=payload(payer))
        chain.finalize()
        clock.set_ms(clock.now_ms() + 600_000)
        look(shop, clock)
        assert shop.only().disposition is Disposition.OPEN
        due_ms = shop.only().next_check_at_ms
        assert due_ms is not None
        assert due_ms - clock.now_ms() == round((0.3 + 300) * 1000)
        clock.set_ms(due_ms)
        look(shop, clock)
        assert shop.only().disposition is Disposition.ORPHANED
        assert len(store.outbox(Topic.ALERT, 2**53, 9)) == 1


def look(shop: Shop, clock: FakeClock) -> None:
    """Let the reconciler look at everything that is due."""

    async def once() -> None:
        prover = ChainProver(
            {f"eip155:{shop.dollar.chain.chain_id}": [Rpc(shop.dollar.chain.url)]}, clock=clock
        )
        await reconcile_failed_payments(shop.store, prover=prover, clock=clock)
        await prover.aclose()

    asyncio.run(once())
