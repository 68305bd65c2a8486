"""Whether the payment may be made: from the answer of the ledger to what the guard does.

The rule that lives here: the body runs only for a reservation that was granted to this guard
and is alive. Rows are read from above, the first that fits:

| answer to the reservation | entry | reason |
|---|---|---|
| not 2xx, or none | refused | the code of the answer |
| 2xx that is no answer to a reservation | refused, what it names is released | INVALID_RESPONSE |
| DENY, also of a dry run | refused | the reason given |
| dry run | probed; the body never runs | |
| neither ALLOW nor ALLOW_WITH_CAPS | refused, what it names is released | INVALID_RESPONSE |
| no reservation id | refused | the reason given |
| `remaining_ttl_ms` is 0 | refused: the replay of an attempt that is over | REPLAYED_SETTLED |
| otherwise | granted | |

An `IDEMPOTENCY_MISMATCH` says that the mandate was presented before. What the ledger knows of
that attempt decides what it means:

| the earlier attempt | reason |
|---|---|
| said something else: another run, amount, payee, ... | IDEMPOTENCY_MISMATCH, explained |
| said the same, and is over | REPLAYED_SETTLED, with its outcome |
| said the same, and is open | PRESENTED_ELSEWHERE |
| not to be found | IDEMPOTENCY_MISMATCH, explained as far as possible |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from bursar.ap2.earlier import EarlierPayment, different
from bursar.client.models import ReservationCreateResponse
from bursar.client.outcome import Expected, classify
from bursar.client.response import CyclesResponse
from bursar.vocabulary import Decision, ErrorCode, ReservationStatus

INVALID_RESPONSE, REPLAYED_SETTLED = "INVALID_RESPONSE", "REPLAYED_SETTLED"
PRESENTED_ELSEWHERE, NOTHING_TO_RESUME = "PRESENTED_ELSEWHERE", "NOTHING_TO_RESUME"
PAY_ONCE = (
    "The payment was not made again. Pay again only under a new mandate, after a rejection "
    "receipt for this one"
)
GO_ON = (
    "If that instance is dead, ask the payment service what became of the payment, and go on with "
    "`resume=True`"
)


@dataclass(frozen=True, slots=True)
class Granted:
    """The body may run.

    `alive` is whether the ledger said so itself; an answer without `remaining_ttl_ms` does not.
    `resumed` is whether an earlier instance may have made the payment already.
    """

    reservation_id: str
    decision: Decision
    caps: Any = None
    alive: bool = True
    resumed: bool = False
    remaining_ttl_ms: int | None = None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The body must not run.

    `stray` is a reservation that the answer left behind, `told` what the ledger said about it.
    """

    message: str
    reason_code: str | None
    request_id: str | None = None
    decision: Decision | None = None
    stray: str | None = None
    earlier: EarlierPayment | None = None
    told: str | None = None


@dataclass(frozen=True, slots=True)
class Probed:
    """A dry run and its answer."""

    message: str
    answer: ReservationCreateResponse


Entry = Granted | Refused | Probed


def judge(response: CyclesResponse, transaction: str, *, dry_run: bool) -> Entry:
    """Return what follows from the answer to a reservation; see the module's first table."""
    if not response.is_success:
        failed = f"AP2 reservation failed for transaction {transaction}"
        code, told = response.error_code, response.error_message
        return Refused(failed, code, request_id(response), told=told)
    try:
        answer = ReservationCreateResponse.model_validate(response.body)
    except ValidationError:
        return _not_understood(response, transaction)
    if answer.is_denied():
        why = answer.reason_code or "no reason"
        denied = f"AP2 reservation denied for transaction {transaction}: {why}"
        return Refused(denied, answer.reason_code, decision=Decision.DENY)
    if dry_run:
        said = f"AP2 dry-run decision={answer.decision} for transaction {transaction}"
        return Probed(said, answer)
    if not answer.is_allowed():
        return _not_understood(response, transaction)
    if answer.reservation_id is None:
        nameless = "AP2 reservation allowed but server returned no reservation_id"
        return Refused(nameless, answer.reason_code, decision=answer.decision)
    if answer.remaining_ttl_ms == 0:
        return replayed(transaction, answer.reservation_id, None)
    alive = answer.remaining_ttl_ms is not None
    return Granted(
        answer.reservation_id,
        answer.decision,
        answer.caps,
        alive,
        remaining_ttl_ms=answer.remaining_ttl_ms,
        expires_at_ms=answer.expires_at_ms,
    )


