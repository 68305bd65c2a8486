"""From a record to a finding by a real chain, and what counts as a refund."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bursar.payments.outcome import Money, Trigger
from bursar.payments.records import Finding, PaymentRecord
from bursar.testing.chain import Dollar, LocalChain
from bursar.x402 import evm
from bursar.x402.authorization import Authorization
from bursar.x402.prover import ChainProver, question_of
from bursar.x402.rpc import Rpc
from payments.paying import Payer
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
    assert proof.tx_hash == back
    for other in (paid, short, wrong, "0x" + "00" * 32):
        assert asked(chain, "refund", orphan, other) is None
    with pytest.raises(ValueError, match="transaction must be 32 bytes"):
        asked(chain, "refund", orphan, "0x12")
