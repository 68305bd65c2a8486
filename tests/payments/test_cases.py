"""The edge cases of a payment's outcome, on a real chain, through sender, worker and prover.

Each test is one row: what went wrong, and what may be said of the money then. The store is the
one on disk and the one in memory in turn.
"""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar.payments import operate
from bursar.payments.outcome import Disposition, Money, Trigger, Work
from bursar.payments.ports import PaymentConflict, PaymentStore, Saved
from bursar.payments.records import Change, Evidence, PaymentRecord, move
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402 import evm
from bursar.x402.authorization import Authorization
from bursar.x402.facilitators import Facilitator
from payments.between import Between, answered, refused
from payments.paying import MALLORY, PRICE, SHOP, Payer
from payments.till import PACE, Till
from payments.world import recorded

TRANSFER_CALL = "0xa9059cbb"  # transfer(address,uint256)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PaymentStore]:
    """A payment store of every kind in turn."""
    made: PaymentStore = (
        MemoryPayments() if request.param == "memory" else open_payments(tmp_path / "ledger.db")
    )
    with closing(made):
        yield made


@pytest.fixture
def till(store: PaymentStore, dollar: Dollar) -> Till:
    return Till(store, dollar)


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


def pay(
    till: Till,
    url: str,
    signed: Authorization,
    signature: str,
    *,
    dialect: str = "reference",
    timeout_s: float = 30.0,
    http: httpx2.AsyncClient | None = None,
) -> PaymentRecord:
    """Send a payment once, as a sender does, and return its record."""

    async def send() -> PaymentRecord:
        client = Facilitator(url, dialect=dialect, settle_timeout_s=timeout_s, http=http)
        try:
            return await till.send(client, signed, signature)
        finally:
            await client.aclose()

    return asyncio.run(send())


def saying(status: int, **answer: Any) -> httpx2.AsyncClient:
    """Return a connection on which every request gets one answer."""
    return httpx2.AsyncClient(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(status, **answer))
    )


def lost(till: Till, payer: Payer, **more: Any) -> tuple[Authorization, str]:
    """Record a payment whose send got no answer; return what was signed."""
    signed, signature = payer.authorize(**more)
    record = till.begin(signed)
    after, event = move(record, Trigger.LOST, Evidence("till"), record.created_at_ms)
    till.store.save([Change(after, record.version, events=(event,))])
    return signed, signature


def total(counts: dict[str, int]) -> int:
    return sum(counts.values())


def test_case_01_the_answer_is_lost_and_the_work_failed(
    till: Till, facilitator: ScriptedFacilitator, payer: Payer, chain: LocalChain
) -> None:
    """Unknown, then settled and orphaned: one alert, and settle was called once in total."""
    facilitator.script(Fault.LOSE)
    assert pay(till, facilitator.url, *payer.authorize()).money is Money.UNKNOWN
    assert till.work(Work.FAILED).disposition is Disposition.HELD
    chain.finalize()
    found = till.look(times=3)
    assert (found.money, found.disposition) == (Money.SETTLED, Disposition.ORPHANED)
    assert found.sealed_payload is None
    assert till.alerts() == ["payment.orphaned"]
    assert total(facilitator.journal.settles) == 1


def test_case_02_never_broadcast(
    till: Till, facilitator: ScriptedFacilitator, payer: Payer, chain: LocalChain
) -> None:
    """It stays unknown while it could still be paid; nobody settles to find out."""
    facilitator.script(Fault.DROP)
    signed, signature = payer.authorize(window_s=300)
    assert pay(till, facilitator.url, signed, signature).money is Money.UNKNOWN
    chain.finalize()
    assert till.look(times=3).money is Money.UNKNOWN
    chain.mine(4, seconds=400)
    found = till.look()
    assert (found.money, found.disposition) == (Money.EXPIRED, Disposition.CLOSED)
    assert total(facilitator.journal.settles) == 1
    assert payer.dollar.balance(payer.address) == 1_000_000_000


