"""Verdicts about real payments on a real chain: each row of the table of `decide`."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from bursar.payments.outcome import Trigger
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.chain.dollar import batched
from bursar.x402.decide import Verdict, decide
from bursar.x402.reading import Question, read
from bursar.x402.rpc import Rpc, Tag
from payments.between import Between, answered, refused
from payments.paying import MALLORY, PRICE, SHOP, Payer, question


def ask(asked: Question, *urls: str, now: int, tag: Tag = "finalized") -> Verdict:
    async def all_of_them() -> Verdict:
        endpoints = [Rpc(url, timeout_s=30) for url in urls]
        try:
            readings = [await read(endpoint, asked, tag) for endpoint in endpoints]
        finally:
            for endpoint in endpoints:
                await endpoint.aclose()
        return decide(asked, readings, now)

    return asyncio.run(all_of_them())


@pytest.fixture
def verdict(chain: LocalChain) -> Callable[..., Verdict]:
    def asking(asked: Question, *urls: str, **more: Any) -> Verdict:
        return ask(asked, *(urls or (chain.url,)), now=more.pop("now", chain.now()), **more)

    return asking


@pytest.fixture
def between(chain: LocalChain) -> Iterator[Callable[..., Between]]:
    made: list[Between] = []

    def make(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Between:
        made.append(Between(chain.url, change))
        return made[-1]

    yield make
    for one in made:
        one.stop()


# Settled


def test_payment_is_provisional_and_then_settled(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    signed, signature = payer.authorize()
    assert verdict(question(dollar, signed)).trigger is Trigger.UNDECIDED
    transaction = dollar.submit(signed, signature)
    early = verdict(question(dollar, signed))
    assert (early.trigger, early.transaction) == (Trigger.INCLUDED, transaction)
    chain.finalize()
    late = verdict(question(dollar, signed))
    assert (late.trigger, late.transaction) == (Trigger.SETTLED, transaction)
    assert late.block is not None
    assert late.endpoint in chain.url
    assert dollar.balance(SHOP) >= PRICE


def test_known_transaction_needs_no_search(
    chain: LocalChain, dollar: Dollar, payer: Payer, between: Callable[..., Between]
) -> None:
    """Many public endpoints refuse to search logs; the receipt proves it alone."""
    signed, signature = payer.authorize()
    transaction = dollar.submit(signed, signature)
    chain.finalize()
    stubborn = between(refused("eth_getLogs"))
    known = question(dollar, signed, transaction=transaction)
    assert ask(known, stubborn.url, now=chain.now()).trigger is Trigger.SETTLED
    assert "eth_getLogs" not in stubborn.asked
    unknown = ask(question(dollar, signed), stubborn.url, now=chain.now())
    assert unknown.trigger is Trigger.UNREACHABLE
    assert "not here" in unknown.reason


def test_payment_by_somebody_else_counts(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    """A front-runner moves the money to the same payee; our own transaction then reverts."""
    signed, signature = payer.authorize()
    theirs = dollar.submit(signed, signature, sender=chain.accounts[3])
    ours = dollar.submit(signed, signature)
    receipt = chain.receipt(ours)
    assert receipt is not None
    assert receipt["status"] == "0x0"
    chain.finalize()
    found = verdict(question(dollar, signed, transaction=ours))
    assert (found.trigger, found.transaction) == (Trigger.SETTLED, theirs)


def test_payment_made_before_its_record_is_found(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    signed, signature = payer.authorize(window_s=10_000_000)
    dollar.submit(signed, signature)
    chain.mine(4, seconds=3_000)
    found = verdict(question(dollar, signed, since=chain.now()))
    assert found.trigger is Trigger.SETTLED


def test_search_takes_the_ranges_that_an_endpoint_allows(
    chain: LocalChain, dollar: Dollar, payer: Payer, between: Callable[..., Between]
) -> None:
    signed, signature = payer.authorize()
    dollar.submit(signed, signature)
    chain.mine(400)

    def narrow(body: dict[str, Any], answer: Any) -> Any:
        if body["method"] != "eth_getLogs":
            return answer
        asked = body["params"][0]
        if int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) < 100:
            return answer
        return refused("eth_getLogs", "range is too wide")(body, answer)

    endpoint = between(narrow)
    found = ask(question(dollar, signed), endpoint.url, now=chain.now())
    assert found.trigger is Trigger.SETTLED
    assert endpoint.asked.count("eth_getLogs") > 4


# Never


@pytest.mark.parametrize(("early_s", "expected"), [(1, "UNDECIDED"), (0, "EXPIRED")])
def test_unused_is_expired_from_valid_before_on(
    early_s: int,
    expected: str,
    chain: LocalChain,
    dollar: Dollar,
    payer: Payer,
    verdict: Callable[..., Verdict],
) -> None:
    """The final block's own time decides, to the second."""
    signed, _ = payer.authorize()
    chain.next_block_at(signed.valid_before - early_s)
    chain.mine()
    chain.mine(2, seconds=1)
    found = verdict(question(dollar, signed))
    assert found.trigger is Trigger(expected)
    assert found.block is not None
    assert found.block.timestamp == signed.valid_before - early_s


