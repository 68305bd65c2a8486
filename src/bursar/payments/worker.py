"""The task that finds out what became of payments whose answer was lost.

The rule that lives here: one loop claims, asks and saves; it never sends a payment. One
payment's trouble is its own, and a worker that stalled past its lease writes nothing. When it
is stopped or cancelled it gives its leases back first, within a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bursar.clock import Clock
from bursar.payments.alerts import tell
from bursar.payments.checking import checked, needs_prover, postponed
from bursar.payments.outcome import Trigger
from bursar.payments.pausing import pause
from bursar.payments.ports import (
    PaymentStore,
    PaymentStoreError,
    Prover,
    Result,
    Saved,
    Whose,
)
from bursar.payments.records import Change, Evidence, Finding, PaymentRecord
from bursar.payments.schedule import Pace, Rng

AGAIN_S: Final = 5.0
_log = logging.getLogger("bursar.payments")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Bounds of a worker.

    Attributes:
        concurrency: payments looked at at the same time.
        call_s: the longest that one look may take.
        lease_ms: how long a payment is this worker's; longer than a look and its save.
        margin_ms: what must be left of the lease after the longest look.
        poll_s: how long to wait where nothing is due.
        start_s: the first round begins within so long, so that replicas do not march in step.
        stop_s: how long looks may go on after a stop.
        breaker_failures: so many failures in a row close an endpoint for a while.
        breaker_ms: that while; then one look tries it.
    """

    concurrency: int = 32
    call_s: float = 20.0
    lease_ms: int = 60_000
    margin_ms: int = 20_000
    poll_s: float = 1.0
    start_s: float = 1.0
    stop_s: float = 5.0
    breaker_failures: int = 5
    breaker_ms: int = 30_000

    def __post_init__(self) -> None:
        """Refuse bounds under which two workers could look at one payment."""
        least = round(self.call_s * 1_000) + self.margin_ms
        if self.lease_ms < least:
            raise ValueError(
                f"lease_ms is {self.lease_ms}, but a look may take call_s and margin_ms, {least} "
                "ms together; make the lease longer"
            )
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}; a worker needs at least 1")


@dataclass(slots=True)
class WorkerMetrics:
    """What a worker did since it began.

    `heartbeat_ms` is the time of its last round; `restarts` counts failures of the whole, after
    which `run_forever` began again.
    """

    heartbeat_ms: int = 0
    claimed: int = 0
    saved: int = 0
    stale: int = 0
    fenced: int = 0
    postponed: int = 0
    unreachable: int = 0
    store_failures: int = 0
    looks: int = 0
    restarts: int = 0


@dataclass(slots=True)
class _Breaker:
    """Who does not answer is left alone for a while; then one look tries again."""

    failures_max: int
    closed_ms: int
    _failures: dict[str, int] = field(default_factory=dict)
    _until_ms: dict[str, int] = field(default_factory=dict)

    def closed_until_ms(self, endpoint: str, now_ms: int) -> int | None:
        """Return until when an endpoint is left alone; None if it may be asked now."""
        until_ms = self._until_ms.get(endpoint)
        if until_ms is None:
            return None
        if now_ms < until_ms:
            return until_ms
        self._until_ms[endpoint] = now_ms + self.closed_ms  # this look alone tries it
        return None

    def closed(self, now_ms: int) -> list[str]:
        """Return who is left alone now."""
        return [name for name, until_ms in self._until_ms.copy().items() if now_ms < until_ms]

    def heard(self, endpoint: str, now_ms: int, *, failed: bool) -> None:
        """Count an answer or its absence."""
        if not failed:
            self._failures.pop(endpoint, None)
            self._until_ms.pop(endpoint, None)
            return
        self._failures[endpoint] = self._failures.get(endpoint, 0) + 1
        if self._failures[endpoint] >= self.failures_max:
            self._until_ms[endpoint] = now_ms + self.closed_ms


