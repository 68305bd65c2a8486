"""A server for the tests of the SDK's flows: no port, no ledger, and it fails exactly when told to.

The rule that lives here: without a script every call is answered as a server with a budget
that never ends would answer it, idempotency keys and finished reservations included; a
fault is used up by the call that meets it, so a retry sees the server as it is. What users
test with is `bursar.testing`, on a real ledger; here even the ledger is scripted.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bursar.client.calls import Call
from bursar.client.exceptions import ClientClosed
from bursar.client.response import CyclesResponse

WAIT_S_MAX = 30.0
LOOK_S = 0.001
_ENDS = {"commitReservation": "COMMITTED", "releaseReservation": "RELEASED"}


class Gate:
    """Where a call waits until the test lets it pass."""

    def __init__(self) -> None:
        """Stand closed, with nobody waiting."""
        self.reached = threading.Event()
        self.opened = threading.Event()

    def open(self) -> None:
        """Let the call pass."""
        self.opened.set()

    async def wait_reached(self) -> None:
        """Wait, from an event loop, until a call stands here."""
        await _until(self.reached.is_set)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one call instead of, or before or after, its plain answer.

    `applied` is whether the server acts on the call although its answer is another one;
    `gate` and `seconds` are what the answer waits for, after the server acted.
    """

    response: CyclesResponse | None = None
    applied: bool = False
    gate: Gate | None = None
    seconds: float = 0.0


def lost() -> Fault:
    """Act on the call, and lose the answer."""
    return Fault(CyclesResponse.transport_error(ConnectionError("the answer was lost")), True)


def unreachable() -> Fault:
    """Never hear the call."""
    return Fault(CyclesResponse.transport_error(ConnectionError("connection refused")))


def refuse(
    status: int, code: str | None = None, *, retry_after_s: int | None = None, **body: Any
) -> Fault:
    """Refuse with an error envelope, or, without a code, with a page that is none."""
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    known: dict[str, Any] | None = None
    if code is not None:
        known = {"error": code, "message": f"{code} it is", "request_id": "req_scripted", **body}
    message = "Refused" if known is None else str(known["message"])
    return Fault(CyclesResponse.http_error(status, message, known, headers))


def deny(reason_code: str, **body: Any) -> Fault:
    """Answer a reservation with 200 and DENY."""
    return answer(
        200, {"decision": "DENY", "affected_scopes": [], "reason_code": reason_code, **body}
    )


def answer(status: int, body: dict[str, Any]) -> Fault:
    """Answer with this, and do nothing."""
    return Fault(CyclesResponse.success(status, body))


def held(gate: Gate) -> Fault:
    """Act on the call, and answer when the gate opens."""
    return Fault(gate=gate)


def slow(seconds: float) -> Fault:
    """Act on the call, and answer after `seconds`."""
    return Fault(seconds=seconds)


