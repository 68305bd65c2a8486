"""Between models and the dicts that travel.

The rule that lives here: to the wire, absent fields are left out; from the wire, nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from bursar.client.models import (
    BalanceResponse,
    Caps,
    CommitRequest,
    CommitResponse,
    CyclesMetrics,
    DecisionRequest,
    DecisionResponse,
    ErrorResponse,
    EventCreateRequest,
    EventCreateResponse,
    ReleaseRequest,
    ReleaseResponse,
    ReservationCreateRequest,
    ReservationCreateResponse,
    ReservationDetail,
    ReservationExtendRequest,
    ReservationExtendResponse,
    ReservationListResponse,
    ReservationSummary,
)

M = TypeVar("M", bound=BaseModel)
Wire = Mapping[str, Any]


def to_wire(model: type[M], value: M | Wire) -> dict[str, Any]:
    """Return a model, or a mapping that must fit it, as the dict that is sent.

    Raises:
        ValidationError: a mapping does not fit the model.
    """
    fit = value if isinstance(value, BaseModel) else model.model_validate(dict(value))
    return fit.model_dump(exclude_none=True)


def from_wire(model: type[M], body: Wire) -> M:
    """Return a received body as a model; fields that are not known here are kept.

    Raises:
        ValidationError: a field that the protocol requires is missing or unreadable.
    """
    return model.model_validate(dict(body))


def metrics_to_wire(value: CyclesMetrics | Wire) -> dict[str, Any]:
    """Return metrics as the dict that is sent."""
    return to_wire(CyclesMetrics, value)


def reservation_create_request_to_wire(value: ReservationCreateRequest | Wire) -> dict[str, Any]:
    """Return a request to reserve as the dict that is sent."""
    return to_wire(ReservationCreateRequest, value)


def commit_request_to_wire(value: CommitRequest | Wire) -> dict[str, Any]:
    """Return a commit as the dict that is sent."""
    return to_wire(CommitRequest, value)


def release_request_to_wire(value: ReleaseRequest | Wire) -> dict[str, Any]:
    """Return a release as the dict that is sent."""
    return to_wire(ReleaseRequest, value)


def reservation_extend_request_to_wire(value: ReservationExtendRequest | Wire) -> dict[str, Any]:
    """Return an extension as the dict that is sent."""
    return to_wire(ReservationExtendRequest, value)


def decision_request_to_wire(value: DecisionRequest | Wire) -> dict[str, Any]:
    """Return a question for a decision as the dict that is sent."""
    return to_wire(DecisionRequest, value)


def event_create_request_to_wire(value: EventCreateRequest | Wire) -> dict[str, Any]:
    """Return an event as the dict that is sent."""
    return to_wire(EventCreateRequest, value)


def caps_from_wire(body: Wire) -> Caps:
    """Return received caps as a model."""
    return from_wire(Caps, body)


def reservation_create_response_from_wire(body: Wire) -> ReservationCreateResponse:
    """Return the answer of a reserve as a model."""
    return from_wire(ReservationCreateResponse, body)


def commit_response_from_wire(body: Wire) -> CommitResponse:
    """Return the answer of a commit as a model."""
    return from_wire(CommitResponse, body)


def release_response_from_wire(body: Wire) -> ReleaseResponse:
    """Return the answer of a release as a model."""
    return from_wire(ReleaseResponse, body)


def reservation_extend_response_from_wire(body: Wire) -> ReservationExtendResponse:
    """Return the answer of an extension as a model."""
    return from_wire(ReservationExtendResponse, body)


def decision_response_from_wire(body: Wire) -> DecisionResponse:
    """Return a decision as a model."""
    return from_wire(DecisionResponse, body)


def event_create_response_from_wire(body: Wire) -> EventCreateResponse:
    """Return the answer of an event as a model."""
    return from_wire(EventCreateResponse, body)


def reservation_detail_from_wire(body: Wire) -> ReservationDetail:
    """Return one reservation as a model."""
    return from_wire(ReservationDetail, body)


def reservation_summary_from_wire(body: Wire) -> ReservationSummary:
    """Return one row of a list as a model."""
    return from_wire(ReservationSummary, body)


def reservation_list_response_from_wire(body: Wire) -> ReservationListResponse:
    """Return a page of reservations as a model."""
    return from_wire(ReservationListResponse, body)


def balance_response_from_wire(body: Wire) -> BalanceResponse:
    """Return a page of balances as a model."""
    return from_wire(BalanceResponse, body)


def error_response_from_wire(body: object) -> ErrorResponse | None:
    """Return a refusal as a model, or None if the body is none."""
    return ErrorResponse.read(body)
