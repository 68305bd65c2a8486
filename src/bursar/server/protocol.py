"""HTTP/1.1 connections with a deadline for headers, and errors in the protocol's shape.

The rule that lives here: a peer that sends a request drop by drop, or more connections
than the server takes, costs a timer and no more; and even bytes that are not HTTP are
answered with an error body, a request id and a trace id.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bursar import ids
from bursar.clock import Clock
from bursar.vocabulary import ErrorCode
from bursar.wire.codec import encode
from bursar.wire.problems import problem


class BoundedProtocol(HttpToolsProtocol):
    """One connection; uvicorn makes one object for each."""

    clock: ClassVar[Clock]
    header_timeout_s: ClassVar[float]
    connections_max: ClassVar[int]
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock for the first request's headers."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.close()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._disarm()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Start the clock for a further request on the same connection."""
        super().on_message_begin()
        if self._deadline is None:
            self._arm()

    def on_headers_complete(self) -> None:
        """Stop the clock: the headers are here."""
        self._disarm()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP as the protocol answers everything."""
        request_id, trace_id = ids.new_id(self.clock.now_ms()), ids.new_trace_id()
        message = f"This is not a valid HTTP/1.1 request: {msg}"
        body = encode(problem(ErrorCode.INVALID_REQUEST, message, request_id, trace_id))
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\n"
            f"x-cycles-trace-id: {trace_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


def protocol_class(
    clock: Clock, header_timeout_s: float, connections_max: int
) -> type[HttpToolsProtocol]:
    """Return the protocol of one server; uvicorn takes a class and no arguments for it."""

    class Configured(BoundedProtocol):
        pass

    Configured.clock = clock
    Configured.header_timeout_s = header_timeout_s
    Configured.connections_max = connections_max
    return Configured
