"""What a payer leaves open is kept, proved and settled for as long as the payer is there."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bursar import AsyncCyclesClient, CyclesClient
from bursar.payments.outcome import BudgetState, Disposition, Money, Work
from bursar.payments.ports import NoticeQuery
from bursar.payments.records import Topic
from bursar.payments.store import open_payments
from bursar.payments.worker import PaymentWorker
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import ScriptedFacilitator
from bursar.x402.authorization import TokenDomain
from bursar.x402.buying import PaymentRefused, PaymentUnknown
from bursar.x402.payer import AsyncX402Payer, X402Payer
from bursar.x402.signing import Purse, Signer
from payments.keeping import Kept
from payments.paying import Payer
from payments.shop import Lapse, Shop

DAY_MS = 86_400_000
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@pytest.fixture
def shop(dollar: Dollar, facilitator: ScriptedFacilitator) -> Iterator[Shop]:
    with Shop(dollar, facilitator.url) as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def one(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    payer: Payer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Kept]:
    """A buyer through either shell, with its records on disk."""
    with closing(open_payments(tmp_path / "pay.db")) as store:
        path, asynchronous = tmp_path / "budget.db", request.param == "async"
        yield Kept(path, payer, store, monkeypatch, asynchronous=asynchronous)


def unknown(one: Kept, shop: Shop, lapse: Lapse) -> None:
    """Buy, and hear nothing of it."""
    shop.lapses.extend([lapse, lapse])
    with pytest.raises(PaymentUnknown):
        one.buy("order-1", shop.url)
    assert one.balance() == (1, 0)


def ended(one: Kept) -> bool:
    return one.only().budget_state in (BudgetState.COMMITTED, BudgetState.RELEASED)


def test_what_was_paid_is_committed_without_a_word(one: Kept, shop: Shop) -> None:
    """Bought, lost, proved and settled in one `with` block."""
    shop.lapses.extend([Lapse.LOSE, Lapse.LOSE])

    def buy(payer: Any) -> Any:
        if not one.asynchronous:
            with pytest.raises(PaymentUnknown):
                payer.buy("order-1", shop.url)
            return None

        async def buying() -> None:
            with pytest.raises(PaymentUnknown):
                await payer.buy("order-1", shop.url)

        return buying()

    def paid_and_final() -> bool:
        one.payer.dollar.chain.finalize()
        return ended(one)

    one.keep(paid_and_final, act=buy)
    assert (one.only().money, one.only().budget_state) == (Money.SETTLED, BudgetState.COMMITTED)
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_a_payer_that_begins_anew_takes_up_what_is_open(one: Kept, shop: Shop) -> None:
    """Paid: committed. Never paid: given back, and not before that is final."""
    unknown(one, shop, Lapse.DROP)
    one.keep(lambda: one.only().checks >= 3)
    assert (one.only().money, one.balance()) == (Money.UNKNOWN, (1, 0))
    one.payer.dollar.chain.mine(4, seconds=1_000)
    one.keep(lambda: ended(one))
    assert (one.only().money, one.balance()) == (Money.EXPIRED, (0, 0))
    one.clock.set_ms(max(one.clock.now_ms(), one.payer.dollar.chain.now() * 1_000))
    assert one.buy("order-1", shop.url).response.is_success
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_what_is_paid_and_never_delivered_is_an_orphan(one: Kept, shop: Shop) -> None:
    """Somebody is told an hour after it is final; delivered later, it is an orphan no more."""
    unknown(one, shop, Lapse.LOSE)
    one.payer.dollar.chain.finalize()
    one.keep(lambda: ended(one))
    assert one.only().disposition is Disposition.OPEN
    one.clock.set_ms(one.only().next_check_at_ms or 0)
    one.keep(lambda: one.only().disposition is Disposition.ORPHANED)
    record = one.only()
    assert (record.money, record.work) == (Money.SETTLED, Work.NOT_STARTED)
    assert record.updated_at_ms - record.created_at_ms >= one.terms.delivery_ms
    alerts = one.store.notices(NoticeQuery(topic=Topic.ALERT))
    assert any(posted.notice.dedupe_key.startswith("payment.orphaned:") for posted in alerts)
    assert one.buy("order-1", shop.url).response.is_success
    assert (one.only().work, one.only().disposition) == (Work.DELIVERED, Disposition.CLOSED)
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_a_lease_lives_for_as_long_as_nobody_knows(one: Kept, shop: Shop) -> None:
    """Four days without a chain: extended, held, and settled when the chain is there again."""
    unknown(one, shop, Lapse.LOSE)
    began_ms, tick_ms = one.clock.now_ms(), DAY_MS // 8
    first_ms = one.reservation()["expires_at_ms"] - began_ms
    assert 300_000 <= first_ms <= 3_600_000  # what the tenant allows; it outlives the payment

    def four_days() -> bool:
        now_ms = one.clock.now_ms()
        left_ms = one.reservation()["expires_at_ms"] - now_ms
        if left_ms > DAY_MS // 2:  # the extending keeps up: the next hours may pass
            one.clock.advance_ms(tick_ms)
        elif left_ms < first_ms and now_ms - began_ms < first_ms // 2:
            one.clock.advance_ms(60_000)
        return now_ms - began_ms > 4 * DAY_MS

    one.keep(four_days, NOBODY)
    record = one.only()
    assert record.money is Money.PARKED
    assert (record.budget_state, one.balance()) == (BudgetState.RESERVED, (1, 0))
    assert one.reservation()["status"] == "ACTIVE"
    one.payer.dollar.chain.finalize()
    one.keep(lambda: ended(one))
    assert (one.only().budget_state, one.balance()) == (BudgetState.COMMITTED, (0, 1))
    assert "BUDGET_EXPIRED_UNSETTLED" not in one.history()


def test_a_lease_that_ended_anyway_loses_no_spend(one: Kept, shop: Shop) -> None:
    """Nobody was there for a week: what is proved then is accounted for as an event, once."""
    unknown(one, shop, Lapse.LOSE)
    one.payer.dollar.chain.finalize()
    one.clock.advance_ms(7 * DAY_MS)
    one.keep(lambda: ended(one))
    record = one.only()
    assert (record.money, record.budget_state) == (Money.SETTLED, BudgetState.COMMITTED)
    assert {"BUDGET_EXPIRED_UNSETTLED", "BUDGET_COMMITTED"} <= set(one.history())
    one.keep(lambda: True)
    assert one.settle_up() == 0
    assert one.balance()[1] == 1


def test_a_lease_that_ended_while_nobody_knows_is_on_record(
    one: Kept, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """It is seen before the outcome is, said, and nothing is given back for it."""
    unknown(one, shop, Lapse.LOSE)
    one.clock.advance_ms(7 * DAY_MS)
    with caplog.at_level(logging.ERROR, "bursar.x402"):
        one.keep(lambda: one.only().budget_state is BudgetState.EXPIRED_UNSETTLED, NOBODY)
    assert "its reservation ended before it" in caplog.text
    one.payer.dollar.chain.finalize()
    one.keep(lambda: ended(one))
    assert (one.only().budget_state, one.balance()[1]) == (BudgetState.COMMITTED, 1)


def test_a_reservation_that_somebody_gave_back_is_told(one: Kept, shop: Shop) -> None:
    """An operator released it by hand: the proved spend is an event, and an alert says so."""
    unknown(one, shop, Lapse.LOSE)
    with CyclesClient.embedded(one.path, tenant="acme") as client:
        said = client.release_reservation(str(one.only().budget_ref), {"idempotency_key": "mine"})
        assert said.status == 200
    one.payer.dollar.chain.finalize()
    one.keep(lambda: ended(one))
    assert (one.only().budget_state, one.balance()) == (BudgetState.COMMITTED, (0, 1))
    alerts = [each.notice.dedupe_key for each in one.store.outbox(Topic.ALERT, 2**62, 9)]
    assert any(key.startswith("payment.budget_disagrees:") for key in alerts)


def test_a_second_purchase_of_an_intent_gives_nothing_back(
    one: Kept, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once, for two addresses: the one that lost has the reservation of the other."""
    unknown(one, shop, Lapse.LOSE)
    attempts = type(one.store).attempts
    monkeypatch.setattr(type(one.store), "attempts", lambda *_: [])  # it looked before the other
    with pytest.raises(PaymentRefused, match="for another purchase"):
        one.buy("order-1", shop.url + "?other")
    monkeypatch.setattr(type(one.store), "attempts", attempts)
    assert (one.reservation()["status"], one.balance()) == ("ACTIVE", (1, 0))
    one.payer.dollar.chain.finalize()
    one.keep(lambda: ended(one))
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_of_a_shared_store_only_its_own(
    one: Kept, shop: Shop, tmp_path: Path, dollar: Dollar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another payer's payment is neither looked at nor settled nor extended."""
    theirs = Kept(tmp_path / "theirs.db", Payer.rich(dollar), one.store, monkeypatch)
    shop.lapses.extend([Lapse.LOSE, Lapse.LOSE])
    with pytest.raises(PaymentUnknown):
        theirs.buy("order-2", shop.url)
    monkeypatch.undo()
    unknown(one, shop, Lapse.LOSE)
    one.payer.dollar.chain.finalize()
    one.clock.advance_ms(DAY_MS)
    one.keep(lambda: ended(one))
    [other] = theirs.records("order-2")
    assert (other.checks, other.lease_until_ms, other.money) == (0, 0, Money.UNKNOWN)
    assert theirs.balance() == (1, 0)


def test_it_stops_in_time_whatever_hangs(one: Kept, shop: Shop) -> None:
    """An endpoint that never answers: the look is given up, and the next worker may look."""
    unknown(one, shop, Lapse.LOSE)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ends = list[float]()

        def looked_at() -> bool:
            ends[:] = [time.monotonic()]
            return one.only().lease_until_ms > 0

        one.keep(looked_at, url)
        assert time.monotonic() - ends[0] < 20  # the endpoint would take 30
    record = one.only()
    assert (record.lease_until_ms, record.money, one.balance()) == (0, Money.UNKNOWN, (1, 0))


def test_a_step_that_fails_is_tried_again(
    one: Kept, shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that cannot be read for a moment stops nothing for good."""
    unknown(one, shop, Lapse.LOSE)
    one.payer.dollar.chain.finalize()
    monkeypatch.setattr("bursar.x402.keeping.AGAIN_S", 0.05)
    outbox, failures = type(one.store).outbox, [OSError("0xsignature"), ValueError("odd")]

    def failing(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return outbox(*arguments)

    monkeypatch.setattr(type(one.store), "outbox", failing)
    with caplog.at_level(logging.ERROR, "bursar.x402"):
        one.keep(lambda: ended(one))
    assert one.balance() == (0, 1)
    assert "the settling of open payments failed (ValueError); it is tried again" in caplog.text
    assert "0xsignature" not in caplog.text


def test_a_worker_that_fails_as_a_whole_begins_again(
    one: Kept, shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The payer goes on, and what is open is proved all the same."""
    unknown(one, shop, Lapse.LOSE)
    one.payer.dollar.chain.finalize()
    monkeypatch.setattr("bursar.x402.keeping.AGAIN_S", 0.05)
    run, failures = PaymentWorker.run, [RuntimeError("0xsignature")]

    async def failing(worker: PaymentWorker) -> None:
        if failures:
            raise failures.pop()
        await run(worker)

    monkeypatch.setattr(PaymentWorker, "run", failing)
    with caplog.at_level(logging.ERROR, "bursar.payments"):
        one.keep(lambda: ended(one))
    assert one.balance() == (0, 1)
    assert "the payment worker failed, and begins again: RuntimeError" in caplog.text
    assert "0xsignature" not in caplog.text


def test_a_payer_nobody_could_prove_for_is_refused(one: Kept) -> None:
    """Without an endpoint for a purse's chain, and outside of its block."""
    strange = Purse(TokenDomain("USDC", "2", 8453, "0x" + "33" * 20), 1, one.signer.purses[0].rate)
    signer = Signer(one.signer.key, [*one.signer.purses, strange])
    with CyclesClient.embedded(one.path, tenant="acme") as client:
        with pytest.raises(ValueError, match="no RPC endpoint for eip155:8453"):
            X402Payer(client, signer, one.book(), one.terms, prover=one.prover())
        unused = X402Payer(client, one.signer, one.book(), one.terms, prover=one.prover())
        with pytest.raises(RuntimeError, match="in a with block"):
            unused.buy("order-1", "http://127.0.0.1:9/")
        unused.close()


def test_its_block_is_the_only_one(one: Kept) -> None:
    """Afterwards nothing is bought and nothing is entered again; nor is it entered twice."""
    parts, more = (one.signer, one.book(), one.terms), {"prover": one.prover()}
    after, again, twice = "after it nobody looks", "this one is closed; make", "this one is in it"

    async def through() -> None:
        async with AsyncCyclesClient.embedded(one.path, tenant="acme") as client:
            payer = AsyncX402Payer(client, *parts, **more)
            async with payer:
                with pytest.raises(RuntimeError, match=twice):
                    await payer.__aenter__()
            with pytest.raises(RuntimeError, match=after):
                await payer.buy("order-1", NOBODY)
            with pytest.raises(RuntimeError, match=again):
                await payer.__aenter__()
            await payer.aclose()

    if one.asynchronous:
        asyncio.run(through())
        return
    with CyclesClient.embedded(one.path, tenant="acme") as client:
        payer = X402Payer(client, *parts, **more)
        with payer, pytest.raises(RuntimeError, match=twice):
            payer.__enter__()
        with pytest.raises(RuntimeError, match=after):
            payer.buy("order-1", NOBODY)
        with pytest.raises(RuntimeError, match=again):
            payer.__enter__()
        payer.close()
