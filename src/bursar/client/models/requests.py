"""Bodies that the SDK sends.

The rule that lives here: fields are the protocol's; ranges of durations are checked by
`validation`, with the messages that users of this protocol's clients match on.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from bursar.client.enums import CommitOveragePolicy
from bursar.client.models.shared import Action, Amount, CyclesMetrics, Sent, Subject
from bursar.wire.runtime import ExtendMs

IdempotencyKey = Annotated[str, Field(min_length=1, max_length=256)]


class ReservationCreateRequest(Sent):
    """Hold an estimate in every budget above the subject, or say why not."""

    idempotency_key: IdempotencyKey
    subject: Subject
    action: Action
    estimate: Amount
    ttl_ms: int | None = None
    grace_period_ms: int | None = None
    overage_policy: CommitOveragePolicy | None = None
    dry_run: bool | None = None
    metadata: dict[str, Any] | None = None


class CommitRequest(Sent):
    """Account for what a reserved action really cost."""

    idempotency_key: IdempotencyKey
    actual: Amount
    metrics: CyclesMetrics | None = None
    metadata: dict[str, Any] | None = None


class ReleaseRequest(Sent):
    """Give back what a reservation holds: the action did not happen."""

    idempotency_key: IdempotencyKey
    reason: Annotated[str, Field(max_length=256)] | None = None


class ReservationExtendRequest(Sent):
    """Keep a lease alive for `extend_by_ms` beyond its present end."""

    idempotency_key: IdempotencyKey
    extend_by_ms: ExtendMs
    metadata: dict[str, Any] | None = None


class DecisionRequest(Sent):
    """Would this be allowed? Nothing is held."""

    idempotency_key: IdempotencyKey
    subject: Subject
    action: Action
    estimate: Amount
    metadata: dict[str, Any] | None = None


class EventCreateRequest(Sent):
    """Account for a cost that was never reserved."""

    idempotency_key: IdempotencyKey
    subject: Subject
    action: Action
    actual: Amount
    overage_policy: CommitOveragePolicy | None = None
    metrics: CyclesMetrics | None = None
    client_time_ms: int | None = None
    metadata: dict[str, Any] | None = None
