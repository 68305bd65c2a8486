"""Receipts that somebody else can check: an Ed25519 signature inside the receipt.

The rule that lives here: what is signed is the whole receipt in its canonical form, with the
member `signature` in it but for its `value`; so no field, algorithm or key id can be changed
afterwards. Who signed is decided by the keys that a verifier brings, never by the file itself.

A receipt that nobody signed has no member `signature`. That is the default, and it proves
nothing: whoever holds the file may have written it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from bursar.ap2.canonical import CanonicalError, canonical

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "signatures need the package cryptography: pip install 'bursar[ap2]'", name=error.name
    ) from error

ALGORITHM: Final = "Ed25519"
MEMBER: Final = "signature"
SCHEMA_PREFIX: Final = "runtime_authority."
KEY_BYTES_MAX: Final = 64 * 1024
SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SIGNED: Final = "every field is as the key's holder signed it"


class SigningError(ValueError):
    """A key that cannot be used, or a receipt that cannot be signed; the message names the fix."""


class ReceiptStatus(StrEnum):
    """What is known about a receipt."""

    VALID = "valid"
    UNSIGNED = "unsigned"
    UNTRUSTED = "untrusted"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class ReceiptVerdict:
    """What a check of a receipt found.

    Attributes:
        status: `valid` is the only one that proves anything.
        reason: one sentence that says why.
        key_id: the key that the receipt names, if it names one.
    """

    status: ReceiptStatus
    reason: str
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What checks signatures; it may be given to anybody."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_BYTES:
            raise SigningError(f"a public Ed25519 key is {PUBLIC_BYTES} bytes")

    @property
    def key_id(self) -> str:
        """The name of the key: `ed25519:` and half of the SHA-256 of its 32 bytes."""
        return f"ed25519:{hashlib.sha256(self.raw).hexdigest()[:32]}"

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """Read a public key as `bursar receipt keygen` or openssl writes it.

        Raises:
            SigningError: not a PEM file, or not a public Ed25519 key.
        """
        if b"PRIVATE KEY" in pem:
            raise SigningError("this is a private key: keep it, and give the public one")
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SigningError(
                "not a public key in PEM form; make one with: bursar receipt keygen"
            ) from error
        if not isinstance(key, Ed25519PublicKey):
            raise SigningError("not an Ed25519 key; make one with: bursar receipt keygen")
        return cls(key.public_bytes_raw())

    @classmethod
    def from_file(cls, path: Path | str) -> PublicKey:
        """Read a public key from a PEM file."""
        return cls.from_pem(_read(path))

    def pem(self) -> bytes:
        """Return the key in PEM form."""
        return self._key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Say whether this key made the signature."""
        try:
            self._key().verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def _key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.raw)


class SigningKey:
    """What signs receipts; the operator makes it, keeps it, and nothing here stores it."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """Take the 32 bytes of an Ed25519 seed.

        Raises:
            SigningError: the seed has another length.
        """
        if not isinstance(seed, bytes) or len(seed) != SEED_BYTES:
            raise SigningError(f"an Ed25519 seed is {SEED_BYTES} bytes")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        """Name the key without telling it."""
        return f"SigningKey({self.key_id})"

    @property
    def key_id(self) -> str:
        """The name of the key, the same as of its public half."""
        return self.public.key_id

    @classmethod
    def from_pem(cls, pem: bytes, password: bytes | None = None) -> SigningKey:
        """Read a private key in PEM form (PKCS 8), encrypted or not.

        Raises:
            SigningError: not a PEM file, not an Ed25519 key, or the wrong password.
        """
        try:
            key = serialization.load_pem_private_key(pem, password)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SigningError(
                "not a private key in PEM form, or its password is missing, wrong or not needed; "
                "make one with: bursar receipt keygen"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningError("not an Ed25519 key; make one with: bursar receipt keygen")
        return cls(key.private_bytes_raw())

    @classmethod
    def from_file(cls, path: Path | str, password: bytes | None = None) -> SigningKey:
        """Read a private key from a PEM file."""
        return cls.from_pem(_read(path), password)

    def pem(self) -> bytes:
        """Return the key in PEM form, not encrypted."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of a signature."""
        return self._key.sign(message)


