"""What a merchant asks for, in both versions of the protocol.

The rule that lives here: a price is one whole number of one token's smallest unit on one
chain, and both versions say the same one. Version 1 names a few networks; version 2 has
CAIP-2 numbers. Source: x402 specification, versions 1 and 2.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bursar.x402 import evm
from bursar.x402.authorization import TokenDomain
from bursar.x402.strangers import read_json

SCHEME: Final = "exact"
CAIP_EVM: Final = "eip155:"
TIMEOUT_S_MAX: Final = 3600

V1_NETWORKS: Final[Mapping[str, int]] = {
    "base": 8453,
    "base-sepolia": 84532,
    "ethereum": 1,
    "polygon": 137,
    "polygon-amoy": 80002,
    "avalanche": 43114,
    "avalanche-fuji": 43113,
    "arbitrum": 42161,
    "optimism": 10,
    "sei": 1329,
    "sei-testnet": 1328,
    "iotex": 4689,
}
"""The names of version 1. A chain without one is offered in version 2 alone."""

REQUIRED_HEADER: Final = "PAYMENT-REQUIRED"
PAYMENT_HEADER: Final = "PAYMENT-SIGNATURE"
RESPONSE_HEADER: Final = "PAYMENT-RESPONSE"
V1_PAYMENT_HEADER: Final = "X-PAYMENT"
V1_RESPONSE_HEADER: Final = "X-PAYMENT-RESPONSE"


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay for one resource.

    Attributes:
        domain: The token and its chain, as a payer's signature binds them.
        amount: The price, in the token's smallest unit; at least 1.
        pay_to: Who is paid, lower case.
        timeout_s: How long a payer may let the authorization be valid, in seconds; at most an
            hour, because nothing can be proved before it is over.
        resource: The address of what is sold.
        description: What it is, for people.
        mime_type: What its answer will be.
    """

    domain: TokenDomain
    amount: int
    pay_to: str
    timeout_s: int = 60
    resource: str = ""
    description: str = ""
    mime_type: str = "application/json"

    def __post_init__(self) -> None:
        """Refuse what no payer could pay."""
        evm.address(self.pay_to, "pay_to")
        evm.address(self.domain.asset, "domain.asset")
        if evm.uint256(self.amount, "amount") < 1:
            raise ValueError("amount must be at least 1 of the token's smallest unit; got 0")
        if not 1 <= self.timeout_s <= TIMEOUT_S_MAX:
            raise ValueError(f"timeout_s must be from 1 to {TIMEOUT_S_MAX}; got {self.timeout_s}")

    @property
    def network(self) -> str:
        """The chain as CAIP-2."""
        return f"{CAIP_EVM}{self.domain.chain_id}"

    def to_wire(self) -> dict[str, Any]:
        """Return the requirements of version 2."""
        return {
            "scheme": SCHEME,
            "network": self.network,
            "asset": self.domain.asset,
            "amount": str(self.amount),
            "payTo": self.pay_to,
            "maxTimeoutSeconds": self.timeout_s,
            "extra": {"name": self.domain.name, "version": self.domain.version},
        }

    def to_wire_v1(self) -> dict[str, Any] | None:
        """Return the requirements of version 1; None where it has no name for the chain."""
        name = v1_name(self.domain.chain_id)
        if name is None:
            return None
        said = self.to_wire()
        amount = said.pop("amount")
        return said | {
            "network": name,
            "maxAmountRequired": amount,
            "resource": self.resource,
            "description": self.description,
            "mimeType": self.mime_type,
        }


def v1_name(chain_id: int) -> str | None:
    """Return the network's name of version 1."""
    return next((name for name, number in V1_NETWORKS.items() if number == chain_id), None)


def chain_of(network: object) -> int | None:
    """Return the number of an EVM chain, named by either version; None for any other."""
    if not isinstance(network, str):
        return None
    number = network.removeprefix(CAIP_EVM)
    if network.startswith(CAIP_EVM) and number.isascii() and number.isdigit() and len(number) < 19:
        return int(number)
    return V1_NETWORKS.get(network)


def challenge(offers: Sequence[Offer], error: str) -> dict[str, Any]:
    """Return the object of `PAYMENT-REQUIRED`, version 2."""
    first = offers[0]
    resource = {
        "url": first.resource,
        "description": first.description,
        "mimeType": first.mime_type,
    }
    return {
        "x402Version": 2,
        "error": error,
        "resource": resource,
        "accepts": [offer.to_wire() for offer in offers],
    }


def challenge_v1(offers: Sequence[Offer], error: str) -> dict[str, Any]:
    """Return the body of a 402 that clients of version 1 read."""
    known = [said for offer in offers if (said := offer.to_wire_v1()) is not None]
    return {"x402Version": 1, "error": error, "accepts": known}


def encode(message: Mapping[str, Any]) -> str:
    """Return a message as a header holds it: base64 of its JSON."""
    return base64.b64encode(json.dumps(message, separators=(",", ":")).encode()).decode()


def decode(header: str) -> Any:
    """Return the JSON that a header holds; `ValueError` if it holds none.

    What Python reads and JSON does not have (NaN, infinity, half of a surrogate pair) is none:
    it could not be sent on.
    """
    read = read_json(base64.b64decode(header, validate=True))
    json.dumps(read, allow_nan=False, ensure_ascii=False).encode("utf-8")
    return read
