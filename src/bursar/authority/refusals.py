"""Refusals as they travel: the error body, with what would have helped.

The rule that lives here (protocol 11.6): every denial says in `details.deny_detail` what
blocked, with the numbers, and the cheapest change that would pass.
"""

from __future__ import annotations

from typing import Any

from bursar.authority.call import Answer
from bursar.core.outcomes import Refused
from bursar.core.throttle import seconds
from bursar.vocabulary import ErrorCode
from bursar.wire.codec import encode
from bursar.wire.problems import problem, status_of

_DENIALS = frozenset(
    {
        ErrorCode.BUDGET_EXCEEDED,
        ErrorCode.BUDGET_FROZEN,
        ErrorCode.BUDGET_CLOSED,
        ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
        ErrorCode.DEBT_OUTSTANDING,
        ErrorCode.TENANT_CLOSED,
    }
)
FIX_LENGTH_MAX = 512
CONFLICT, TOO_MUCH = 409, 400


def answer(refused: Refused, request_id: str, trace_id: str) -> Answer:
    """Return the error response for a refusal."""
    found = details(refused)
    message = refused.message
    if refused.fix is not None and "deny_detail" not in found:
        message = f"{message}. {refused.fix}"
    body = problem(refused.code, message, request_id, trace_id, found)
    return Answer(_status(refused), encode(body))


def _status(refused: Refused) -> int:
    """Return the status of a refusal; two codes mean different things in different places."""
    if refused.in_conflict:
        return CONFLICT
    if refused.code is ErrorCode.LIMIT_EXCEEDED and refused.retry_after_ms is None:
        return TOO_MUCH  # no waiting helps: the request asks for more than one may change
    return status_of(refused.code)


def headers(refused: Refused) -> dict[str, str]:
    """Return the headers that belong to a refusal: when to ask again, where waiting helps."""
    if refused.retry_after_ms is None:
        return {}
    return {"retry-after": str(seconds(refused.retry_after_ms))}


def details(refused: Refused) -> dict[str, Any]:
    """Return the machine-readable part of a refusal; empty if there is none."""
    found = dict(refused.details)
    if refused.code in _DENIALS or refused.reason is not None:
        found["deny_detail"] = _deny_detail(refused)
    return found


def _deny_detail(refused: Refused) -> dict[str, Any]:
    detail: dict[str, Any] = {"reason_code": refused.reason_code}
    if refused.scope is not None:
        detail["blocked_by_scope"] = refused.scope
    if refused.fix is not None:
        detail["suggested_fix"] = refused.fix[:FIX_LENGTH_MAX]
    if refused.remaining is not None:
        detail["budget_remaining"] = refused.remaining
    return detail
