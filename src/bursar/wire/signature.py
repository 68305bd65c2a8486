"""The signature of a webhook's body: made by who sends, checked by who receives.

The rule that lives here: it is computed over the raw bytes as they travel, and compared in
constant time. Whoever parses a body first and checks later has trusted it already.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

EVENT_ID_HEADER: Final = "X-Cycles-Event-Id"
EVENT_TYPE_HEADER: Final = "X-Cycles-Event-Type"
SIGNATURE_HEADER: Final = "X-Cycles-Signature"
TRACE_ID_HEADER: Final = "X-Cycles-Trace-Id"
_PREFIX: Final = "sha256="


def sign(secret: str, body: bytes) -> str:
    """Return the value of `X-Cycles-Signature` for a body."""
    return _PREFIX + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def is_signed(secret: str, body: bytes, header: str | None) -> bool:
    """Return whether `header` is the signature of a body under this secret."""
    return header is not None and hmac.compare_digest(sign(secret, body).encode(), header.encode())
