"""From what went wrong to an answer: the one table of exceptions at the HTTP boundary.

The rule that lives here: whatever happens, the caller gets the protocol's error body; what it
may say of the ledger is `authority.unforeseen`'s to know.
"""

from __future__ import annotations

from collections.abc import Iterable

from bursar.authority import refusals
from bursar.authority.call import Answer
from bursar.authority.unforeseen import refused_of
from bursar.vocabulary import ErrorCode
from bursar.wire.codec import encode
from bursar.wire.problems import problem

RETRY_AFTER_MS = 1_000


class HttpError(Exception):
    """A request that fails as HTTP, before it means anything to the ledger."""

    def __init__(
        self, status: int, code: ErrorCode, message: str, headers: dict[str, str] | None = None
    ) -> None:
        """Keep the status, the protocol's code, a message and extra headers."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}


def error_answer(error: Exception, request_id: str, trace_id: str) -> tuple[Answer, dict[str, str]]:
    """Return the answer and extra headers for an exception."""
    if isinstance(error, HttpError):
        body = problem(error.code, str(error), request_id, trace_id)
        return Answer(error.status, encode(body)), error.headers
    refused = refused_of(error)
    return refusals.answer(refused, request_id, trace_id), refusals.headers(refused)


def wrong_method(method: str, allowed: Iterable[str]) -> HttpError:
    """Return the error for a method that a path does not have."""
    allow = ", ".join(sorted(allowed))
    message = f"Method {method[:20]} is not allowed here; use {allow}"
    return HttpError(405, ErrorCode.INVALID_REQUEST, message, {"allow": allow})
