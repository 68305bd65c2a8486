"""The one table of error codes: status, meaning, advice, and whether a retry can help.

The rule that lives here: a status is written nowhere else. `retryable` means that sending
the same request again, unchanged, may succeed without anybody else acting first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bursar.vocabulary import ErrorCode


@dataclass(frozen=True, slots=True)
class Problem:
    """What one error code means and what its receiver can do about it."""

    status: int
    meaning: str
    advice: str
    retryable: bool = False


_FIX_REQUEST = "Correct the request; as it stands it can never succeed."

PROBLEMS: Mapping[ErrorCode, Problem] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: Problem(
            400,
            "The request breaks the schema, a range, a filter, a cursor or a header rule.",
            _FIX_REQUEST,
        ),
        ErrorCode.UNAUTHORIZED: Problem(
            401,
            "The credential is missing, unknown, revoked or expired.",
            "Send a valid key in X-Cycles-API-Key or X-Admin-API-Key.",
        ),
        ErrorCode.FORBIDDEN: Problem(
            403,
            "The credential is valid but does not reach this tenant, scope or operation.",
            "Use a key of the tenant that owns the object, with a scope filter that covers it.",
        ),
        ErrorCode.NOT_FOUND: Problem(
            404,
            "No such reservation, key or path, or no budget in any unit above the subject.",
            "Check the id; for a missing budget, create one on a scope above the subject.",
        ),
        ErrorCode.BUDGET_EXCEEDED: Problem(
            409,
            "A budget has too little left for the amount.",
            "Ask for less, or try again after the budget is funded or holds are settled.",
        ),
        ErrorCode.BUDGET_FROZEN: Problem(
            409,
            "An operator froze a budget that the request needs.",
            "Try again after the budget is unfrozen.",
        ),
        ErrorCode.BUDGET_CLOSED: Problem(
            409,
            "A budget that the request needs is closed for good.",
            "Never retry; use another scope.",
        ),
        ErrorCode.RESERVATION_EXPIRED: Problem(
            410,
            "The lease is over, and so is its grace period where that counts.",
            "If the action happened, account for it with POST /v1/events.",
        ),
        ErrorCode.RESERVATION_FINALIZED: Problem(
            409,
            "The reservation was already committed or released.",
            "Never retry; read the reservation to see how it ended.",
        ),
        ErrorCode.IDEMPOTENCY_MISMATCH: Problem(
            409,
            "The idempotency key was used before with a different payload.",
            "Send the original payload again, or use a new key for a new operation.",
        ),
        ErrorCode.UNIT_MISMATCH: Problem(
            400,
            "The unit differs from that of the reservation or of every budget in reach.",
            "Use one of the units named in details.expected_units, where given.",
        ),
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED: Problem(
            409,
            "A budget is over its limit, or the charge would take it beyond its overdraft.",
            "Back off until an operator funds the budget or repays its debt.",
        ),
        ErrorCode.DEBT_OUTSTANDING: Problem(
            409,
            "A budget owes a debt and allows no overdraft.",
            "Try again after the debt is repaid.",
        ),
        ErrorCode.MAX_EXTENSIONS_EXCEEDED: Problem(
            409,
            "The reservation was extended as often as its tenant allows.",
            "Never retry; settle the reservation before its lease ends.",
        ),
        ErrorCode.LIMIT_EXCEEDED: Problem(
            429,
            "Too many requests; this says nothing about any budget. With status 400: a bulk action "
            "matches more than 500 rows.",
            "Send the same request again after the Retry-After header's seconds; with status 400, "
            "narrow the filter.",
            retryable=True,
        ),
        ErrorCode.TENANT_CLOSED: Problem(
            409,
            "The tenant that owns the object is closed for good.",
            "Never retry.",
        ),
        ErrorCode.INTERNAL_ERROR: Problem(
            500,
            "The server could not finish; whether the operation took effect is unknown.",
            "Send the same request with the same idempotency key again.",
            retryable=True,
        ),
        ErrorCode.INSUFFICIENT_PERMISSIONS: Problem(
            403,
            "The key lacks the permission that the operation needs.",
            "Use a key with the permission that the message names.",
        ),
        ErrorCode.TENANT_NOT_FOUND: Problem(
            404,
            "No tenant has this id.",
            "Check the id, or create the tenant first.",
        ),
        ErrorCode.BUDGET_NOT_FOUND: Problem(
            404,
            "No budget has this scope and unit.",
            "Check scope and unit, or create the budget first.",
        ),
        ErrorCode.DUPLICATE_RESOURCE: Problem(
            409,
            "Something else already has this identity.",
            "Choose another id or scope, or change the existing one.",
        ),
        ErrorCode.KEY_REVOKED: Problem(
            409,
            "The API key is revoked for good.",
            "Never retry; create a new key.",
        ),
        ErrorCode.KEY_EXPIRED: Problem(
            409,
            "The API key has expired and cannot be changed.",
            "Never retry; create a new key.",
        ),
        ErrorCode.COUNT_MISMATCH: Problem(
            409,
            "A bulk action matches more or fewer rows than expected_count; nothing was changed.",
            "List what the filter matches now, and send the request with that count.",
        ),
    }
)


def status_of(code: ErrorCode) -> int:
    """Return the HTTP status of an error code."""
    return PROBLEMS[code].status


MESSAGE_LENGTH_MAX = 4_000
"""A message quotes what was sent, and a megabyte of that helps nobody."""


def problem(
    code: ErrorCode,
    message: str,
    request_id: str,
    trace_id: str,
    details: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return the body of an error response; `details` is left out when there are none."""
    body: dict[str, object] = {
        "error": code.value,
        "message": message if len(message) <= MESSAGE_LENGTH_MAX else _cut(message),
        "request_id": request_id,
        "trace_id": trace_id,
    }
    if details:
        body["details"] = dict(details)
    return body


def _cut(message: str) -> str:
    return message[: MESSAGE_LENGTH_MAX - 1] + "…"
