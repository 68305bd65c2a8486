"""Idempotency keys of a mandate: what "once" means.

The rule that lives here: a key is computed from the mandate and nothing else, so whoever
presents it, wherever and whenever, asks the ledger about the same payment. All checkouts of one
open mandate share their keys; without one, a transaction is the unit. A refund is another
payment than the charge, and has keys of its own.
"""

from __future__ import annotations

from hashlib import sha256

from bursar.ap2.mandate import AP2Mandate

PREFIX = "ap2"
OPEN_MANDATE, TRANSACTION, REFUND = "open_mandate", "tx", "refund"
HASH_DIGITS = 32
SUFFIX_MAX = 64
_KEPT = frozenset("_-.")


def consume_once_input(mandate: AP2Mandate) -> tuple[str, str]:
    """Return what may happen once: the scope, and the text that names it within the scope."""
    if mandate.open_mandate_hash:
        return OPEN_MANDATE, mandate.open_mandate_hash
    return TRANSACTION, mandate.transaction_id


def idempotency_key(
    mandate: AP2Mandate, phase: str, suffix: str | None = None, *, refund_id: str | None = None
) -> str:
    """Return the key of one step; at most 122 characters, all of them safe in a header.

    Args:
        mandate: whose payment it is.
        phase: `reserve`, `commit`, `release`, `charge`, ...
        suffix: what tells two steps of a phase apart, such as the name of an exception; what is
            not ASCII alphanumeric or one of `_-.` becomes `_`.
        refund_id: names a refund of the payment; it has a scope of its own.
    """
    scope, raw = consume_once_input(mandate)
    if refund_id is not None:
        # The length keeps ("ab", "c") and ("a", "bc") apart. A refund is of one transaction.
        transaction = mandate.transaction_id
        scope, raw = REFUND, f"{len(transaction)}:{transaction}{refund_id}"
    digest = sha256(raw.encode()).hexdigest()[:HASH_DIGITS]
    return ":".join([PREFIX, scope, digest, phase, *([_safe(suffix)] if suffix else [])])


def _safe(suffix: str) -> str:
    kept = (c if (c.isascii() and c.isalnum()) or c in _KEPT else "_" for c in suffix)
    return "".join(kept)[:SUFFIX_MAX]
