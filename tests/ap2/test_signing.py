"""Signed receipts: whatever is changed afterwards is seen, and only named keys are believed."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ap2.mandates import mandate
from bursar.ap2 import PublicKey, ReceiptStatus, SigningError, SigningKey
from bursar.ap2 import sign_receipt as sign
from bursar.ap2 import verify_receipt as verify
from bursar.ap2.canonical import read_json
from bursar.ap2.receipt import build_runtime_authority_receipt

SEED = bytes(range(32))
KEY = SigningKey(SEED)
OTHER = SigningKey(bytes(32))
RECEIPT: dict[str, Any] = {
    "schema": "runtime_authority.ap2.payment.charge.v1",
    "decision": "ALLOW",
    "reservation_id": "01a1fbb9-1350-75df-9985-94342bf6c3c8",
    "tenant": "acme",
    "agent": None,
    "ap2_transaction_id": "tx-Échec-😂",
    "amount_unit": "USD_MICROCENTS",
    "amount_micros": 19_900_000_000,
    "policy_keys": {"host": "shop.example", "custom": {"payment_currency": "USD"}},
    "issued_at_ms": 1_790_000_000_000,
    "committed": True,
    "psp_ref": "psp_1",
    "extra": {"lines": [1, 2.5, "x"]},
}
SIGNED = sign(RECEIPT, KEY)


def status(document: Any, *keys: SigningKey) -> ReceiptStatus:
    return verify(document, [key.public for key in keys]).status


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where every member and element of a document is."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [p for key, below in inner for p in ((*at, key), *paths(below, (*at, key)))]


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    spot = copy
    for step in path[:-1]:
        spot = spot[step]
    if value is ...:
        del spot[path[-1]]
    else:
        spot[path[-1]] = value
    return copy


def test_a_signed_receipt_is_valid_and_otherwise_unchanged() -> None:
    assert status(SIGNED, KEY) is ReceiptStatus.VALID
    assert status(json.loads(json.dumps(SIGNED, indent=3)), OTHER, KEY) is ReceiptStatus.VALID
    assert {name: SIGNED[name] for name in RECEIPT} == RECEIPT
    assert SIGNED["signature"].keys() == {"alg", "key_id", "value"}
    assert "signature" not in RECEIPT


def test_signing_is_the_same_each_time_and_everywhere() -> None:
    """A vector: the receipt `{"schema": ...}` under the seed 00 01 02 ... 1f."""
    signed = sign({"schema": "runtime_authority.test"}, KEY)
    assert KEY.key_id == "ed25519:56475aa75463474c0285df5dbf2bcab7"
    message = (
        b'{"schema":"runtime_authority.test","signature":{"alg":"Ed25519","key_id":"'
        + KEY.key_id.encode()
        + b'"}}'
    )
    raw = ed25519.Ed25519PrivateKey.from_private_bytes(SEED).sign(message)
    assert KEY.public.signed(raw, message)
    assert sign({"schema": "runtime_authority.test"}, KEY) == signed
    assert base64.urlsafe_b64decode(signed["signature"]["value"] + "==") == raw


@pytest.mark.parametrize("path", paths(SIGNED), ids=str)
@pytest.mark.parametrize("value", [..., None, "other", 7, [], {}], ids=str)
def test_no_member_can_be_changed(path: tuple[Any, ...], value: Any) -> None:
    """Every member and element, at every depth, removed or replaced: never valid."""
    other = changed(SIGNED, path, value)
    assert (status(other, KEY) is ReceiptStatus.VALID) == (other == SIGNED)


@pytest.mark.parametrize("at", [(), ("policy_keys",), ("extra",), ("signature",)], ids=str)
def test_nothing_can_be_added(at: tuple[Any, ...]) -> None:
    assert status(changed(SIGNED, (*at, "more"), 1), KEY) is ReceiptStatus.INVALID


@given(st.integers(0, 85), st.sampled_from("ABCXYZabcxyz0189-_"))
def test_no_character_of_the_signature_can_be_changed(place: int, character: str) -> None:
    """The last character, too, though base64 would ignore four of its bits."""
    value = SIGNED["signature"]["value"]
    other = value[:place] + character + value[place + 1 :]
    verdict = status(changed(SIGNED, ("signature", "value"), other), KEY)
    assert (verdict is ReceiptStatus.VALID) == (other == value)


@pytest.mark.parametrize(
    "value", ["", "A", SIGNED["signature"]["value"][:-1], SIGNED["signature"]["value"] + "==", "é"]
)
def test_a_signature_of_another_shape_is_invalid(value: str) -> None:
    verdict = verify(changed(SIGNED, ("signature", "value"), value), [KEY.public])
    assert (verdict.status, verdict.key_id) == (ReceiptStatus.INVALID, KEY.key_id)
    assert "64 bytes in base64url" in verdict.reason


def test_only_a_given_key_is_believed() -> None:
    """Another key, or none, is never enough; a forged key id is not, either."""
    assert status(SIGNED) is ReceiptStatus.UNTRUSTED
    assert status(SIGNED, OTHER) is ReceiptStatus.UNTRUSTED
    forged = sign(RECEIPT, OTHER)
    assert status(forged, KEY) is ReceiptStatus.UNTRUSTED
    renamed = changed(forged, ("signature", "key_id"), KEY.key_id)
    assert status(renamed, KEY) is ReceiptStatus.INVALID


def test_unsigned_is_said() -> None:
    assert status(RECEIPT, KEY) is ReceiptStatus.UNSIGNED
    assert status({**RECEIPT, "signature": None}, KEY) is ReceiptStatus.UNSIGNED


def test_a_signed_receipt_is_not_signed_again() -> None:
    with pytest.raises(SigningError, match="signed already"):
        sign(SIGNED, KEY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "invoice.v1"}, "not a receipt: `schema` must be a text that begins"),
        ({"schema": None}, "not a receipt"),
        ({"amount_micros": 2**53}, "amount_micros is 9007199254740992, beyond"),
        ({"extra": {"x": float("nan")}}, "extra.x is nan"),
        ({"extra": {"x": "\ud800"}}, "extra.x holds half of a surrogate pair"),
        ({"extra": {"x": object()}}, "extra.x is a object"),
    ],
)
def test_what_cannot_be_signed_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SigningError, match=said):
        sign(RECEIPT | change, KEY)


class Model(BaseModel):
    schema_name: str = Field("runtime_authority.test", alias="schema")
    extra: dict[str, Any] | None = None


def test_a_model_is_signed_as_it_is_dumped() -> None:
    """Aliases stand in what is signed, and what JSON cannot say is an error of ours."""
    signed = sign(Model(extra={"a": 1}), KEY)
    assert (signed["schema"], status(signed, KEY)) == (
        "runtime_authority.test",
        ReceiptStatus.VALID,
    )
    with pytest.raises(SigningError, match="cannot be signed"):
        sign(Model(extra={"a": object()}), KEY)


def test_the_receipt_of_a_guard_is_signed_and_survives_its_file() -> None:
    """Every field of it, fractions in what was attached included, through a file and back."""
    receipt = build_runtime_authority_receipt(
        mandate(),
        decision="ALLOW",
        reservation_id="res-1",
        tenant="acme",
        agent=None,
        action_kind="payment.charge",
        policy_keys={"host": "shop.example"},
        amount_micros=2**53 - 1,
        committed=True,
        extra={"fee": 0.1, "large": 1e15, "text": "\u00e9\U0001f602"},
    )
    assert not receipt.signed
    signed = sign(receipt, KEY)
    again = read_json(json.dumps(signed, indent=1, sort_keys=True))
    assert status(again, KEY) is ReceiptStatus.VALID
    assert again["schema"] == "runtime_authority.ap2.payment.charge.v1"
    with pytest.raises(SigningError, match="amount_micros is 9007199254740992"):
        sign(receipt.model_copy(update={"amount_micros": 2**53}), KEY)


def test_keys_are_read_as_they_were_written(tmp_path: Path) -> None:
    """PEM of ours and of openssl's form, plain and encrypted, gives the same key."""
    (tmp_path / "key").write_bytes(KEY.pem())
    (tmp_path / "pub").write_bytes(KEY.public.pem())
    assert SigningKey.from_file(tmp_path / "key").key_id == KEY.key_id
    assert PublicKey.from_file(tmp_path / "pub") == KEY.public
    locked = ed25519.Ed25519PrivateKey.from_private_bytes(SEED).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    assert SigningKey.from_pem(locked, b"secret").key_id == KEY.key_id
    for password in (None, b"wrong"):
        with pytest.raises(SigningError, match="password"):
            SigningKey.from_pem(locked, password)
    with pytest.raises(SigningError, match="password"):
        SigningKey.from_pem(KEY.pem(), b"needless")


