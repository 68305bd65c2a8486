"""What a facilitator's answer proves: a table of reasons, and how a response is read by it.

The rule that lives here: only an answer that says why nothing can have moved is a refusal.
Everything else leaves the payment unknown or names a transaction to look for; no answer at
all ever settles a payment, the chain does that.

    names a transaction                 ACKNOWLEDGED  whatever else it says, look there
    names a payment id                  ACKNOWLEDGED  success or pending, in its own books
    no reason but that nothing was sent REFUSED       with 200, 400 and the statuses below
    401, 403, 404, 405, 411, 413, 414,
    415, 429, 431 and not a word of
    what it did with the payment        REFUSED       its door answered, not what pays
    5xx, 408, 3xx, 400 and 422 for any
    other reason, a success without a
    transaction, anything unreadable    LOST

A 400 alone is none: facilitators answer it to whatever their settling throws, and waiting for
the receipt of a transaction that was sent is a part of that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bursar.payments.outcome import Trigger

RAW_CHARS_MAX = 1000
RETRY_AFTER_S_MAX = 3600

_HASH = re.compile(r"0x[0-9a-fA-F]{64}")

NOTHING_SENT = frozenset(
    {
        # The payment is not what was asked for.
        *("invalid_signature", "invalid_payload", "invalid_exact_evm_payload_signature"),
        *("invalid_exact_evm_payload_recipient_mismatch", "address_mismatch", "amount_mismatch"),
        *("invalid_exact_evm_payload_authorization_value_mismatch", "invalid_scheme"),
        *("invalid_exact_evm_token_name_mismatch", "invalid_exact_evm_token_version_mismatch"),
        *("network_mismatch", "unsupported_scheme", "unsupported_network", "unsupported_asset"),
        *("invalid_network", "invalid_x402_version", "invalid_payment_requirements"),
        *("missing_eip712_domain", "asset_not_deployed_contract", "self_transfer"),
        *("eip6492_factory_not_allowed", "invalid_exact_evm_eip3009_not_supported"),
        *("invalid_exact_evm_payload_undeployed_smart_wallet",),
        # It is too early, or it would fail, and that was seen before anything was sent.
        *("invalid_exact_evm_payload_authorization_valid_after", "authorization_not_yet_valid"),
        *("authorization_validity_too_short",),
        *("insufficient_funds", "insufficient_balance", "invalid_exact_evm_insufficient_balance"),
        # The facilitator could not even look.
        *("invalid_exact_evm_failed_to_verify_signature",),
        *("invalid_exact_evm_failed_to_get_network_config",),
        *("invalid_exact_evm_failed_to_get_asset_info",),
    }
)
"""Reasons that are given before a transaction is sent (x402 2.25, Circle Gateway)."""
DOOR: Final = frozenset({401, 403, 404, 405, 411, 413, 414, 415, 429, 431})
"""Statuses that are given before a request is carried out (RFC 9110)."""
SAID: Final = frozenset({200, 400, 422}) | DOOR
"""Statuses whose reason counts. With any other, something else went wrong as well."""

_REASONS: Final = ("errorReason", "invalidReason", "error", "code", "errorType")
_OUTCOME: Final = frozenset({"success", "errorReason", "invalidReason", "transaction", "payer"})
_HAPPENED: Final = re.compile(
    r"transact|settl|nonce|duplicat|receipt|broadcast|submit|pending|time ?out|timed|revert|mined"
    r"|confirm|hash|internal|unexpected|disconnect|reset|terminat|transfer",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SettleAnswer:
    """What the answer to a settle request proves.

    Attributes:
        trigger: REFUSED, ACKNOWLEDGED or LOST.
        reason: The facilitator's own short reason, or what was wrong with its answer.
        transaction: The transaction that it names, if it is one of a chain.
        payment_id: Its own name for the payment, where it gives one.
        success: It said that the payment succeeded; still a claim.
        retry_after_s: How long it asked to be left alone, at most an hour.
        raw: The beginning of what it said, for an operator.
    """

    trigger: Trigger
    reason: str
    transaction: str | None = None
    payment_id: str | None = None
    success: bool = False
    retry_after_s: int | None = None
    raw: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class VerifyAnswer:
    """Whether a payment would be accepted. `valid` is None where nobody could tell."""

    valid: bool | None
    reason: str = ""
    payer: str | None = None


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """What a facilitator's books say about a payment: a hint where to look, never a proof."""

    trigger: Trigger
    reason: str
    transaction: str | None = None