@dataclass
class ScriptedServer:
    """Answers calls, remembers them in order, and keeps what each reservation came to.

    `charged` and `released` hold what was committed or given back, by reservation id;
    `events` the amounts of events. With `remaining` off, no answer has `remaining_ttl_ms`.
    Safe to share between threads and event loops.
    """

    caps: dict[str, Any] | None = None
    remaining: bool = True
    calls: list[Call] = field(default_factory=list)
    charged: dict[str, int] = field(default_factory=dict)
    released: dict[str, str | None] = field(default_factory=dict)
    events: list[int] = field(default_factory=list)
    _script: dict[str, deque[Fault]] = field(default_factory=dict)
    _held: dict[str, Call] = field(default_factory=dict)
    _replies: dict[tuple[str, str], tuple[Call, CyclesResponse]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def on(self, operation: str, *faults: Fault | None) -> None:
        """Let the next calls of an operation meet these, in order; None is a plain answer."""
        plain = (fault or Fault() for fault in faults)
        self._script.setdefault(operation, deque()).extend(plain)

    def made(self, operation: str) -> list[Call]:
        """Return the calls of an operation, in order."""
        return [call for call in list(self.calls) if call.operation == operation]

    def bodies(self, operation: str) -> list[dict[str, Any]]:
        """Return the bodies of the calls of an operation, in order."""
        return [call.body or {} for call in self.made(operation)]

    @property
    def open(self) -> list[str]:
        """The reservations that were neither committed nor released."""
        with self._lock:
            return [one for one in self._held if one not in self.charged | self.released]

    def transport(self) -> ScriptedTransport:
        """Return a transport for `CyclesClient`."""
        return ScriptedTransport(self)

    def async_transport(self) -> AsyncScriptedTransport:
        """Return a transport for `AsyncCyclesClient`."""
        return AsyncScriptedTransport(self)

    def receive(self, call: Call) -> tuple[CyclesResponse, Fault]:
        """Note a call, act on it unless its fault forbids, and return answer and fault."""
        with self._lock:
            self.calls.append(copy.deepcopy(call))
            waiting = self._script.get(call.operation)
            fault = waiting.popleft() if waiting else Fault()
            if fault.response is not None and not fault.applied:
                return fault.response, fault
            plain = self._once(call)
            return fault.response or plain, fault

    def _once(self, call: Call) -> CyclesResponse:
        """Act on a call, or repeat what its key was answered before."""
        name = (call.operation, str((call.body or {}).get("idempotency_key")))
        if call.body is None or name not in self._replies:
            reply = self._act(call)
            if reply.is_success and call.body is not None:
                self._replies[name] = (copy.deepcopy(call), reply)
            return reply
        before, reply = self._replies[name]
        if (before.path, before.body) != (call.path, call.body):
            return _refusal(409, "IDEMPOTENCY_MISMATCH")
        return self._as_of_now(reply)

    def _as_of_now(self, reply: CyclesResponse) -> CyclesResponse:
        """Return a repeated answer: a lease that is over has no time left."""
        rid = (reply.body or {}).get("reservation_id")
        if rid in self.charged | self.released and "remaining_ttl_ms" in (reply.body or {}):
            return CyclesResponse.success(
                reply.status, {**(reply.body or {}), "remaining_ttl_ms": 0}
            )
        return reply

    def _act(self, call: Call) -> CyclesResponse:
        known = call.reservation_id is None or call.reservation_id in self._held
        if not known:
            return _refusal(404, "NOT_FOUND")
        if call.reservation_id in self.charged | self.released and call.method == "POST":
            return _refusal(409, "RESERVATION_FINALIZED")
        return _ACTS[call.operation](self, call, call.body or {})

    def _create(self, call: Call, body: dict[str, Any]) -> CyclesResponse:
        found: dict[str, Any] = {"decision": "ALLOW", "affected_scopes": ["tenant:scripted"]}
        if self.caps is not None:
            found |= {"decision": "ALLOW_WITH_CAPS", "caps": self.caps}
        if not body.get("dry_run"):
            found["reservation_id"] = f"rsv_{len(self._held) + 1}"
            found |= self._lease(body.get("ttl_ms", 60_000))
            self._held[found["reservation_id"]] = copy.deepcopy(call)
        return CyclesResponse.success(200, found)

    def _decide(self, call: Call, body: dict[str, Any]) -> CyclesResponse:
        return CyclesResponse.success(200, {"decision": "ALLOW", "affected_scopes": []})

    def _finish(self, call: Call, body: dict[str, Any]) -> CyclesResponse:
        rid, status = str(call.reservation_id), _ENDS[call.operation]
        estimate = (self._held[rid].body or {})["estimate"]
        if status == "RELEASED":
            self.released[rid] = body.get("reason")
            return CyclesResponse.success(200, {"status": status, "released": estimate})
        self.charged[rid] = body["actual"]["amount"]
        return CyclesResponse.success(200, {"status": status, "charged": body["actual"]})

    def _extend(self, call: Call, body: dict[str, Any]) -> CyclesResponse:
        return CyclesResponse.success(
            200, {"status": "ACTIVE", **self._lease(body["extend_by_ms"])}
        )

    def _lease(self, ttl_ms: int) -> dict[str, Any]:
        found = {"expires_at_ms": time.time_ns() // 1_000_000 + ttl_ms}
        return {**found, "remaining_ttl_ms": ttl_ms} if self.remaining else found

    def _event(self, call: Call, body: dict[str, Any]) -> CyclesResponse:
        self.events.append(body["actual"]["amount"])
        return CyclesResponse.success(
            201, {"status": "APPLIED", "event_id": f"evt_{len(self.events)}"}
        )

    def _read(self, call: Call, body: dict[str, Any]) -> CyclesResponse:
        return _refusal(501, "INTERNAL_ERROR", "reads are not scripted; use on() with answer()")


class ScriptedTransport:
    """A blocking transport to a `ScriptedServer`."""

    def __init__(self, server: ScriptedServer) -> None:
        """Send to `server`."""
        self.server = server
        self.closed = False

    def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call."""
        if self.closed:
            return CyclesResponse.transport_error(ClientClosed("the client was closed"))
        response, fault = self.server.receive(call)
        time.sleep(fault.seconds)
        if fault.gate is not None:
            fault.gate.reached.set()
            fault.gate.opened.wait(WAIT_S_MAX)
        return copy.deepcopy(response)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class AsyncScriptedTransport:
    """An asynchronous transport to a `ScriptedServer`."""

    def __init__(self, server: ScriptedServer) -> None:
        """Send to `server`."""
        self.server = server
        self.closed = False

    async def send(self, call: Call) -> CyclesResponse:
        """Return the answer to a call."""
        if self.closed:
            return CyclesResponse.transport_error(ClientClosed("the client was closed"))
        response, fault = self.server.receive(call)
        await asyncio.sleep(fault.seconds)
        if fault.gate is not None:
            fault.gate.reached.set()
            await _until(fault.gate.opened.is_set)
        return copy.deepcopy(response)

    async def aclose(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def blocking(self) -> ScriptedTransport:
        """Return a blocking transport to the same server."""
        return ScriptedTransport(self.server)


async def _until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_S_MAX
    while not true() and time.monotonic() < give_up:  # noqa: ASYNC110 - set by any thread
        await asyncio.sleep(LOOK_S)


def _refusal(status: int, code: str, message: str | None = None) -> CyclesResponse:
    body = {"error": code, "message": message or code, "request_id": "req_scripted"}
    return CyclesResponse.http_error(status, body["message"], body)


_ACTS: dict[str, Callable[[ScriptedServer, Call, dict[str, Any]], CyclesResponse]] = {
    "createReservation": ScriptedServer._create,
    "decide": ScriptedServer._decide,
    "commitReservation": ScriptedServer._finish,
    "releaseReservation": ScriptedServer._finish,
    "extendReservation": ScriptedServer._extend,
    "createEvent": ScriptedServer._event,
    "listReservations": ScriptedServer._read,
    "getReservation": ScriptedServer._read,
    "getBalances": ScriptedServer._read,
}