def test_other_keys_are_refused(tmp_path: Path) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    pem = curve.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = curve.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(SigningError, match="not an Ed25519 key"):
        SigningKey.from_pem(pem)
    with pytest.raises(SigningError, match="not an Ed25519 key"):
        PublicKey.from_pem(public)
    with pytest.raises(SigningError, match="this is a private key"):
        PublicKey.from_pem(KEY.pem())
    for read in (SigningKey.from_pem, PublicKey.from_pem):
        with pytest.raises(SigningError, match="PEM form"):
            read(b"-----BEGIN nonsense")
    with pytest.raises(SigningError, match="No such file"):
        SigningKey.from_file(tmp_path / "none")
    for seed in (b"", bytes(31), bytes(33)):
        with pytest.raises(SigningError, match="32 bytes"):
            SigningKey(seed)
    with pytest.raises(SigningError, match="32 bytes"):
        PublicKey(b"short")


def test_a_key_does_not_tell_itself() -> None:
    assert repr(KEY) == f"SigningKey({KEY.key_id})"
    assert SEED.hex() not in repr(vars(type(KEY))) + repr(KEY)


@pytest.mark.parametrize("package", ["rfc8785", "cryptography"])
def test_a_missing_extra_is_named(package: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None\nimport bursar.ap2\n"
        "try:\n    bursar.ap2.sign_receipt\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "pip install 'bursar[ap2]'" in ran.stdout
