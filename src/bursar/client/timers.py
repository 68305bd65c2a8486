"""One timer wheel for every live guard: a thread per process, or the event loop's own heap.

The rule that lives here: something periodic costs an entry in a heap, never a thread or a
task of its own. A tick that is due runs on one of a few workers (a task, in a loop); when
it ends, it says when it wants to be called again.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING

from bursar.client.io import Tick
from bursar.flow import run_sync

if TYPE_CHECKING:
    from collections.abc import Coroutine

WORKERS_MAX = 16
log = logging.getLogger("bursar.client")


class Entry:
    """One periodic flow of a thread wheel."""

    __slots__ = ("cancelled", "tick")

    def __init__(self, tick: Tick) -> None:
        """Hold the flow."""
        self.tick: Tick | None = tick
        self.cancelled = False

    def cancel(self) -> None:
        """Stop it; a step that is running may finish, and no other follows."""
        self.cancelled = True
        self.tick = None  # whatever the flow holds on to is let go at once


class ThreadTimers:
    """A heap of what is due, one daemon thread that watches it, and a few that work."""

    def __init__(self, workers_max: int = WORKERS_MAX) -> None:
        """Start nothing; threads come with the first timer and the first work."""
        self._workers_max = workers_max
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Entry]] = []
        self._order = itertools.count()
        self._watching = False
        self._work: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._workers = 0
        self._idle = 0

    def start(self, delay_s: float, tick: Tick) -> Entry:
        """Run `tick` after a delay, and again for as long as it names a next delay."""
        entry = Entry(tick)
        self._push(delay_s, entry)
        return entry

    def _push(self, delay_s: float, entry: Entry) -> None:
        due = time.monotonic() + max(0.0, delay_s)
        with self._changed:
            heapq.heappush(self._heap, (due, next(self._order), entry))
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="bursar-timers", daemon=True).start()
            elif self._heap[0][2] is entry:
                self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._heap or self._heap[0][0] > time.monotonic():
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                _, _, entry = heapq.heappop(self._heap)
                if entry.cancelled:
                    continue
                if self._idle == 0 and self._workers < self._workers_max:
                    self._workers += 1
                    threading.Thread(target=self._run, name="bursar-beat", daemon=True).start()
                else:
                    self._idle = max(0, self._idle - 1)
            self._work.put(entry)

    def _run(self) -> None:
        while True:
            entry = self._work.get()
            tick = entry.tick
            if tick is not None:
                delay_s = _one(tick)
                if delay_s is not None and not entry.cancelled:
                    self._push(delay_s, entry)
            del entry, tick  # an idle worker keeps nothing alive
            with self._changed:
                self._idle += 1


def _one(tick: Tick) -> float | None:
    try:
        return run_sync(tick())
    except Exception:
        log.exception("a background step of the SDK failed; it is not repeated")
        return None


class LoopTimers:
    """The event loop's own heap of timers; a task exists only while a step runs."""

    def __init__(self) -> None:
        """Belong to no loop yet; each timer belongs to the loop that starts it."""
        self._running: set[asyncio.Task[None]] = set()

    def start(self, delay_s: float, tick: Tick) -> LoopEntry:
        """Run `tick` after a delay, and again for as long as it names a next delay."""
        entry = LoopEntry(tick, self)
        entry.schedule(asyncio.get_running_loop(), delay_s)
        return entry

    def run(self, flow: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a flow as a task that this object keeps alive."""
        task = asyncio.get_running_loop().create_task(flow)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


class LoopEntry:
    """One periodic flow of a loop."""

    __slots__ = ("_handle", "_task", "_tick", "_timers")

    def __init__(self, tick: Tick, timers: LoopTimers) -> None:
        """Hold the flow."""
        self._tick: Tick | None = tick
        self._timers = timers
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Stop it; a step that is running is cancelled and not waited for."""
        self._tick = None
        if self._handle is not None:
            self._handle.cancel()
        if self._task is not None:
            self._task.cancel()

    def schedule(self, loop: asyncio.AbstractEventLoop, delay_s: float) -> None:
        """Wait for the next step."""
        self._handle = loop.call_later(max(0.0, delay_s), self._fire)

    def _fire(self) -> None:
        if self._tick is not None:
            self._task = self._timers.run(self._step(self._tick))

    async def _step(self, tick: Tick) -> None:
        delay_s: float | None = None
        try:
            delay_s = await tick()
        except Exception:
            log.exception("a background step of the SDK failed; it is not repeated")
        self._task = None
        if delay_s is not None and self._tick is not None:
            self.schedule(asyncio.get_running_loop(), delay_s)


_shared: ThreadTimers | None = None
_sharing = threading.Lock()


def shared() -> ThreadTimers:
    """Return the process's one thread wheel; a forked child gets a new one."""
    global _shared
    with _sharing:
        if _shared is None:
            _shared = ThreadTimers()
        return _shared


def _forget() -> None:
    global _shared, _sharing
    _shared, _sharing = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
