"""Work that the server does by itself: expire what is due, watch the clock.

The rule that lives here: a job only asks the ledger, through the same queue as everybody
else. It survives any failure of one round; the next round looks again.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import structlog

from bursar.clock import Clock, SystemClock
from bursar.core.commands import Expire
from bursar.ledger import sweep
from bursar.ledger.batcher import Batcher, Closed, Overloaded
from bursar.ledger.ports import Reader, StoreError, UnreadableRow
from bursar.ledger.service import Accepted, Failed

CLOCK_BEHIND_MS = 1_000
log = structlog.get_logger("bursar.jobs")


class JobObserver(Protocol):
    """Is told of every run of a job, on the event loop."""

    def ran(self, job: str, outcome: str, took_s: float) -> None:
        """Take note of a run that is over: `ok`, `put_off` or `failed`."""
        ...

    def quarantine(self, tenant: str, reason: str) -> None:
        """Take note of a reservation that is passed over from now on."""
        ...


async def expire_forever(
    batcher: Batcher,
    reader: Reader,
    clock: Clock,
    interval_ms: int,
    observer: JobObserver | None = None,
) -> None:
    """Sweep every `interval_ms` until cancelled."""
    unreadable: set[str] = set()
    behind = False
    while True:
        began_s, outcome = time.perf_counter(), "ok"
        try:
            await sweep_once(batcher, reader, clock, unreadable, observer)
        except (StoreError, Overloaded, Closed) as error:
            outcome = "put_off"
            log.warning("expiry sweep put off", reason=str(error))
        except Exception as error:
            outcome = "failed"
            log.error("expiry sweep failed; the next one tries again", exc_info=error)
        if observer is not None:
            observer.ran("expiry", outcome, time.perf_counter() - began_s)
        behind = _watch(clock, behind)
        await asyncio.sleep(interval_ms / 1_000)


async def sweep_once(
    batcher: Batcher,
    reader: Reader,
    clock: Clock,
    unreadable: set[str],
    observer: JobObserver | None = None,
) -> int:
    """Expire everything that is due now and return how many leases that ended.

    Args:
        batcher: where the commands go.
        reader: where the candidates come from.
        clock: the ledger's time.
        unreadable: reservations whose rows make no sense. They are reported once, added
            here and passed over from then on; their holds stay for an operator.
        observer: is told of each reservation that is passed over from now on.
    """
    ended = 0
    while True:
        most = sweep.SWEEP_MAX + len(unreadable)
        found = await asyncio.to_thread(sweep.plan, reader, clock.now_ms(), most)
        due = [command for command in found if command.reservation_id not in unreadable]
        outcomes = await asyncio.gather(*map(batcher.execute, due))
        for command, outcome in zip(due, outcomes, strict=True):
            if isinstance(outcome, Failed):
                _cannot_expire(command, outcome.error, unreadable, observer)
        ended += sum(isinstance(outcome, Accepted) for outcome in outcomes)
        if len(due) < sweep.SWEEP_MAX or any(isinstance(one, Failed) for one in outcomes):
            return ended


def _cannot_expire(
    command: Expire, error: Exception, unreadable: set[str], observer: JobObserver | None
) -> None:
    if isinstance(error, UnreadableRow):
        unreadable.add(command.reservation_id)
        if observer is not None:
            observer.quarantine(command.tenant, "UNREADABLE_ROW")
    log.error(
        "a lease could not be expired",
        tenant=command.tenant,
        reservation_id=command.reservation_id,
        reason=str(error),
        tried_again=not isinstance(error, UnreadableRow),
    )


def _watch(clock: Clock, known: bool) -> bool:
    """Say once that the wall clock lags the ledger's time; return whether it does."""
    behind = isinstance(clock, SystemClock) and clock.behind_ms() > CLOCK_BEHIND_MS
    if isinstance(clock, SystemClock) and behind and not known:
        log.warning(
            "the wall clock is behind the ledger's time; leases keep running at the steady "
            "clock's pace",
            behind_ms=clock.behind_ms(),
        )
    return behind