def sign_receipt(receipt: BaseModel | Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Return a receipt as a JSON document with a signature in it.

    Args:
        receipt: a guard's receipt, or what its `model_dump(by_alias=True)` returned.
        key: the operator's.

    Raises:
        SigningError: it is signed already, it is not a receipt, or it holds something that JSON
            cannot say exactly, such as an amount above 2**53 - 1 microcents.
    """
    document = _document(receipt)
    if document.get(MEMBER) is not None:
        raise SigningError("the receipt is signed already; sign what the guard returned")
    if not is_receipt(document):
        raise SigningError(f"not a receipt: `schema` must be a text that begins {SCHEMA_PREFIX!r}")
    said = {"alg": ALGORITHM, "key_id": key.key_id}
    signed = document | {MEMBER: said}
    try:
        value = key.sign(canonical(signed))
    except CanonicalError as error:
        raise SigningError(f"the receipt cannot be signed: {error}") from error
    return document | {MEMBER: said | {"value": _encoded(value)}}


def verify_receipt(document: Mapping[str, Any], keys: Sequence[PublicKey] = ()) -> ReceiptVerdict:
    """Say what is known about a receipt.

    Args:
        document: the receipt, as JSON was read.
        keys: the public keys that the reader trusts; without any, nothing is ever `valid`.
    """
    member = document.get(MEMBER)
    if member is None:
        return ReceiptVerdict(
            ReceiptStatus.UNSIGNED, "nobody signed this receipt, so it proves nothing"
        )
    if not isinstance(member, Mapping) or set(member) != {"alg", "key_id", "value"}:
        return _invalid("`signature` must hold exactly alg, key_id and value")
    key_id = member["key_id"]
    if not isinstance(key_id, str):
        return _invalid("`signature.key_id` is not text")
    if member["alg"] != ALGORITHM:
        return _invalid(f"`signature.alg` is not {ALGORITHM}", key_id)
    value = _decoded(member["value"])
    if value is None:
        return _invalid(f"`signature.value` is not {SIGNATURE_BYTES} bytes in base64url", key_id)
    signed = {**document, MEMBER: {"alg": ALGORITHM, "key_id": key_id}}
    try:
        message = canonical(signed)
    except CanonicalError as error:
        return _invalid(f"it cannot have been signed: {error}", key_id)
    key = next((key for key in keys if key.key_id == key_id), None)
    if key is None:
        return ReceiptVerdict(ReceiptStatus.UNTRUSTED, _stranger(key_id, keys), key_id)
    if not key.signed(value, message):
        return _invalid("it was changed after it was signed, or this key did not sign it", key_id)
    return ReceiptVerdict(
        ReceiptStatus.VALID, "every field is as the key's holder signed it", key_id
    )


def is_receipt(document: Mapping[str, Any]) -> bool:
    """Say whether a document claims to be a receipt."""
    schema = document.get("schema")
    return isinstance(schema, str) and schema.startswith(SCHEMA_PREFIX)


def _document(receipt: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(receipt, BaseModel):
        return dict(receipt)
    try:
        return receipt.model_dump(mode="json", by_alias=True)
    except ValueError as error:  # what a caller attached cannot be said in JSON
        raise SigningError(f"the receipt cannot be signed: {error}") from error


def _invalid(reason: str, key_id: str | None = None) -> ReceiptVerdict:
    return ReceiptVerdict(ReceiptStatus.INVALID, reason, key_id)


def _stranger(key_id: str, keys: Sequence[PublicKey]) -> str:
    if not keys:
        return f"it names key {key_id}, and no key was given to check it with"
    given = ", ".join(key.key_id for key in keys)
    return f"it names key {key_id}, which is none of those given: {given}"


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decoded(text: object) -> bytes | None:
    """Return the bytes of a signature; None unless it is written in the one way it can be."""
    if not isinstance(text, str):
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == SIGNATURE_BYTES and _encoded(raw) == text else None


def _read(path: Path | str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}") from error
