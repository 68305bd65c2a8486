"""From a request that was refused to its line in the audit log.

The rule that lives here: one request that failed, one line, written before an authenticated
caller has the answer. The line never decides about the answer: a store that fails, or takes
too long, is logged, and the answer is sent all the same. Nothing of a body is kept but what
the ledger had understood of it, and no message, since one may quote what was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.types import Scope

from bursar.authority.call import Answer, Refusal
from bursar.authority.principal import Principal
from bursar.clock import Clock
from bursar.core.trail import ADMIN, UNAUTHENTICATED, Failure
from bursar.ledger.batcher import Batcher, Closed, Overloaded, Written
from bursar.server.attempts import Attempts, throttled
from bursar.server.respond import error_answer
from bursar.wire.codec import canonical

TEXT_LENGTH_MAX = 1_024
WRITTEN_WITHIN_S = 5.0
NO_ROUTE = "unlistedRoute"
# The part of a path behind /v1 or /v1/admin -> what it is about.
_RESOURCES = {
    "tenants": "tenant",
    "budgets": "budget",
    "balances": "budget",
    "policies": "policy",
    "api-keys": "api_key",
    "auth": "api_key",
    "reservations": "reservation",
    "decide": "reservation",
    "events": "event",
    "webhooks": "webhook",
    "audit": "audit",
    "overview": "overview",
    "config": "config",
}
# What a refused request asked for, by operation: where its body says the amount.
_AMOUNTS = {"createReservation": "estimate", "decide": "estimate", "createEvent": "actual"}
_UNDERSTOOD = (404, 409, 429)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
log = structlog.get_logger("bursar.audit")


class Failures:
    """Writes down what was refused, and throttles those who fail to say who they are."""

    def __init__(self, batcher: Batcher, clock: Clock, attempts: Attempts) -> None:
        """Write through `batcher`; count strangers in `attempts`."""
        self._batcher = batcher
        self._clock = clock
        self._attempts = attempts

    async def record(
        self, scope: Scope, error: Exception, answer: Answer, extra: dict[str, str]
    ) -> tuple[Answer, dict[str, str]]:
        """Write a failed request down and return the answer and headers to send.

        That is the answer given, or 429 for a stranger who has failed too often.
        """
        try:
            return await self._record(scope, error, answer, extra)
        except Exception as bug:
            log.error("a refused request could not be described", exc_info=bug)
            return answer, extra

    async def _record(
        self, scope: Scope, error: Exception, answer: Answer, extra: dict[str, str]
    ) -> tuple[Answer, dict[str, str]]:
        known = scope["bursar"]
        stranger = known.get("principal") is None
        if stranger:
            address = address_of(scope)
            verdict = self._attempts.count(address, self._clock.now_ms())
            if verdict.wait_ms is not None:
                error = throttled(verdict.wait_ms)
                answer, extra = error_answer(error, known["request_id"], known["trace_id"])
            if not verdict.is_written:
                return answer, extra
            failure = describe(scope, error, answer)
            if verdict.wait_ms is not None:
                self._attempts.stand_for(address, failure)
        else:
            failure = describe(scope, error, answer)
        written = self.note(failure)
        # A stranger has nothing to rely on, and a store in trouble is not waited for.
        if written is not None and not stranger and answer.status < 500:
            with contextlib.suppress(asyncio.CancelledError):  # the server stops; answer now
                await asyncio.wait([written], timeout=WRITTEN_WITHIN_S)
        return answer, extra

    def note(self, failure: Failure) -> asyncio.Future[Written] | None:
        """Hand a failure to the writer; one that cannot be written is logged."""
        try:
            written = self._batcher.note(failure)
        except (Overloaded, Closed) as error:
            _log_unwritten(failure, error)
            return None
        written.add_done_callback(lambda done: _look(failure, done))
        return written

    def finish(self, now_ms: int) -> None:
        """Write how many attempts the lines of past windows stand for."""
        for failure in self._attempts.finished(now_ms):
            self.note(failure)


def address_of(scope: Scope) -> str:
    """Return the address that a request came from; a proxy's, if there is one."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def describe(scope: Scope, error: Exception, answer: Answer) -> Failure:
    """Return the line of a request that was refused with `answer`."""
    known = scope["bursar"]
    principal: Principal | None = known.get("principal")
    agent = known["headers"].get(b"user-agent", b"").decode("latin-1")
    return Failure(
        tenant=UNAUTHENTICATED if principal is None else principal.tenant or ADMIN,
        request_id=known["request_id"],
        at_ms=known["started_ms"],
        operation=known.get("operation", NO_ROUTE),
        status=answer.status,
        error_code=json.loads(answer.body)["error"],
        resource_type=_resource_type(scope["path"]),
        resource_id=_resource_id(scope),
        actor=None if principal is None else principal.actor.value,
        key_id=None if principal is None else principal.key_id,
        trace_id=known["trace_id"],
        source_ip=clean(address_of(scope)),
        user_agent=clean(agent) or None,
        detail=canonical(_detail(scope, error, answer.status)).decode(),
    )


def clean(text: str) -> str:
    """Return a text as it may be kept: on one line, without control characters, not too long."""
    return _CONTROL.sub("", text)[:TEXT_LENGTH_MAX]


def _resource_type(path: str) -> str | None:
    parts = path.split("/")[1:]
    if parts[0] != "v1":
        return None
    place = 2 if parts[1:2] == ["admin"] else 1
    return _RESOURCES.get(parts[place]) if len(parts) > place else None


def _resource_id(scope: Scope) -> str | None:
    """Return the id that the path or the query names; a budget is named by scope and unit."""
    named = next(iter(scope.get("path_params", {}).values()), None)
    if named is not None:
        return clean(str(named))
    query: Mapping[str, str] = scope["bursar"].get("query", {})
    if query.get("scope") and query.get("unit"):
        return clean(f"{query['scope'].lower()}/{query['unit']}")
    return None


def _detail(scope: Scope, error: Exception, status: int) -> dict[str, Any]:
    known = scope["bursar"]
    detail: dict[str, Any] = {"method": clean(scope["method"]), "path": clean(scope["path"])}
    if not isinstance(error, Refusal):
        return detail
    refused = error.refused
    if refused.reason_code != refused.code:
        detail["reason_code"] = refused.reason_code
    if refused.scope is not None:
        detail["scope"] = clean(refused.scope)
    if refused.remaining is not None:
        detail["remaining"] = refused.remaining
    amount = _AMOUNTS.get(known.get("operation", ""))
    if amount is not None and status in _UNDERSTOOD and known.get("body"):
        asked = json.loads(known["body"])  # the ledger refused it, so it has been understood
        detail |= {"subject": asked["subject"], "action": asked["action"]}
        detail["amount"] = asked[amount]
    return detail


def _look(failure: Failure, done: asyncio.Future[Written]) -> None:
    if not done.cancelled() and done.result().error is not None:
        _log_unwritten(failure, done.result().error)


def _log_unwritten(failure: Failure, error: Exception | None) -> None:
    log.error(
        "a refused request could not be written to the audit log",
        request_id=failure.request_id,
        trace_id=failure.trace_id,
        tenant=failure.tenant,
        operation=failure.operation,
        status=failure.status,
        error_code=failure.error_code,
        source_ip=failure.source_ip,
        reason=str(error),
    )
