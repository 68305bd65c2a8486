"""Answers of the runtime plane.

The rule that lives here: an answer that says more than this version knows is still read,
and nothing it says is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError

from bursar.client.enums import (
    CommitStatus,
    Decision,
    ErrorCode,
    EventStatus,
    ExtendStatus,
    ReleaseStatus,
    ReservationStatus,
)
from bursar.client.helpers import is_allowed, is_denied
from bursar.client.models.shared import (
    KEEP_UNKNOWN,
    Answered,
    AnsweredAction,
    AnsweredAmount,
    AnsweredSubject,
    Balance,
    Caps,
    CyclesEvidenceRef,
    OrAbsent,
)
from bursar.wire.fields import Count

Milliseconds = Annotated[int, Field(ge=0)]


class _Decided(Answered):
    """What every answer with a decision can be asked."""

    decision: Annotated[Decision, KEEP_UNKNOWN]
    caps: OrAbsent[Caps] = None
    reason_code: OrAbsent[str] = None
    retry_after_ms: OrAbsent[Milliseconds] = None
    cycles_evidence: OrAbsent[CyclesEvidenceRef] = None

    def is_allowed(self) -> bool:
        """Return whether the action may go ahead, with or without caps."""
        return is_allowed(self.decision)

    def is_denied(self) -> bool:
        """Return whether the answer is no; an unknown decision is neither yes nor no."""
        return is_denied(self.decision)


class DecisionResponse(_Decided):
    """Answer of `decide`; nothing is held."""

    affected_scopes: OrAbsent[list[str]] = None


class ReservationCreateResponse(_Decided):
    """Answer of `reserve`; a denial and a dry run have neither id nor lease."""

    affected_scopes: list[str]
    reservation_id: OrAbsent[str] = None
    expires_at_ms: OrAbsent[Count] = None
    remaining_ttl_ms: OrAbsent[Count] = None
    scope_path: OrAbsent[str] = None
    reserved: OrAbsent[AnsweredAmount] = None
    balances: OrAbsent[list[Balance]] = None


class DryRunResult(_Decided):
    """What a dry run would have answered; the guarded function did not run."""

    affected_scopes: OrAbsent[list[str]] = None
    scope_path: OrAbsent[str] = None
    reserved: OrAbsent[AnsweredAmount] = None
    balances: OrAbsent[list[Balance]] = None

    def has_caps(self) -> bool:
        """Return whether the action would be allowed within limits only."""
        return self.caps is not None


class CommitResponse(Answered):
    """Answer of `commit`; `released` only when something went back."""

    status: Annotated[CommitStatus, KEEP_UNKNOWN]
    charged: AnsweredAmount
    released: OrAbsent[AnsweredAmount] = None
    balances: OrAbsent[list[Balance]] = None
    cycles_evidence: OrAbsent[CyclesEvidenceRef] = None


class ReleaseResponse(Answered):
    """Answer of `release`."""

    status: Annotated[ReleaseStatus, KEEP_UNKNOWN]
    released: AnsweredAmount
    balances: OrAbsent[list[Balance]] = None
    cycles_evidence: OrAbsent[CyclesEvidenceRef] = None


class ReservationExtendResponse(Answered):
    """Answer of `extend`; the returned end of the lease is authoritative."""

    status: Annotated[ExtendStatus, KEEP_UNKNOWN]
    expires_at_ms: Count
    remaining_ttl_ms: OrAbsent[Count] = None
    balances: OrAbsent[list[Balance]] = None


class EventCreateResponse(Answered):
    """Answer of `event`; `charged` only when it was capped below the actual cost."""

    status: Annotated[EventStatus, KEEP_UNKNOWN]
    event_id: str
    charged: OrAbsent[AnsweredAmount] = None
    balances: OrAbsent[list[Balance]] = None


class ReservationEvidence(Answered):
    """Evidence of each step in the life of a reservation."""

    reserve: OrAbsent[CyclesEvidenceRef] = None
    commit: OrAbsent[CyclesEvidenceRef] = None
    release: OrAbsent[CyclesEvidenceRef] = None


class ReservationSummary(Answered):
    """One row of a list of reservations."""

    reservation_id: str
    status: Annotated[ReservationStatus, KEEP_UNKNOWN]
    subject: AnsweredSubject
    action: AnsweredAction
    reserved: AnsweredAmount
    created_at_ms: int
    expires_at_ms: int
    scope_path: str
    affected_scopes: list[str]
    idempotency_key: OrAbsent[str] = None
    committed: OrAbsent[AnsweredAmount] = None
    finalized_at_ms: OrAbsent[int] = None
    metadata: OrAbsent[dict[str, Any]] = None
    committed_metadata: OrAbsent[dict[str, Any]] = None
    evidence: OrAbsent[ReservationEvidence] = None


class ReservationDetail(ReservationSummary):
    """One reservation with everything that is known about it."""

    def is_active(self) -> bool:
        """Return whether the reservation still holds its estimate."""
        return self.status == ReservationStatus.ACTIVE

    def is_committed(self) -> bool:
        """Return whether the action was accounted for."""
        return self.status == ReservationStatus.COMMITTED

    def is_released(self) -> bool:
        """Return whether the estimate was given back."""
        return self.status == ReservationStatus.RELEASED

    def is_expired(self) -> bool:
        """Return whether the lease ended before anything was settled."""
        return self.status == ReservationStatus.EXPIRED


class ReservationListResponse(Answered):
    """A page of reservations; `next_cursor` exactly when there may be more."""

    reservations: list[ReservationSummary]
    has_more: OrAbsent[bool] = None
    next_cursor: OrAbsent[str] = None


class BalanceResponse(Answered):
    """A page of balances; `next_cursor` exactly when there may be more."""

    balances: list[Balance]
    has_more: OrAbsent[bool] = None
    next_cursor: OrAbsent[str] = None


class ErrorResponse(Answered):
    """Every refusal; `error` is the code as it was spelled, known or not."""

    error: str
    message: str
    request_id: str
    details: OrAbsent[dict[str, Any]] = None
    trace_id: OrAbsent[str] = None
    cycles_evidence: OrAbsent[CyclesEvidenceRef] = None

    @property
    def error_code(self) -> ErrorCode | None:
        """Return the code as an enum: UNKNOWN for one that is not known here."""
        return ErrorCode.from_string(self.error)

    @classmethod
    def read(cls, body: object) -> Self | None:
        """Return the refusal in a body, or None if there is none.

        An optional field that cannot be read is left out: it must not hide the code.
        """
        required = ("error", "message", "request_id")
        if not isinstance(body, Mapping) or not all(
            isinstance(body.get(name), str) for name in required
        ):
            return None
        try:
            return cls.model_validate(dict(body))
        except ValidationError as unreadable:
            broken = {str(problem["loc"][0]) for problem in unreadable.errors()}
            return cls.model_validate({k: v for k, v in body.items() if k not in broken})