class PaymentWorker:
    """Looks at due payments until it is stopped; use it as an async context manager."""

    def __init__(
        self,
        store: PaymentStore,
        prover: Prover,
        *,
        owner: str,
        clock: Clock,
        rng: Rng,
        pace: Pace | None = None,
        settings: WorkerSettings | None = None,
        saved: Callable[[Change], None] | None = None,
        whose: Whose | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            store: where the payments are.
            prover: who finds out.
            owner: names this worker in its leases.
            clock: the time.
            rng: for the jitter.
            pace: how often payments are looked at.
            settings: the worker's bounds.
            saved: is told of each change that was saved, for those who count.
            whose: looks at one payer's payments alone; None is everybody's.
        """
        self.metrics = WorkerMetrics()
        self._store, self._prover = store, prover
        self._owner, self._clock, self._rng = owner, clock, rng
        self._pace = pace or Pace()
        self._settings = settings or WorkerSettings()
        self._breaker = _Breaker(self._settings.breaker_failures, self._settings.breaker_ms)
        self._saved = saved
        self._whose: tuple[Whose, ...] = () if whose is None else (whose,)
        self._stopping = asyncio.Event()
        self._looks: dict[asyncio.Task[Change], PaymentRecord] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PaymentWorker:
        """Begin."""
        self._task = asyncio.create_task(self.run(), name=f"bursar-payments-{self._owner}")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and wait for the end, which comes within `stop_s`."""
        self.stop()
        if self._task is not None:
            await self._task

    def left_alone(self) -> list[str]:
        """Return the endpoints that failed too often and are not asked for a while."""
        return self._breaker.closed(self._clock.now_ms())

    def stop(self) -> None:
        """Claim nothing more; `run` returns within `stop_s`."""
        self._stopping.set()

    async def run(self) -> None:
        """Claim, look and save until stopped; a cancellation gives the leases back and goes on."""
        try:
            await pause(self._stopping, self._rng.uniform(0, self._settings.start_s))
            while not self._stopping.is_set():
                await self._round()
            if self._looks:
                await asyncio.wait(self._looks, timeout=self._settings.stop_s)
                await self._finish()
        finally:
            await self._abandon()

    async def run_forever(self, again_s: float = AGAIN_S) -> None:
        """Run until stopped, and begin again a while after a failure of the whole.

        Args:
            again_s: how long to wait after such a failure.
        """
        while not self._stopping.is_set():
            try:
                await self.run()
            except Exception as error:  # noqa: BLE001  # the type alone: its text may quote secrets
                self.metrics.restarts += 1
                _log.error("the payment worker failed, and begins again: %s", type(error).__name__)
                await pause(self._stopping, again_s)

    async def sweep(self) -> None:
        """Look once at everything that is due now, page by page, and return."""
        try:
            while claimed := await self._claim(self._settings.concurrency):
                self.metrics.heartbeat_ms = self._clock.now_ms()
                for record in claimed:
                    self._looks[asyncio.create_task(self._look(record))] = record
                await asyncio.wait(self._looks)
                await self._finish()
        finally:
            await self._abandon()

    async def _round(self) -> None:
        """Claim what there is room for, and wait for something to finish."""
        self.metrics.heartbeat_ms = self._clock.now_ms()
        claimed = await self._claim(self._settings.concurrency - len(self._looks))
        for record in claimed:
            self._looks[asyncio.create_task(self._look(record))] = record
        if self._looks:
            await asyncio.wait(
                self._looks,
                timeout=self._settings.poll_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            await self._finish()
        else:
            await pause(self._stopping, self._settings.poll_s)

    async def _claim(self, room: int) -> Sequence[PaymentRecord]:
        if room < 1:
            return []
        now_ms, lease_ms = self._clock.now_ms(), self._settings.lease_ms
        claiming = asyncio.ensure_future(
            asyncio.to_thread(self._store.claim, self._owner, now_ms, lease_ms, room, *self._whose)
        )
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:  # the thread goes on, and what it claims goes back
            leases = [(record.payment_id, record.fence) for record in await claiming]
            await asyncio.to_thread(self._store.give_back, leases)
            raise
        except PaymentStoreError as error:
            self._store_failed("claimed", error)
            await pause(self._stopping, self._settings.poll_s)
            return []
        self.metrics.claimed += len(claimed)
        return claimed

    async def _look(self, record: PaymentRecord) -> Change:
        """Return what one look at a payment changes; nothing that goes wrong leaves it."""
        if not needs_prover(record):
            return checked(record, None, self._clock.now_ms(), self._pace, self._rng)
        try:
            endpoint = self._prover.endpoint(record)
            until_ms = self._breaker.closed_until_ms(endpoint, self._clock.now_ms())
            if until_ms is not None:
                self.metrics.postponed += 1
                # Spread out, so that they do not all come back at once.
                wait_ms = round(self._rng.uniform(0, self._settings.breaker_ms))
                return postponed(record, until_ms + wait_ms)
            self.metrics.looks += 1
            async with asyncio.timeout(self._settings.call_s):
                finding = await self._prover.prove(record)
        except Exception as error:  # noqa: BLE001  # one payment's trouble is its own
            # The type alone: the text may quote what was sent, and that holds a signature.
            said = Evidence(source="worker", reason=f"the check failed: {type(error).__name__}")
            endpoint, finding = self._endpoint(record), Finding(Trigger.UNREACHABLE, said)
        now_ms, failed = self._clock.now_ms(), finding.trigger is Trigger.UNREACHABLE
        self.metrics.unreachable += failed
        self._breaker.heard(endpoint, now_ms, failed=failed)
        return checked(record, finding, now_ms, self._pace, self._rng)

    def _endpoint(self, record: PaymentRecord) -> str:
        try:
            return self._prover.endpoint(record)
        except Exception:  # noqa: BLE001  # a prover that cannot name it fails under one name
            return "unnamed"

    async def _finish(self) -> None:
        """Save what every look that is done has found, in one transaction."""
        done = [task for task in self._looks if task.done()]
        records = [self._looks.pop(task) for task in done]
        changes: list[Change] = []
        for task, record in zip(done, records, strict=True):
            error = None if task.cancelled() else task.exception()
            if error is not None or task.cancelled():
                _log.error(
                    "payment %s was not checked: %s", record.payment_id, type(error).__name__
                )
            else:
                changes.append(task.result())
        if changes:
            saving = asyncio.ensure_future(asyncio.to_thread(self._save, changes))
            # A cancellation waits for the transaction: what it says must be told.
            cancelled = None
            while not saving.done():
                try:
                    await asyncio.shield(saving)
                except asyncio.CancelledError as error:
                    cancelled = error
            self._count(changes, saving.result())
            if cancelled is not None:
                raise cancelled

    def _save(self, changes: Sequence[Change]) -> list[Result | None]:
        """Save all; where the transaction fails, one by one, so that one cannot stop the rest."""
        try:
            results: list[Result | None] = [*self._store.save(changes)]
        except PaymentStoreError as error:
            self._store_failed("saved", error)
            if len(changes) == 1:
                return [None]
            return [result for change in changes for result in self._save([change])]
        # Somebody else changed it meanwhile: what was found is looked for again at once.
        stale = [
            (change.after.payment_id, change.fence or 0)
            for change, result in zip(changes, results, strict=True)
            if result is not None and result.saved is Saved.STALE
        ]
        if stale:
            self._store.give_back(stale)
        return results

    def _count(self, changes: Sequence[Change], results: Iterable[Result | None]) -> None:
        for change, result in zip(changes, results, strict=True):
            if result is None:
                continue
            tell(result.told)
            self.metrics.saved += result.saved is Saved.SAVED
            self.metrics.stale += result.saved is Saved.STALE
            self.metrics.fenced += result.saved is Saved.FENCED
            if self._saved is not None and result.saved is Saved.SAVED:
                self._saved(change)
            if result.saved is Saved.FENCED:
                _log.warning("payment %s: the lease was lost", change.after.payment_id)

    async def _abandon(self) -> None:
        """Cancel what is still looked at, and give its leases back."""
        if not self._looks:
            return
        for task in self._looks:
            task.cancel()
        await asyncio.gather(*self._looks, return_exceptions=True)
        leases = [(record.payment_id, record.fence) for record in self._looks.values()]
        self._looks.clear()
        try:
            await asyncio.shield(asyncio.to_thread(self._store.give_back, leases))
        except PaymentStoreError as error:
            self._store_failed("given back", error)  # their leases end by themselves

    def _store_failed(self, what: str, error: PaymentStoreError) -> None:
        self.metrics.store_failures += 1
        _log.error("payments could not be %s: %s", what, error)
