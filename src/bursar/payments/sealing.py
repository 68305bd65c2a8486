"""Signed authorizations, encrypted for as long as they are stored.

The rule that lives here: a payload is stored sealed or not at all. It is sealed to one
payment's id, so that moved to another record it opens nothing; without an operator's key
nothing is stored, and a payment whose answer was lost cannot be presented again by itself.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
KEY_VARIABLE: Final = "BURSAR_PAYMENT_KEY"
KEY_FILE_VARIABLE: Final = "BURSAR_PAYMENT_KEY_FILE"


class SealError(ValueError):
    """A key that is none, or a payload that this key did not seal for this payment."""


class Sealer:
    """Seals payloads with AES-256-GCM under one key."""

    def __init__(self, key: bytes) -> None:
        """Take a key of 32 bytes."""
        if len(key) != KEY_BYTES:
            raise SealError(f"a payment key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)

    def seal(self, payment_id: str, payload: bytes) -> bytes:
        """Return a payload that only this key opens, for this payment only."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, payload, payment_id.encode())

    def unseal(self, payment_id: str, sealed: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            SealError: it was sealed with another key or for another payment, or altered.
        """
        nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, text, payment_id.encode())
        except (InvalidTag, ValueError) as error:
            raise SealError(
                f"the payload of payment {payment_id} was not sealed with this key, or altered"
            ) from error


def sealer_from(environment: Mapping[str, str]) -> Sealer | None:
    """Return the operator's sealer; None if no key is set, and then no payload is stored.

    The key is base64 of 32 bytes, in `BURSAR_PAYMENT_KEY` or in the file that
    `BURSAR_PAYMENT_KEY_FILE` names.

    Raises:
        SealError: the key cannot be read; the message never holds any of it.
    """
    text = environment.get(KEY_VARIABLE)
    if text is None and (name := environment.get(KEY_FILE_VARIABLE)):
        try:
            text = Path(name).read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise SealError(f"{KEY_FILE_VARIABLE}: the file cannot be read") from error
    if not text or not text.strip():
        return None
    try:
        key = base64.b64decode(text.strip(), altchars=b"-_", validate=True)
    except binascii.Error:
        raise SealError(
            f"{KEY_VARIABLE} is not base64; make a key with: openssl rand -base64 32"
        ) from None
    return Sealer(key)
