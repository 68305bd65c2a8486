"""What may be kept of a facilitator's own words: nothing that a payment could be made with.

The rule that lives here: an answer may quote the request, whole or in part, as hexadecimal, as
base64, as numbers, or cut off by a bound. So what is kept is not what was found harmless: every
long run of signs that could carry a secret is masked, unless it is a public part of this very
payment; and where a piece of the signature is left all the same, nothing is kept.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final

from bursar.x402.presented import Presented

PIECE: Final = 12
"""So many hexadecimal digits of a signature in a row are no accident, and too many to keep."""
MASK: Final = "(masked)"
QUOTED: Final = "(it quotes the signature)"

_OPAQUE: Final = re.compile(r"(?=[A-Za-z_-]*[0-9+/=])[A-Za-z0-9+/=_-]{20,}")
_WORDS: Final = re.compile(r"(?:[a-z]{2,}\d{0,4}_)+[a-z]{2,}\d{0,4}")
_BYTES: Final = re.compile(r"(?:(?:0x)?[0-9A-Fa-f]{1,3}[\s,:;]+){3,}(?:0x)?[0-9A-Fa-f]{1,3}")
_NO_DIGIT: Final = re.compile(r"[^0-9a-f]+")


def kept(text: str, presented: Presented, *public: str | None) -> str:
    """Return what may be kept of a text about a payment.

    Args:
        text: what the other side said; it may be cut off anywhere.
        presented: the payment that it may quote.
        public: what else is known, and no secret, such as the transaction.
    """
    signed = presented.authorization
    known = {signed.payer, signed.pay_to, signed.nonce, *filter(None, public)}

    def masked(run: re.Match[str]) -> str:
        if _WORDS.fullmatch(run[0]):  # a reason, as facilitators spell them
            return run[0]
        return run[0] if run[0].lower() in known else MASK

    shown = _BYTES.sub(MASK, _OPAQUE.sub(masked, text))
    return QUOTED if is_secret(shown, presented, *known) else shown


def is_secret(text: str, presented: Presented, *public: str) -> bool:
    """Say whether a text holds a piece of a payment's signature, plain or as base64."""
    for seen in (text, *_decoded(text)):
        plain = seen.lower()
        for one in public:
            plain = plain.replace(one.lower(), " ")
        digits = _NO_DIGIT.sub("", plain)
        if any(piece in digits for piece in _pieces(presented)):
            return True
    return False


def _pieces(presented: Presented) -> Iterator[str]:
    """Return every piece of a signature that must not be kept; a run of zeros tells nothing."""
    secret = presented.signature.removeprefix("0x").lower()
    for at in range(max(1, len(secret) - PIECE + 1)):
        piece = secret[at : at + PIECE]
        if len(set(piece)) > 2:
            yield piece


def _decoded(text: str) -> Iterator[str]:
    """Return what base64 in a text says, wherever in a group of four it begins."""
    for run in re.findall(r"[A-Za-z0-9+/_-]{16,}", text):
        plain = run.replace("-", "+").replace("_", "/")
        for start in range(4):
            part = plain[start:]
            try:
                yield base64.b64decode(part[: len(part) // 4 * 4]).decode("latin-1")
            except (binascii.Error, ValueError):
                continue
