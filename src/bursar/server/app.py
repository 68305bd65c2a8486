"""The ASGI application: thin endpoints between HTTP and the authority's operations.

The rule that lives here: every response, whatever becomes of the request, carries its
request id and trace id, in headers and in error bodies. An endpoint reads, authenticates,
calls one operation and sends what comes back; it decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import parse_qsl

import structlog
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bursar import ids
from bursar.authority.authority import Authority
from bursar.authority.call import Answer, Call, Refusal
from bursar.authority.unforeseen import Interrupted
from bursar.clock import Clock
from bursar.flow import run_sync
from bursar.ledger.batcher import Closed
from bursar.ledger.ports import StoreError
from bursar.server import backup, health
from bursar.server.auth import Access, Authenticator
from bursar.server.failures import Failures, address_of
from bursar.server.observe.seam import RequestObserver
from bursar.server.protocol import ARRIVED
from bursar.server.respond import HttpError, error_answer, wrong_method
from bursar.server.routes import ROUTES, ApiRoute
from bursar.server.settings import Settings
from bursar.server.tracing import trace_id
from bursar.vocabulary import ErrorCode
from bursar.wire.codec import encode

QUERY_FIELDS_MAX = 100
Headers = Mapping[bytes, bytes]
log = structlog.get_logger("bursar.http")


def build(
    authority: Authority,
    authenticator: Authenticator,
    settings: Settings,
    state: health.State,
    failures: Failures,
    observers: Sequence[RequestObserver] = (),
    pages: Mapping[str, ASGIApp] = MappingProxyType({}),
) -> ASGIApp:
    """Return the application.

    Args:
        authority: what the operations work with.
        authenticator: who may call them.
        settings: the server's settings.
        state: what the probes look at.
        failures: writes down every request that is refused.
        observers: are told of every request.
        pages: what else is served, by path.
    """
    by_path: dict[str, dict[str, ApiRoute]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, {})[route.method] = route
    endpoints: dict[str, ASGIApp] = {
        path: _Endpoint(methods, authority, authenticator, settings)
        for path, methods in by_path.items()
    }
    endpoints |= {
        "/health/live": _Probe(health.live, state),
        "/health/ready": _Probe(health.ready, state),
        **pages,
        backup.PATH: _OperatorOnly(backup.Backup(settings.store_path.absolute()), authenticator),
    }
    return _Envelope(_Paths(endpoints), authority.clock, failures, observers)


class _Paths:
    """Finds the endpoint of a path: most are written out, and only the others are patterns."""

    def __init__(self, endpoints: Mapping[str, ASGIApp]) -> None:
        self._exact = {path: app for path, app in endpoints.items() if "{" not in path}
        patterns = [Route(path, app) for path, app in endpoints.items() if "{" in path]
        self._patterns = Router(patterns, redirect_slashes=False, default=_not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._exact.get(scope["path"])
        if endpoint is None:
            await self._patterns(scope, receive, send)
        else:
            scope["path_params"] = {}
            await endpoint(scope, receive, send)


class _Envelope:
    """Gives every request its ids, and every failure the protocol's error body."""

    def __init__(
        self,
        app: ASGIApp,
        clock: Clock,
        failures: Failures,
        observers: Sequence[RequestObserver],
    ) -> None:
        self._app = app
        self._clock = clock
        self._failures = failures
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: Headers = dict(scope["headers"])
        started_ms = self._clock.now_ms()
        began_s = time.perf_counter()
        request_id = ids.new_id(started_ms)
        trace = trace_id(_text(headers, b"traceparent"), _text(headers, b"x-cycles-trace-id"))
        scope["bursar"] = {
            "headers": headers,
            "request_id": request_id,
            "trace_id": trace,
            "started_ms": started_ms,
        }
        for observer in self._observers:
            observer.began(scope)
        status = 0

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"x-cycles-trace-id", trace.encode()),
                ]
            await send(message)

        try:
            _refuse_escaped_slash(scope)
            await self._app(scope, receive, send_with_ids)
        except asyncio.CancelledError:
            # The time to finish after a signal is over; this ends the request's own task.
            if status == 0:
                interrupted = Interrupted()
                answer, extra = error_answer(interrupted, request_id, trace)
                answer, _ = await self._failures.record(scope, interrupted, answer, extra)
                scope["bursar"]["refused"] = answer
                await _send(send_with_ids, answer, {"connection": "close"})
        except Exception as error:  # noqa: BLE001 - whatever fails, the caller gets an error body
            answer, extra = error_answer(error, request_id, trace)
            if answer.status >= 500:
                _log_failure(error, request_id, trace, scope["path"])
            if status == 0:
                answer, extra = await self._failures.record(scope, error, answer, extra)
                scope["bursar"]["refused"] = answer
                await _send(send_with_ids, answer, extra)
        took_s = time.perf_counter() - began_s
        for observer in self._observers:
            observer.ended(scope, status, took_s)
        log.debug(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            ms=self._clock.now_ms() - started_ms,
            request_id=request_id,
            trace_id=trace,
        )


