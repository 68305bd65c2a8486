"""Runs a paid handler in a task of its own, and keeps what it answers.

The rule that lives here: what was paid for is done and written down even if nobody listens any
more; while somebody does, the handler is no faster than who listens. The last part of an answer
leaves only after the record says that it was delivered, so a payer who has it is never taken for
one who has not. A handler holds its claim for as long as it is alive, and it is not for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Final

from bursar.x402.answers import Header
from bursar.x402.results import ANSWER_BYTES_MAX, StoredAnswer

Message = MutableMapping[str, Any]
Application = Callable[[Any, Any, Any], Awaitable[None]]
PARTS_MAX: Final = 4
"""So many parts of an answer wait for who listens; a handler that makes more waits too."""
RENEWALS: Final = 3
"""A claim is renewed so often in its time, so that one hiccup of the database loses none."""
CANCEL_S: Final = 5.0
_log = logging.getLogger("bursar.x402")


class WorkStopped(Exception):
    """A handler was cancelled: its time was over, or its claim passed to another.

    Attributes:
        lost: another has the claim, so nothing of this run is written down.
    """

    def __init__(self, why: str, *, lost: bool) -> None:
        """Keep whose the claim is beside the sentence."""
        super().__init__(why)
        self.lost = lost


async def under_claim(
    work: Coroutine[Any, Any, None],
    renew: Callable[[], Awaitable[bool]],
    *,
    claim_s: float,
    most_s: float,
) -> None:
    """Run work, and renew its claim until it is really over, however long it takes to stop.

    Args:
        work: the handler.
        renew: says whether the claim is still its own.
        claim_s: how long a claim holds.
        most_s: when the work is cancelled.

    Raises:
        WorkStopped: it was.
    """
    loop = asyncio.get_running_loop()
    ends, stopped = loop.time() + most_s, WorkStopped("", lost=False)
    task = asyncio.create_task(work)
    try:
        while not task.done():
            left = max(0.0, ends - loop.time()) if not str(stopped) else claim_s
            await asyncio.wait({task}, timeout=min(left, claim_s / RENEWALS))
            if task.done():
                break
            if not stopped.lost and not await renew():
                stopped = WorkStopped("its claim passed to another", lost=True)
                task.cancel()
            elif not str(stopped) and loop.time() >= ends:
                stopped = WorkStopped(f"it took more than {most_s:g} s", lost=False)
                task.cancel()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_S)
    if task.cancelled() and str(stopped):
        raise stopped
    task.result()


class Pipe:
    """A few parts between who writes and who reads; each of them may leave."""

    def __init__(self) -> None:
        self._held: deque[Message] = deque()
        self._ended = self._left = False
        self._moved = asyncio.Event()

    async def put(self, part: Message) -> None:
        """Wait for room and put a part in; where nobody reads any more, it is dropped at once."""
        while len(self._held) >= PARTS_MAX and not self._left:
            await self._wait()
        if not self._left:
            self._held.append(part)
            self._moved.set()

    async def get(self) -> Message | None:
        """Return the next part, or None when there is no more."""
        while not self._held and not self._ended:
            await self._wait()
        part = self._held.popleft() if self._held else None
        self._moved.set()
        return part

    def end(self) -> None:
        """Say that no more comes."""
        self._ended = True
        self._moved.set()

    def leave(self) -> None:
        """Say that nobody reads any more."""
        self._left = True
        self._held.clear()
        self._moved.set()

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()


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
        self._parts = Pipe()
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
            self._parts.end()

    async def relay(self, send: Callable[[Message], Awaitable[None]]) -> None:
        """Send what the handler answers as it comes; it need not wait for who has left."""
        try:
            while (message := await self._parts.get()) is not None:
                await send(message)
        finally:
            self._parts.leave()

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
        await self._parts.put(message)

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
