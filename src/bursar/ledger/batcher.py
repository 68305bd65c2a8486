"""Natural batching: while one transaction commits, the next batch collects.

The rule that lives here: nobody waits for a timer. A lone command commits at once; under
load a batch is whatever arrived while the previous one was being made durable. One thread
writes at a time. Mostly that is the writer's own: callers wait on futures, from other threads
or from event loops, and are answered together after the transaction is on disk. A caller that
blocks anyway, and meets nobody, does the work itself: handing a command to another thread and
waiting for its answer takes as long as making it durable.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from bursar.core.commands import AnyCommand
from bursar.core.trail import Failure
from bursar.ledger.observer import Executed, Observer
from bursar.ledger.ports import StoreError, UnreadableRow
from bursar.ledger.service import Accepted, Failed, Ledger, Outcome

BATCH_MAX = 256
QUEUE_MAX = 10_000
log = logging.getLogger(__name__)


class Overloaded(Exception):
    """Too many commands are waiting; this one was not accepted. Try again shortly."""


class Closed(Exception):
    """The ledger is shutting down; this command was not accepted."""


@dataclass(frozen=True, slots=True)
class Written:
    """A failure is on disk; `error` says why it is not."""

    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A waiting command, or a failure to write down, and where its outcome goes."""

    command: AnyCommand | Failure
    future: Future[Any] | asyncio.Future[Any]  # of an Outcome, or of Written for a failure
    loop: asyncio.AbstractEventLoop | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last time that the store could not save, and why."""

    at_ms: int
    error: StoreError


class Batcher:
    """Feeds one ledger from many callers."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        batch_max: int = BATCH_MAX,
        queue_max: int = QUEUE_MAX,
        observer: Observer | None = None,
    ) -> None:
        """Start the writer thread.

        Args:
            ledger: what executes the batches.
            batch_max: most commands in one transaction.
            queue_max: most commands waiting; one more is refused with `Overloaded`.
            observer: is told of every batch.
        """
        self.ledger = ledger
        self._observer = observer
        self.last_failure: Trouble | None = None
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._waiting: deque[_Ticket] = deque()
        self._at_work: int | None = None  # the thread that executes a batch now
        self._turn = threading.Condition()  # guards the three; the writer waits on it for work
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="bursar-writer", daemon=True)
        self._writer.start()

    @property
    def waiting(self) -> int:
        """How many commands wait for the writer now."""
        return len(self._waiting)

    def submit(self, command: AnyCommand) -> Future[Outcome]:
        """Queue a command from a thread; the future holds its outcome once durable.

        Raises:
            Overloaded: the queue is full.
            Closed: the batcher is closing.
        """
        future: Future[Outcome] = Future()
        self._enqueue(_Ticket(command, future, None))
        return future

    def perform(self, command: AnyCommand) -> Outcome:
        """Execute a command from a thread and return its outcome once durable.

        Whoever finds nobody at work, and nobody waiting, executes the command alone and at
        once; anybody else waits for the writer. So nobody can be passed over.

        Raises:
            Overloaded: the queue is full; or this very thread is at work already, and this is
                one of its signal handlers, which would wait for itself.
            Closed: the batcher is closing.
        """
        me = threading.get_ident()
        if self._at_work == me:
            raise Overloaded("this thread was interrupted while it writes; try again after that")
        ticket = _Ticket(command, future := Future[Outcome](), None)
        try:  # a KeyboardInterrupt may come at any point from here on
            if self._enqueue(ticket, worker=me):
                self._execute([ticket])
        finally:
            if self._at_work == me:
                self._hand_over()
        return future.result()

    async def execute(self, command: AnyCommand) -> Outcome:
        """Execute a command from an event loop and return its outcome once durable.

        A caller that is cancelled while waiting does not stop the command: it was
        accepted, and asking again with the same key tells what became of it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._enqueue(_Ticket(command, future, loop))
        return await future

    def note(self, failure: Failure) -> asyncio.Future[Written]:
        """Hand over a failure from an event loop, to be saved beside the next batch.

        The future says when it is durable; nobody has to wait for it. As many failures as
        commands may wait, so a full queue can still be put on record.

        Raises:
            Overloaded: too many wait.
            Closed: the batcher is closing.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Written] = loop.create_future()
        self._enqueue(_Ticket(failure, future, loop), 2 * self._queue_max)
        return future

    def close(self, within_s: float | None = None) -> bool:
        """Finish everything that was accepted, answer it, and stop.

        Returns:
            Whether it is finished. After `within_s` seconds (None waits for as long as it
            takes) it may not be: the store hangs, and what it was asked for is unknown.
        """
        with self._turn:
            self._closed = True
            self._turn.notify()
        self._writer.join(within_s)
        return not self._writer.is_alive()

    def _enqueue(
        self, ticket: _Ticket, most: int | None = None, *, worker: int | None = None
    ) -> bool:
        """Queue a ticket; or let `worker` execute it, and say so, if that keeps nobody waiting."""
        with self._turn:  # so that no ticket can come after the writer has ended
            if self._closed:
                raise Closed("the ledger is shutting down; send the request again")
            if len(self._waiting) >= (most or self._queue_max):
                raise Overloaded(f"{self._queue_max} commands are waiting; try again in a second")
            if self._at_work is None:
                if worker is not None and not self._waiting:
                    self._at_work = worker
                    return True
                self._turn.notify()
            self._waiting.append(ticket)
            return False

    def _hand_over(self) -> None:
        """End one's turn; whatever came meanwhile is the writer's."""
        with self._turn:
            self._at_work = None
            if self._waiting or self._closed:
                self._turn.notify()

    def _write(self) -> None:
        """Collect and execute batches until everything is done after the closing."""
        while batch := self._collect():
            self._execute(batch)
            self._hand_over()

    def _collect(self) -> list[_Ticket]:
        """Wait for work and for the turn to do it; return nothing once all is over."""
        with self._turn:
            while self._at_work is not None or not self._waiting:
                if self._closed and self._at_work is None:
                    return []
                self._turn.wait()
            self._at_work = threading.get_ident()
            size = min(len(self._waiting), self._batch_max)
            return [self._waiting.popleft() for _ in range(size)]

    def _execute(self, batch: Sequence[_Ticket]) -> None:
        """Execute a batch and answer it; if one row spoils it, each command goes alone.

        Whatever else the store says, it says to all: trying again one by one would keep
        everybody waiting for a lock, or a disk, once for each.
        """
        asked = [ticket.command for ticket in batch]
        commands = [one for one in asked if not isinstance(one, Failure)]
        failures = [one for one in asked if isinstance(one, Failure)]
        written = Written()
        began_s = time.perf_counter()
        try:
            outcomes = self.ledger.execute(commands, failures)
            if any(isinstance(one, Accepted) and not one.replayed for one in outcomes):
                self.last_failure = None  # something was saved, so the store is well again
        except UnreadableRow as error:
            if len(batch) > 1:
                for ticket in batch:
                    self._execute([ticket])
                return
            outcomes, written = [Failed(error)] * len(commands), Written(error)
        except StoreError as error:
            self.last_failure = Trouble(self.ledger.clock.now_ms(), error)
            outcomes, written = [Failed(error)] * len(commands), Written(error)
        except Exception as error:  # noqa: BLE001 - a bug in one batch must not end the writer
            outcomes, written = [Failed(error)] * len(commands), Written(error)
        if self._observer is not None and commands:
            took_s = time.perf_counter() - began_s
            _tell(self._observer, Executed(commands, outcomes, took_s))
        if not failures:
            _answer(batch, outcomes)
            return
        decided = iter(outcomes)
        _answer(batch, [written if isinstance(one, Failure) else next(decided) for one in asked])


def _tell(observer: Observer, executed: Executed) -> None:
    """Tell the observer before the callers, so that whoever has an answer finds it counted."""
    try:
        observer.executed(executed)
    except Exception:
        log.exception("an observer of the ledger failed; the ledger is not affected")


def _answer(batch: Sequence[_Ticket], outcomes: Sequence[Outcome | Written]) -> None:
    """Hand out the outcomes, with one wake-up per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Ticket, Outcome | Written]]] = {}
    for ticket, outcome in zip(batch, outcomes, strict=True):
        if ticket.loop is not None:
            by_loop.setdefault(ticket.loop, []).append((ticket, outcome))
        elif ticket.future.set_running_or_notify_cancel():  # type: ignore[union-attr] # no loop: a concurrent Future
            ticket.future.set_result(outcome)
    for loop, answers in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake, answers)
        except RuntimeError:
            continue  # that loop is gone and with it everyone who waited on it


def _wake(answers: Sequence[tuple[_Ticket, Outcome | Written]]) -> None:
    for ticket, outcome in answers:
        if not ticket.future.done():
            ticket.future.set_result(outcome)
