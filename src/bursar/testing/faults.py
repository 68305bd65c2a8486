"""Faults by script, between a client and whatever answers it.

The rule that lives here: a fault is decided before a call is passed on, and what a client
sees is what a server or a network would show: a refusal has the protocol's body, a lost
answer was given, and a call that is answered here never reaches the ledger.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bursar import ids
from bursar.authority import refusals
from bursar.client.calls import Call
from bursar.client.response import CyclesResponse
from bursar.client.transport import AsyncTransport, Transport
from bursar.clock import SystemClock
from bursar.core.outcomes import Refused
from bursar.vocabulary import Decision, ErrorCode

OPERATIONS: Mapping[str, str] = {
    re.sub("(?=[A-Z])", "_", name).lower(): name
    for name in (
        *("createReservation", "commitReservation", "releaseReservation", "extendReservation"),
        *("decide", "createEvent", "listReservations", "getReservation", "getBalances"),
    )
}
"""A client's method and the operation it calls."""

DENIALS = (
    ErrorCode.BUDGET_EXCEEDED,
    ErrorCode.BUDGET_FROZEN,
    ErrorCode.BUDGET_CLOSED,
    ErrorCode.OVERDRAFT_LIMIT_EXCEEDED,
    ErrorCode.DEBT_OUTSTANDING,
    ErrorCode.TENANT_CLOSED,
)
CODES: Mapping[int, ErrorCode] = {
    401: ErrorCode.UNAUTHORIZED,
    403: ErrorCode.FORBIDDEN,
    429: ErrorCode.LIMIT_EXCEEDED,
    500: ErrorCode.INTERNAL_ERROR,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one call.

    Attributes:
        refused: the refusal that is answered instead of passing the call on.
        status: a status that is answered instead, without a body, as a proxy would.
        lost: whether the call is passed on and its answer never arrives.
        delay_s: seconds before anything else happens.
    """

    refused: Refused | None = None
    status: int | None = None
    lost: bool = False
    delay_s: float = 0.0

    def instead(self, call: Call) -> CyclesResponse | None:
        """Return what is answered without passing the call on; None if it is passed on."""
        if self.status is not None:
            return CyclesResponse.http_error(self.status, f"HTTP {self.status} (scripted)")
        if self.refused is None:
            return None
        if self.refused.code in DENIALS and (call.body or {}).get("dry_run"):
            denied = {"decision": Decision.DENY, "affected_scopes": []}
            return CyclesResponse.success(200, {**denied, "reason_code": self.refused.code})
        request_id, trace_id = ids.new_id(SystemClock().now_ms()), ids.new_trace_id()
        answer = refusals.answer(self.refused, request_id, trace_id)
        body = json.loads(answer.body)
        headers = {"x-request-id": request_id, "x-cycles-trace-id": trace_id}
        headers |= refusals.headers(self.refused)
        return CyclesResponse.http_error(answer.status, body["message"], body, headers)

    def afterwards(self, answer: CyclesResponse) -> CyclesResponse:
        """Return what arrives of an answer that was given."""
        if self.lost:
            return CyclesResponse.transport_error(TimeoutError("the answer was lost (scripted)"))
        return answer


NOTHING = Fault()


@dataclass(slots=True)
class _Rule:
    """A fault for some calls of one operation: after `skip` of them, the next `left`."""

    operation: str
    fault: Fault
    skip: int = 0
    left: int | None = 1


class Faults:
    """A script of what will go wrong, for any number of transports and threads.

    Each rule counts the calls of its operation from the moment it is written. If two apply to
    the same call, the older one does, and the other waits for the next.
    """

    def __init__(self) -> None:
        """Begin with nothing going wrong."""
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []

    def deny(self, at: int = 1, reason: ErrorCode | str = ErrorCode.BUDGET_EXCEEDED) -> None:
        """Deny one reservation.

        Args:
            at: which one: 1 is the next, 2 the one after it.
            reason: a denial of the protocol, such as `BUDGET_EXCEEDED` or `TENANT_CLOSED`.

        Raises:
            ValueError: `at` is below 1, or `reason` is no denial.
        """
        _at_least("at", at, 1)
        if reason not in DENIALS:
            raise ValueError(f"reason: {reason!r} denies nothing; use one of {', '.join(DENIALS)}")
        code = ErrorCode(reason)
        refused = Refused(code, f"Denied by a test: {code}", fix="this denial was scripted")
        self._add(_Rule("createReservation", Fault(refused=refused), skip=at - 1))

    def lose_commit_answer(self, times: int = 1) -> None:
        """Let commits happen, and lose their answers.

        Args:
            times: how many of the next commits.

        Raises:
            ValueError: `times` is below 1.
        """
        _at_least("times", times, 1)
        self._add(_Rule("commitReservation", Fault(lost=True), left=times))

    def slow_extend(self, seconds: float, times: int | None = None) -> None:
        """Delay extensions of leases.

        Args:
            seconds: how long each waits before the ledger sees it.
            times: how many of the next ones; None is all.

        Raises:
            ValueError: `seconds` is below 0, or `times` below 1.
        """
        _at_least("seconds", seconds, 0)
        _at_least("times", 1 if times is None else times, 1)
        self._add(_Rule("extendReservation", Fault(delay_s=seconds), left=times))

    def fail(
        self,
        operation: str,
        status: int = 503,
        times: int | None = 1,
        *,
        retry_after: int | None = None,
    ) -> None:
        """Answer calls with an error instead of passing them on.

        Args:
            operation: a method of the client, such as `commit_reservation`.
            status: 401, 403, 429, or 500 to 599. All but 501 to 599 have the protocol's body;
                those have none, as from a proxy.
            times: how many of the next calls; None is all.
            retry_after: seconds, with 429 only; None is 1.

        Raises:
            ValueError: an argument is none of these.
        """
        if operation not in OPERATIONS:
            known = ", ".join(OPERATIONS)
            raise ValueError(f"operation: {operation!r} is no method of a client; use {known}")
        if status not in CODES and not 500 <= status <= 599:
            raise ValueError(f"status: {status} is not 401, 403, 429 or 500 to 599")
        if retry_after is not None and status != 429:
            raise ValueError(f"retry_after: goes with status 429 only, not {status}")
        _at_least("times", 1 if times is None else times, 1)
        _at_least("retry_after", retry_after or 0, 0)
        fault = Fault(status=status)
        if status in CODES:
            wait_ms = (1 if retry_after is None else retry_after) * 1_000
            waits = wait_ms if status == 429 else None
            message = f"HTTP {status} (scripted)"
            fault = Fault(refused=Refused(CODES[status], message, retry_after_ms=waits))
        self._add(_Rule(OPERATIONS[operation], fault, left=times))

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._rules.clear()

    def next(self, call: Call) -> Fault:
        """Return what goes wrong with this call, and count it."""
        found: _Rule | None = None
        with self._lock:
            for rule in self._rules:
                if rule.operation != call.operation:
                    continue
                if rule.skip:
                    rule.skip -= 1
                elif found is None:
                    found = rule
            if found is None:
                return NOTHING
            if found.left is not None:
                found.left -= 1
                if not found.left:
                    self._rules.remove(found)
            return found.fault

    def _add(self, rule: _Rule) -> None:
        with self._lock:
            self._rules.append(rule)


class FaultyTransport:
    """A transport that passes calls on to another one, if the script lets it."""

    def __init__(self, inner: Transport, faults: Faults, *, owned: bool = True) -> None:
        """Wrap a transport; closing this one closes it if it is `owned`."""
        self._inner = inner
        self._faults = faults
        self._owned = owned

    def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call; never raises `Exception`."""
        fault = self._faults.next(call)
        if fault.delay_s:
            time.sleep(fault.delay_s)
        return fault.instead(call) or fault.afterwards(self._inner.send(call))

    def close(self) -> None:
        """Close what it wraps, if it is this one's to close."""
        if self._owned:
            self._inner.close()


class AsyncFaultyTransport:
    """The same for event loops."""

    def __init__(self, inner: AsyncTransport, faults: Faults, *, owned: bool = True) -> None:
        """Wrap a transport; closing this one closes it if it is `owned`."""
        self._inner = inner
        self._faults = faults
        self._owned = owned

    async def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call; never raises `Exception`."""
        fault = self._faults.next(call)
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        return fault.instead(call) or fault.afterwards(await self._inner.send(call))

    async def aclose(self) -> None:
        """Close what it wraps, if it is this one's to close."""
        if self._owned:
            await self._inner.aclose()

    def blocking(self) -> Transport:
        """Return a blocking transport under the same script, for the end of the process."""
        return FaultyTransport(self._inner.blocking(), self._faults, owned=self._owned)


def _at_least(name: str, value: float, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: {value} is below {least}")
