"""What a payer signs, who signed it, and which nonce an intent has."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.x402 import authorization as eip3009
from bursar.x402 import evm
from bursar.x402.authorization import Authorization, TokenDomain
from bursar.x402.ethereum import Account, keccak

KEY = b"\x01" * 32
PAYER = Account.from_key(KEY).address.lower()
DOMAIN = TokenDomain("USD Coin", "2", 8453, "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913")
SIGNED = Authorization(PAYER, "0x" + "22" * 20, 1_000_000, 0, 1_800_000_000, "0x" + "33" * 32)


@pytest.mark.parametrize(
    ("constant", "signature"),
    [
        (evm.AUTHORIZATION_USED, b"AuthorizationUsed(address,bytes32)"),
        (evm.AUTHORIZATION_CANCELED, b"AuthorizationCanceled(address,bytes32)"),
        (evm.TRANSFER, b"Transfer(address,address,uint256)"),
        (evm.AUTHORIZATION_STATE, b"authorizationState(address,bytes32)"),
        (evm.BALANCE_OF, b"balanceOf(address)"),
    ],
)
def test_constants_are_what_they_say(constant: str, signature: bytes) -> None:
    assert "0x" + keccak(signature).hex()[: len(constant) - 2] == constant


def test_who_signed() -> None:
    assert eip3009.recover(SIGNED, DOMAIN, eip3009.sign(SIGNED, DOMAIN, KEY)) == PAYER


@pytest.mark.parametrize(
    "change",
    [
        {"payer": "0x" + "99" * 20},
        {"pay_to": "0x" + "99" * 20},
        {"value": 1_000_001},
        {"valid_after": 1},
        {"valid_before": 1_800_000_001},
        {"nonce": "0x" + "34" * 32},
    ],
)
def test_each_field_is_signed(change: dict[str, Any]) -> None:
    signature = eip3009.sign(SIGNED, DOMAIN, KEY)
    assert eip3009.recover(replace(SIGNED, **change), DOMAIN, signature) != PAYER


@pytest.mark.parametrize(
    "change",
    [{"name": "USDC"}, {"version": "1"}, {"chain_id": 84532}, {"asset": "0x" + "44" * 20}],
)
def test_the_token_is_signed(change: dict[str, Any]) -> None:
    signature = eip3009.sign(SIGNED, DOMAIN, KEY)
    assert eip3009.recover(SIGNED, replace(DOMAIN, **change), signature) != PAYER


@pytest.mark.parametrize("signature", ["", "0x", "zz", "0x" + "00" * 65, "0x" + "ff" * 65, "0x12"])
def test_signature_of_nobody(signature: str) -> None:
    with pytest.raises(ValueError, match="signature is not one of a key"):
        eip3009.recover(SIGNED, DOMAIN, signature)


def test_wire_and_back() -> None:
    assert Authorization.parse(SIGNED.to_wire()) == SIGNED
    assert all(isinstance(value, str) for value in SIGNED.to_wire().values())
    shouted = SIGNED.to_wire() | {"from": "0x" + PAYER[2:].upper()}
    assert Authorization.parse(shouted) == SIGNED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("from", "0x12"),
        ("from", None),
        ("to", "0x" + "gg" * 20),
        ("to", "0x" + "22" * 20 + "\n"),
        ("value", "-1"),
        ("value", "1.5"),
        ("value", "\uff11"),
        ("value", True),
        ("value", str(2**256)),
        ("value", "9" * 100_000),
        ("validAfter", ""),
        ("validBefore", "0x10"),
        ("nonce", "0x" + "33" * 31),
        ("nonce", 7),
    ],
)
def test_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^authorization\.{field} must be"):
        Authorization.parse(SIGNED.to_wire() | {field: value})


def test_no_object_at_all() -> None:
    with pytest.raises(ValueError, match="must be an object"):
        Authorization.parse([])  # type: ignore[arg-type]  # what a stranger may send


def test_intent_has_one_nonce() -> None:
    assert eip3009.intent_nonce("order-7") == eip3009.intent_nonce("order-7")
    assert evm.bytes32(eip3009.intent_nonce("order-7"), "nonce")
    with pytest.raises(ValueError, match="must not be empty"):
        eip3009.intent_nonce("")


@given(*[st.text(min_size=1, max_size=8)] * 2, *[st.text(max_size=8)] * 2)
def test_intents_do_not_share_nonces(one: str, two: str, mandate: str, other: str) -> None:
    same = (one, mandate) == (two, other)
    assert (eip3009.intent_nonce(one, mandate) == eip3009.intent_nonce(two, other)) is same
