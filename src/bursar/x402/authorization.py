"""An EIP-3009 authorization: what a payer signs, and how its nonce comes from the intent.

The rule that lives here: who signed is found by recovering the key from the very fields that
the token will check, so a payload that says one thing and signs another is nobody's payment.
A nonce derived from what the payment is for makes the token itself refuse a second one, even
when it is signed again with a later `validBefore`. Sources: EIP-3009, EIP-712, x402 v2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bursar.x402 import evm

TYPES = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}
INTENT_DOMAIN = b"bursar.x402.intent.v1"


@dataclass(frozen=True, slots=True)
class TokenDomain:
    """What binds a signature to one token on one chain (EIP-712).

    Attributes:
        name: The token's EIP-712 name; it differs between deployments of one token.
        version: The token's EIP-712 version.
        chain_id: The number of the chain.
        asset: The token contract, lower case.
    """

    name: str
    version: str
    chain_id: int
    asset: str


@dataclass(frozen=True, slots=True)
class Authorization:
    """One transfer that a payer allows anybody to submit (EIP-3009).

    Attributes:
        payer: The account that pays, lower case (`from` on the wire).
        pay_to: The account that is paid, lower case (`to` on the wire).
        value: The amount in the token's smallest unit.
        valid_after: Seconds since 1970; valid in blocks strictly later.
        valid_before: Seconds since 1970; valid in blocks strictly earlier.
        nonce: 32 bytes, lower-case hexadecimal; used once per payer and token.
    """

    payer: str
    pay_to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: str

    @classmethod
    def parse(cls, wire: Mapping[str, Any]) -> Authorization:
        """Read the `authorization` of a payment payload; `ValueError` names a wrong field."""
        if not isinstance(wire, Mapping):
            raise ValueError(f"authorization must be an object; got {type(wire).__name__}")
        return cls(
            payer=evm.address(wire.get("from"), "authorization.from"),
            pay_to=evm.address(wire.get("to"), "authorization.to"),
            value=evm.uint256(wire.get("value"), "authorization.value"),
            valid_after=evm.uint256(wire.get("validAfter"), "authorization.validAfter"),
            valid_before=evm.uint256(wire.get("validBefore"), "authorization.validBefore"),
            nonce=evm.bytes32(wire.get("nonce"), "authorization.nonce"),
        )

    def to_wire(self) -> dict[str, str]:
        """Return the object as x402 sends it: every field is a string."""
        return {
            "from": self.payer,
            "to": self.pay_to,
            "value": str(self.value),
            "validAfter": str(self.valid_after),
            "validBefore": str(self.valid_before),
            "nonce": self.nonce,
        }


def typed_data(authorization: Authorization, domain: TokenDomain) -> tuple[dict[str, Any], ...]:
    """Return (domain, types, message) of EIP-712, as `eth_account` wants them."""
    return (
        {
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.asset,
        },
        TYPES,
        {
            "from": authorization.payer,
            "to": authorization.pay_to,
            "value": authorization.value,
            "validAfter": authorization.valid_after,
            "validBefore": authorization.valid_before,
            "nonce": bytes.fromhex(authorization.nonce[2:]),
        },
    )


def recover(authorization: Authorization, domain: TokenDomain, signature: str) -> str:
    """Return the account whose key signed, lower case; `ValueError` if nobody's did.

    Only the 65 bytes of a key are understood. A contract wallet's signature (EIP-1271,
    EIP-6492) is checked by the chain, not here.
    """
    from bursar.x402.ethereum import Account, BadSignature, ValidationError, encode_typed_data

    try:
        raw = bytes.fromhex(signature.removeprefix("0x"))
        if len(raw) != 65:
            raise ValueError(f"it has {len(raw)} bytes, not 65")
        message = encode_typed_data(*typed_data(authorization, domain))
        return str(Account.recover_message(message, signature=raw)).lower()
    except (ValueError, BadSignature, ValidationError) as wrong:
        raise ValueError(f"signature is not one of a key: {wrong}") from wrong


def sign(authorization: Authorization, domain: TokenDomain, key: bytes) -> str:
    """Return the payer's signature, 65 bytes in hexadecimal.

    `bursar.x402.signing` is the one place that calls this with a real key, behind its cap.
    """
    from bursar.x402.ethereum import Account

    signed = Account.sign_typed_data(key, *typed_data(authorization, domain))
    return "0x" + bytes(signed.signature).hex()


def intent_nonce(intent_id: str, mandate_hash: str = "") -> str:
    """Return the nonce of a payment's intent: keccak-256 over what the payment is for.

    A retry of the same intent has the same nonce, so the token moves money for it at most
    once, whoever signs how often. Lengths are part of what is hashed, so two intents never
    share a nonce by the way their parts are cut.
    """
    from bursar.x402.ethereum import keccak

    if not intent_id:
        raise ValueError("intent_id must not be empty: every payment would have the same nonce")
    parts = (INTENT_DOMAIN, mandate_hash.encode(), intent_id.encode())
    packed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return "0x" + keccak(packed).hex()
