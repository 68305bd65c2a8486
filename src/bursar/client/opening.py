"""Asking before acting: the flow that reserves.

The rule that lives here: an unknown answer to a reservation is asked again once, with the
very same body and key, and only then given up; nothing runs without a reservation that the
server has confirmed in full.

| answer | what happens |
|---|---|
| 200 that fits, ALLOW or ALLOW_WITH_CAPS | go |
| 200 that fits, DENY | refused, `CyclesProtocolError` or the class of its reason |
| 200 that fits, a dry run | no reservation; the evaluation is the result |
| 200 that fits, ALLOW, no time left | refused, `ReservationFinalizedError` |
| no answer, 5xx, another 2xx | once more, same key; then refused |
| 3xx, 4xx (429 too) | refused at once |
| the client is closed | refused at once: nothing was sent |

An answer with no time left repeats what a key was told when it was new: its reservation is
committed, released or expired by now. Work that ran for it would be work nobody holds money
for, done perhaps a second time, and its commit would be taken for the first one's. So nothing
runs; who wants it done again takes another key.

An exception knows its key, and whether its outcome is known: a first answer that was lost
may have reserved, unless the second refuses for a reason that only the ledger can give.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bursar.client import calls
from bursar.client.exceptions import (
    ClientClosed,
    CyclesProtocolError,
    ReservationFinalizedError,
    error_from_response,
)
from bursar.client.helpers import is_allowed
from bursar.client.io import Io
from bursar.client.outcome import Expected, Outcome, classify
from bursar.client.response import CyclesResponse
from bursar.vocabulary import ErrorCode

if TYPE_CHECKING:
    from bursar.client.models import ReservationCreateResponse

ATTEMPTS = 2
FAILED = "Failed to create reservation"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be done, who does it, and how it will be settled.

    Amounts are int64 in `unit`; `ttl_ms` and `grace_period_ms` are milliseconds. Keys are
    chosen before anything is sent, so that a retry of any step is a retry.
    """

    subject: dict[str, Any]
    action: dict[str, Any]
    unit: str
    estimate: int
    create_key: str
    commit_key: str
    release_key: str
    ttl_ms: int = 60_000
    overage_policy: str | None = "ALLOW_IF_AVAILABLE"
    grace_period_ms: int | None = None
    dry_run: bool = False
    metadata: dict[str, Any] | None = None
    commit_metadata: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the body that reserves."""
        body: dict[str, Any] = {
            "idempotency_key": self.create_key,
            "subject": self.subject,
            "action": self.action,
            "estimate": {"unit": self.unit, "amount": self.estimate},
            "ttl_ms": self.ttl_ms,
        }
        optional = {
            "overage_policy": self.overage_policy,
            "grace_period_ms": self.grace_period_ms,
            "dry_run": self.dry_run or None,
            "metadata": self.metadata,
        }
        return body | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Opened:
    """A reservation, or what a dry run would have given; times are monotonic milliseconds.

    `answer` is `body`, read.
    """

    answer: ReservationCreateResponse
    body: dict[str, Any]
    sent_ms: float
    received_ms: float

    @property
    def reservation_id(self) -> str:
        """Its id; empty for a dry run."""
        return self.answer.reservation_id or ""

    @property
    def over(self) -> bool:
        """Whether this repeats the answer of a reservation that is no longer active.

        Servers that do not send `remaining_ttl_ms` never say so.
        """
        return self.body.get("remaining_ttl_ms") == 0


async def open_reservation(io: Io, plan: Plan) -> Opened:
    """Reserve as `plan` says and return what was granted.

    Raises:
        CyclesProtocolError: the server refused, or could not be understood twice.
        CyclesTransportError: the server could not be reached twice.
        ReservationFinalizedError: the key's reservation is no longer active.
    """
    call = calls.create_reservation(plan.body())
    opened = await _ask(io, call, plan.create_key)
    if not is_allowed(opened.answer.decision):
        prefix = "Dry-run denied" if plan.dry_run else "Reservation denied"
        denial = CyclesResponse.success(200, opened.body)
        raise error_from_response(prefix, denial, idempotency_key=plan.create_key)
    if not plan.dry_run and not opened.reservation_id:
        raise CyclesProtocolError(
            "Reservation successful but reservation_id missing",
            status=200,
            idempotency_key=plan.create_key,
            outcome_known=False,
        )
    if opened.over:
        raise _finished(opened, plan.create_key)
    return opened


def _finished(opened: Opened, key: str) -> CyclesProtocolError:
    return ReservationFinalizedError(
        f"Reservation {opened.reservation_id} of idempotency key {key!r} is no longer active: it "
        "was committed or released, or its lease ended; nothing was run. To do the work again, "
        "use another key; get_reservation tells how this one ended",
        status=200,
        reason_code=ErrorCode.RESERVATION_FINALIZED,
        idempotency_key=key,
    )


async def _ask(io: Io, call: calls.Call, key: str) -> Opened:
    for attempt in range(ATTEMPTS):
        sent_ms = io.monotonic_ms()
        response = await io.send(call)
        outcome = classify(response, Expected.CREATE)
        if outcome.settled:
            return Opened(outcome.answer, response.body or {}, sent_ms, io.monotonic_ms())
        unknown = response.is_success or response.status >= 500 or _lost(response)
        if not unknown or attempt == ATTEMPTS - 1:
            raise _refused(outcome, key, known=not unknown and (attempt == 0 or outcome.final))
    raise AssertionError("the last try returns or raises")


def _refused(outcome: Outcome, key: str, *, known: bool) -> CyclesProtocolError:
    response = outcome.response
    if response.is_success:
        return CyclesProtocolError(
            f"{FAILED}: two attempts did not produce a schema-valid HTTP 200 response",
            status=response.status,
            request_id=response.request_id,
            idempotency_key=key,
            outcome_known=False,
        )
    lost = ": remained ambiguous after same-key retry" if _lost(response) else ""
    return error_from_response(
        FAILED + lost, response, idempotency_key=key, outcome_known=None if known else False
    )


def _lost(response: CyclesResponse) -> bool:
    """Return whether a call was sent, or may have been, and there is no answer."""
    closed = isinstance(response.transport_exception, ClientClosed)
    return response.is_transport_error and not closed
