"""A payment as a stranger presents it: read, and held against what was asked for.

The rule that lives here: nothing of it is believed before it is checked here, in one place,
and a payment that is refused here was never sent anywhere. What the signature covers must be
exactly what was asked for; an authorization that is valid for longer than the offer allows is
refused too, because it could be used after everybody stopped looking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bursar.x402 import authorization as eip3009
from bursar.x402 import offers
from bursar.x402.authorization import Authorization
from bursar.x402.offers import Offer

HEADER_CHARS_MAX: Final = 16 * 1024
SKEW_S: Final = 30
"""How far a payer's clock may be ahead of ours."""
MARGIN_S: Final = 6
"""What is left of a window must be enough to be mined in."""
SIGNATURE_CHARS_MAX: Final = 8 * 1024


class MalformedPayment(ValueError):
    """The header is not a payment: HTTP 400."""


class RefusedPayment(ValueError):
    """It is a payment, and not the one that was asked for: HTTP 402.

    Attributes:
        code: The short reason of x402 or of its A2A extension.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keep the short reason beside the sentence."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Presented:
    """A payment payload that has the right shape.

    Attributes:
        version: Of the protocol, 1 or 2.
        chain_id: The chain that it names.
        authorization: What was signed.
        signature: By which the token will check it; never shown.
        payload: The whole object, as it goes on to a facilitator.
    """

    version: int
    chain_id: int | None
    authorization: Authorization
    signature: str = field(repr=False)
    payload: Mapping[str, Any] = field(repr=False)


def parse(headers: Mapping[str, str]) -> Presented | None:
    """Return the payment of a request, or None if it brings none.

    Args:
        headers: of the request, found by name in any case.

    Raises:
        MalformedPayment: the header cannot be read as a payment; the message says why.
    """
    header = headers.get(offers.PAYMENT_HEADER) or headers.get(offers.V1_PAYMENT_HEADER)
    if not header:
        return None
    if len(header) > HEADER_CHARS_MAX:
        raise MalformedPayment(f"a payment header has at most {HEADER_CHARS_MAX} characters")
    try:
        payload = offers.decode(header)
    except (ValueError, RecursionError) as wrong:
        raise MalformedPayment("the payment header is not base64 of JSON") from wrong
    if not isinstance(payload, Mapping):
        raise MalformedPayment("the payment is not a JSON object")
    return _read(payload)


def _read(payload: Mapping[str, Any]) -> Presented:
    version, inner = payload.get("x402Version"), payload.get("payload")
    if type(version) is not int or version not in (1, 2):
        raise MalformedPayment(f"x402Version must be 1 or 2; got {version!r}")
    accepted = payload if version == 1 else payload.get("accepted")
    if not isinstance(accepted, Mapping) or not isinstance(inner, Mapping):
        raise MalformedPayment("a payment has `accepted` (version 2) and `payload` objects")
    if accepted.get("scheme") != offers.SCHEME or "authorization" not in inner:
        raise MalformedPayment("only scheme `exact` with an EIP-3009 authorization is accepted")
    signature = inner.get("signature")
    if not isinstance(signature, str) or len(signature) > SIGNATURE_CHARS_MAX:
        raise MalformedPayment("payload.signature must be a hexadecimal string")
    try:
        signed = Authorization.parse(inner["authorization"])
    except ValueError as wrong:
        raise MalformedPayment(str(wrong)) from wrong
    chain_id = offers.chain_of(accepted.get("network"))
    return Presented(version, chain_id, signed, signature, payload)


def admit(presented: Presented, asked: Sequence[Offer], now: int) -> Offer:
    """Return the offer that a payment is for, after every check that needs no chain.

    Args:
        presented: the payment.
        asked: the offers of the resource.
        now: seconds since 1970.

    Raises:
        RefusedPayment: it is for none of them, or its signature or window is wrong.
    """
    offer = matched(presented, asked)
    check_window(presented.authorization, offer, now)
    return offer


def matched(presented: Presented, asked: Sequence[Offer]) -> Offer:
    """Return the offer that a payment is for, whenever it may be used.

    Raises:
        RefusedPayment: it is for none of them, or its signature is wrong.
    """
    signed = presented.authorization
    here = [offer for offer in asked if offer.domain.chain_id == presented.chain_id]
    if not here:
        raise RefusedPayment("NETWORK_MISMATCH", "the payment is for a network that is not offered")
    payees = [offer for offer in here if offer.pay_to.lower() == signed.pay_to]
    if not payees:
        raise RefusedPayment("INVALID_PAYEE", f"the payment is to {signed.pay_to}, not to us")
    priced = [offer for offer in payees if offer.amount == signed.value]
    if not priced:
        raise RefusedPayment("INVALID_AMOUNT", f"the payment is of {signed.value}, not the price")
    offer = next((one for one in priced if _signed_for(presented, one)), None)
    if offer is None:
        raise RefusedPayment("INVALID_SIGNATURE", "the signature is not the payer's for this token")
    return offer


def _signed_for(presented: Presented, offer: Offer) -> bool:
    """Say whether the payer signed for this token; a contract's signature the chain checks."""
    signed = presented.authorization
    if len(presented.signature.removeprefix("0x")) != 130:
        return len(presented.signature) > 130
    try:
        return eip3009.recover(signed, offer.domain, presented.signature) == signed.payer
    except ValueError:
        return False


def check_window(signed: Authorization, offer: Offer, now: int) -> None:
    """Refuse an authorization that is over, or that could be used for longer than was offered.

    Raises:
        RefusedPayment: it is.
    """
    latest = now + offer.timeout_s + SKEW_S
    if signed.valid_before > latest:
        raise RefusedPayment(
            "INVALID_WINDOW",
            f"validBefore is {signed.valid_before - now} s ahead, and may be at most "
            f"{offer.timeout_s} s: sign again with a shorter window",
        )
    if signed.valid_before < now + MARGIN_S:
        raise RefusedPayment("EXPIRED_PAYMENT", "validBefore is over, or too near to be paid in")
    if signed.valid_after > now:
        raise RefusedPayment("INVALID_WINDOW", "validAfter is in the future")
