"""Bad input, from a stranger or from a chain: refused or unknown with the reason, never final.

| bad | as it is read | at the merchant | at the reconciler |
|---|---|---|---|
| malformed payload | `test_presented` | here | it never gets there |
| `validBefore` far in the future | `test_presented` | here | it never gets there |
| forged context | `test_seed_findings` | `test_merchant`, `test_merchant_cases` | it reads none |
| wrong chain id | `test_presented`, `test_verdicts` | here | here |
| asset without code | `test_verdicts` | here | here |
| RPC that lies, refuses or babbles | `test_verdicts` | here, before and after the send | here |
| RPCs that disagree | `test_verdicts`, `test_cases` (16) | here | here |
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from bursar.payments.outcome import TERMINAL, UNRESOLVED, Money, Trigger, Work
from bursar.payments.ports import PaymentQuery
from bursar.payments.records import PaymentRecord, Topic
from bursar.payments.schedule import Pace
from bursar.testing import FakeClock
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.prover import ChainProver
from bursar.x402.reconcile import reconcile_failed_payments
from bursar.x402.rpc import Rpc
from payments.between import Between, answered, refused
from payments.paying import SHOP, Payer
from payments.selling import Shop, payload, receipt_of
from payments.world import moved, payment, recorded

Change = Callable[[dict[str, Any], Any], Any]
UNUSED = "0x" + "00" * 32


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@contextmanager
def lying(chain: LocalChain, change: Change, *, when: Callable[[], object] = lambda: True) -> Any:
    """Yield an endpoint that changes its answers while a condition holds."""

    def perhaps(body: dict[str, Any], answer: Any) -> Any:
        return change(body, answer) if when() else answer

    between = Between(chain.url, perhaps)
    try:
        yield between
    finally:
        between.stop()


def nothing_happened(shop: Shop, facilitator: ScriptedFacilitator) -> None:
    assert shop.store.page(PaymentQuery()) == []
    assert facilitator.journal.settles == {}
    assert shop.handlers.calls == []


# A stranger


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        *inside, last = path
        for name in inside:
            said = said[name]
        said[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("x402Version", value=3), "x402Version must be 1 or 2"),
        (put("accepted", value=[]), "`accepted`"),
        (put("accepted", "scheme", value="upto"), "only scheme `exact`"),
        (put("payload", value="0x"), "`payload` objects"),
        (put("payload", value={"permit2Authorization": {}}), "only scheme `exact`"),
        (put("payload", "signature", value=7), "payload.signature must be"),
        (put("payload", "authorization", value=None), "authorization must be an object"),
        (put("payload", "authorization", "from", value="0x12"), "authorization.from must be"),
        (put("payload", "authorization", "to", value=[]), "authorization.to must be"),
        (put("payload", "authorization", "value", value="1e6"), "authorization.value must be"),
        (put("payload", "authorization", "value", value="-1"), "authorization.value must be"),
        (put("payload", "authorization", "validAfter", value=None), "authorization.validAfter"),
        (put("payload", "authorization", "validBefore", value="soon"), "authorization.validBefore"),
        (put("payload", "authorization", "validBefore", value=str(2**256)), "validBefore"),
        (put("payload", "authorization", "nonce", value="0x00"), "authorization.nonce must be"),
    ],
)
def test_a_malformed_payload_is_named_and_goes_nowhere(
    change: Callable[[dict[str, Any]], None],
    named: str,
    dollar: Dollar,
    payer: Payer,
    facilitator: ScriptedFacilitator,
) -> None:
    with Shop(dollar, facilitator) as shop:
        said = payload(payer)
        change(said)
        answer = shop.get(said=said)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_payload")
        assert named in answer.json()["message"]
        nothing_happened(shop, facilitator)
    assert facilitator.journal.verifies == {}


@pytest.mark.parametrize("window_s", [10**9, 2**255])
def test_a_window_that_never_ends_is_refused(
    window_s: int, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """It could be used long after everybody stopped looking."""
    with Shop(dollar, facilitator) as shop:
        answer = shop.get(said=payload(payer, window_s=window_s))
        assert (answer.status_code, answer.json()["error"]) == (402, "INVALID_WINDOW")
        assert "validBefore" in answer.json()["message"]
        nothing_happened(shop, facilitator)
    assert facilitator.journal.verifies == {}


# A chain


WRONG: dict[str, Change] = {
    "chain id": answered("eth_chainId", "0x1"),
    "no code": answered("eth_call", "0x"),
    "no boolean": answered("eth_call", "0x02"),
    "refused": refused("eth_call"),
    "no block": answered("eth_getBlockByNumber", None),
    "babble": lambda *_: b"<html>busy</html>",
    "another answer": lambda _, answer: answer | {"id": 0},
}
AFTERWARDS: dict[str, Change] = WRONG | {
    "no logs": answered("eth_getLogs", []),
    "logs refused": refused("eth_getLogs", "range is too wide"),
    "no receipt": answered("eth_getTransactionReceipt", None),
    "bad receipt": answered("eth_getTransactionReceipt", {"status": "0x1"}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_before_the_send_a_chain_that_is_wrong_sends_nothing(
    wrong: str, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, chain: LocalChain
) -> None:
    """The payment may be good: come back, and nothing is on record."""
    with (
        lying(chain, WRONG[wrong]) as liar,
        Shop(dollar, facilitator, rpc=(liar.url,)) as shop,
    ):
        answer = shop.get(said=payload(payer))
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert "nothing was sent" in answer.json()["message"]
        assert "retry-after" in answer.headers
        nothing_happened(shop, facilitator)


@pytest.mark.parametrize("wrong", AFTERWARDS)
def test_after_the_send_a_chain_that_is_wrong_decides_nothing(
    wrong: str, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, chain: LocalChain
) -> None:
    """Pending for as long as it lies, and never 402; delivered once when it does no more.

    The facilitator's answer is lost too, so that nothing but the chain can tell.
    """
    lies, said = [True], payload(payer)
    facilitator.script(Fault.LOSE)
    with (
        lying(
            chain, AFTERWARDS[wrong], when=lambda: lies and facilitator.journal.transactions
        ) as liar,
        Shop(dollar, facilitator, rpc=(liar.url,), wait_s=0.3, provisional_max=0) as shop,
    ):
        chain.finalize()
        answer = shop.get(said=said)
        chain.finalize()
        for found in (answer, shop.get(said=said)):
            assert (found.status_code, found.json()["error"]) == (503, "settlement_pending")
            assert not receipt_of(found)["success"]
            assert "payment-required" not in found.headers
        assert shop.only().money in UNRESOLVED
        assert shop.handlers.calls == []
        lies.clear()
        assert shop.get(said=said).status_code == 200
        assert (shop.only().money, len(shop.handlers.calls)) == (Money.SETTLED, 1)
    assert [*facilitator.journal.settles.values()] == [1]


def expired(body: dict[str, Any], answer: Any) -> Any:
    """Say that nothing was paid, and that it is too late by now."""
    if body["method"] == "eth_getBlockByNumber" and answer.get("result"):
        late = int(answer["result"]["timestamp"], 16) + 1_000
        return answer | {"result": answer["result"] | {"timestamp": hex(late)}}
    return answered("eth_call", UNUSED)(body, answer)


def test_two_endpoints_that_disagree_ask_for_no_second_payment(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, chain: LocalChain
) -> None:
    """One says that it expired unpaid, the other has it: pending, and the work is done later."""
    lies, said = [True], payload(payer)
    with (
        lying(chain, expired, when=lambda: lies and facilitator.journal.transactions) as liar,
        Shop(dollar, facilitator, rpc=(liar.url, chain.url), wait_s=0.3, provisional_max=0) as shop,
    ):
        for _ in range(2):
            found = shop.get(said=said)
            assert (found.status_code, found.json()["error"]) == (503, "settlement_pending")
            chain.finalize()
        assert shop.only().money in UNRESOLVED
        lies.clear()
        assert shop.get(said=said).status_code == 200
    assert [*facilitator.journal.settles.values()] == [1]


# The reconciler


class Case:
    """A payment whose answer was lost, and whose work failed, with a clock of its own."""

    def __init__(self, dollar: Dollar, payer: Payer, *, paid: bool = True, **fields: Any) -> None:
        self.dollar = dollar
        signed, signature = payer.authorize(window_s=300)
        if paid:
            dollar.submit(signed, signature)
        dollar.chain.mine(4, seconds=1_000)
        now_ms = dollar.chain.now() * 1_000
        record = payment(
            network=f"eip155:{dollar.chain.chain_id}",
            asset=dollar.address,
            payer=signed.payer,
            pay_to=signed.pay_to,
            value=signed.value,
            nonce=signed.nonce,
            valid_before_s=signed.valid_before,
            created_at_ms=(signed.valid_before - 300) * 1_000,
        )
        record = replace(record, **fields)
        self.store, self.clock = MemoryPayments(), FakeClock(now_ms)
        self.store.add(record, recorded(record))
        changes = {"work": Work.FAILED, "next_check_at_ms": now_ms}
        self.store.save([moved(record, Trigger.SENDING, Trigger.LOST, **changes)])

    def now(self) -> PaymentRecord:
        record = self.store.get("pay_1")
        assert record is not None
        return record

    def look(self, *urls: str) -> PaymentRecord:
        """Have it looked at once, when it is due."""
        self.clock.set_ms(max(self.clock.now_ms(), self.now().next_check_at_ms or 0))
        network = f"eip155:{self.dollar.chain.chain_id}"

        async def once() -> None:
            endpoints = {network: [Rpc(url, timeout_s=30) for url in urls]}
            prover = ChainProver(endpoints, clock=self.clock)
            await reconcile_failed_payments(
                self.store, prover=prover, clock=self.clock, pace=Pace(finality_ms=10**9)
            )
            await prover.aclose()

        asyncio.run(once())
        return self.now()

    def said(self) -> str:
        return str(self.store.events("pay_1")[-1].evidence.reason)

    def alerts(self) -> list[str]:
        posted = self.store.outbox(Topic.ALERT, 2**62, 9)
        return [one.notice.dedupe_key.partition(":")[0] for one in posted]


REASONS = {
    "chain id": "it speaks for chain 1",
    "no code": "has no code",
    "no boolean": "no boolean",
    "refused": "was refused",
    "no block": "no finalized block",
    "babble": "without JSON",
    "another answer": "no answer to this question",
    "no logs": "there is no log of that",
    "logs refused": "range is too wide",
    "no receipt": "not in its receipt",
    "bad receipt": "no such shape",
}


@pytest.mark.parametrize("wrong", AFTERWARDS)
def test_the_reconciler_believes_no_chain_that_is_wrong(
    wrong: str, dollar: Dollar, payer: Payer, chain: LocalChain
) -> None:
    """Paid and long final, and shown badly: unknown with the reason; then it is found."""
    case = Case(dollar, payer)
    with lying(chain, AFTERWARDS[wrong]) as liar:
        found = case.look(liar.url)
    assert (found.money, found.rpc_failures) == (Money.UNKNOWN, 1)
    assert REASONS[wrong] in case.said()
    assert case.alerts() == []
    assert case.look(chain.url).money is Money.SETTLED
    assert case.alerts() == ["payment.orphaned"]


def test_the_reconciler_tells_that_endpoints_disagree(
    dollar: Dollar, payer: Payer, chain: LocalChain
) -> None:
    case = Case(dollar, payer)
    with lying(chain, answered("eth_call", UNUSED)) as liar:
        found = case.look(liar.url, chain.url)
    assert found.money is Money.UNKNOWN
    assert "endpoints disagree" in case.said()
    assert case.alerts() == ["payment.witnesses_disagree"]
    assert case.look(chain.url).money is Money.SETTLED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"asset": SHOP}, "has no code"),
        ({"network": "eip155:1"}, "no RPC endpoint is configured for eip155:1"),
        ({"network": "solana:mainnet"}, "no RPC endpoint is configured for solana:mainnet"),
        ({"nonce": None}, "the check failed: ValueError"),
        ({"valid_before_s": None}, "the check failed: ValueError"),
    ],
    ids=["no code", "other chain", "other rail", "no nonce", "no end"],
)
def test_a_record_that_nobody_can_ask_about_stays_unknown(
    fields: dict[str, Any], reason: str, dollar: Dollar, payer: Payer, chain: LocalChain
) -> None:
    """Its time is over on the chain, and it is not called expired for that; it ends parked."""
    case = Case(dollar, payer, paid=False, **fields)
    found = case.look(chain.url)
    assert (found.money, found.rpc_failures) == (Money.UNKNOWN, 1)
    assert reason in case.said()
    while case.now().money is Money.UNKNOWN:
        assert case.look(chain.url).money not in TERMINAL
    assert (case.now().money, case.alerts()) == (Money.PARKED, ["payment.parked"])
