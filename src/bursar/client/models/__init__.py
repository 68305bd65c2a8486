"""Requests, answers and the values they are made of, as pydantic models.

The rule that lives here: this package is the only part of the SDK's ground that loads
pydantic; whoever needs a model imports it here, when it is needed.
"""

from __future__ import annotations

from bursar.client.models.requests import (
    CommitRequest,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
)
from bursar.client.models.responses import (
    BalanceResponse,
    CommitResponse,
    DecisionResponse,
    DryRunResult,
    ErrorResponse,
    EventCreateResponse,
    ReleaseResponse,
    ReservationCreateResponse,
    ReservationDetail,
    ReservationEvidence,
    ReservationExtendResponse,
    ReservationListResponse,
    ReservationSummary,
)
from bursar.client.models.shared import (
    Action,
    Amount,
    Balance,
    Caps,
    CyclesEvidenceRef,
    CyclesMetrics,
    SignedAmount,
    Subject,
)

__all__ = [
    "Action",
    "Amount",
    "Balance",
    "BalanceResponse",
    "Caps",
    "CommitRequest",
    "CommitResponse",
    "CyclesEvidenceRef",
    "CyclesMetrics",
    "DecisionRequest",
    "DecisionResponse",
    "DryRunResult",
    "ErrorResponse",
    "EventCreateRequest",
    "EventCreateResponse",
    "ReleaseRequest",
    "ReleaseResponse",
    "ReservationCreateRequest",
    "ReservationCreateResponse",
    "ReservationDetail",
    "ReservationEvidence",
    "ReservationExtendRequest",
    "ReservationExtendResponse",
    "ReservationListResponse",
    "ReservationSummary",
    "SignedAmount",
    "Subject",
]
