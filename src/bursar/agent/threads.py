"""Between threads and event loops, without ever waiting for a thread.

The rule that lives here: what may block for ever runs on a daemon thread of its own, never in
an executor: the interpreter, and a loop that closes, wait for those.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, TypeVar, cast

from bursar.agent.ports import Model, ModelEvent, ModelRequest, SyncModel

T = TypeVar("T")


def start_thread(work: Callable[[], object], name: str) -> None:
    """Run `work` on a daemon thread, in a copy of the caller's context."""
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name=name, daemon=True).start()


async def in_thread(work: Callable[[], T]) -> T:
    """Return what `work` returns; whoever is cancelled leaves at once, and it runs on.

    Raises:
        RuntimeError: `work` raised what would end a thread, such as `SystemExit`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            _tell(loop, _settle, future, None, carried(error))
        else:
            _tell(loop, _settle, future, result, None)

    start_thread(run, "bursar-work")
    return await future


def carried(error: BaseException) -> Exception:
    """Return what an error is to whoever waits for it on an event loop.

    A future cannot carry `StopIteration`, and `SystemExit` would end the loop and everybody on it.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"it raised {error!r}")


async def each_in_thread(make: Callable[[], Generator[T, None, None]]) -> AsyncGenerator[T, None]:
    """Yield what a blocking generator yields; closing this waits for its next event."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[T | None, Exception | None, bool]] = asyncio.Queue()
    left = threading.Event()

    def run() -> None:
        error: Exception | None = None
        try:
            source = make()
            try:
                for event in source:
                    _tell(loop, events.put_nowait, (event, None, False))
                    if left.is_set():
                        return
            finally:
                source.close()
        except BaseException as raised:  # noqa: BLE001 - raised where the events are read
            error = carried(raised)
        finally:
            _tell(loop, events.put_nowait, (None, error, True))

    start_thread(run, "bursar-model")
    over = False
    try:
        while True:
            event, error, over = await events.get()
            if error is not None:
                raise error
            if over:
                return
            yield event  # type: ignore[misc]  # only the last entry has no event
    finally:
        left.set()
        while not over:  # not before the thread has ended: until then it is still at work
            _, _, over = await events.get()


def answering(
    model: Model | SyncModel, request: ModelRequest, deadline: float | None
) -> AsyncGenerator[ModelEvent, None]:
    """Ask a model of either kind; a blocking one on a daemon thread."""
    complete = getattr(model, "complete", None)
    if complete is not None:
        answer: AsyncGenerator[ModelEvent, None] = complete(request, deadline=deadline)
        return answer
    blocking: Any = model
    return each_in_thread(lambda: blocking.complete_sync(request, deadline=deadline))


def run_on(loop: asyncio.AbstractEventLoop, flow: Coroutine[Any, Any, T]) -> T:
    """Run a flow on the loop of another thread and return its result.

    A caller who is interrupted cancels it.

    Raises:
        RuntimeError: the loop is this thread's own, or closed.
    """
    wrapped = _outcome(flow)
    try:
        if loop is _loop_here():
            raise RuntimeError("this would block the event loop that it waits for: await submit")
        if loop.is_closed():
            raise RuntimeError("the event loop of this turn is closed: the turn is over")
        future = asyncio.run_coroutine_threadsafe(wrapped, loop)
    except RuntimeError:
        wrapped.close()
        flow.close()
        raise
    try:
        result, error = future.result()
    except BaseException:
        future.cancel()
        raise
    if error is not None:
        raise error
    return cast("T", result)


class Portal:
    """An event loop on a daemon thread, for callers that have none of their own."""

    def __init__(self) -> None:
        """Start nothing; the thread comes with the first call."""
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def call(self, flow: Coroutine[Any, Any, T]) -> T:
        """Run a flow on the loop and return its result; an interrupted caller cancels it."""
        return run_on(self._running(), flow)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            # A forked child has none of its parent's threads.
            if self._loop is None or self._process != os.getpid():
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                start_thread(self._loop.run_forever, "bursar-agent-loop")
            return self._loop


_portal = Portal()


def portal() -> Portal:
    """Return the process's one portal."""
    return _portal


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _outcome(flow: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    # A future between threads would replace a provider's TimeoutError by one of its own.
    try:
        return await flow, None
    except Exception as error:  # noqa: BLE001 - raised on the caller's thread
        return None, error


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *values: object) -> None:
    try:
        loop.call_soon_threadsafe(what, *values)
    except RuntimeError:  # the loop is closed: nobody listens any more
        return


def _settle(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.done():  # cancelled: its reader has left
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
