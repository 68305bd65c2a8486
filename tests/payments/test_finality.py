"""Which block counts as final: as it is written, by chain, and on a real chain."""

import asyncio
from typing import Any

import pytest

from bursar.payments.outcome import Money, Trigger
from bursar.payments.records import Finding
from bursar.testing.chain import Dollar, LocalChain
from bursar.x402 import finality
from bursar.x402.finality import Finality, read_finality
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Block, Rpc
from payments.paying import Payer
from payments.world import payment


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("", {}),
        ("finalized", {"*": "finalized"}),
        ("safe", {"*": "safe"}),
        ("30", {"*": 30}),
        ("base=safe eip155:137=128", {"eip155:8453": "safe", "eip155:137": 128}),
        ("base=1 finalized", {"eip155:8453": 1, "*": "finalized"}),
    ],
)
def test_what_may_be_written(words: str, read: dict[str, Finality]) -> None:
    assert read_finality(words.split()) == read


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("latest", "final is `finalized`, `safe`, or a block"),
        ("0", "with 1 to 1000000 blocks after it; got '0'"),
        ("-1", "got '-1'"),
        ("1000001", "got '1000001'"),
        ("9" * 30, "got '999"),
        ("1.5", "got '1.5'"),
        ("\u0661", "got '\u0661'"),
        ("base=", "got ''"),
        ("base=soon", "got 'soon'"),
        ("nowhere=safe", "finality is a word for every chain, or NETWORK=WORD"),
        ("=safe", "finality is a word for every chain, or NETWORK=WORD"),
        ("safe 30", "the finality of every chain is given twice"),
        ("base=safe eip155:8453=30", "the finality of eip155:8453 is given twice"),
    ],
)
def test_what_may_not(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_finality(words.split())


@pytest.mark.parametrize("wrong", ["latest", 0, True, {"eip155:1": "pending"}])
def test_a_prover_takes_nothing_else(wrong: Any) -> None:
    with pytest.raises(ValueError, match="final is `finalized`"):
        ChainProver({}, finality=wrong)


def test_each_chain_has_its_own() -> None:
    """What is named wins, then what is said for all, then the chain's own word."""
    said = {"eip155:8453": 30, "*": "safe"}
    assert finality.of(said, "eip155:8453") == 30
    assert finality.of(said, "eip155:1") == "safe"
    assert finality.of({"eip155:8453": 30}, "eip155:1") == "finalized"
    assert finality.of(5, "eip155:1") == 5


class Chain:
    """An endpoint of a chain whose newest block has a height."""

    def __init__(self, height: int | None) -> None:
        self.height = height

    async def block(self, at: Any) -> Block | None:
        if self.height is None:
            return None
        return Block(self.height if at == "latest" else at, "0x", 1)


@pytest.mark.parametrize(
    ("height", "said", "number"), [(10, 3, 7), (3, 3, 0), (2, 3, None), (None, 3, None)]
)
def test_a_number_is_counted_from_the_newest_block(
    height: int | None, said: int, number: int | None
) -> None:
    rpc: Any = Chain(height)
    found = asyncio.run(finality.final_block(rpc, said))
    assert (None if found is None else found.number) == number


def test_a_chain_is_read_at_that_block(chain: LocalChain, dollar: Dollar, payer: Payer) -> None:
    """One payment with two blocks after it: settled or not yet, by what counts as final."""
    signed, signature = payer.authorize()
    dollar.submit(signed, signature)
    chain.mine(2)
    record = payment(
        network=f"eip155:{chain.chain_id}",
        asset=dollar.address,
        payer=signed.payer,
        pay_to=signed.pay_to,
        value=signed.value,
        nonce=signed.nonce,
        valid_before_s=signed.valid_before,
        created_at_ms=chain.now() * 1000,
        money=Money.UNKNOWN,
    )

    async def prove(said: Any) -> Finding:
        prover = ChainProver({record.network: [Rpc(chain.url)]}, finality=said)
        try:
            return await prover.prove(record)
        finally:
            await prover.aclose()

    for said, trigger in (
        ("safe", Trigger.SETTLED),
        (2, Trigger.SETTLED),
        (3, Trigger.INCLUDED),
        ({record.network: 2, "*": 100}, Trigger.SETTLED),
        ({"eip155:1": 2, "*": 3}, Trigger.INCLUDED),
        (10_000, Trigger.UNREACHABLE),
    ):
        found = asyncio.run(prove(said))
        assert found.trigger is trigger, said
    assert found.evidence.reason == "it has no block with 10000 after it yet"
