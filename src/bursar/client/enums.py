"""The words of the protocol as the SDK spells them.

The rule that lives here: what the server's vocabulary already defines is that very enum, and
only what a client alone needs (the fixed statuses, the unknown code) is added.
"""

from __future__ import annotations

from enum import StrEnum, unique

from bursar.vocabulary import Decision, OveragePolicy, ReservationStatus, Unit

__all__ = [
    "CommitOveragePolicy",
    "CommitStatus",
    "Decision",
    "ErrorCode",
    "EventStatus",
    "ExtendStatus",
    "ReleaseStatus",
    "ReservationStatus",
    "Unit",
]

CommitOveragePolicy = OveragePolicy


@unique
class CommitStatus(StrEnum):
    """How an answered commit ended."""

    COMMITTED = "COMMITTED"


@unique
class ReleaseStatus(StrEnum):
    """How an answered release ended."""

    RELEASED = "RELEASED"


@unique
class ExtendStatus(StrEnum):
    """What an answered extension left behind."""

    ACTIVE = "ACTIVE"


@unique
class EventStatus(StrEnum):
    """How an answered event ended."""

    APPLIED = "APPLIED"


@unique
class ErrorCode(StrEnum):
    """Error codes of the runtime plane, and UNKNOWN for what a later revision may add."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    BUDGET_FROZEN = "BUDGET_FROZEN"
    BUDGET_CLOSED = "BUDGET_CLOSED"
    RESERVATION_EXPIRED = "RESERVATION_EXPIRED"
    RESERVATION_FINALIZED = "RESERVATION_FINALIZED"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    UNIT_MISMATCH = "UNIT_MISMATCH"
    OVERDRAFT_LIMIT_EXCEEDED = "OVERDRAFT_LIMIT_EXCEEDED"
    DEBT_OUTSTANDING = "DEBT_OUTSTANDING"
    MAX_EXTENSIONS_EXCEEDED = "MAX_EXTENSIONS_EXCEEDED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    TENANT_CLOSED = "TENANT_CLOSED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    UNKNOWN = "UNKNOWN"

    @property
    def is_retryable(self) -> bool:
        """Return whether the same request may succeed later without anybody else acting."""
        return self in _RETRYABLE

    @classmethod
    def from_string(cls, value: str | None) -> ErrorCode | None:
        """Return the code spelled `value`: UNKNOWN for any other text, None for None."""
        if value is None:
            return None
        try:
            return cls(value)
        except ValueError:
            return cls.UNKNOWN


_RETRYABLE = frozenset({ErrorCode.INTERNAL_ERROR, ErrorCode.UNKNOWN, ErrorCode.LIMIT_EXCEEDED})
