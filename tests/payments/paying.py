"""Somebody who pays in tests: a key, some dollars, and authorizations under fresh nonces."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from bursar.testing.chain import Dollar
from bursar.x402 import authorization as eip3009
from bursar.x402.authorization import Authorization
from bursar.x402.ethereum import Account
from bursar.x402.reading import Question

SHOP = "0x" + "5a" * 20
MALLORY = "0x" + "ba" * 20
PRICE = 1_250_000
WINDOW_S = 600
FAST_MS = 2**42
"""The time of a clock that is years fast: what ends a window beside it is the chain alone."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays, in one token."""

    dollar: Dollar
    key: bytes
    address: str

    @classmethod
    def rich(cls, dollar: Dollar, value: int = 1_000_000_000) -> Payer:
        """Return somebody new who has money."""
        key = secrets.token_bytes(32)
        address = Account.from_key(key).address.lower()
        dollar.mint(address, value)
        return cls(dollar, key, address)

    def authorize(
        self,
        *,
        to: str = SHOP,
        value: int = PRICE,
        nonce: str | None = None,
        window_s: int = WINDOW_S,
    ) -> tuple[Authorization, str]:
        """Return an authorization that is valid from now on, and its signature."""
        signed = Authorization(
            payer=self.address,
            pay_to=to,
            value=value,
            valid_after=0,
            valid_before=self.dollar.chain.now() + window_s,
            nonce=nonce or "0x" + secrets.token_hex(32),
        )
        return signed, eip3009.sign(signed, self.dollar.domain, self.key)


def question(
    dollar: Dollar,
    signed: Authorization,
    *,
    since: int = 0,
    transaction: str | None = None,
    included: bool = False,
) -> Question:
    """Return what a reader asks about an authorization."""
    return Question(
        chain_id=dollar.chain.chain_id,
        asset=dollar.address,
        payer=signed.payer,
        pay_to=signed.pay_to,
        value=signed.value,
        nonce=signed.nonce,
        valid_before=signed.valid_before,
        since=since,
        transaction=transaction,
        included=included,
    )