def test_chain_may_still_pay_in_the_last_second(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    """A facilitator says expired some seconds early; the chain does not."""
    signed, signature = payer.authorize()
    chain.next_block_at(signed.valid_before - 1)
    dollar.submit(signed, signature)
    chain.mine(3, seconds=100)
    assert verdict(question(dollar, signed)).trigger is Trigger.SETTLED


@pytest.mark.parametrize("ahead_s", [-600, 600])
def test_our_clock_ends_no_window(
    ahead_s: int,
    chain: LocalChain,
    dollar: Dollar,
    payer: Payer,
    verdict: Callable[..., Verdict],
) -> None:
    signed, _ = payer.authorize(window_s=300)
    chain.finalize()
    found = verdict(question(dollar, signed), now=chain.now() + ahead_s)
    assert found.trigger is Trigger.UNDECIDED


def test_canceled_nonce_is_voided(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    signed, signature = payer.authorize()
    canceled = dollar.cancel(payer.address, signed.nonce, payer.key)
    late = dollar.submit(signed, signature)
    chain.finalize()
    found = verdict(question(dollar, signed, transaction=late))
    assert (found.trigger, found.transaction) == (Trigger.VOIDED, canceled)


@pytest.mark.parametrize("other", [{"to": MALLORY}, {"value": PRICE - 1}], ids=["payee", "amount"])
def test_nonce_used_for_something_else_is_misdirected(
    other: dict[str, Any],
    chain: LocalChain,
    dollar: Dollar,
    payer: Payer,
    verdict: Callable[..., Verdict],
) -> None:
    signed, _ = payer.authorize()
    stray, signature = payer.authorize(nonce=signed.nonce, **other)
    dollar.submit(stray, signature)
    chain.finalize()
    found = verdict(question(dollar, signed))
    assert found.trigger is Trigger.MISDIRECTED
    assert str(stray.value) in found.reason
    assert stray.pay_to in found.reason


def test_each_payment_of_a_batch_is_told_apart(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    """The transfer beside a nonce is its own, not a like one elsewhere in the transaction."""
    ours, ours_signature = payer.authorize()
    decoy, decoy_signature = payer.authorize()
    stolen, stolen_signature = payer.authorize(nonce=decoy.nonce, to=MALLORY)
    calls = [(ours, ours_signature), (stolen, stolen_signature)]
    batched(chain, [(dollar.address, dollar.call_data(*call)) for call in calls])
    chain.finalize()
    assert decoy_signature != stolen_signature
    assert verdict(question(dollar, ours)).trigger is Trigger.SETTLED
    # The same transaction holds a transfer that looks like the decoy's: nobody may settle by it.
    assert verdict(question(dollar, decoy)).trigger is Trigger.UNREACHABLE


# Unknown


def test_failed_transaction_proves_nothing(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    """It reverted for want of money; after a deposit another one may succeed."""
    signed, signature = payer.authorize(value=10**15)
    transaction = dollar.submit(signed, signature)
    chain.finalize()
    found = verdict(question(dollar, signed, transaction=transaction))
    assert (found.trigger, found.transaction) == (Trigger.REVERTED, transaction)


def test_reorganisation_takes_a_payment_back(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    signed, signature = payer.authorize()
    before = chain.snapshot()
    first = dollar.submit(signed, signature)
    assert verdict(question(dollar, signed)).trigger is Trigger.INCLUDED
    chain.revert(before)
    gone = verdict(question(dollar, signed, transaction=first, included=True))
    assert gone.trigger is Trigger.REORGED
    chain.mine(2)
    second = dollar.submit(signed, signature, sender=chain.accounts[2])
    chain.finalize()
    found = verdict(question(dollar, signed, transaction=first))
    assert (found.trigger, found.transaction) == (Trigger.SETTLED, second)


def test_token_that_does_not_revert_settles_nothing_twice(
    chain: LocalChain, verdict: Callable[..., Verdict]
) -> None:
    """A receipt with status 1 and no transfer is not a payment."""
    quiet = Dollar(chain, quiet=True)
    payer = Payer.rich(quiet)
    signed, signature = payer.authorize()
    quiet.cancel(payer.address, signed.nonce, payer.key)
    transaction = quiet.submit(signed, signature)
    receipt = chain.receipt(transaction)
    assert receipt is not None
    assert receipt["status"] == "0x1"
    chain.finalize()
    found = verdict(question(quiet, signed, transaction=transaction))
    assert found.trigger is Trigger.VOIDED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (answered("eth_chainId", "0x1"), "chain 1"),
        (answered("eth_getBlockByNumber", None), "no finalized block"),
        (refused("eth_getBlockByNumber", "unknown tag"), "unknown tag"),
        (answered("eth_call", "0x"), "no code"),
        (answered("eth_call", "0x02"), "no boolean"),
        (answered("eth_call", "0x" + "00" * 31 + "02"), "no boolean"),
        (answered("eth_call", None), "no such shape"),
        (answered("eth_getLogs", []), "no log"),
        (answered("eth_getLogs", {}), "no such shape"),
        (answered("eth_getLogs", [{"address": "0x12"}]), "no such shape"),
        (answered("eth_getTransactionReceipt", None), "not in its receipt"),
        (refused("eth_call"), "was refused"),
        (lambda _, answer: answer | {"id": 0}, "no answer to this question"),
        (lambda *_: b"<html>busy</html>", "without JSON"),
        (lambda *_: b"[]", "no answer to this question"),
    ],
)
def test_what_an_endpoint_gets_wrong_is_unknown(
    change: Callable[[dict[str, Any], Any], Any],
    reason: str,
    chain: LocalChain,
    dollar: Dollar,
    payer: Payer,
    between: Callable[..., Between],
) -> None:
    """The payment is settled, and an endpoint that shows it badly makes it nothing else."""
    signed, signature = payer.authorize()
    dollar.submit(signed, signature)
    chain.finalize()
    found = ask(question(dollar, signed), between(change).url, now=chain.now())
    assert found.trigger is Trigger.UNREACHABLE
    assert reason in found.reason


def test_nobody_listens(dollar: Dollar, payer: Payer) -> None:
    signed, _ = payer.authorize()
    found = ask(question(dollar, signed), "http://127.0.0.1:1", now=0)
    assert (found.trigger, "ConnectError" in found.reason) == (Trigger.UNREACHABLE, True)


def test_asset_without_code(
    chain: LocalChain, dollar: Dollar, payer: Payer, verdict: Callable[..., Verdict]
) -> None:
    """An account that holds no contract answers every call with nothing."""
    signed, _ = payer.authorize()
    asked = question(dollar, signed)
    empty = Question(**{name: getattr(asked, name) for name in asked.__slots__} | {"asset": SHOP})
    chain.mine(3, seconds=1_000)
    found = verdict(empty)
    assert (found.trigger, "no code" in found.reason) == (Trigger.UNREACHABLE, True)


def test_block_from_the_future_ends_no_window(
    chain: LocalChain, dollar: Dollar, payer: Payer, between: Callable[..., Between]
) -> None:
    signed, _ = payer.authorize()
    chain.finalize()

    def later(body: dict[str, Any], answer: Any) -> Any:
        if body["method"] == "eth_getBlockByNumber":
            answer["result"]["timestamp"] = hex(signed.valid_before + 1_000_000)
        return answer

    found = ask(question(dollar, signed), between(later).url, now=chain.now())
    assert (found.trigger, "ahead" in found.reason) == (Trigger.UNREACHABLE, True)


def test_state_and_time_come_from_one_block(
    chain: LocalChain, dollar: Dollar, payer: Payer, between: Callable[..., Between]
) -> None:
    """The payment is made after the header was read: the state is still that block's."""
    signed, signature = payer.authorize()
    chain.finalize()
    paid = []

    def meanwhile(body: dict[str, Any], answer: Any) -> Any:
        if body["method"] == "eth_call" and not paid:
            paid.append(dollar.submit(signed, signature))
            chain.mine(3, seconds=1_000)
            return httpx2.post(chain.url, json=body).json()
        return answer

    found = ask(question(dollar, signed), between(meanwhile).url, now=chain.now())
    assert paid
    assert found.trigger in (Trigger.UNDECIDED, Trigger.INCLUDED)
    assert ask(question(dollar, signed), chain.url, now=chain.now()).trigger is Trigger.SETTLED


def test_a_block_that_was_replaced_while_it_was_read_proves_nothing(
    chain: LocalChain, dollar: Dollar, payer: Payer, between: Callable[..., Between]
) -> None:
    """The header that is asked for last has another hash than the one everything was read at."""
    signed, signature = payer.authorize()
    dollar.submit(signed, signature)
    chain.finalize()

    def replaced(body: dict[str, Any], answer: Any) -> Any:
        if body["method"] == "eth_getBlockByNumber" and body["params"][0].startswith("0x"):
            answer["result"]["hash"] = "0x" + "66" * 32
        return answer

    def gone(body: dict[str, Any], answer: Any) -> Any:
        if body["method"] == "eth_getBlockByNumber" and body["params"][0].startswith("0x"):
            answer["result"] = None
        return answer

    height = int(chain.rpc("eth_blockNumber"), 16)
    known = replace(question(dollar, signed), first_block=max(0, height - 10))
    assert ask(known, chain.url, now=chain.now()).trigger is Trigger.SETTLED
    for change in (replaced, gone):
        found = ask(known, between(change).url, now=chain.now())
        assert found.trigger is Trigger.UNREACHABLE
        assert "was replaced while it was read" in found.reason


def test_a_receipt_of_a_block_that_is_gone_proves_nothing(
    chain: LocalChain, dollar: Dollar, payer: Payer, between: Callable[..., Between]
) -> None:
    """It is from a fork: the block of its height has another hash, and no log is found."""
    signed, signature = payer.authorize()
    transaction = dollar.submit(signed, signature)
    receipt = chain.receipt(transaction)
    assert receipt is not None
    chain.finalize()

    def forked(body: dict[str, Any], answer: Any) -> Any:
        if body["method"] == "eth_getLogs":
            answer["result"] = []
        if body["method"] == "eth_getBlockByNumber" and body["params"][0] == receipt["blockNumber"]:
            answer["result"]["hash"] = "0x" + "66" * 32
        return answer

    asked = question(dollar, signed, transaction=transaction)
    assert ask(asked, chain.url, now=chain.now()).trigger is Trigger.SETTLED
    found = ask(asked, between(forked).url, now=chain.now())
    assert (found.trigger, found.transaction) == (Trigger.UNREACHABLE, None)
    assert "no log" in found.reason


# Two endpoints


def unused(body: dict[str, Any], answer: Any) -> Any:
    return answered("eth_call", "0x" + "00" * 32)(body, answer)


def test_endpoints_that_disagree_prove_nothing(
    chain: LocalChain, dollar: Dollar, payer: Payer, between: Callable[..., Between]
) -> None:
    signed, signature = payer.authorize()
    dollar.submit(signed, signature)
    chain.mine(4, seconds=1_000)
    liar = between(unused)
    alone = ask(question(dollar, signed), liar.url, now=chain.now())
    assert alone.trigger is Trigger.EXPIRED  # what one endpoint could make us believe
    both = ask(question(dollar, signed), liar.url, chain.url, now=chain.now())
    assert (both.trigger, both.disagreement) == (Trigger.UNREACHABLE, True)


def test_one_endpoint_proves_a_payment_and_both_its_absence(
    chain: LocalChain, dollar: Dollar, payer: Payer, between: Callable[..., Between]
) -> None:
    down = between(refused("eth_chainId"))
    signed, signature = payer.authorize()
    dollar.submit(signed, signature)
    absent, _ = payer.authorize(window_s=30)
    chain.mine(4, seconds=1_000)
    urls = (chain.url, down.url)
    assert ask(question(dollar, signed), *urls, now=chain.now()).trigger is Trigger.SETTLED
    assert ask(question(dollar, absent), *urls, now=chain.now()).trigger is Trigger.UNREACHABLE
    again = (chain.url, chain.url)
    assert ask(question(dollar, absent), *again, now=chain.now()).trigger is Trigger.EXPIRED
