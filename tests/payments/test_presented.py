"""Payments as strangers present them: what is read, what is refused, and by which word."""

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.x402 import authorization as eip3009
from bursar.x402 import offers
from bursar.x402.authorization import Authorization, TokenDomain
from bursar.x402.ethereum import Account
from bursar.x402.offers import Offer
from bursar.x402.presented import MalformedPayment, RefusedPayment, admit, parse

KEY, OTHER_KEY = b"\x01" * 32, b"\x02" * 32
PAYER = Account.from_key(KEY).address.lower()
SHOP = "0x" + "5a" * 20
DOMAIN = TokenDomain("USDC", "2", 84532, "0x" + "36" * 20)
OFFER = Offer(DOMAIN, 10_000, SHOP, 60, "https://shop.example/weather", "today's weather")
NOW = 1_800_000_000
SIGNED = Authorization(PAYER, SHOP, 10_000, 0, NOW + 60, "0x" + "77" * 32)


def payment(
    version: int = 2, signed: Authorization = SIGNED, key: bytes = KEY, **more: Any
) -> dict[str, Any]:
    inner = {
        "signature": eip3009.sign(signed, DOMAIN, key),
        "authorization": signed.to_wire(),
    }
    if version == 1:
        kind = {"scheme": "exact", "network": "base-sepolia"}
        return {"x402Version": 1, **kind, "payload": inner, **more}
    return {"x402Version": 2, "accepted": OFFER.to_wire(), "payload": inner, **more}


def headers(message: object, name: str = offers.PAYMENT_HEADER) -> dict[str, str]:
    return {name: base64.b64encode(json.dumps(message).encode()).decode()}


@pytest.mark.parametrize(("version", "name"), [(1, "X-PAYMENT"), (2, "PAYMENT-SIGNATURE")])
def test_payment_of_either_version(version: int, name: str) -> None:
    presented = parse(headers(payment(version), name))
    assert presented is not None
    assert (presented.version, presented.chain_id) == (version, 84532)
    assert presented.authorization == SIGNED
    assert admit(presented, [OFFER], NOW) == OFFER
    assert presented.signature not in repr(presented)


def test_no_payment() -> None:
    assert parse({}) is None
    assert parse({"PAYMENT-SIGNATURE": ""}) is None


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("%%%", "not base64 of JSON"),
        (base64.b64encode(b"{").decode(), "not base64 of JSON"),
        (base64.b64encode(b"[" * 10_000).decode(), "not base64 of JSON"),
        (base64.b64encode(b"[]").decode(), "not a JSON object"),
        ("A" * 20_000, "at most 16384 characters"),
    ],
)
def test_header_that_is_no_payment(header: str, reason: str) -> None:
    with pytest.raises(MalformedPayment, match=reason):
        parse({"PAYMENT-SIGNATURE": header})


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(message: dict[str, Any]) -> None:
        *inside, last = path.split(".")
        place = message
        for name in inside:
            place = place[name]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed("x402Version", 3), "x402Version must be 1 or 2"),
        (changed("x402Version", True), "x402Version must be 1 or 2"),
        (changed("x402Version", [2]), "x402Version must be 1 or 2"),
        (changed("accepted", None), "`accepted`"),
        (changed("payload", []), "`accepted`"),
        (changed("accepted.scheme", "upto"), "only scheme `exact`"),
        (changed("payload", {"permit2Authorization": {}}), "only scheme `exact`"),
        (changed("payload.signature", None), "payload.signature"),
        (changed("payload.signature", "0x" + "0" * 10_000), "payload.signature"),
        (changed("payload.authorization", "x"), "authorization must be an object"),
        (changed("payload.authorization.value", "NaN"), "authorization.value must be"),
        (changed("payload.authorization.to", "0x1"), "authorization.to must be"),
    ],
)
def test_field_that_is_wrong_is_named(
    change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    message = payment()
    change(message)
    with pytest.raises(MalformedPayment, match=reason):
        parse(headers(message))


@pytest.mark.parametrize(
    ("signed", "code"),
    [
        ({"pay_to": "0x" + "66" * 20}, "INVALID_PAYEE"),
        ({"value": 9_999}, "INVALID_AMOUNT"),
        ({"value": 10_001}, "INVALID_AMOUNT"),
        ({"valid_before": NOW + 91}, "INVALID_WINDOW"),
        ({"valid_before": 2**256 - 1}, "INVALID_WINDOW"),
        ({"valid_before": NOW + 5}, "EXPIRED_PAYMENT"),
        ({"valid_before": 0}, "EXPIRED_PAYMENT"),
        ({"valid_after": NOW + 1}, "INVALID_WINDOW"),
    ],
)
def test_payment_for_something_else(signed: Mapping[str, Any], code: str) -> None:
    presented = parse(headers(payment(signed=replace(SIGNED, **signed))))
    assert presented is not None
    with pytest.raises(RefusedPayment) as refused:
        admit(presented, [OFFER], NOW)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (changed("accepted.network", "eip155:8453"), "NETWORK_MISMATCH"),
        (changed("accepted.network", "solana:mainnet"), "NETWORK_MISMATCH"),
        (changed("accepted.network", "eip155:" + "9" * 500), "NETWORK_MISMATCH"),
        (changed("accepted.network", None), "NETWORK_MISMATCH"),
        (changed("payload.signature", "0x" + "11" * 65), "INVALID_SIGNATURE"),
        (changed("payload.signature", ""), "INVALID_SIGNATURE"),
        (changed("payload.authorization.nonce", "0x" + "78" * 32), "INVALID_SIGNATURE"),
        (changed("payload.authorization.from", "0x" + "78" * 20), "INVALID_SIGNATURE"),
    ],
)
def test_forged(change: Callable[[dict[str, Any]], None], code: str) -> None:
    message = payment()
    change(message)
    presented = parse(headers(message))
    assert presented is not None
    with pytest.raises(RefusedPayment) as refused:
        admit(presented, [OFFER], NOW)
    assert refused.value.code == code


