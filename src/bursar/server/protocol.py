"""HTTP/1.1 connections with a deadline for headers, and errors in the protocol's shape.

The rule that lives here: a peer that sends a request drop by drop, or headers without end,
or more connections than the server takes, costs a timer and no more. Even bytes that are
not HTTP are answered with an error body, a request id and a trace id.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bursar import ids
from bursar.clock import Clock
from bursar.vocabulary import ErrorCode
from bursar.wire.codec import encode
from bursar.wire.problems import problem

HEAD_BYTES_MAX = 65_536
"""Most bytes of a request's path and headers; the parser itself sets no limit."""

ARRIVED = "bursar.arrived"
"""Set in a request's scope once all of its body is here."""


class HeadTooLarge(Exception):
    """Path and headers together exceed the limit; ends the parsing of the connection."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection; uvicorn makes one object for each."""

    clock: ClassVar[Clock]
    header_timeout_s: ClassVar[float]
    connections_max: ClassVar[int]
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _pending_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is a head that will not end."""
        if self._deadline is not None:
            self._pending_bytes += len(data)
        super().data_received(data)
        if self._pending_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse_head()

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
        self._head_bytes = 0
        if self._deadline is None:
            self._arm()

    def on_url(self, url: bytes) -> None:
        """Take the path, if it is not too long."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header, if there are not too many."""
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        """Tell the application that it need not wait for the body."""
        cast("dict[str, Any]", self.scope)[ARRIVED] = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        """Stop the clock: the headers are here."""
        self._disarm()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP as the protocol answers everything."""
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse_head()
        else:
            self._answer("400 Bad Request", f"This is not a valid HTTP/1.1 request: {msg}")

    def _refuse_head(self) -> None:
        self._answer(
            "431 Request Header Fields Too Large",
            f"Path and headers must be at most {HEAD_BYTES_MAX} bytes together",
        )

    def _answer(self, status: str, message: str) -> None:
        """Answer without the application, and close: nothing after this can be parsed."""
        request_id, trace_id = ids.new_id(self.clock.now_ms()), ids.new_trace_id()
        body = encode(problem(ErrorCode.INVALID_REQUEST, message, request_id, trace_id))
        head = (
            f"HTTP/1.1 {status}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\n"
            f"x-cycles-trace-id: {trace_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _grow(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            raise HeadTooLarge

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _disarm(self) -> None:
        self._pending_bytes = 0
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