def test_case_03_pending_as_http_500(
    till: Till, facilitator: ScriptedFacilitator, payer: Payer
) -> None:
    facilitator.script(Fault.PENDING_500)
    signed, signature = payer.authorize()
    found = pay(till, facilitator.url, signed, signature, dialect="cdp")
    assert found.money is Money.PENDING
    assert [found.tx_hash] == facilitator.journal.transactions[signed.nonce]


@pytest.mark.parametrize(
    ("status", "answer", "dialect", "money", "reference"),
    [
        (500, {"text": "<html>Internal Server Error</html>"}, "reference", "UNKNOWN", None),
        (503, {"text": "busy"}, "reference", "UNKNOWN", None),
        (503, {"text": "busy"}, "payai", "REJECTED", None),  # its edge: nobody saw it
        (202, {"json": {"paymentId": "pay-1"}}, "circle", "PENDING", "pay-1"),
        (202, {"json": {"paymentId": "pay-1"}}, "reference", "UNKNOWN", "pay-1"),
    ],
)
def test_case_04_answers_that_are_no_outcome(
    status: int,
    answer: dict[str, Any],
    dialect: str,
    money: str,
    reference: str | None,
    till: Till,
    payer: Payer,
) -> None:
    http = saying(status, **answer)
    found = pay(till, "http://f.test", *payer.authorize(), dialect=dialect, http=http)
    assert (found.money.value, found.facilitator_ref) == (money, reference)


@pytest.mark.parametrize("body", [{"success": True, "transaction": None}, {"success": True}])
def test_case_05_success_without_a_transaction(
    body: dict[str, Any], till: Till, payer: Payer
) -> None:
    """A claim that names nothing is no proof, and its text is kept, cut to a bound."""
    http = saying(200, json=body | {"note": "x" * 5_000})
    found = pay(till, "http://f.test", *payer.authorize(), http=http)
    assert (found.money, found.tx_hash) == (Money.UNKNOWN, None)
    kept = till.store.events("pay_1")[-1].evidence.reason
    assert kept is not None
    assert "success" in kept
    assert len(kept) <= 2_000


def test_case_06_failed_without_a_transaction_and_paid(
    till: Till, facilitator: ScriptedFacilitator, payer: Payer, chain: LocalChain
) -> None:
    facilitator.script(Fault.FAILED)
    signed, signature = payer.authorize()
    assert pay(till, facilitator.url, signed, signature).money is Money.UNKNOWN
    chain.finalize()
    found = till.look()
    assert found.money is Money.SETTLED
    assert [found.tx_hash] == facilitator.journal.transactions[signed.nonce]


def test_case_07_failed_with_a_transaction_and_paid_by_another(
    till: Till, dollar: Dollar, chain: LocalChain
) -> None:
    """The named transaction reverted for want of money; another relayer's did not."""
    payer = Payer.rich(dollar, value=1)
    signed, signature = payer.authorize()
    reverted = dollar.submit(signed, signature)
    said = {"success": False, "errorReason": "transaction_failed", "transaction": reverted}
    found = pay(till, "http://f.test", signed, signature, http=saying(200, json=said))
    assert (found.money, found.tx_hash) == (Money.PENDING, reverted)
    chain.finalize()
    assert till.look().money is Money.UNKNOWN
    assert till.history()[-1] == "REVERTED"
    dollar.mint(payer.address, PRICE)
    paid = dollar.submit(signed, signature, sender=chain.accounts[3])
    chain.finalize()
    found = till.look()
    assert (found.money, found.tx_hash) == (Money.SETTLED, paid)


