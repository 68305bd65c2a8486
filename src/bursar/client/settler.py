"""Everything that is spent and not yet confirmed, and who asks again when.

The rule that lives here: a record that is not settled is always somebody's: a caller's first
attempt, a timer of this process, or the journal on disk, from which the next start and a
periodic look take it over. Within a process a record has one owner at a time; between
processes the idempotency key makes two owners harmless.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from bursar.client import settling
from bursar.client.config import CyclesConfig
from bursar.client.io import Handle, Io, Timers
from bursar.client.journal import JournalError, Record
from bursar.client.settling import Step
from bursar.client.timers import ThreadTimers, shared

FRESH_MS = 30_000
"""A record younger than this may be the first attempt of another live process."""

FLUSH_LOOK_S = 0.02
SPREAD_S = 2.0
"""Replayed records are spread over this time, so that a restart is not a stampede."""

log = logging.getLogger("bursar.client")
_owned: set[tuple[object, ...]] = set()
_owning = threading.RLock()


@dataclass(slots=True, eq=False)
class _Pending:
    """A record that this process asks again about; `due_ms` is monotonic.

    While it may still be on its way into the journal, `writing` is what to wait for.
    """

    record: Record
    attempts: int
    writing: Awaitable[None] | None = None
    due_ms: float = 0.0
    running: bool = False
    handle: Handle | None = None


class Settler:
    """The settlements of one client, from first attempt to proof."""

    def __init__(
        self,
        io: Io,
        timers: Timers,
        config: CyclesConfig,
        identity: tuple[object, ...],
        at_exit: Callable[[], Io],
    ) -> None:
        """Own nothing yet.

        Args:
            io: what attempts are made with.
            timers: where later attempts run.
            config: how often, how long.
            identity: names the journal, so that two clients of one process with the same
                journal do not both ask about the same record.
            at_exit: makes an `Io` that blocks, for the end of the process.
        """
        self.io = io
        self.config = config
        self._timers = timers
        self._identity = identity
        self._at_exit = at_exit
        self._looked = False
        self._pending: dict[str, _Pending] = {}
        self._since_ms: int | None = None
        self._lock = threading.RLock()
        self._sweep: Handle | None = None
        self._closed = False
        with _owning:
            _live.add(self)

    @property
    def pending(self) -> int:
        """How many settlements this process still asks about."""
        return len(self._pending)

    @property
    def blocking(self) -> bool:
        """Whether it runs on threads, so that it goes on without an event loop."""
        return isinstance(self._timers, ThreadTimers)

    def intend(self, record: Record) -> Intent:
        """Own `record` and begin to write it down: whatever happens next, it is settled."""
        self._take(record)
        shared().ready()
        return Intent(self, record, self.io.write(record))

    async def settle(self, intent: Intent, *, keep: bool = True) -> Step:
        """Make the first attempt once the record is written down, and see to the rest.

        Args:
            intent: what is known to be spent.
            keep: whether an attempt that settles nothing is followed up in the background.
                Without, it stays the caller's, who asks again or lets `take_over` do it.
        """
        record = intent.begin()
        try:
            written = await settling.remembered(intent.writing, record)
            step = await settling.attempt(self.io, self.config, record)
        except BaseException:  # cancelled half way, by a loop or a process that ends
            self.take_over(record, writing=intent.writing)
            raise
        if step.outcome.final:
            self._drop(record)
        elif keep:
            self._schedule(step.record, step.attempts, step.delay_s)
        if step.outcome.final:
            return step
        return replace(step, journaled=written and self.config.journal_enabled)

    def take_over(
        self,
        record: Record,
        delay_s: float | None = None,
        writing: Awaitable[None] | None = None,
    ) -> None:
        """Ask about a record in the background, after the first backoff if not said otherwise.

        Nothing is asked before what is `writing` it down is done.
        """
        self._take(record)
        first_s = settling.backoff_s(self.config, 0) if delay_s is None else delay_s
        self._schedule(record, 0, first_s, writing)

    def watch(self) -> None:
        """Start looking at the journal: now for what a dead process left, then periodically.

        On a new event loop it begins anew, and takes over what an old one left behind.
        """
        if self._since_ms is None:
            self._since_ms = self.io.now_ms()
        if (self._sweep is not None and self._sweep.alive) or not self.config.retry_enabled:
            return
        with self._lock:
            orphans = [one for one in self._pending.values() if not _alive(one.handle)]
        for one in orphans:
            one.running = False  # a step that its loop did not end is over with the loop
            self._start(one, self._floor_s(one.record))
        if self.config.journal_enabled and not self._closed:
            self._sweep = self._timers.start(0.0, _Look(self))

    async def look(self) -> float | None:
        """Take over what the journal holds and nobody owns; return when to look again.

        What was written since this client began, and not long ago, is left alone: it is the
        client's own, or that of another live process. A time to come says nothing.
        """
        try:
            found = await self.io.load()
        except JournalError as error:
            log.error("the settlement journal cannot be read: %s", error)
            found = []
        self._looked, now_ms = True, self.io.now_ms()
        since_ms = max(now_ms if self._since_ms is None else self._since_ms, now_ms - FRESH_MS)
        mine = [
            record
            for record in found
            if not since_ms <= record.recorded_at_ms <= now_ms and self._take(record)
        ]
        if mine:
            await self._resume(mine)
        return self.config.retry_sweep_interval or None

    async def _resume(self, mine: list[Record]) -> None:
        """Ask about records just taken that are still there.

        Somebody in this process may have settled one after it was read and before it was taken.
        From then on nobody else here does, so a second reading is the truth.
        """
        try:
            still = {record.key: record for record in await self.io.load()}
        except BaseException as error:
            for record in mine:
                self._drop(record)
            if not isinstance(error, JournalError):
                raise
            return
        for record in mine:
            if record.key in still:
                spread_s = random.uniform(0, min(SPREAD_S, 0.01 * len(mine)))
                self._schedule(still[record.key], 0, self._floor_s(record) + spread_s)
            else:
                self._drop(record)

    def _schedule(
        self,
        record: Record,
        attempts: int,
        delay_s: float | None,
        writing: Awaitable[None] | None = None,
    ) -> None:
        """Ask again after a delay, or leave the record to the journal."""
        with self._lock:
            if delay_s is None or self._closed or not self.config.retry_enabled:
                self._drop(record)
                return
            pending = self._pending[record.reservation_id] = _Pending(record, attempts, writing)
        self._start(pending, delay_s)

    def _start(self, pending: _Pending, delay_s: float) -> None:
        pending.due_ms = self.io.monotonic_ms() + delay_s * 1_000
        try:
            pending.handle = self._timers.start(delay_s, partial(self._again, pending))
        except RuntimeError:  # no event loop runs: the next one, or the process's end, goes on
            pending.handle = None

    async def _again(self, pending: _Pending) -> float | None:
        if pending.running:
            return None
        pending.running = True
        try:
            if pending.writing is not None:
                await settling.remembered(pending.writing, pending.record)
                pending.writing = None
            step = await settling.attempt(self.io, self.config, pending.record, pending.attempts)
        finally:
            pending.running = False
        pending.record, pending.attempts = step.record, step.attempts
        if step.outcome.final or step.delay_s is None:
            with self._lock:
                self._pending.pop(pending.record.reservation_id, None)
            self._drop(pending.record)
            return None
        pending.due_ms = self.io.monotonic_ms() + step.delay_s * 1_000
        return step.delay_s

    def _floor_s(self, record: Record) -> float:
        """Return how long the server wants to be left alone about a record, an hour at most."""
        wait_ms = max(0, (record.not_before_ms or 0) - self.io.now_ms())
        return min(wait_ms, settling.RETRY_AFTER_MS_MAX) / 1_000

    # Ends.

    async def flush(self, timeout_s: float) -> int:
        """Take over what the journal holds, then `drain`."""
        if self.config.retry_enabled and self.config.journal_enabled and not self._looked:
            await self.look()
        return await self.drain(timeout_s)

    async def drain(self, timeout_s: float) -> int:
        """Ask now, wait at most `timeout_s` seconds, and return how many are still pending.

        It ends earlier when nothing that is left can be asked within that time.
        """
        give_up_ms = self.io.monotonic_ms() + timeout_s * 1_000
        self.hurry()
        while self.waits(give_up_ms):
            await self.io.sleep(FLUSH_LOOK_S)
        return self.pending

    def hurry(self) -> None:
        """Ask at once about everything that only waits for its backoff."""
        with self._lock:
            waiting = [one for one in self._pending.values() if not one.running]
        for one in waiting:
            if self._floor_s(one.record) == 0:
                if one.handle is not None:
                    one.handle.cancel()
                self._start(one, 0.0)

    def waits(self, until_ms: float) -> bool:
        """Return whether a settlement may still come in before `until_ms` (monotonic)."""
        if self.io.monotonic_ms() >= until_ms:
            return False
        with self._lock:
            return any(one.running or one.due_ms < until_ms for one in self._pending.values())

    def hand_over(self) -> None:
        """Go on with what is pending on the process's own threads: its event loop is gone."""
        if self.blocking:
            return
        self.io, self._timers = self._at_exit(), shared()
        with self._lock:
            pending = list(self._pending.values())
        for one in pending:
            one.running = False
            self._start(one, self._floor_s(one.record))

    def close(self) -> None:
        """Stop asking; what is pending stays in the journal for the next process."""
        with self._lock:
            self._closed = True
            pending, self._pending = list(self._pending.values()), {}
        for one in pending:
            if one.handle is not None:
                one.handle.cancel()
            self._drop(one.record)
        if self._sweep is not None:
            self._sweep.cancel()
        with _owning:
            _live.discard(self)

    def forget(self) -> None:
        """Begin anew in a forked child: what is pending is its parent's.

        So is what the journal holds. A child is no new start: it takes over only what has lain
        there for long, for its parent may be gone by then.
        """
        self._lock = threading.RLock()
        self._pending, self._sweep, self._since_ms, self._looked = {}, None, 0, True

    def _take(self, record: Record) -> bool:
        with _owning:
            name = (*self._identity, record.reservation_id)
            if name in _owned:
                return False
            _owned.add(name)
            return True

    def _drop(self, record: Record) -> None:
        with _owning:
            _owned.discard((*self._identity, record.reservation_id))


