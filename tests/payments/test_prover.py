"""From a record to a finding by a real chain, and what counts as a refund."""

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.payments.outcome import Money, Trigger
from bursar.payments.records import Finding, PaymentRecord
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar, LocalChain
from bursar.x402 import evm
from bursar.x402.authorization import Authorization
from bursar.x402.prover import ChainProver, question_of
from bursar.x402.reading import Question
from bursar.x402.refunding import Place, paid_at, refunds
from bursar.x402.rpc import Block, Log, Receipt, Rpc
from payments.paying import Payer
from payments.till import Till
from payments.world import payment

TRANSFER_CALL = "0xa9059cbb"  # transfer(address,uint256)


def record(dollar: Dollar, signed: Authorization, **more: Any) -> PaymentRecord:
    return payment(
        network=f"eip155:{dollar.chain.chain_id}",
        asset=dollar.address.upper().replace("X", "x"),
        payer=signed.payer,
        pay_to=signed.pay_to,
        value=signed.value,
        nonce=signed.nonce,
        valid_before_s=signed.valid_before,
        created_at_ms=dollar.chain.now() * 1000,
        money=Money.UNKNOWN,
        **more,
    )


def asked(chain: LocalChain, what: str, *arguments: Any, urls: tuple[str, ...] = ()) -> Any:
    async def ask() -> Any:
        endpoints = [Rpc(url) for url in (chain.url, *urls)]
        prover = ChainProver({f"eip155:{chain.chain_id}": endpoints})
        try:
            return await getattr(prover, what)(*arguments)
        finally:
            await prover.aclose()

    return asyncio.run(ask())


def test_finding_carries_what_proves_it(chain: LocalChain, dollar: Dollar, payer: Payer) -> None:
    signed, signature = payer.authorize()
    transaction = dollar.submit(signed, signature)
    chain.finalize()
    found: Finding = asked(chain, "prove", record(dollar, signed))
    assert found.trigger is Trigger.SETTLED
    assert found.evidence.tx_hash == transaction
    assert found.evidence.source == f"rpc:{chain.url.removeprefix('http://')}"
    assert found.evidence.block_hash is not None
    assert found.evidence.block_time_s is not None


def test_first_block_of_the_record_spares_the_search(
    chain: LocalChain, dollar: Dollar, payer: Payer
) -> None:
    height = int(chain.rpc("eth_blockNumber"), 16)
    signed, signature = payer.authorize()
    dollar.submit(signed, signature)
    chain.finalize()
    found: Finding = asked(chain, "prove", record(dollar, signed, from_block=height))
    assert found.trigger is Trigger.SETTLED


@pytest.mark.parametrize("value", [10**18, 123_456_789 * 10**18 + 1, 2**255, 2**256 - 1])
def test_values_of_any_size_are_told_apart_to_the_last_unit(
    value: int, chain: LocalChain, tmp_path: Path
) -> None:
    """Amounts as of a token with 18 decimals, up to all that 256 bits hold, each in a new token."""
    token = Dollar(chain)
    payer = Payer.rich(token, value)
    signed, signature = payer.authorize(value=value)
    short, _ = payer.authorize(value=value - 1, nonce=signed.nonce)
    token.submit(signed, signature)
    assert token.balance(signed.pay_to) == value
    chain.finalize()
    wrong: Finding = asked(chain, "prove", record(token, short))
    assert wrong.trigger is Trigger.MISDIRECTED
    assert f"paid {value} to" in str(wrong.evidence.reason)
    with closing(open_payments(tmp_path / "ledger.db")) as store:
        till = Till(store, token)
        assert till.begin(signed).value == value
        found = till.look()
    assert (found.money, found.value) == (Money.SETTLED, value)


def test_network_without_endpoint_is_unreachable(
    chain: LocalChain, dollar: Dollar, payer: Payer
) -> None:
    signed, _ = payer.authorize()
    elsewhere = replace(record(dollar, signed), network="eip155:1")
    found: Finding = asked(chain, "prove", elsewhere)
    assert found.trigger is Trigger.UNREACHABLE
    assert "no RPC endpoint is configured for eip155:1" in str(found.evidence.reason)


