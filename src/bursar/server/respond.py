"""From what went wrong to an answer: the one table of exceptions at the HTTP boundary.

The rule that lives here: whatever happens, the caller gets the protocol's error body. An
outcome that is not known is said to be not known; it is never reported as a failure that
surely changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from bursar.authority import refusals
from bursar.authority.call import Answer, Refusal
from bursar.core.outcomes import Refused
from bursar.ledger.batcher import Closed, Overloaded
from bursar.ledger.ports import StoreError, StoreFull, StoreOutcomeUnknown
from bursar.vocabulary import ErrorCode
from bursar.wire.codec import BadRequest, encode
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


class Interrupted(Exception):
    """The server stopped before the request was finished; what became of it is not known."""


def error_answer(error: Exception, request_id: str, trace_id: str) -> tuple[Answer, dict[str, str]]:
    """Return the answer and extra headers for an exception."""
    match error:
        case Refusal():
            answer = refusals.answer(error.refused, request_id, trace_id)
            return answer, refusals.headers(error.refused)
        case BadRequest():
            refused = Refused(ErrorCode.INVALID_REQUEST, error.message)
            return refusals.answer(refused, request_id, trace_id), {}
        case HttpError():
            body = problem(error.code, str(error), request_id, trace_id)
            return Answer(error.status, encode(body)), error.headers
        case Overloaded():
            refused = Refused(
                ErrorCode.LIMIT_EXCEEDED,
                f"The server is at its limit: {error}",
                retry_after_ms=RETRY_AFTER_MS,
            )
            return refusals.answer(refused, request_id, trace_id), refusals.headers(refused)
        case _:
            refused = Refused(ErrorCode.INTERNAL_ERROR, internal_message(error))
            return refusals.answer(refused, request_id, trace_id), {}


def wrong_method(method: str, allowed: Iterable[str]) -> HttpError:
    """Return the error for a method that a path does not have."""
    allow = ", ".join(sorted(allowed))
    message = f"Method {method[:20]} is not allowed here; use {allow}"
    return HttpError(405, ErrorCode.INVALID_REQUEST, message, {"allow": allow})


def internal_message(error: Exception) -> str:
    """Return what the caller may know of an internal error, and what to do about it."""
    match error:
        case StoreFull():
            return (
                "The ledger has no space left; nothing was changed. Free space, then send the "
                "same request again"
            )
        case StoreOutcomeUnknown():
            return (
                "The ledger could not confirm that this was saved; it may or may not have "
                "happened. Send the same request again with the same idempotency key"
            )
        case StoreError():
            return (
                "The ledger could not be read or written; nothing was changed. Send the same "
                "request again; if it keeps failing, an operator must look at the server's log"
            )
        case Interrupted():
            return (
                "The server stopped before it could answer; this may or may not have happened. "
                "Send the same request again with the same idempotency key"
            )
        case Closed():
            return "The server is shutting down; nothing was changed. Send the same request again"
        case _:
            return (
                "The server failed on this request; it may or may not have happened. Send the same "
                "request again with the same idempotency key; an operator finds it in the log by "
                "the request_id"
            )