def _log_failure(error: Exception, request_id: str, trace: str, path: str) -> None:
    """Write down a request that failed; what was foreseen needs no traceback.

    While a disk is full every request fails, and its log must not fill the next disk.
    """
    foreseen = isinstance(error, StoreError | Closed | Refusal)
    log.error(
        "request failed",
        request_id=request_id,
        trace_id=trace,
        path=path,
        reason=str(error),
        exc_info=None if foreseen else error,
    )


class _Endpoint:
    """The operations of one path, by method."""

    def __init__(
        self,
        methods: Mapping[str, ApiRoute],
        authority: Authority,
        authenticator: Authenticator,
        settings: Settings,
    ) -> None:
        self._methods = methods
        self._authority = authority
        self._authenticator = authenticator
        self._body_bytes_max = settings.body_bytes_max
        self._body_timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._methods.get(scope["method"])
        if route is None:
            raise wrong_method(scope["method"], self._methods)
        known = scope["bursar"]
        known["operation"] = route.operation_id
        headers: Headers = known["headers"]
        principal = self._authenticator.principal(
            route.access,
            _text(headers, b"x-admin-api-key"),
            _text(headers, b"x-cycles-api-key"),
            address_of(scope),
        )
        known["principal"] = principal
        known["query"] = query = _query(scope["query_string"])
        body = b""
        if route.method != "GET":
            body = await self._body(headers, receive, arrived=ARRIVED in scope)
        known["body"] = body
        call = Call(
            principal=principal,
            request_id=known["request_id"],
            trace_id=known["trace_id"],
            body=body,
            idempotency_header=_text(headers, b"x-idempotency-key"),
            query=query,
            path=scope["path_params"],
        )
        try:
            answer = await self._perform(route, call)
        finally:
            if route.forgets_keys:  # also when nobody knows whether it happened
                self._authenticator.forget()
        extra = {} if principal.tenant is None else {"x-cycles-tenant": principal.tenant}
        await _send(send, answer, extra)

    async def _perform(self, route: ApiRoute, call: Call) -> Answer:
        operation = route.operation(self._authority, call)
        if route.reads:
            return await asyncio.to_thread(run_sync, cast(Any, operation))
        return await operation

    async def _body(self, headers: Headers, receive: Receive, *, arrived: bool) -> bytes:
        declared = _text(headers, b"content-length") or "0"
        if declared.isdigit() and int(declared[:12]) > self._body_bytes_max:
            raise self._too_large()
        if arrived:  # as most bodies have, with the headers: no timer for these
            return await self._read(receive)
        try:
            async with asyncio.timeout(self._body_timeout_s):
                return await self._read(receive)
        except TimeoutError:
            raise HttpError(
                408,
                ErrorCode.INVALID_REQUEST,
                f"body: did not arrive within {self._body_timeout_s} seconds",
                {"connection": "close"},
            ) from None

    async def _read(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HttpError(400, ErrorCode.INVALID_REQUEST, "body: the connection closed")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._body_bytes_max:
                raise self._too_large()
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            ErrorCode.INVALID_REQUEST,
            f"body: must be at most {self._body_bytes_max} bytes (setting body_bytes_max)",
            {"connection": "close"},
        )


class _Probe:
    """A health check: no credential, always JSON."""

    def __init__(self, check: health.Check, state: health.State) -> None:
        self._check = check
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise wrong_method(scope["method"], ["GET", "HEAD"])
        status, body = self._check(self._state)
        await _send(send, Answer(status, encode(body)), {}, with_body=scope["method"] == "GET")


class _OperatorOnly:
    """A GET that sends its own response, to the operator alone."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            raise wrong_method(scope["method"], ["GET"])
        key = _text(scope["bursar"]["headers"], b"x-admin-api-key")
        known = scope["bursar"]
        known["principal"] = self._authenticator.principal(
            Access.OPERATOR, key, None, address_of(scope)
        )
        await self._app(scope, receive, send)


def _refuse_escaped_slash(scope: Scope) -> None:
    """An escaped slash is none: routed as one, it would pass what a proxy holds back by path."""
    raw = scope.get("raw_path") or b""
    if b"%2f" in raw.lower():
        raise HttpError(404, ErrorCode.NOT_FOUND, f"No such path: {raw.decode('latin-1')[:200]}")


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise HttpError(404, ErrorCode.NOT_FOUND, f"No such path: {scope['path'][:200]}")


async def _send(
    send: Send, answer: Answer, extra: Mapping[str, str], *, with_body: bool = True
) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
    ]
    headers += [(name.encode(), value.encode()) for name, value in extra.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body if with_body else b""})


def _query(raw: bytes) -> Mapping[str, str]:
    if not raw:
        return {}
    try:
        return dict(
            parse_qsl(
                raw.decode("latin-1"), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX
            )
        )
    except ValueError:
        raise HttpError(
            400,
            ErrorCode.INVALID_REQUEST,
            f"query: at most {QUERY_FIELDS_MAX} parameters are read",
        ) from None


def _text(headers: Headers, name: bytes) -> str | None:
    """Return a header as text: UTF-8 as JSON has it, so that a key in both is the same."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
