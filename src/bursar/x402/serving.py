"""Runs a paid handler in a task of its own, and keeps what it answers.

The rule that lives here: what was paid for is done and written down even if nobody listens any
more. The last part of an answer leaves only after the record says that it was delivered, so a
payer who has it is never taken for one who has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bursar.x402.answers import Header
from bursar.x402.results import ANSWER_BYTES_MAX, StoredAnswer

Message = MutableMapping[str, Any]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Performance:
    """One run of a handler for one payment.

    Args:
        receipt: the header that is added to its answer.
        finished: called with the answer (None if it is too large to keep) and its status
            before its last part leaves.
    """

    def __init__(
        self, receipt: Header, finished: Callable[[int, StoredAnswer | None], Awaitable[None]]
    ) -> None:
        self._receipt, self._finished = receipt, finished
        self._parts: asyncio.Queue[Message | None] = asyncio.Queue()
        self._status = 0
        self._headers: tuple[Header, ...] = ()
        self._body: list[bytes] | None = []
        self._size = 0
        self.complete = False

    @property
    def started(self) -> bool:
        """Say whether an answer has begun."""
        return self._status != 0

    async def run(self, app: Application, scope: Message, body: bytes) -> None:
        """Run the handler to its end; whoever listens gets its parts from `relay`."""
        over, begun = asyncio.Event(), [False]

        async def receive() -> Message:
            if not begun[0]:
                begun[0] = True
                return {"type": "http.request", "body": body, "more_body": False}
            await over.wait()  # the payer may leave; the work does not notice
            return {"type": "http.disconnect"}

        try:
            await app(scope, receive, self._take)
        finally:
            over.set()
            self._parts.put_nowait(None)

    async def relay(self, send: Callable[[Message], Awaitable[None]]) -> None:
        """Send what the handler answers as it comes."""
        while (message := await self._parts.get()) is not None:
            await send(message)

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = tuple((bytes(n), bytes(v)) for n, v in message.get("headers", ()))
            if self._status >= 400 and not any(
                n.lower() == b"cache-control" for n, _ in self._headers
            ):
                self._headers = (*self._headers, (b"cache-control", b"no-store"))
            message = {**message, "headers": [*self._headers, self._receipt]}
        elif message["type"] == "http.response.body":
            self._keep(message.get("body", b""))
            if not message.get("more_body"):
                self.complete = True
                await self._finished(self._status, self._answer())
        self._parts.put_nowait(message)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > ANSWER_BYTES_MAX:
            self._body = None
        elif self._body is not None:
            self._body.append(part)

    def _answer(self) -> StoredAnswer | None:
        if self._body is None:
            return None
        return StoredAnswer(self._status, self._headers, b"".join(self._body))
