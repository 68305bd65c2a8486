"""What the SDK raises, and the one place where an answer becomes an exception.

The rule that lives here: a code is kept as it was spelled, known or not, and the class
follows from it; "may I try again?" and "did it happen?" are separate questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bursar.client.enums import ErrorCode

if TYPE_CHECKING:
    from bursar.client.response import CyclesResponse

_TRANSPORT, _TOO_MANY_REQUESTS = -1, 429
_RETRYABLE = frozenset(code for code in ErrorCode if code.is_retryable)


class CyclesError(Exception):
    """Base of everything the SDK raises about an exchange with the server."""


class CyclesProtocolError(CyclesError):
    """The server said no, or did not say anything that can be understood.

    `error_code` is the code of a refusal; `reason_code` is why, and also given with a denial
    that is answered with status 200. `status` is 0 where there is no single answer to point
    at and -1 where there was none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        error_code: str | None = None,
        reason_code: str | None = None,
        retry_after_ms: int | None = None,
        request_id: str | None = None,
        details: dict[str, Any] | None = None,
        trace_id: str | None = None,
        idempotency_key: str | None = None,
        outcome_known: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.reason_code = reason_code
        self.retry_after_ms = retry_after_ms
        self.request_id = request_id
        self.details = details
        self.trace_id = trace_id
        self.idempotency_key = idempotency_key
        self._outcome_known = outcome_known

    @property
    def code(self) -> str | None:
        """Return why, in one word: the error code, or the reason of a denial."""
        return self.error_code or self.reason_code

    @property
    def outcome_known(self) -> bool:
        """Return whether it is certain that the server did or did not act."""
        if self._outcome_known is not None:
            return self._outcome_known
        return self.status == 200 or 400 <= self.status < 500

    def is_retryable(self) -> bool:
        """Return whether the same request, with the same key, may succeed later."""
        return (
            self.error_code in _RETRYABLE
            or self.status >= 500
            or self.status in (_TRANSPORT, _TOO_MANY_REQUESTS)
        )

    def is_budget_exceeded(self) -> bool:
        """Return whether a budget has too little left."""
        return self.code == ErrorCode.BUDGET_EXCEEDED

    def is_overdraft_limit_exceeded(self) -> bool:
        """Return whether a budget is, or would be, beyond its overdraft."""
        return self.code == ErrorCode.OVERDRAFT_LIMIT_EXCEEDED

    def is_debt_outstanding(self) -> bool:
        """Return whether a budget owes a debt that must be repaid first."""
        return self.code == ErrorCode.DEBT_OUTSTANDING

    def is_tenant_closed(self) -> bool:
        """Return whether the tenant is closed for good."""
        return self.code == ErrorCode.TENANT_CLOSED

    def is_reservation_expired(self) -> bool:
        """Return whether the lease was over."""
        return self.code == ErrorCode.RESERVATION_EXPIRED

    def is_reservation_finalized(self) -> bool:
        """Return whether the reservation was settled before."""
        return self.code == ErrorCode.RESERVATION_FINALIZED

    def is_idempotency_mismatch(self) -> bool:
        """Return whether the key was used before for something else."""
        return self.code == ErrorCode.IDEMPOTENCY_MISMATCH

    def is_unit_mismatch(self) -> bool:
        """Return whether the unit is not the budget's or the reservation's."""
        return self.code == ErrorCode.UNIT_MISMATCH


class ClientClosed(CyclesError):
    """The client was closed before a call was made: nothing was sent."""


class CyclesTransportError(CyclesProtocolError):
    """There was no answer: whether the server acted is unknown. `cause` is what happened.

    Only where the client itself was closed (`ClientClosed`) the outcome is known: nothing was
    sent, so nothing happened.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: Exception | None = None,
        idempotency_key: str | None = None,
        outcome_known: bool | None = None,
    ) -> None:
        super().__init__(
            message,
            status=_TRANSPORT,
            idempotency_key=idempotency_key,
            outcome_known=isinstance(cause, ClientClosed) and outcome_known is not False,
        )
        self.cause = cause
        if cause is not None:  # assigning None would hide the context of a `raise` in a handler
            self.__cause__ = cause


class BudgetExceededError(CyclesProtocolError):
    """A budget has too little left for the amount."""


class OverdraftLimitExceededError(CyclesProtocolError):
    """A budget is over its limit, or the charge would take it beyond its overdraft."""


class DebtOutstandingError(CyclesProtocolError):
    """A budget owes a debt and allows no overdraft."""


class TenantClosedError(CyclesProtocolError):
    """The tenant that owns the budget or the reservation is closed for good."""


class ReservationExpiredError(CyclesProtocolError):
    """The lease was over; if the action happened, it is accounted for as an event."""


class ReservationFinalizedError(CyclesProtocolError):
    """The reservation was committed or released before."""


_CLASSES: Mapping[str, type[CyclesProtocolError]] = {
    ErrorCode.BUDGET_EXCEEDED: BudgetExceededError,
    ErrorCode.OVERDRAFT_LIMIT_EXCEEDED: OverdraftLimitExceededError,
    ErrorCode.DEBT_OUTSTANDING: DebtOutstandingError,
    ErrorCode.TENANT_CLOSED: TenantClosedError,
    ErrorCode.RESERVATION_EXPIRED: ReservationExpiredError,
    ErrorCode.RESERVATION_FINALIZED: ReservationFinalizedError,
}


def error_from_response(
    prefix: str,
    response: CyclesResponse,
    *,
    idempotency_key: str | None = None,
    outcome_known: bool | None = None,
) -> CyclesProtocolError:
    """Return the exception for an answer that is not what was asked for.

    `prefix` says what was attempted. A refusal and a denial with the same code give the same
    class; only a refusal has an `error_code`. `outcome_known` overrules what follows from the
    status, for an answer of the right status that cannot be understood.
    """
    if response.is_transport_error:
        message = f"{prefix}: {response.error_message}"
        return CyclesTransportError(
            message,
            cause=response.transport_exception,
            idempotency_key=idempotency_key,
            outcome_known=outcome_known,
        )
    error_code = response.error_code
    reason_code = _text(response.get_body_attribute("reason_code")) or error_code
    details = response.get_body_attribute("details")
    said = _text(response.get_body_attribute("message")) or response.error_message or reason_code
    kind = _CLASSES.get(error_code or reason_code or "", CyclesProtocolError)
    return kind(
        f"{prefix}: {said}" if said else prefix,
        status=response.status,
        error_code=error_code,
        reason_code=reason_code,
        retry_after_ms=_retry_after_ms(response),
        request_id=response.request_id,
        details=details if isinstance(details, dict) else None,
        trace_id=response.trace_id,
        idempotency_key=idempotency_key,
        outcome_known=outcome_known,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _retry_after_ms(response: CyclesResponse) -> int | None:
    """Return how long to wait: the body knows better than the header of a proxy."""
    value = response.get_body_attribute("retry_after_ms")
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return response.retry_after_ms_header
