"""The only place that draws randomness for identifiers and secrets.

The rule that lives here: an id is chosen before the command that carries it runs, so the
core stays a pure function of its arguments.
"""

from __future__ import annotations

import secrets

SECRET_PREFIX = "cyc_live_"
KEY_PREFIX_LENGTH = 14


def new_id(now_ms: int) -> str:
    """Return a UUID version 7 (RFC 9562) as text: 48 bits of time, then 74 random bits.

    Ids that sort by time keep neighbours in time neighbours on disk, which matters at a
    million reservations.
    """
    low = secrets.randbits(74)
    bits = (now_ms & (2**48 - 1)) << 80 | 0x7 << 76 | (low >> 62) << 64 | 0b10 << 62
    text = f"{bits | low & (2**62 - 1):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def prefixed_id(prefix: str) -> str:
    """Return `prefix` followed by 128 random bits in hex, e.g. `key_9f…`."""
    return prefix + secrets.token_hex(16)


def new_pepper() -> bytes:
    """Return 256 random bits that key the hashes of a store's API secrets."""
    return secrets.token_bytes(32)


def new_admin_key() -> str:
    """Return an operator's key: `cyc_admin_` and 256 random bits in URL-safe base64."""
    return "cyc_admin_" + secrets.token_urlsafe(32)


def new_secret() -> str:
    """Return an API key secret: `cyc_live_` and 256 random bits in URL-safe base64."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def new_trace_id() -> str:
    """Return 16 random bytes in lower-case hex, never all zero (W3C Trace Context)."""
    while True:
        trace_id = secrets.token_hex(16)
        if trace_id.strip("0"):
            return trace_id
