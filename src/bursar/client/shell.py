"""The two ways to drive a flow: block until it is done, or finish it whatever becomes of us.

The rule that lives here: a flow that has begun is finished. The synchronous shell cannot be
left half way but by an exception; the asynchronous one runs each flow in a task of its own,
so that cancelling the caller never cancels a settlement. The caller's cancellation goes on
at once; a supervisor keeps the task, and closing the client waits for it, within a bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

from bursar import ids
from bursar.client.calls import Call
from bursar.client.journal import Journal, JournalError, Record
from bursar.client.response import CyclesResponse
from bursar.client.transport import AsyncTransport, Transport

T = TypeVar("T")
Flow = Coroutine[Any, Any, T]
JournalOf = Callable[[], Journal]
"""Opens a client's journal, or returns it: its identity is costly to compute, so not before
the first record, and never on an event loop."""


def _write(journal: JournalOf, record: Record) -> None:
    journal().write(record)


def _discard(journal: JournalOf, record: Record) -> None:
    journal().discard(record.reservation_id, record.key)


def _set_aside(journal: JournalOf, record: Record) -> None:
    journal().set_aside(record.reservation_id, record.key)


def _look(journal: JournalOf, now_ms: int) -> list[Record]:
    journal().sweep(now_ms)
    return journal().load()


class _Done(Generic[T]):
    """Work done in place, where it blocks: awaiting what came of it never suspends."""

    def __init__(self, work: Callable[..., T], *args: Any) -> None:
        self._came: Callable[[], T]
        try:
            value = work(*args)
        except JournalError as error:
            self._came = partial(_fail, error)
        else:
            self._came = lambda: value

    def __await__(self) -> Generator[Any, None, T]:
        yield from ()
        return self._came()


def _fail(error: Exception) -> NoReturn:
    raise error


def _nothing() -> None:
    """Do what a client without a journal does about it."""


class _Work(Generic[T]):
    """Work begun on a thread of the running loop, which goes on if its caller is cancelled.

    It may be awaited on another loop as well, or without one, which blocks: the loop that
    began it may be gone before it is done.

    A loop that is about to close has no threads any more, but may still run a step that has
    the answer to a commit. Nothing else is waiting for such a loop, so it does the work itself.
    """

    def __init__(self, work: Callable[..., T], *args: Any) -> None:
        self._done: Future[T] = Future()
        self._done.set_running_or_notify_cancel()  # from here on nobody can cancel it
        begin = partial(self._do, work, args)
        try:
            asyncio.get_running_loop().run_in_executor(None, begin)
        except RuntimeError:
            begin()

    def _do(self, work: Callable[..., T], args: tuple[Any, ...]) -> None:
        try:
            self._done.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            self._done.set_exception(error)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done.done() and asyncio._get_running_loop() is not None:
            return (yield from asyncio.shield(asyncio.wrap_future(self._done)))
        return self._done.result()


class _World:
    """Time and randomness, the same for both shells."""

    def now_ms(self) -> int:
        """Return epoch milliseconds of the wall clock."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Return milliseconds of a clock that only measures."""
        return time.monotonic_ns() // 1_000_000

    def new_key(self) -> str:
        """Return a fresh idempotency key."""
        return ids.new_key()


class BlockingIo(_World):
    """An `Io` that blocks: for threads."""

    def __init__(self, transport: Transport, journal: JournalOf | None) -> None:
        """Send through `transport` and remember in `journal`."""
        self.transport = transport
        self._journal = journal

    async def send(self, call: Call) -> CyclesResponse:
        """Send a call and return what came back."""
        return self.transport.send(call)

    def write(self, record: Record) -> Awaitable[None]:
        """Put a record into the journal."""
        return _Done(_nothing) if self._journal is None else _Done(_write, self._journal, record)

    async def discard(self, record: Record) -> None:
        """Take a record out of the journal."""
        if self._journal is not None:
            _discard(self._journal, record)

    async def set_aside(self, record: Record) -> None:
        """Take a rejected record out of the journal, and keep it for the operator."""
        if self._journal is not None:
            _set_aside(self._journal, record)

    async def load(self) -> list[Record]:
        """Return what the journal holds."""
        return [] if self._journal is None else _look(self._journal, self.now_ms())

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251 - this Io blocks, and only in threads


class AsyncIo(_World):
    """An `Io` that suspends: for event loops. Files are written off the loop."""

    def __init__(self, transport: AsyncTransport, journal: JournalOf | None) -> None:
        """Send through `transport` and remember in `journal`."""
        self.transport = transport
        self._journal = journal

    async def send(self, call: Call) -> CyclesResponse:
        """Send a call and return what came back."""
        return await self.transport.send(call)

    def write(self, record: Record) -> Awaitable[None]:
        """Begin to put a record into the journal, on a thread that nobody's cancelling stops."""
        if self._journal is None:
            return _Done(_nothing)
        return _Work(_write, self._journal, record)

    async def discard(self, record: Record) -> None:
        """Take a record out of the journal."""
        if self._journal is not None:
            await _Work(_discard, self._journal, record)

    async def set_aside(self, record: Record) -> None:
        """Take a rejected record out of the journal, and keep it for the operator."""
        if self._journal is not None:
            await _Work(_set_aside, self._journal, record)

    async def load(self) -> list[Record]:
        """Return what the journal holds."""
        if self._journal is None:
            return []
        return await _Work(_look, self._journal, self.now_ms())

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Supervisor:
    """Tasks that outlive their callers."""

    def __init__(self) -> None:
        """Watch over nothing yet."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, flow: Flow[T]) -> T:
        """Run a flow to its end even if the caller is cancelled, who then leaves at once."""
        return await asyncio.shield(self.start(flow))

    async def finish_or(self, flow: Flow[T], undo: Callable[[T], Flow[None]]) -> T:
        """Run a flow to its end; if the caller was cancelled meanwhile, undo what it gave."""
        task = self.start(flow)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(partial(self._undo, undo))
            raise

    def _undo(self, undo: Callable[[T], Flow[None]], task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.start(undo(task.result()))

    async def drain(self, timeout_s: float) -> int:
        """Wait, at most `timeout_s` seconds, for what is running; return what still is.

        What began meanwhile is waited for too, such as the undoing of an abandoned flow.
        """
        give_up = time.monotonic() + timeout_s
        while mine := self._mine():
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.wait(mine, timeout=left_s)
        return len(self._mine())

    def _mine(self) -> set[asyncio.Task[Any]]:
        """Return what runs on this loop: other loops finish their own."""
        here, me = asyncio.get_running_loop(), asyncio.current_task()
        return {one for one in tuple(self._tasks) if one.get_loop() is here and one is not me}

    def start(self, flow: Flow[T]) -> asyncio.Task[T]:
        """Run a flow as a task of its own, which is kept until it is done."""
        task = asyncio.get_running_loop().create_task(flow)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that an abandoned failure is no warning at exit
