"""A span for every request, and in it one for the transaction that wrote its command.

The rule that lives here: a span's trace id is the request's, the one in the reply's
headers, in the audit log and in the log. A transaction serves many requests, so each of
them gets a span of it as a child: its times are the transaction's, and every trace is whole
by itself, however the others are sampled. This module needs the extra `otel`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from starlette.types import Scope

from bursar import __version__
from bursar.core.commands import AnyCommand
from bursar.ledger.observer import Executed
from bursar.ledger.service import Failed, Outcome
from bursar.server.observe.ledger import told
from bursar.server.routes import ROUTES
from bursar.server.tracing import parent_of

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}
PATHS = {route.operation_id: route.path for route in ROUTES}
TRANSACTION = "ledger transaction"
NONE: Context = Context()


class TraceIds(RandomIdGenerator):
    """Gives a span without a parent the trace id that its request already has."""

    def __init__(self) -> None:
        """Start without a request; the event loop alone asks for trace ids."""
        self.next = 0

    def generate_trace_id(self) -> int:
        """Return the request's trace id."""
        return self.next

    def is_trace_id_random(self) -> bool:
        """Tell that a caller may have chosen it."""
        return False


class Spans:
    """An observer of requests and of the ledger."""

    def __init__(
        self, provider: TracerProvider, ids: TraceIds, flush: Callable[[], None] | None = None
    ) -> None:
        """Make spans with `provider`, whose trace ids come from `ids`; `flush` ends it."""
        self._tracer = provider.get_tracer("bursar", __version__)
        self._ids = ids
        self.close = flush or provider.shutdown
        # Of the requests on their way, by request id; the scope of a request holds its span.
        self._open: WeakValueDictionary[str, Span] = WeakValueDictionary()

    def began(self, scope: Scope) -> None:
        """Start the span of a request."""
        known = scope["bursar"]
        self._ids.next = int(known["trace_id"], 16)
        span = self._tracer.start_span(
            _method(scope), _parent(known["headers"]), SpanKind.SERVER, _asked(scope)
        )
        known["span"] = span
        if span.is_recording():
            self._open[known["request_id"]] = span

    def ended(self, scope: Scope, status: int, took_s: float) -> None:
        """End the span of a request."""
        known = scope["bursar"]
        span: Span = known["span"]
        self._open.pop(known["request_id"], None)
        if span.is_recording():
            _finish(span, scope, status)
        span.end()

    def executed(self, batch: Executed) -> None:
        """Show a transaction in the traces of the requests that it served."""
        ended_ns = time.time_ns()
        began_ns = ended_ns - int(batch.took_s * 1e9)
        for command, outcome in zip(batch.commands, batch.outcomes, strict=True):
            request_id = command.origin.request_id
            span = None if request_id is None else self._open.get(request_id)
            if span is not None and span.is_recording():
                self._transaction(span, command, len(batch.commands), outcome, began_ns, ended_ns)

    def _transaction(
        self,
        request: Span,
        command: AnyCommand,
        size: int,
        outcome: Outcome,
        began_ns: int,
        ended_ns: int,
    ) -> None:
        verdict = told(command, outcome)
        facts: dict[str, str | int] = {"bursar.tenant": command.tenant}
        if verdict is not None:
            facts |= {"bursar.decision": verdict[0], "bursar.reason": verdict[1]}
        request.set_attributes(facts)
        span = self._tracer.start_span(
            TRANSACTION,
            trace.set_span_in_context(request, NONE),
            SpanKind.INTERNAL,
            {
                "bursar.command": type(command).__name__,
                "bursar.batch.commands": size,
                "bursar.transaction.duration": (ended_ns - began_ns) / 1e9,
            },
            start_time=began_ns,
        )
        if isinstance(outcome, Failed):
            span.set_attribute("error.type", type(outcome.error).__name__)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)


def _parent(headers: dict[bytes, bytes]) -> Context:
    """Return the caller's span, if there is one that may be believed."""
    raw = headers.get(b"traceparent")
    parent = None if raw is None else parent_of(raw.decode("latin-1"))
    if parent is None:
        return NONE
    state = headers.get(b"tracestate")
    context = SpanContext(
        trace_id=int(parent.trace_id, 16),
        span_id=int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=None if state is None else TraceState.from_header([state.decode("latin-1")]),
    )
    return trace.set_span_in_context(NonRecordingSpan(context), NONE)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "HTTP"


def _asked(scope: Scope) -> dict[str, Any]:
    """Return what is known of a request when it comes, as the HTTP conventions name it."""
    known = scope["bursar"]
    facts = {
        "http.request.method": scope["method"] if scope["method"] in METHODS else "_OTHER",
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
        "bursar.request_id": known["request_id"],
    }
    if scope.get("server"):
        facts["server.address"], facts["server.port"] = scope["server"]
    if scope.get("client"):
        facts["client.address"] = scope["client"][0]
    agent = known["headers"].get(b"user-agent")
    if agent is not None:
        facts["user_agent.original"] = agent.decode("latin-1")
    return facts


def _finish(span: Span, scope: Scope, status: int) -> None:
    """Write down how a request was answered."""
    known = scope["bursar"]
    operation = known.get("operation")
    if operation is not None:
        span.update_name(f"{_method(scope)} {PATHS[operation]}")
        span.set_attributes({"http.route": PATHS[operation], "bursar.operation": operation})
    principal = known.get("principal")
    if principal is not None and principal.tenant is not None:
        span.set_attribute("bursar.tenant", principal.tenant)
    if status:
        span.set_attribute("http.response.status_code", status)
    if "refused" in known:
        span.set_attribute("bursar.error_code", json.loads(known["refused"].body)["error"])
    if status == 0 or status >= 500:
        span.set_attribute("error.type", str(status) if status else "cancelled")
        span.set_status(Status(StatusCode.ERROR))
