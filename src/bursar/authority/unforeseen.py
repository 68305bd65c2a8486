"""What a caller may know of a failure that is not the ledger's own answer.

The rule that lives here: an outcome that is not known is said to be not known; it is never
reported as a failure that surely changed nothing. Whoever asks, over HTTP or in the same
process, is told the same.
"""

from __future__ import annotations

from bursar.authority.call import Refusal
from bursar.core.outcomes import Refused
from bursar.ledger.batcher import Closed, Overloaded
from bursar.ledger.ports import StoreError, StoreFull, StoreOutcomeUnknown
from bursar.vocabulary import ErrorCode
from bursar.wire.codec import BadRequest

OVERLOADED_RETRY_MS = 1_000


class Interrupted(Exception):
    """The server stopped before the request was finished; what became of it is not known."""


def refused_of(error: Exception) -> Refused:
    """Return an exception as the refusal that the caller is told."""
    match error:
        case Refusal():
            return error.refused
        case BadRequest():
            return Refused(ErrorCode.INVALID_REQUEST, error.message)
        case Overloaded():
            return Refused(
                ErrorCode.LIMIT_EXCEEDED,
                f"The server is at its limit: {error}",
                retry_after_ms=OVERLOADED_RETRY_MS,
            )
        case _:
            return Refused(ErrorCode.INTERNAL_ERROR, internal_message(error))


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