@pytest.mark.parametrize(
    "change", [{"network": "solana:x"}, {"nonce": None}, {"valid_before_s": None}]
)
def test_no_question_without_an_authorization(dollar: Dollar, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no EIP-3009 authorization"):
        question_of(payment(**change))


def test_refund_is_a_final_transfer_back(chain: LocalChain, dollar: Dollar) -> None:
    """The shop is an account of the chain here, so that it can pay back."""
    shop = chain.accounts[5]
    payer = Payer.rich(dollar)
    signed, signature = payer.authorize(to=shop)
    paid = dollar.submit(signed, signature)
    dollar.mint(shop, 10 * signed.value)
    orphan = record(dollar, signed)

    def send(to: str, value: int) -> str:
        return chain.send(dollar.address, evm.call(TRANSFER_CALL, to, value), shop)

    short, wrong = send(payer.address, signed.value - 1), send("0x" + "12" * 20, signed.value)
    back = send(payer.address, signed.value)
    assert asked(chain, "refund", orphan, back) is None  # not final yet
    chain.finalize()
    proof = asked(chain, "refund", orphan, back)
    assert proof.evidence.tx_hash == back
    assert [(one.network, one.tx_hash) for one in proof.transfers] == [(orphan.network, back)]
    for other in (paid, short, wrong, "0x" + "00" * 32):
        assert asked(chain, "refund", orphan, other) is None
    with pytest.raises(ValueError, match="transaction must be 32 bytes"):
        asked(chain, "refund", orphan, "0x12")


def test_what_was_transferred_before_the_payment_is_no_refund(
    chain: LocalChain, dollar: Dollar
) -> None:
    """Where the payment's transaction is known, by its place; else by when it was recorded."""
    shop, payer = chain.accounts[6], Payer.rich(dollar)
    signed, signature = payer.authorize(to=shop)
    dollar.mint(shop, 10 * signed.value)
    call = evm.call(TRANSFER_CALL, payer.address, signed.value)
    early = chain.send(dollar.address, call, shop)
    chain.mine(1, seconds=60)
    orphan = record(dollar, signed)
    paid = dollar.submit(signed, signature)
    late = chain.send(dollar.address, call, shop)
    chain.finalize()
    for known in (orphan, replace(orphan, tx_hash=paid)):
        assert asked(chain, "refund", known, early) is None
        assert asked(chain, "refund", known, late).evidence.tx_hash == late


def log(index: int, sender: str, to: str, value: int = 7) -> Log:
    topics = (evm.TRANSFER, evm.topic(sender), evm.topic(to))
    return Log(TOKEN, topics, f"0x{value:064x}", 20, "0xb", "0xt", index)


SHOP, PAYER, TOKEN = "0x" + "5a" * 20, "0x" + "d3" * 20, "0x" + "70" * 20
ASKED = Question(1, TOKEN, PAYER, SHOP, 7, "0xn", 1_000, 500)
BACK = log(4, SHOP, PAYER)


@pytest.mark.parametrize(
    ("logs", "paid", "at_s", "found"),
    [
        ((BACK,), None, 500, (4,)),
        ((BACK,), None, 499, ()),
        ((BACK,), Place(19, 90), 499, (4,)),
        ((BACK,), Place(20, 3), 499, (4,)),
        ((BACK,), Place(20, 4), 999, ()),
        ((BACK,), Place(20, 5), 999, ()),
        ((BACK,), Place(21, 0), 999, ()),
        ((BACK, log(6, SHOP, PAYER)), Place(20, 5), 999, (6,)),
        ((BACK, log(6, SHOP, PAYER)), None, 500, (4, 6)),
        ((log(4, SHOP, PAYER, 6), log(5, PAYER, SHOP), log(6, SHOP, SHOP)), None, 500, ()),
        ((replace(BACK, address=SHOP), replace(BACK, data="0x07")), None, 500, ()),
    ],
)
def test_which_transfers_pay_back(
    logs: tuple[Log, ...], paid: Place | None, at_s: int, found: tuple[int, ...]
) -> None:
    receipt = Receipt("0xt", True, 20, "0xb", logs)
    block = Block(20, "0xb", at_s)
    assert refunds(ASKED, receipt, block, paid) == found
    assert refunds(ASKED, replace(receipt, succeeded=False), block, paid) == ()


def test_where_a_payment_was_made() -> None:
    ours = Receipt("0xt", True, 20, "0xb", (BACK, log(5, PAYER, SHOP), log(6, PAYER, SHOP)))
    assert paid_at(ASKED, ours) == Place(20, 5)
    assert paid_at(ASKED, replace(ours, logs=(BACK,))) is None
    assert paid_at(ASKED, replace(ours, succeeded=False)) is None
    assert paid_at(ASKED, None) is None
