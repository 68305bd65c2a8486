"""Everything that is spent and not yet confirmed, and who asks again when.

The rule that lives here: a record that is not settled is always somebody's: a caller's first
attempt, a timer of this process, or the journal on disk, from which the next start and a
periodic look take it over. Within a process a record has one owner at a time; between
processes the idempotency key makes two owners harmless.
"""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
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
_owning = threading.Lock()


@dataclass(slots=True)
class _Pending:
    """A record that this process asks again about."""

    record: Record
    attempts: int
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
        self._lock = threading.Lock()
        self._sweep: Handle | None = None
        self._closed = False
        live.add(self)

    @property
    def pending(self) -> int:
        """How many settlements this process still asks about."""
        with self._lock:
            return len(self._pending)

    @property
    def blocking(self) -> bool:
        """Whether it runs on threads, so that it goes on without an event loop."""
        return isinstance(self._timers, ThreadTimers)

    async def settle(self, record: Record, *, keep: bool = True) -> Step:
        """Write `record` down, make the first attempt, and see to the rest.

        Args:
            record: what is known to be spent.
            keep: whether an attempt that settles nothing is followed up in the background.
                Without, the record stays in the journal and the caller asks again.
        """
        self._take(record)
        try:
            await settling.remember(self.io, record)
            step = await settling.attempt(self.io, self.config, record)
            while step.delay_s == 0 and keep:
                step = await settling.attempt(self.io, self.config, step.record)
        except BaseException:
            self._drop(record)  # cancelled half way: the journal has it, and the sweep finds it
            raise
        if step.delay_s is None or not keep or not self.config.retry_enabled:
            self._drop(record)
        else:
            self._schedule(step.record, step.attempts, step.delay_s)
        return step

    def watch(self) -> None:
        """Start looking at the journal: now for what a dead process left, then periodically."""
        if self._sweep is None and self.config.retry_enabled and self.config.journal_enabled:
            self._sweep = self._timers.start(0.0, self._look)

    async def _look(self) -> float | None:
        try:
            found = await self.io.load()
        except JournalError as error:
            log.error("the settlement journal cannot be read: %s", error)
            found = []
        now_ms = self.io.now_ms()
        first = not self._looked
        self._looked = True
        for record in found:
            fresh = record.recorded_at_ms > now_ms - FRESH_MS
            if (first or not fresh) and self._take(record):
                wait_ms = max(0, (record.not_before_ms or 0) - now_ms)
                floor_s = min(wait_ms, settling.RETRY_AFTER_MS_MAX) / 1_000
                spread_s = random.uniform(0, min(SPREAD_S, 0.01 * len(found)))
                self._schedule(record, 0, floor_s + spread_s)
        return self.config.retry_sweep_interval

    def _schedule(self, record: Record, attempts: int, delay_s: float) -> None:
        pending = _Pending(record, attempts)
        with self._lock:
            if self._closed:
                return
            self._pending[record.reservation_id] = pending
        pending.handle = self._timers.start(delay_s, partial(self._again, pending))

    async def _again(self, pending: _Pending) -> float | None:
        step = await settling.attempt(self.io, self.config, pending.record, pending.attempts)
        pending.record, pending.attempts = step.record, step.attempts
        if step.delay_s is None:
            with self._lock:
                self._pending.pop(pending.record.reservation_id, None)
            self._drop(pending.record)
        return step.delay_s

    async def flush(self, timeout_s: float) -> int:
        """Wait, at most `timeout_s` seconds, until nothing is pending; return what still is."""
        give_up_ms = self.io.monotonic_ms() + timeout_s * 1_000
        while self.pending and self.io.monotonic_ms() < give_up_ms:
            await self.io.sleep(FLUSH_LOOK_S)
        return self.pending

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
        live.discard(self)

    def hand_over(self) -> None:
        """Go on with what is pending on the process's own threads: its event loop is gone."""
        if self.blocking:
            return
        self.io, self._timers = self._at_exit(), shared()
        with self._lock:
            pending = list(self._pending.values())
        for one in pending:
            wait_ms = max(0, (one.record.not_before_ms or 0) - self.io.now_ms())
            one.handle = self._timers.start(wait_ms / 1_000, partial(self._again, one))

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


live: weakref.WeakSet[Settler] = weakref.WeakSet()
"""Every settler of this process, for the flush at its end."""