def test_case_08_nonce_used_by_a_cancellation(
    till: Till, facilitator: ScriptedFacilitator, payer: Payer, dollar: Dollar, chain: LocalChain
) -> None:
    signed, signature = payer.authorize()
    dollar.cancel(payer.address, signed.nonce, payer.key)
    found = pay(till, facilitator.url, signed, signature)
    assert found.money is Money.UNKNOWN
    assert "nonce_already_used" in str(till.store.events("pay_1")[-1].evidence.reason)
    chain.finalize()
    assert till.look().money is Money.VOIDED


@pytest.mark.parametrize("other", [{"to": MALLORY}, {"value": PRICE - 1}], ids=["payee", "amount"])
def test_case_09_nonce_used_for_another_transfer(
    other: dict[str, Any], till: Till, payer: Payer, dollar: Dollar, chain: LocalChain
) -> None:
    signed, _ = lost(till, payer)
    dollar.submit(*payer.authorize(nonce=signed.nonce, **other))
    chain.finalize()
    assert till.look().money is Money.MISDIRECTED
    assert till.alerts() == ["payment.misdirected"]


def test_case_10_receipt_that_succeeded_without_a_transfer(
    store: PaymentStore, chain: LocalChain
) -> None:
    """A token that does not revert on a used nonce: status 1 alone settles nothing."""
    quiet = Dollar(chain, quiet=True)
    payer, till = Payer.rich(quiet), Till(store, quiet)
    signed, signature = payer.authorize()
    quiet.cancel(payer.address, signed.nonce, payer.key)
    hollow = quiet.submit(signed, signature)
    receipt = chain.receipt(hollow)
    assert receipt is not None
    assert receipt["status"] == "0x1"
    said = {"success": True, "transaction": hollow}
    assert pay(till, "http://f.test", signed, signature, http=saying(200, json=said)).money is (
        Money.PENDING
    )
    chain.finalize()
    assert till.look().money is Money.VOIDED
    assert quiet.balance(SHOP) == 0


def test_case_11_paid_between_two_questions(
    store: PaymentStore, payer: Payer, dollar: Dollar, chain: LocalChain
) -> None:
    """The state of one block beside the time of a later one would prove a paid one expired."""
    paid: list[str] = []
    signed, signature = payer.authorize()

    def slow(body: dict[str, Any], answer: Any) -> Any:
        if body["method"] == "eth_call" and not paid:  # the answer is from before
            paid.append(dollar.submit(signed, signature))
            chain.mine(4, seconds=1_000)
        return answer

    between = Between(chain.url, slow)
    try:
        till = Till(store, dollar, between.url)
        record = till.begin(signed)
        chain.mine()
        found = till.look()
        assert paid
        assert found.money is not Money.EXPIRED
        found = till.look()
        assert (found.money, found.tx_hash) == (Money.SETTLED, paid[0])
        assert record.valid_before_s is not None
        assert chain.now() > record.valid_before_s
    finally:
        between.stop()


@pytest.mark.parametrize(("early_s", "money"), [(1, Money.UNKNOWN), (0, Money.EXPIRED)])
def test_case_12_the_second_of_valid_before(
    early_s: int, money: Money, till: Till, payer: Payer, chain: LocalChain
) -> None:
    signed, _ = lost(till, payer)
    chain.next_block_at(signed.valid_before - early_s)
    chain.mine()
    chain.mine(2, seconds=1)  # this block is final now, and it alone counts
    assert till.look().money is money


def test_case_13_expired_by_the_facilitator_and_mined_in_the_last_second(
    till: Till, facilitator: ScriptedFacilitator, payer: Payer, dollar: Dollar, chain: LocalChain
) -> None:
    signed, signature = payer.authorize()
    chain.next_block_at(signed.valid_before - 5)
    chain.mine()
    found = pay(till, facilitator.url, signed, signature)
    assert found.money is Money.UNKNOWN
    assert "valid_before" in str(till.store.events("pay_1")[-1].evidence.reason)
    chain.next_block_at(signed.valid_before - 1)
    dollar.submit(signed, signature)
    chain.mine(3, seconds=100)
    assert till.look().money is Money.SETTLED


