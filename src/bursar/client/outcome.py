"""What an answer means for the money it is about: one table for every flow.

The rule that lives here: only the expected status with a body that fits its schema is
success; only a refusal that is understood ends the asking; everything else is unknown, and
unknown is asked again with the same idempotency key. A row decides, the first that fits:

| answer | outcome |
|---|---|
| expected status, body fits | SETTLED |
| any other 2xx | AMBIGUOUS |
| no answer (-1), 5xx | AMBIGUOUS |
| 429, or code LIMIT_EXCEEDED | LIMITED, with Retry-After |
| 401, 403 | UNAUTHORIZED |
| 410, or code RESERVATION_EXPIRED | EXPIRED |
| code RESERVATION_FINALIZED or IDEMPOTENCY_MISMATCH | FINAL |
| another code of the protocol, 4xx | REJECTED |
| 4xx with no code, or one nobody knows | UNCLASSIFIED |
| 3xx, or a status that is none | AMBIGUOUS |
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any

from bursar.client.response import CyclesResponse
from bursar.vocabulary import ErrorCode

_RETRIED = frozenset({ErrorCode.INTERNAL_ERROR, ErrorCode.LIMIT_EXCEEDED})
RECOGNISED = frozenset(ErrorCode) - _RETRIED
"""Codes whose meaning is known and final for the same request."""

_ALREADY_FINAL = frozenset({ErrorCode.RESERVATION_FINALIZED, ErrorCode.IDEMPOTENCY_MISMATCH})


@unique
class Verdict(StrEnum):
    """What is known after an answer; see the module's table."""

    SETTLED = "settled"
    AMBIGUOUS = "ambiguous"
    LIMITED = "limited"
    UNAUTHORIZED = "unauthorized"
    EXPIRED = "expired"
    FINAL = "final"
    REJECTED = "rejected"
    UNCLASSIFIED = "unclassified"


@unique
class Expected(StrEnum):
    """Which success a call can have; names the schema of the answer."""

    CREATE = "create"
    COMMIT = "commit"
    RELEASE = "release"
    EXTEND = "extend"
    EVENT = "event"


_STATUS = {Expected.EVENT: 201}
_SAYS = {
    Expected.COMMIT: "COMMITTED",
    Expected.RELEASE: "RELEASED",
    Expected.EXTEND: "ACTIVE",
    Expected.EVENT: "APPLIED",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer and what it means; `answer` is the body of a success, read."""

    verdict: Verdict
    response: CyclesResponse
    answer: Any = None

    @property
    def settled(self) -> bool:
        """Whether the call did what it was for."""
        return self.verdict is Verdict.SETTLED

    @property
    def final(self) -> bool:
        """Whether asking again with the same key can change nothing."""
        return self.verdict in (Verdict.SETTLED, Verdict.FINAL, Verdict.REJECTED)

    @property
    def retry_after_ms(self) -> int | None:
        """How long the server asked to be left alone, in milliseconds."""
        if self.verdict is not Verdict.LIMITED:
            return None
        return self.response.retry_after_ms_header


def classify(response: CyclesResponse, expected: Expected) -> Outcome:
    """Return what `response` means for a call of which `expected` is the success."""
    if 200 <= response.status < 300:
        answer = None
        if response.status == _STATUS.get(expected, 200):
            answer = read_answer(response.body, expected)
        verdict = Verdict.AMBIGUOUS if answer is None else Verdict.SETTLED
        return Outcome(verdict, response, answer)
    return Outcome(_refusal(response), response)


def _refusal(response: CyclesResponse) -> Verdict:
    status, code = response.status, response.error_code
    if status == 429 or code == ErrorCode.LIMIT_EXCEEDED:
        return Verdict.LIMITED
    if not 400 <= status < 500:
        return Verdict.AMBIGUOUS
    if status in (401, 403):
        return Verdict.UNAUTHORIZED
    if status == 410 or code == ErrorCode.RESERVATION_EXPIRED:
        return Verdict.EXPIRED
    if code in _ALREADY_FINAL:
        return Verdict.FINAL
    return Verdict.REJECTED if code in RECOGNISED else Verdict.UNCLASSIFIED


def read_answer(body: Any, expected: Expected) -> Any:
    """Return a success body as its model, or None if it does not fit its schema.

    Fields that nobody knows yet are allowed (the protocol grows by adding fields); null,
    a wrong type and a missing field are not, because a proxy's page or half an answer must
    never end the asking.
    """
    if not isinstance(body, dict):
        return None
    if expected in _SAYS and body.get("status") != _SAYS[expected]:
        return None
    schema = _schemas()[expected]
    try:
        return schema.validate_python(body, strict=True)
    except ValueError:  # a pydantic ValidationError is one
        return None


@functools.cache
def _schemas() -> dict[Expected, Any]:
    """Return what reads each answer; pydantic is loaded with the first one, not with the SDK."""
    from bursar.client import models

    answers: dict[Expected, Any] = {
        Expected.CREATE: models.ReservationCreateResponse,
        Expected.COMMIT: models.CommitResponse,
        Expected.RELEASE: models.ReleaseResponse,
        Expected.EXTEND: models.ReservationExtendResponse,
        Expected.EVENT: models.EventCreateResponse,
    }
    return {expected: model.__pydantic_validator__ for expected, model in answers.items()}