def replayed(transaction: str, reservation_id: str, earlier: EarlierPayment | None) -> Refused:
    """Return the refusal of a payment whose earlier attempt is over."""
    how = earlier.ended if earlier else "it is no longer active"
    said = (
        f"AP2 mandate of transaction {transaction} was presented before as reservation "
        f"{reservation_id}, and {how}. {PAY_ONCE}"
    )
    return Refused(said, REPLAYED_SETTLED, earlier=earlier)


def explain(
    refused: Refused, transaction: str, body: Mapping[str, Any], earlier: EarlierPayment | None
) -> Refused:
    """Return a refusal for IDEMPOTENCY_MISMATCH with what it means; see the second table."""
    if earlier is None:
        unknown = (
            "this mandate was presented before, by another instance or with another request "
            "(run id, amount, payee, subject), and the ledger does not tell which: a key needs "
            "the permission reservations:list for that. "
        )
        return replace(refused, message=f"{refused.message}: {unknown}{PAY_ONCE}")
    changed = different(earlier, body)
    if changed:
        said = (
            f"{refused.message}: this mandate was presented before with another request "
            f"({'; '.join(changed)}), and {earlier.ended}. {PAY_ONCE}"
        )
        return replace(refused, message=said, earlier=earlier)
    if earlier.settled:
        found = replayed(transaction, earlier.reservation_id, earlier)
        return replace(found, request_id=refused.request_id)
    said = (
        f"{refused.message}: another instance presented this mandate as reservation "
        f"{earlier.reservation_id} and may be paying now. The payment was not made again. {GO_ON}"
    )
    return replace(refused, message=said, reason_code=PRESENTED_ELSEWHERE, earlier=earlier)


def resumable(
    transaction: str, body: Mapping[str, Any], earlier: EarlierPayment | None
) -> Refused | None:
    """Return why an earlier attempt cannot be gone on with, or None."""
    if earlier is None:
        said = (
            f"AP2 mandate of transaction {transaction} has no open reservation that could be "
            "resumed, or the ledger does not list it (a key needs the permission "
            "reservations:list). If there is none, present it without `resume=True`"
        )
        return Refused(said, NOTHING_TO_RESUME)
    changed = [one for one in different(earlier, body) if not one.startswith("run_id ")]
    if changed:
        said = (
            f"AP2 mandate of transaction {transaction} was presented before with another request "
            f"({'; '.join(changed)}); resume it with the same"
        )
        return Refused(said, ErrorCode.IDEMPOTENCY_MISMATCH, earlier=earlier)
    if earlier.settled:
        return replayed(transaction, earlier.reservation_id, earlier)
    return None


def taken_over(response: CyclesResponse, transaction: str, earlier: EarlierPayment) -> Entry:
    """Return what follows from the answer to the extension that claims an open attempt."""
    if classify(response, Expected.EXTEND).settled:
        lease = [response.get_body_attribute(n) for n in ("remaining_ttl_ms", "expires_at_ms")]
        return Granted(earlier.reservation_id, Decision.ALLOW, None, True, True, *lease)
    code = response.error_code
    if response.status == 410 or code in (
        ErrorCode.RESERVATION_EXPIRED,
        ErrorCode.RESERVATION_FINALIZED,
    ):
        expired = replace(earlier, status=ReservationStatus.EXPIRED)
        over = expired if code != ErrorCode.RESERVATION_FINALIZED else None
        found = replayed(transaction, earlier.reservation_id, over)
        return replace(found, request_id=request_id(response))
    said = f"AP2 reservation {earlier.reservation_id} could not be resumed"
    if code == ErrorCode.IDEMPOTENCY_MISMATCH:
        said = f"{said}: another instance resumed it first and may be paying now"
        return Refused(said, PRESENTED_ELSEWHERE, request_id(response), earlier=earlier)
    why = code or response.error_message or f"status {response.status}"
    return Refused(f"{said}: {why}", code, request_id(response), earlier=earlier)


def request_id(response: CyclesResponse) -> str | None:
    """Return the id that support asks for: that of the body, else that of the header."""
    said = response.get_body_attribute("request_id")
    return said if isinstance(said, str) and said else response.request_id


def _not_understood(response: CyclesResponse, transaction: str) -> Refused:
    said = (
        f"AP2 reservation failed for transaction {transaction}: the server answered "
        f"{response.status} with something that is no answer to a reservation"
    )
    stray = response.get_body_attribute("reservation_id")
    named = stray if isinstance(stray, str) and stray else None
    return Refused(said, INVALID_RESPONSE, request_id(response), stray=named)
