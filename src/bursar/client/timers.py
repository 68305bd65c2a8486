"""One timer wheel for every live guard: a thread per process, or the event loop's own heap.

The rule that lives here: something periodic costs an entry in a heap, never a thread or a
task of its own. A tick that is due runs on one of a few workers (a task, in a loop); when
it ends, it says when it wants to be called again. Whatever a tick raises, the wheel turns on.
A finalizer may start or cancel a timer at any moment, on any thread, inside this very code.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bursar.client.io import Tick
from bursar.flow import run_sync

if TYPE_CHECKING:
    from collections.abc import Coroutine

WORKERS_MAX = 16
CANCELLED_MIN = 64
"""Cancelled timers that a wheel keeps at most, or half of its heap."""

log = logging.getLogger("bursar.client")


class Entry:
    """One periodic flow of a thread wheel."""

    __slots__ = ("_timers", "tick")

    def __init__(self, timers: ThreadTimers, tick: Tick) -> None:
        """Hold the flow."""
        self._timers = timers
        self.tick: Tick | None = tick

    @property
    def alive(self) -> bool:
        """Whether a step may still come."""
        return self.tick is not None

    def cancel(self) -> None:
        """Stop it; a step that is running may finish, and no other follows."""
        if self.tick is not None:
            self.tick = None  # whatever the flow holds on to is let go at once
            self._timers.cancelled()


class ThreadTimers:
    """A heap of what is due, one daemon thread that watches it, and a few that work."""

    def __init__(self, workers_max: int = WORKERS_MAX) -> None:
        """Start nothing; threads come with the first timer and the first work."""
        self._workers_max = workers_max
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: it has none of its parent's threads or guards."""
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Entry]] = []
        self._order = itertools.count()
        self._pushed = 0
        self._cancelled = 0
        self._watching = False
        self._work: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._workers = 0
        self._idle = 0

    def __len__(self) -> int:
        """Return how many timers wait, cancelled ones included."""
        return len(self._heap)

    def ready(self) -> None:
        """Start the watching thread now: none can be started while the interpreter ends."""
        if not self._watching:
            with self._changed:
                self._watching = self._watching or _thread("bursar-timers", self._watch)

    def start(self, delay_s: float, tick: Tick) -> Entry:
        """Run `tick` after a delay, and again for as long as it names a next delay."""
        entry = Entry(self, tick)
        self._push(delay_s, entry)
        return entry

    def cancelled(self) -> None:
        """Count a cancelled timer; when they are the larger part, let go of them all."""
        with self._changed:
            self._cancelled += 1
            if self._cancelled > CANCELLED_MIN and self._cancelled * 2 > len(self._heap):
                self._compact()

    def _compact(self) -> None:
        while True:
            pushed = self._pushed
            kept = [item for item in self._heap if item[2].tick is not None]
            heapq.heapify(kept)
            if pushed == self._pushed:  # no finalizer started a timer meanwhile
                self._heap, self._cancelled = kept, 0
                return

    def _push(self, delay_s: float, entry: Entry) -> None:
        due = time.monotonic() + max(0.0, delay_s)
        with self._changed:
            heapq.heappush(self._heap, (due, next(self._order), entry))
            self._pushed += 1
            if not self._watching:
                self.ready()
            elif self._heap[0][2] is entry:
                self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._heap or self._heap[0][0] > time.monotonic():
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                _, _, entry = heapq.heappop(self._heap)
                if entry.tick is None:
                    self._cancelled = max(0, self._cancelled - 1)
                    continue
                working = self._find_worker()
            if working:
                self._work.put(entry)
            else:
                self._step(entry)
            del entry  # a wheel that waits keeps nothing alive

    def _find_worker(self) -> bool:
        """Return whether somebody will take work from the queue, now or when it is free."""
        if self._idle:
            self._idle -= 1
        elif self._workers < self._workers_max and _thread("bursar-beat", self._run):
            self._workers += 1
        return self._workers > 0

    def _run(self) -> None:
        while True:
            self._step(self._work.get())
            with self._changed:
                self._idle += 1

    def _step(self, entry: Entry) -> None:
        tick = entry.tick
        if tick is None:
            return
        delay_s: float | None = None
        try:
            delay_s = run_sync(tick())
        except BaseException:  # a callback's SystemExit must not end the beats of all others
            log.exception("a background step of the SDK failed; it is not repeated")
        if delay_s is not None and entry.tick is not None:
            self._push(delay_s, entry)


def _thread(name: str, target: Callable[[], None]) -> bool:
    """Start a daemon thread; return False where the system or the interpreter has no more."""
    try:
        threading.Thread(target=target, name=name, daemon=True).start()
    except RuntimeError as error:
        log.warning("no thread for background work of the SDK: %s", error)
        return False
    return True


class LoopTimers:
    """The event loop's own heap of timers; a task exists only while a step runs."""

    def __init__(self) -> None:
        """Belong to no loop yet; each timer belongs to the loop that starts it."""
        self._running: set[asyncio.Task[None]] = set()

    def start(self, delay_s: float, tick: Tick) -> LoopEntry:
        """Run `tick` after a delay, and again for as long as it names a next delay."""
        entry = LoopEntry(tick, self, asyncio.get_running_loop())
        entry.schedule(delay_s)
        return entry

    def run(self, flow: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a flow as a task that this object keeps alive."""
        task = asyncio.get_running_loop().create_task(flow)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


class LoopEntry:
    """One periodic flow of a loop."""

    __slots__ = ("_handle", "_loop", "_task", "_tick", "_timers")

    def __init__(self, tick: Tick, timers: LoopTimers, loop: asyncio.AbstractEventLoop) -> None:
        """Hold the flow."""
        self._tick: Tick | None = tick
        self._timers = timers
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether a step may still come: not after the loop was closed."""
        return self._tick is not None and not self._loop.is_closed()

    def cancel(self) -> None:
        """Stop it; a step that is running is cancelled and not waited for. Safe in any thread."""
        self._tick = None
        if asyncio._get_running_loop() is self._loop:
            self._stop()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs
                self._loop.call_soon_threadsafe(self._stop)

    def schedule(self, delay_s: float) -> None:
        """Wait for the next step."""
        self._handle = self._loop.call_later(max(0.0, delay_s), self._fire)

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._task is not None:
            self._task.cancel()

    def _fire(self) -> None:
        if self._tick is not None:
            self._task = self._timers.run(self._step(self._tick))

    async def _step(self, tick: Tick) -> None:
        delay_s: float | None = None
        try:
            delay_s = await tick()
        except Exception:
            log.exception("a background step of the SDK failed; it is not repeated")
        finally:
            self._task = None
        if delay_s is not None and self._tick is not None:
            self.schedule(delay_s)


_shared = ThreadTimers()


def shared() -> ThreadTimers:
    """Return the process's one thread wheel."""
    return _shared


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.forget)
