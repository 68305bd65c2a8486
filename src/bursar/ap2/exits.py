"""How a guarded payment ends: from how its body ended, and from the answer to the commit.

The rule that lives here: once the body has run, money may have moved, and budget is given back
only if the body says that nothing was paid, or if the ledger says that it refused the commit
itself. Rows are read from above, the first that fits:

| the body | ending |
|---|---|
| raised `AP2PaymentUnknown`, or what `unknown_on` names, or a group with one | hold |
| was cancelled where a deadline cancels, as in a tool of an agent, without `abort` | hold |
| raised | release, `ap2_guard_failed:{name}` |
| called `abort` | release, `ap2_guard_aborted:{reason}` |
| returned | commit |

| answer to the commit | verdict | code |
|---|---|---|
| 200 that is an answer to a commit | settled | |
| none | uncertain | TRANSPORT_ERROR |
| 5xx | uncertain | of the answer, or SERVER_ERROR |
| RESERVATION_FINALIZED, RESERVATION_EXPIRED, IDEMPOTENCY_MISMATCH | uncertain | that |
| 410 | uncertain | RESERVATION_EXPIRED |
| 429, or LIMIT_EXCEEDED | uncertain | of the answer, or LIMIT_EXCEEDED |
| 401 | uncertain | of the answer, or UNAUTHORIZED |
| 4xx with a code that says what is wrong with the request | rejected | that |
| anything else: other 2xx, 3xx, 4xx that says nothing | uncertain | INVALID_RESPONSE |
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bursar.ap2.enter import INVALID_RESPONSE
from bursar.ap2.errors import AP2PaymentUnknown
from bursar.ap2.sendable import told, type_name
from bursar.client.outcome import RECOGNISED, Expected, classify
from bursar.client.response import CyclesResponse
from bursar.vocabulary import ErrorCode

TERMINAL = frozenset(
    {
        ErrorCode.RESERVATION_FINALIZED,
        ErrorCode.RESERVATION_EXPIRED,
        ErrorCode.IDEMPOTENCY_MISMATCH,
    }
)
ABORT_REASON_MAX = 256


@dataclass(frozen=True, slots=True)
class Commit:
    """The payment was made."""


@dataclass(frozen=True, slots=True)
class Release:
    """The payment was not made, as far as the body says; `suffix` goes into the key."""

    reason: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Nobody knows whether the payment was made."""

    reason: str


Ending = Commit | Release | Hold


@dataclass(frozen=True, slots=True)
class Settled:
    """The ledger recorded the payment."""