class Intent:
    """A record of known spend on its way into the journal, until its first attempt begins.

    A task that is cancelled before its first step never runs a line of its coroutine. Whoever
    then loses the intent leaves it to the settler's background.
    """

    __slots__ = ("_begun", "_settler", "record", "writing")

    def __init__(self, settler: Settler, record: Record, writing: Awaitable[None]) -> None:
        """Own the record until `begin`."""
        self._settler = settler
        self._begun = False
        self.record = record
        self.writing = writing

    def begin(self) -> Record:
        """Return the record to whoever makes its first attempt."""
        self._begun = True
        return self.record

    def __del__(self) -> None:
        """Leave a record whose first attempt never began to the background."""
        if not self._begun:
            self._settler.take_over(self.record, writing=self.writing)


class _Look:
    """The periodic look of a settler, which does not keep it alive."""

    def __init__(self, settler: Settler) -> None:
        self._settler = weakref.ref(settler)

    async def __call__(self) -> float | None:
        settler = self._settler()
        return None if settler is None else await settler.look()


def _alive(handle: Handle | None) -> bool:
    return handle is not None and handle.alive


_live: weakref.WeakSet[Settler] = weakref.WeakSet()


def live() -> list[Settler]:
    """Return every settler of this process, for the flush at its end."""
    with _owning:
        return list(_live)


def _forget() -> None:
    global _owning
    _owning = threading.RLock()
    _owned.clear()
    for one in live():
        one.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