def test_somebody_elses_signature() -> None:
    presented = parse(headers(payment(key=OTHER_KEY)))
    assert presented is not None
    with pytest.raises(RefusedPayment) as refused:
        admit(presented, [OFFER], NOW)
    assert refused.value.code == "INVALID_SIGNATURE"


def test_what_the_payer_says_it_accepted_decides_nothing() -> None:
    """The price is ours: a payload that quotes a lower one is for nothing that is offered."""
    message = payment(signed=replace(SIGNED, value=1))
    message["accepted"]["amount"] = "1"
    presented = parse(headers(message))
    assert presented is not None
    with pytest.raises(RefusedPayment, match="not the price"):
        admit(presented, [OFFER], NOW)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    ["x402Version", "accepted", "payload", "authorization", "scheme", "value"]
                ),
                x,
            )
        ),
    )
)
def test_no_payload_breaks_the_reader(message: Any) -> None:
    with contextlib.suppress(MalformedPayment):
        parse(headers(message))


# Offers


def test_both_versions_ask_for_the_same() -> None:
    two, one = OFFER.to_wire(), OFFER.to_wire_v1()
    assert one is not None
    assert (two["amount"], two["network"]) == ("10000", "eip155:84532")
    assert (one["maxAmountRequired"], one["network"]) == ("10000", "base-sepolia")
    assert one["payTo"] == two["payTo"] == SHOP
    assert offers.decode(offers.encode(two)) == two
    unnamed = replace(OFFER, domain=replace(DOMAIN, chain_id=31337))
    assert unnamed.to_wire_v1() is None
    assert offers.challenge_v1([unnamed], "pay")["accepts"] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": 0}, "amount must be at least 1"),
        ({"amount": -5}, "amount must be a whole number"),
        ({"pay_to": "shop"}, "pay_to must be an address"),
        ({"timeout_s": 0}, "timeout_s must be from 1 to 3600"),
        ({"timeout_s": 3601}, "timeout_s must be from 1 to 3600"),
        ({"domain": replace(DOMAIN, asset="0x")}, "domain.asset must be an address"),
    ],
)
def test_offer_nobody_could_pay(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(OFFER, **change)


def test_official_models_read_the_challenge() -> None:
    from x402.http.utils import decode_payment_required_header
    from x402.schemas import PaymentRequired

    said = decode_payment_required_header(offers.encode(offers.challenge([OFFER], "pay first")))
    assert isinstance(said, PaymentRequired)
    assert said.accepts[0].amount == "10000"
    assert said.accepts[0].pay_to == SHOP