@dataclass(frozen=True, slots=True)
class Uncertain:
    """Nobody knows whether the ledger recorded the payment; nothing may be released."""

    code: str
    because: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The ledger refused the commit itself."""

    code: str


Verdict = Settled | Uncertain | Rejected
Kinds = type[BaseException] | tuple[type[BaseException], ...]
"""What `unknown_on` may be: as in an `except` clause."""


def ending(
    raised: BaseException | None,
    aborted: str | None,
    unknown_on: tuple[type[BaseException], ...],
    *,
    interruptible: bool = False,
) -> Ending:
    """Return how a payment ends whose body ended like this; see the first table."""
    if raised is not None:
        name = type_name(raised)
        kinds = unknown_on
        if interruptible and aborted is None:
            kinds = (*kinds, asyncio.CancelledError)
        if unknown_in(raised, kinds):
            return Hold(f"ap2_payment_unknown:{name}")
        return Release(f"ap2_guard_failed:{name}", name)
    if aborted is not None:
        return Release(f"ap2_guard_aborted:{aborted}", "Aborted")
    return Commit()


def unknown_kinds(given: Kinds) -> tuple[type[BaseException], ...]:
    """Return the exceptions that `unknown_on` names: one class or a tuple, as for `except`.

    Raises:
        TypeError: it is neither; found out before money is at stake, not while it is.
    """
    kinds = given if isinstance(given, tuple) else (given,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(
                "unknown_on must be exception classes, such as (TimeoutError, ConnectionError); "
                f"got {kind!r}"
            )
    return kinds


def unknown_in(
    raised: BaseException, kinds: tuple[type[BaseException], ...]
) -> list[BaseException]:
    """Return what of an exception says that money may have moved; groups are looked into."""
    if isinstance(raised, (AP2PaymentUnknown, *kinds)):
        return [raised]
    if isinstance(raised, BaseExceptionGroup):
        return [found for one in raised.exceptions for found in unknown_in(one, kinds)]
    return []


def judge(response: CyclesResponse, transaction: str) -> Verdict:
    """Return what an answer to a commit means; see the second table."""
    status, code = response.status, response.error_code
    if response.is_transport_error or response.is_server_error:
        known = "TRANSPORT_ERROR" if response.is_transport_error else "SERVER_ERROR"
        return _lost(response, transaction, code or known)
    if classify(response, Expected.COMMIT).settled:
        return Settled()
    if code is not None and code in TERMINAL:
        return _over(transaction, code)
    if status == 410:
        return _over(transaction, ErrorCode.RESERVATION_EXPIRED)
    if status == 429 or code == ErrorCode.LIMIT_EXCEEDED:
        return _unread(response, transaction, code or ErrorCode.LIMIT_EXCEEDED)
    if status == 401:
        return _unread(response, transaction, code or ErrorCode.UNAUTHORIZED)
    if code is not None and _says_what_is_wrong(response, code):
        return Rejected(code)
    return _unread(response, transaction, INVALID_RESPONSE)


def _says_what_is_wrong(response: CyclesResponse, code: str) -> bool:
    """Return whether a ledger refused this very request, and not a proxy any request.

    A code of the protocol says so by itself. A code of a later revision counts only in a
    complete refusal, with message and request id, as every ledger sends it.
    """
    if not response.is_client_error or code == ErrorCode.INTERNAL_ERROR:
        return False
    return code in RECOGNISED or response.get_error_response() is not None


def _lost(response: CyclesResponse, transaction: str, code: str) -> Uncertain:
    return Uncertain(
        code,
        f"AP2 commit failed at the transport/server layer for transaction {transaction} "
        f"(status={response.status}, code={code}). Commit may have reached Cycles before the "
        "failure; no release was attempted.",
    )


def _over(transaction: str, code: str) -> Uncertain:
    return Uncertain(
        code,
        f"AP2 commit returned {code} for transaction {transaction}. Reservation is in a terminal "
        "state; PSP state may need reconciliation. No release was attempted (a prior commit may "
        "already have settled).",
    )


def _unread(response: CyclesResponse, transaction: str, code: str) -> Uncertain:
    return Uncertain(
        code,
        f"AP2 commit was neither accepted nor refused for transaction {transaction} "
        f"(status={response.status}, code={code}). The payment was made and is not known to be "
        "recorded; its hold was kept and no release was attempted.",
    )


def raised_message(transaction: str, error: BaseException) -> str:
    """Return what is said when the client raised while committing."""
    return (
        f"AP2 commit raised before a response was received for transaction {transaction}: "
        f"{told(error)}. Commit outcome is unknown; no release was attempted."
    )


def cancelled_message(transaction: str) -> str:
    """Return what is said when the caller was cancelled while committing."""
    return (
        f"AP2 commit cancelled mid-flight for transaction {transaction}. Commit may have reached "
        "Cycles before cancellation; no release was attempted."
    )


def rejected_message(transaction: str, code: str, release_error: str | None) -> str:
    """Return what is said when the ledger refused the commit itself."""
    how = (
        "reservation released"
        if release_error is None
        else f"reservation release FAILED ({release_error}); budget stranded until TTL"
    )
    return (
        f"AP2 commit rejected for transaction {transaction} (code={code}); {how}. "
        "PSP state may need reconciliation."
    )


def release_error(response: CyclesResponse) -> str | None:
    """Return why a reservation was not released, or None if it was."""
    if classify(response, Expected.RELEASE).settled:
        return None
    code = response.error_code
    return f"status={response.status}" + (f", code={code}" if code else "")