def transaction_of(body: Mapping[str, Any]) -> str | None:
    """Return the transaction that a body names, lower case, if it is a hash of a chain."""
    for name in ("transaction", "transactionHash", "txHash"):
        said = body.get(name)
        if isinstance(said, str) and _HASH.fullmatch(said):
            return said.lower()
    return None


def payment_id_of(body: Mapping[str, Any]) -> str | None:
    """Return a facilitator's own name for a payment, of at most 256 plain characters."""
    said = body.get("paymentId")
    if not isinstance(said, str):
        said = body.get("transaction")
        if not isinstance(said, str) or said.startswith("0x"):
            return None
    return said[:256] if said.isascii() and said.isprintable() and said else None


def reason_of(body: Mapping[str, Any]) -> str:
    """Return the short reason of a body: letters, digits and underscores, no free text."""
    for name in _REASONS:
        said = body.get(name)
        if isinstance(said, str) and re.fullmatch(r"[A-Za-z0-9_.\-]{1,80}", said):
            return said
    return ""


def retry_after(headers: Mapping[str, str]) -> int | None:
    """Return the seconds of `Retry-After`, clamped; a date counts as not given."""
    said = headers.get("retry-after", "").strip()
    if not (said.isascii() and said.isdigit()):
        return None
    return min(int(said), RETRY_AFTER_S_MAX) if len(said) < 10 else RETRY_AFTER_S_MAX


def read_settle(status: int, headers: Mapping[str, str], body: object, raw: str) -> SettleAnswer:
    """Read an answer to a settle request, as the reference facilitator speaks.

    Args:
        status: of HTTP.
        headers: names in lower case.
        body: the JSON of the body, or None where it was none.
        raw: the body's text, of which the beginning is kept.
    """
    kept = raw[:RAW_CHARS_MAX]
    wait = retry_after(headers)
    if not isinstance(body, Mapping):
        trigger = Trigger.REFUSED if sent_nothing(status, body, raw) else Trigger.LOST
        return SettleAnswer(trigger, f"http_{status}", retry_after_s=wait, raw=kept)
    reason = reason_of(body) or f"http_{status}"
    success = status == 200 and body.get("success") is True
    transaction, payment_id = transaction_of(body), payment_id_of(body)
    pending = success or reason == "settlement_pending"
    if transaction is not None or (payment_id is not None and pending):
        trigger = Trigger.ACKNOWLEDGED
        said = "settled" if success else reason
        return SettleAnswer(trigger, said, transaction, payment_id, success, wait, kept)
    if success:
        reason = "success_without_transaction"
    trigger = Trigger.REFUSED if sent_nothing(status, body, raw) else Trigger.LOST
    return SettleAnswer(trigger, reason, None, payment_id, False, wait, kept)


def sent_nothing(status: int, body: object, raw: str) -> bool:
    """Say whether an answer to a settle request proves that nothing was sent to a chain.

    One reason for which something may have been outweighs every other word of the answer, and
    so does a reason in free text: nobody knows what it means.
    """
    if not isinstance(body, Mapping):
        return status in DOOR and not raw.strip()
    if body.get("success") is True or payment_id_of(body) is not None:
        return False
    reasons = [said for name in _REASONS if (said := body.get(name)) not in (None, "")]
    if reasons and all(isinstance(said, str) and said in NOTHING_SENT for said in reasons):
        return status in SAID
    return status in DOOR and body.keys().isdisjoint(_OUTCOME) and not tells_of_paying(raw)


def tells_of_paying(raw: str) -> bool:
    """Say whether an answer holds a word of somebody who may have begun to pay."""
    return _HAPPENED.search(raw.replace("/settle", "")) is not None


def read_verify(status: int, body: object) -> VerifyAnswer:
    """Read an answer to a verify request; verify moves nothing, so it is only yes or no."""
    if not isinstance(body, Mapping):
        return VerifyAnswer(None, f"http_{status}")
    said, payer = body.get("isValid"), body.get("payer")
    named = payer.lower() if isinstance(payer, str) else None
    if said is True and status == 200:
        return VerifyAnswer(True, payer=named)
    if said is False:
        return VerifyAnswer(False, reason_of(body) or "invalid", named)
    return VerifyAnswer(None, reason_of(body) or f"http_{status}")