@pytest.mark.parametrize("ahead_ms", [-600_000, 600_000], ids=["slow", "fast"])
def test_case_14_our_clock_is_wrong(
    ahead_ms: int, till: Till, payer: Payer, chain: LocalChain
) -> None:
    """Only a block's time ends a window."""
    lost(till, payer, window_s=300)
    chain.finalize()
    record = till.now()
    shifted = replace(record, next_check_at_ms=chain.now() * 1_000 + ahead_ms)
    till.store.save([Change(shifted, record.version)])
    assert till.look().money is Money.UNKNOWN
    assert till.now().rpc_failures == 0


@pytest.mark.parametrize(
    "change", [refused("eth_getBlockByNumber", "unknown tag"), refused("eth_getLogs")]
)
def test_case_15_an_endpoint_that_cannot_say(
    change: Any, store: PaymentStore, payer: Payer, dollar: Dollar, chain: LocalChain
) -> None:
    """Unknown, counted as failures to ask, parked, and resolved once the endpoint can."""
    broken = True

    def sometimes(body: dict[str, Any], answer: Any) -> Any:
        return change(body, answer) if broken else answer

    between = Between(chain.url, sometimes)
    try:
        till = Till(store, dollar, between.url, pace=replace(PACE, rpc_failures_max=3))
        dollar.submit(*lost(till, payer))
        chain.finalize()
        assert till.look(times=2).money is Money.UNKNOWN
        assert till.now().rpc_failures == 2
        assert till.look().money is Money.PARKED
        assert till.alerts() == ["payment.parked"]
        assert till.look().money is Money.PARKED
        broken = False
        assert till.look().money is Money.SETTLED
        assert till.alerts() == ["payment.parked"]
    finally:
        between.stop()


def test_case_16_endpoints_disagree(
    store: PaymentStore, payer: Payer, dollar: Dollar, chain: LocalChain
) -> None:
    """One shows the transfer, one says unused after its time: unknown, and somebody is told."""
    liar = Between(chain.url, answered("eth_call", "0x" + "0" * 64))
    try:
        till = Till(store, dollar, chain.url, liar.url)
        dollar.submit(*lost(till, payer))
        chain.mine(4, seconds=1_000)
        found = till.look(times=2)
        assert (found.money, found.rpc_failures) == (Money.UNKNOWN, 2)
        assert till.alerts() == ["payment.witnesses_disagree"]
    finally:
        liar.stop()


def test_case_17_a_reorganisation_takes_it_back(
    till: Till, payer: Payer, dollar: Dollar, chain: LocalChain
) -> None:
    """Provisional, unknown, settled in another block; the orphan is told once."""
    signed, signature = lost(till, payer)
    till.work(Work.FAILED)
    before = chain.snapshot()
    first = dollar.submit(signed, signature)
    assert till.look().money is Money.PROVISIONAL
    chain.revert(before)
    assert till.look().money is Money.UNKNOWN
    chain.mine(2)
    second = dollar.submit(signed, signature, sender=chain.accounts[2])
    assert till.look().money is Money.PROVISIONAL
    chain.finalize()
    found = till.look(times=2)
    assert (found.money, found.tx_hash) == (Money.SETTLED, second)
    assert first != second
    assert till.alerts() == ["payment.orphaned"]


def test_case_19_the_caller_is_cancelled_during_the_send(
    till: Till, facilitator: ScriptedFacilitator, payer: Payer, chain: LocalChain
) -> None:
    """Whoever cancels sees a cancellation; the record is unknown at worst, never failed."""
    facilitator.script(Fault.STALL)
    signed, signature = payer.authorize()

    async def cancelled() -> None:
        client = Facilitator(facilitator.url, settle_timeout_s=30)
        sending = asyncio.create_task(till.send(client, signed, signature))
        try:
            async with asyncio.timeout(60):
                while not facilitator.journal.transactions:  # noqa: ASYNC110  # another thread
                    await asyncio.sleep(0.005)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        finally:
            await client.aclose()

    asyncio.run(cancelled())
    assert till.now().money is Money.SUBMITTING
    chain.finalize()
    assert till.look().money is Money.SETTLED
    assert till.history() == ["RECORDED", "SENDING", "LOST", "SETTLED"]
    assert total(facilitator.journal.settles) == 1


