"""The task that tells a webhook what the outbox holds.

The rule that lives here: an entry is told at least once and marked afterwards, so a sender that
dies in between is followed by one that tells it again, under the same id. Entries of one payment
go in order; what is refused for long is parked, says so, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from bursar.clock import Clock, SystemClock
from bursar.payments.pausing import pause
from bursar.payments.ports import PaymentStore, PaymentStoreError, Posted
from bursar.payments.records import Topic
from bursar.payments.schedule import Rng, backoff_ms
from bursar.payments.webhook import Answer, Webhook

_log = logging.getLogger("bursar.payments")


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """Bounds of a sender.

    Attributes:
        concurrency: entries that are told at the same time, of different payments.
        lease_ms: how long an entry is this sender's; longer than a request and its mark.
        margin_ms: what must be left of the lease after the longest request.
        poll_s: how long to wait where nothing is to be told.
        stop_s: how long requests may go on after a stop.
        base_ms: of the backoff of one entry.
        cap_ms: the most of it.
        retry_after_max_ms: the longest wait that an answer may ask for.
        attempts_max: after so many an entry is parked; with these bounds, most of a day.
        down_failures: after so many failures of the receiver itself, one entry at a time tries it.
        down_pause_s_max: the longest pause between two of these.
    """

    concurrency: int = 8
    lease_ms: int = 60_000
    margin_ms: int = 20_000
    poll_s: float = 1.0
    stop_s: float = 5.0
    base_ms: int = 1_000
    cap_ms: int = 900_000
    retry_after_max_ms: int = 3_600_000
    attempts_max: int = 100
    down_failures: int = 3
    down_pause_s_max: float = 60.0

    def __post_init__(self) -> None:
        """Refuse bounds under which nothing is told, or nothing ever given up."""
        for name in ("concurrency", "attempts_max", "base_ms", "cap_ms", "down_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")


@dataclass(slots=True)
class SenderMetrics:
    """What a sender did since it began; `heartbeat_ms` is the time of its last round."""

    heartbeat_ms: int = 0
    accepted: int = 0
    refused: int = 0
    unreachable: int = 0
    parked: int = 0
    store_failures: int = 0


def delay_ms(
    attempts: int, settings: SenderSettings, rng: Rng, retry_after_s: int | None = None
) -> int:
    """Return how long an entry waits after so many attempts, and at least what was asked for."""
    own = backoff_ms(attempts, settings.base_ms, settings.cap_ms, rng)
    asked = 0 if retry_after_s is None else retry_after_s * 1_000
    return max(own, min(asked, settings.retry_after_max_ms))


class AlertSender:
    """Tells a webhook of alerts until it is stopped; use it as an async context manager.

    Args:
        store: whose outbox it reads.
        webhook: who is told; the caller closes it afterwards.
        owner: names this sender in its leases; unlike that of every other sender.
        clock: the time.
        rng: for the jitter.
        settings: its bounds.

    Raises:
        ValueError: with these bounds two senders could tell the same entry at once.
    """

    def __init__(
        self,
        store: PaymentStore,
        webhook: Webhook,
        *,
        owner: str | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
        settings: SenderSettings | None = None,
    ) -> None:
        self.metrics = SenderMetrics()
        self._store, self._webhook = store, webhook
        self._owner = owner or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._clock, self._rng = clock or SystemClock(), rng or random.SystemRandom()
        self._settings = settings or SenderSettings()
        least = round(webhook.timeout_s * 1_000) + self._settings.margin_ms
        if self._settings.lease_ms < least:
            raise ValueError(
                f"lease_ms is {self._settings.lease_ms}, but a request and margin_ms may take "
                f"{least} ms together; make the lease longer"
            )
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0

    async def __aenter__(self) -> AlertSender:
        """Begin."""
        self._task = asyncio.create_task(self.run(), name=f"bursar-alerts-{self._owner}")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and wait for the end, which comes within `stop_s`."""
        self.stop()
        if self._task is not None:
            await self._task

    def stop(self) -> None:
        """Lease nothing more; `run` returns within `stop_s`."""
        self._stopping.set()

    async def run(self) -> None:
        """Tell what there is until stopped or cancelled; leases are given back at the end."""
        try:
            while not self._stopping.is_set():
                told = await self._round()
                if self._is_down:
                    exponent = min(self._failures - self._settings.down_failures, 16)
                    most = min(self._settings.down_pause_s_max, float(2**exponent))
                    await pause(self._stopping, self._rng.uniform(most / 2, most))
                elif not told:
                    await pause(self._stopping, self._settings.poll_s)
        finally:
            await self._give_back()

    async def sweep(self) -> int:
        """Tell what is due now, each entry once, and return how many were accepted."""
        before = self.metrics.accepted
        try:
            while await self._round():
                pass
        finally:
            await self._give_back()
        return self.metrics.accepted - before

    @property
    def _is_down(self) -> bool:
        return self._failures >= self._settings.down_failures

    async def _round(self) -> int:
        """Tell what is due, as much as may be told at once; return how much that was."""
        self.metrics.heartbeat_ms = self._clock.now_ms()
        leased = await self._lease(1 if self._is_down else self._settings.concurrency)
        if not leased:
            return 0
        tasks = [asyncio.create_task(self._tell(posted)) for posted in leased]
        stopping = asyncio.create_task(self._stopping.wait())
        whole = asyncio.ensure_future(asyncio.wait(tasks))
        try:
            await asyncio.wait({whole, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                await asyncio.wait({whole}, timeout=self._settings.stop_s)
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, whole, *tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()  # a fault of ours ends this sender; whoever supervises it begins anew
        return len(leased)

    async def _lease(self, room: int) -> Sequence[Posted]:
        now_ms, lease_ms = self._clock.now_ms(), self._settings.lease_ms
        leasing = asyncio.ensure_future(
            asyncio.to_thread(
                self._store.lease_notices, Topic.ALERT, self._owner, now_ms, lease_ms, room
            )
        )
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:  # the thread goes on; what it leases is given back after it
            await asyncio.wait({leasing})
            raise
        except PaymentStoreError as error:
            self._store_failed("leased", error)
            return ()

    async def _tell(self, posted: Posted) -> None:
        """Tell one entry and mark it; a cancellation waits for the mark, not for the answer."""
        try:
            answer = await self._webhook.deliver(posted, self._clock.now_ms())
        except Exception as error:  # noqa: BLE001  # one entry's trouble is its own
            # The type alone: the text may quote the request, and that holds a signature.
            answer = Answer(False, False, type(error).__name__)
        self._failures = self._failures + 1 if answer.is_down else 0
        metrics = self.metrics
        metrics.accepted += answer.accepted
        metrics.unreachable += answer.is_down
        metrics.refused += not (answer.accepted or answer.is_down)
        marking = asyncio.ensure_future(asyncio.to_thread(self._mark, posted, answer))
        try:
            await asyncio.shield(marking)
        except asyncio.CancelledError:
            await asyncio.wait({marking})
            raise

    def _mark(self, posted: Posted, answer: Answer) -> None:
        """Write down what came of an entry; where that fails it is told again."""
        now_ms, number, attempts = self._clock.now_ms(), posted.number, posted.attempts + 1
        try:
            if answer.accepted:
                self._store.mark_sent(number, now_ms)
            elif attempts >= self._settings.attempts_max:
                self._store.park(number, now_ms, answer.reason)
                self.metrics.parked += 1
                _log.error(
                    "alert %s of payment %s was parked: %s did not take it in %s attempts: %s",
                    *(posted.notice.dedupe_key, posted.notice.payment_id, self._webhook.name),
                    *(attempts, answer.reason),
                )
            else:
                wait_ms = delay_ms(attempts, self._settings, self._rng, answer.retry_after_s)
                self._store.put_off(number, now_ms + wait_ms, answer.reason)
        except PaymentStoreError as error:
            self._store_failed("marked", error)

    async def _give_back(self) -> None:
        """End what leases are left, so that the next sender need not wait for them."""
        try:
            await asyncio.shield(asyncio.to_thread(self._store.give_back_notices, self._owner))
        except PaymentStoreError as error:
            self._store_failed("given back", error)  # their leases end by themselves

    def _store_failed(self, what: str, error: PaymentStoreError) -> None:
        self.metrics.store_failures += 1
        _log.error("alerts could not be %s: %s", what, error)
