"""The token of the local chain, from outside: mint, ask, submit what somebody signed.

The rule that lives here: every call is made as any wallet or relayer would make it, by a
transaction to the contract; nothing is written into the chain's state behind its back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.x402 import authorization as eip3009
from bursar.x402 import evm
from bursar.x402.authorization import Authorization, TokenDomain

if TYPE_CHECKING:
    from bursar.testing.chain.node import LocalChain

NAME = "Bursar Test Dollar"
VERSION = "1"
DECIMALS = 6

MINT = "0x40c10f19"  # mint(address,uint256)
TRANSFER_WITH_AUTHORIZATION = "0xe3ee160e"
CANCEL_AUTHORIZATION = "0x5a049a70"
BATCH = "0x4d618e3b"  # run(address[],bytes[])


class Dollar:
    """One deployed token. `quiet` gives one that does not revert on a used nonce."""

    def __init__(self, chain: LocalChain, *, quiet: bool = False) -> None:
        self.chain = chain
        self.address = chain.deploy("TestDollar", evm.word(int(quiet)))
        self.domain = TokenDomain(NAME, VERSION, chain.chain_id, self.address)

    def mint(self, to: str, value: int) -> str:
        """Give somebody money, in millionths, and return the transaction."""
        return self.chain.send(self.address, evm.call(MINT, to, value))

    def balance(self, of: str) -> int:
        """Return what an account has, in millionths."""
        asked = {"to": self.address, "data": evm.call(evm.BALANCE_OF, of)}
        return int(self.chain.rpc("eth_call", asked, "latest"), 16)

    def used(self, payer: str, nonce: str) -> bool:
        """Say whether a payer's nonce is used or canceled, in the newest block."""
        data = evm.call(evm.AUTHORIZATION_STATE, payer, nonce)
        asked = {"to": self.address, "data": data}
        return int(self.chain.rpc("eth_call", asked, "latest"), 16) == 1

    def call_data(self, signed: Authorization, signature: str) -> str:
        """Return the call that moves the money of an authorization."""
        fields = (signed.payer, signed.pay_to, signed.value)
        window = (signed.valid_after, signed.valid_before, signed.nonce)
        return evm.call(TRANSFER_WITH_AUTHORIZATION, *fields, *window, *vrs(signature))

    def submit(self, signed: Authorization, signature: str, sender: str | None = None) -> str:
        """Broadcast the transfer and return its transaction, which may have reverted."""
        return self.chain.send(self.address, self.call_data(signed, signature), sender)

    def cancel(self, payer: str, nonce: str, key: bytes) -> str:
        """Burn a nonce as its payer, and return the transaction."""
        from bursar.x402.ethereum import Account

        domain = eip3009.typed_data(Authorization(payer, payer, 0, 0, 0, nonce), self.domain)[0]
        fields = [{"name": "authorizer", "type": "address"}, {"name": "nonce", "type": "bytes32"}]
        signed = Account.sign_typed_data(
            key,
            domain,
            {"CancelAuthorization": fields},
            {"authorizer": payer, "nonce": bytes.fromhex(nonce[2:])},
        )
        v, r, s = vrs("0x" + bytes(signed.signature).hex())
        return self.chain.send(self.address, evm.call(CANCEL_AUTHORIZATION, payer, nonce, v, r, s))


def batched(chain: LocalChain, calls: list[tuple[str, str]]) -> str:
    """Make several calls, (contract, data) each, in one transaction and return it."""
    batch = chain.deploy("Batch")
    targets = "".join(evm.word(target) for target, _ in calls)
    tails = [data.removeprefix("0x") for _, data in calls]
    padded = [evm.word(len(tail) // 2) + tail + "0" * (-len(tail) % 64) for tail in tails]
    starts, at = "", 32 * len(calls)
    for tail in padded:
        starts += evm.word(at)
        at += len(tail) // 2
    first, second = 64, 64 + 32 * (1 + len(calls))
    count = evm.word(len(calls))
    body = evm.word(first) + evm.word(second) + count + targets + count + starts + "".join(padded)
    return chain.send(batch, BATCH + body)


def vrs(signature: str) -> tuple[int, str, str]:
    """Return the three parts of a signature, in the order in which a token takes them."""
    raw = signature.removeprefix("0x")
    return int(raw[128:130], 16), f"0x{raw[:64]}", f"0x{raw[64:128]}"
