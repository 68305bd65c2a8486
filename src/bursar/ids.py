"""The only place that draws randomness for identifiers and secrets.

The rule that lives here: an id is chosen before the command that carries it runs, so the
core stays a pure function of its arguments. Ids come from blocks of the system's random
bytes, because every question to the system hands the interpreter to another thread; a
secret is always asked for anew.
"""

from __future__ import annotations

import os
import secrets
import threading

SECRET_PREFIX = "cyc_live_"
KEY_PREFIX_LENGTH = 14

_BLOCK_BYTES = 4_096


class _Block(threading.local):
    """Random bytes from the system, each given out once, to one thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop what is left: a forked process must not give it out a second time."""
        self._bytes = b""
        self._next = 0

    def take(self, size: int) -> bytes:
        """Return `size` bytes that nobody else gets."""
        end = self._next + size
        if end > len(self._bytes):
            self._bytes, end = os.urandom(_BLOCK_BYTES), size
        self._next = end
        return self._bytes[end - size : end]


_block = _Block()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_block.forget)


def new_id(now_ms: int) -> str:
    """Return a UUID version 7 (RFC 9562) as text: 48 bits of time, then 74 random bits.

    Ids that sort by time keep neighbours in time neighbours on disk, which matters at a
    million reservations.
    """
    time = f"{now_ms & (2**48 - 1):012x}"
    low = _block.take(10).hex()
    variant = "89ab"[int(low[3], 16) & 3]
    return f"{time[:8]}-{time[8:]}-7{low[:3]}-{variant}{low[4:7]}-{low[7:19]}"


def new_key() -> str:
    """Return an idempotency key: a UUID version 4 (RFC 9562) as text, 122 random bits."""
    drawn = _block.take(16)
    bits, variant = drawn.hex(), "89ab"[drawn[8] & 3]
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-{variant}{bits[17:20]}-{bits[20:]}"


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
        trace_id = _block.take(16).hex()
        if trace_id.strip("0"):
            return trace_id
