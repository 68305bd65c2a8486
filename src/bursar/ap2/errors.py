"""What the AP2 guard raises, and what each of them says about the money.

The rule that lives here: every class stands for one thing the caller must do next. Denied: no
money moved, pay nothing. Uncertain: money moved, or may have, and its hold is kept. Failed:
money moved and the ledger refused to record it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.ap2.earlier import EarlierPayment


class AP2GuardError(Exception):
    """Base of everything the AP2 guard raises."""


class AP2GuardDenied(AP2GuardError):
    """This payment must not be made; the body of the guard did not run.

    `reason_code` is the ledger's word for why, or one of the guard's own: `REPLAYED_SETTLED`
    (this mandate was presented before, and that attempt is over), `PRESENTED_ELSEWHERE` (another
    instance presented it and may be paying now), `NOTHING_TO_RESUME`, `INVALID_RESPONSE`.
    `earlier` is what is known of the earlier attempt, if there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        reason_code: str | None = None,
        request_id: str | None = None,
        earlier: EarlierPayment | None = None,
    ) -> None:
        super().__init__(message)
        self.reason_code = reason_code
        self.request_id = request_id
        self.earlier = earlier


class AP2DryRunResult(AP2GuardError):
    """What a dry run would have been answered; its body never runs.

    It is raised because a `with` block cannot be skipped otherwise, and a body that ran would
    move money that no ledger knows of.
    """

    def __init__(
        self,
        message: str,
        *,
        decision: str,
        reason_code: str | None = None,
        caps: Any = None,
        balances: Any = None,
        affected_scopes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.decision = decision
        self.reason_code = reason_code
        self.caps = caps
        self.balances = balances
        self.affected_scopes = None if affected_scopes is None else list(affected_scopes)


class AP2GuardCommitUncertain(AP2GuardError):
    """The body ran, and whether the ledger recorded the payment is unknown; nothing is released.

    | `error_code` | what happened |
    |---|---|
    | RESERVATION_FINALIZED | the reservation was settled before |
    | RESERVATION_EXPIRED | the lease ended first; its budget is free again, the money is gone |
    | TRANSPORT_ERROR | no answer |
    | SERVER_ERROR, or the server's code | 5xx |
    | COMMIT_RAISED | the client raised; the cause is chained |
    | COMMIT_CANCELLED | cancelled while committing (async); the cause is chained |
    | LIMIT_EXCEEDED, UNAUTHORIZED | 429 and 401: the request was not looked at |
    | INVALID_RESPONSE | a 2xx that is no answer to a commit, 3xx, 4xx that says nothing |

    `journaled` is whether the SDK's journal holds the commit and goes on with it, also after a
    crash; then nothing has to be done about the ledger.
    """

    def __init__(
        self,
        message: str,
        *,
        error_code: str | None = None,
        request_id: str | None = None,
        reservation_id: str | None = None,
        journaled: bool = False,
    ) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.request_id = request_id
        self.reservation_id = reservation_id
        self.journaled = journaled


class AP2GuardCommitFailed(AP2GuardError):
    """The body ran, and the ledger refused the commit itself: known spend is not recorded.

    A release was attempted. `released` is whether the budget is free again; if it is not,
    `release_error` says why, and the hold stays until its lease ends.
    """

    def __init__(
        self,
        message: str,
        *,
        error_code: str | None = None,
        request_id: str | None = None,
        reservation_id: str | None = None,
        released: bool = False,
        release_error: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.request_id = request_id
        self.reservation_id = reservation_id
        self.released = released
        self.release_error = release_error


class AP2PaymentUnknown(AP2GuardError):
    """Raise it in the body when nobody knows whether the payment service moved money.

    The budget stays held: nothing is committed or released, the lease is extended, and the
    guard fills in `reservation_id`, `payment_key` and `held_until_ms` before the exception goes
    on. `resume=True` settles it later. Exceptions of the payment service that mean the same are
    named once with `unknown_on=`.
    """

    def __init__(self, message: str = "whether the payment was made is unknown") -> None:
        super().__init__(message)
        self.reservation_id: str | None = None
        self.payment_key: str | None = None
        self.held_until_ms: int | None = None


class AP2CurrencyError(AP2GuardError, ValueError):
    """The amount is in a currency that cannot be converted; nothing was sent."""


class AP2MandateError(AP2GuardError, ValueError):
    """The mandate, or an amount of it, is not usable; nothing was sent."""
