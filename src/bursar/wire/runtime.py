"""Requests and responses of the runtime plane, named as the published schema names them.

The rule that lives here: one definition serves server and SDK, with the limits of the
protocol and no others, except where a comment says why. Extension fields of later
protocol revisions (`observe_mode`, `policy_keys`) are unknown fields today.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from bursar.vocabulary import (
    GRACE_MS_DEFAULT,
    GRACE_MS_MAX,
    SCOPE_KINDS,
    TTL_MS_DEFAULT,
    TTL_MS_MAX,
    TTL_MS_MIN,
    OveragePolicy,
)
from bursar.wire.fields import (
    EVIDENCE_ID,
    NOT_BLANK,
    SUBJECT_NAME,
    TEXT,
    TRACE_ID,
    Count,
    FreeObject,
    IdempotencyKey,
    PlainText,
    Request,
    Signed,
    Wire,
    WireDecision,
    WireOveragePolicy,
    WireReservationStatus,
    WireUnit,
)

SubjectName = Annotated[str, Field(max_length=128, pattern=SUBJECT_NAME)]
Tag = Annotated[str, Field(max_length=64, pattern=TEXT)]
DimensionKey = PlainText
DimensionValue = Annotated[str, Field(max_length=256, pattern=TEXT)]
ToolName = Annotated[str, Field(max_length=256)]
ReasonCode = Annotated[str, Field(max_length=128)]
"""Open on purpose: a client must tolerate reason codes that it does not know."""

ExtendMs = Annotated[int, Field(ge=1, le=TTL_MS_MAX)]
LeaseMs = Annotated[int, Field(ge=TTL_MS_MIN, le=TTL_MS_MAX)]
GraceMs = Annotated[int, Field(ge=0, le=GRACE_MS_MAX)]


# Values that requests and responses share.


class Amount(Wire):
    """How much of which unit; never negative."""

    unit: WireUnit
    amount: Count


class SignedAmount(Wire):
    """How much of which unit; what remains of a budget may be negative."""

    unit: WireUnit
    amount: Signed


class Subject(Wire):
    """Who spends: at least one of the six levels, outermost first, and free dimensions.

    The six names become path segments, so only characters that are stable in a path are
    accepted. Dimensions never enter a path.
    """

    tenant: SubjectName | None = None
    workspace: SubjectName | None = None
    app: SubjectName | None = None
    workflow: SubjectName | None = None
    agent: SubjectName | None = None
    toolset: SubjectName | None = None
    dimensions: Annotated[dict[DimensionKey, DimensionValue], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _names_someone(self) -> Self:
        if (
            self.tenant is None
            and self.workspace is None
            and self.app is None
            and self.workflow is None
            and self.agent is None
            and self.toolset is None
        ):
            raise PydanticCustomError(
                "subject_names_nobody",
                "must have at least one of {levels}; dimensions alone name nobody",
                {"levels": ", ".join(SCOPE_KINDS)},
            )
        return self


class Action(Wire):
    """What is about to be done: a kind such as `llm.completion`, a name, and tags."""

    kind: Annotated[str, Field(max_length=64, pattern=NOT_BLANK)]
    name: Annotated[str, Field(max_length=256, pattern=NOT_BLANK)]
    tags: Annotated[list[Tag], Field(max_length=10)] | None = None


class Caps(Wire):
    """Limits that come with ALLOW_WITH_CAPS; the caller keeps within them."""

    max_tokens: Count | None = None
    max_steps_remaining: Count | None = None
    tool_allowlist: list[ToolName] | None = None
    tool_denylist: list[ToolName] | None = None
    cooldown_ms: Count | None = None


class StandardMetrics(Wire):
    """What the action measured; `custom` is the caller's own."""

    tokens_input: Count | None = None
    tokens_output: Count | None = None
    latency_ms: Count | None = None
    model_version: Annotated[str, Field(max_length=128, pattern=TEXT)] | None = None
    custom: FreeObject | None = None


class CyclesEvidenceRef(Wire):
    """Where the signed evidence of an answer can be fetched."""

    evidence_id: Annotated[str, Field(pattern=EVIDENCE_ID)]
    cycles_evidence_url: str


class ReservationEvidence(Wire):
    """Evidence of each step in the life of a reservation."""

    reserve: CyclesEvidenceRef | None = None
    commit: CyclesEvidenceRef | None = None
    release: CyclesEvidenceRef | None = None


# Requests.


class DecisionRequest(Request):
    """Would this be allowed? Nothing is held."""

    idempotency_key: IdempotencyKey
    subject: Subject
    action: Action
    estimate: Amount
    metadata: FreeObject | None = None


class ReservationCreateRequest(Request):
    """Hold an estimate in every budget above the subject, or say why not.

    An absent `ttl_ms` or `overage_policy` stays `None`, because a tenant may have its own
    default; `grace_period_ms` and `dry_run` have the same default for everybody.
    """

    IMPLIED: ClassVar[Mapping[str, object]] = MappingProxyType(
        {"ttl_ms": TTL_MS_DEFAULT, "overage_policy": OveragePolicy.ALLOW_IF_AVAILABLE}
    )

    idempotency_key: IdempotencyKey
    subject: Subject
    action: Action
    estimate: Amount
    ttl_ms: LeaseMs | None = None
    grace_period_ms: GraceMs = GRACE_MS_DEFAULT
    overage_policy: WireOveragePolicy | None = None
    dry_run: bool = False
    metadata: FreeObject | None = None