def test_case_20_a_worker_that_stalled_past_its_lease(
    till: Till, payer: Payer, dollar: Dollar, chain: LocalChain
) -> None:
    """Its write is refused by the fence; one transition is on record."""
    dollar.submit(*lost(till, payer))
    chain.finalize()
    due_ms = till.now().next_check_at_ms or 0
    (stalled,) = till.store.claim("slow", due_ms, 50, 1)
    (taken,) = till.store.claim("quick", due_ms + 50, 50, 1)
    changes = []
    for claimed in (taken, stalled):
        after, event = move(claimed, Trigger.SETTLED, Evidence("worker"), due_ms)
        after = replace(after, next_check_at_ms=None)
        changes.append(Change(after, claimed.version, claimed.fence, (event,)))
    results = [till.store.save([change])[0].saved for change in changes]
    assert results[0] is Saved.SAVED
    assert results[1] in (Saved.FENCED, Saved.STALE)
    assert till.history() == ["RECORDED", "SENDING", "LOST", "SETTLED"]


def test_case_21_a_refund_while_the_orphan_is_found(
    store: PaymentStore, dollar: Dollar, chain: LocalChain
) -> None:
    """The operator was faster: the worker's change is made on what is there, nothing is lost."""
    shop, payer, till = chain.accounts[5], Payer.rich(dollar), Till(store, dollar)
    signed, signature = lost(till, payer, to=shop)
    dollar.submit(signed, signature)
    back = chain.send(dollar.address, evm.call(TRANSFER_CALL, payer.address, signed.value), shop)
    chain.finalize()
    till.work(Work.FAILED)
    due_ms = till.now().next_check_at_ms or 0
    (claimed,) = store.claim("w", due_ms, 60_000, 1)

    async def refund() -> None:
        prover = till.prover()
        try:
            await operate.mark_refunded(store, prover, "pay_1", back, "ann", due_ms)
        finally:
            await prover.aclose()

    asyncio.run(refund())
    after, event = move(claimed, Trigger.SETTLED, Evidence("worker"), due_ms)
    late = Change(after, claimed.version, claimed.fence, (event,))
    assert store.save([late])[0].saved is Saved.STALE
    store.give_back([(claimed.payment_id, claimed.fence)])
    found = till.look()
    assert (found.money, found.disposition) == (Money.SETTLED, Disposition.REFUNDED)
    assert found.refund_tx == back
    assert till.history() == [
        *("RECORDED", "SENDING", "LOST", "WORK_FAILED", "REFUNDED", "SETTLED"),
    ]


def test_case_23_the_authorization_comes_again(
    till: Till, facilitator: ScriptedFacilitator, payer: Payer, chain: LocalChain
) -> None:
    """For another purchase it is a conflict; for the same one, what is known, and no settle."""
    signed, signature = payer.authorize()
    pay(till, facilitator.url, signed, signature)
    chain.finalize()
    settled = till.look()
    assert settled.money is Money.SETTLED
    for other in ({"resource": "https://shop.test/other"}, {"pay_to": MALLORY}, {"value": 1}):
        again = till.record(signed, "2", **other)
        with pytest.raises(PaymentConflict) as refusal:
            till.store.add(again, recorded(again))
        assert refusal.value.existing == settled
    same = till.record(signed, "3")
    assert till.store.add(same, recorded(same)) == (settled, False)
    assert till.now() == settled
    assert total(facilitator.journal.settles) == 1