class CommitRequest(Request):
    """Account for what a reserved action really cost."""

    idempotency_key: IdempotencyKey
    actual: Amount
    metrics: StandardMetrics | None = None
    metadata: FreeObject | None = None


class ReleaseRequest(Request):
    """Give back what a reservation holds: the action did not happen."""

    idempotency_key: IdempotencyKey
    reason: Annotated[str, Field(max_length=256, pattern=TEXT)] | None = None


class ReservationExtendRequest(Request):
    """Keep a lease alive for `extend_by_ms` beyond its present end."""

    idempotency_key: IdempotencyKey
    extend_by_ms: ExtendMs
    metadata: FreeObject | None = None


class EventCreateRequest(Request):
    """Account for a cost that was never reserved.

    `client_time_ms` is kept for the record and decides nothing. An absent
    `overage_policy` stays `None`, because a tenant may have its own default.
    """

    IMPLIED: ClassVar[Mapping[str, object]] = MappingProxyType(
        {"overage_policy": OveragePolicy.ALLOW_IF_AVAILABLE}
    )

    idempotency_key: IdempotencyKey
    subject: Subject
    action: Action
    actual: Amount
    overage_policy: WireOveragePolicy | None = None
    metrics: StandardMetrics | None = None
    client_time_ms: Count | None = None
    metadata: FreeObject | None = None


# Responses.


class Balance(Wire):
    """State of one budget as the runtime plane shows it."""

    scope: str
    scope_path: str
    remaining: SignedAmount
    reserved: Amount | None = None
    spent: Amount | None = None
    debt: Amount | None = None
    allocated: Amount | None = None
    overdraft_limit: Amount | None = None
    is_over_limit: bool | None = None


class DecisionResponse(Wire):
    """Answer of `decide`; `caps` exactly when the decision is ALLOW_WITH_CAPS."""

    decision: WireDecision
    caps: Caps | None = None
    reason_code: ReasonCode | None = None
    retry_after_ms: Count | None = None
    affected_scopes: list[str] | None = None
    cycles_evidence: CyclesEvidenceRef | None = None


class ReservationCreateResponse(Wire):
    """Answer of `reserve`; a dry run has neither id nor lease."""

    decision: WireDecision
    affected_scopes: list[str]
    reservation_id: str | None = None
    reserved: Amount | None = None
    expires_at_ms: Count | None = None
    remaining_ttl_ms: Count | None = None
    scope_path: str | None = None
    caps: Caps | None = None
    balances: list[Balance] | None = None
    reason_code: ReasonCode | None = None
    retry_after_ms: Count | None = None
    cycles_evidence: CyclesEvidenceRef | None = None


class CommitResponse(Wire):
    """Answer of `commit`; `released` only when something went back."""

    status: Literal["COMMITTED"]
    charged: Amount
    released: Amount | None = None
    balances: list[Balance] | None = None
    cycles_evidence: CyclesEvidenceRef | None = None


class ReleaseResponse(Wire):
    """Answer of `release`."""

    status: Literal["RELEASED"]
    released: Amount
    balances: list[Balance] | None = None
    cycles_evidence: CyclesEvidenceRef | None = None


class ReservationExtendResponse(Wire):
    """Answer of `extend`; the returned end of the lease is authoritative."""

    status: Literal["ACTIVE"]
    expires_at_ms: Count
    remaining_ttl_ms: Count | None = None
    balances: list[Balance] | None = None


class EventCreateResponse(Wire):
    """Answer of `event`; `charged` only when it was capped below the actual cost."""

    status: Literal["APPLIED"]
    event_id: str
    charged: Amount | None = None
    balances: list[Balance] | None = None


class ReservationSummary(Wire):
    """One row of a list of reservations."""

    reservation_id: str
    status: WireReservationStatus
    subject: Subject
    action: Action
    reserved: Amount
    created_at_ms: Count
    expires_at_ms: Count
    scope_path: str
    affected_scopes: list[str]
    idempotency_key: IdempotencyKey | None = None
    committed: Amount | None = None
    finalized_at_ms: Count | None = None
    metadata: FreeObject | None = None
    committed_metadata: FreeObject | None = None
    evidence: ReservationEvidence | None = None


class ReservationDetail(ReservationSummary):
    """One reservation with everything that is known about it."""


class ReservationListResponse(Wire):
    """A page of reservations; `next_cursor` exactly when there may be more."""

    reservations: list[ReservationSummary]
    next_cursor: str | None = None
    has_more: bool | None = None


class BalanceResponse(Wire):
    """A page of balances; `next_cursor` exactly when there may be more."""

    balances: list[Balance]
    next_cursor: str | None = None
    has_more: bool | None = None


class ErrorResponse(Wire):
    """Every refusal. `error` is open here so that a client can read codes it does not know."""

    error: str
    message: str
    request_id: str
    trace_id: Annotated[str, Field(pattern=TRACE_ID)] | None = None
    details: FreeObject | None = None
    cycles_evidence: CyclesEvidenceRef | None = None
