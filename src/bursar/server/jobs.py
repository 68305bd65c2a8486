"""Work that the server does by itself: expire what is due, watch the clock.

The rule that lives here: a job only asks the ledger, through the same queue as everybody
else. It survives any failure of one round; the next round looks again.
"""

from __future__ import annotations

import asyncio

import structlog

from bursar.clock import Clock, SystemClock
from bursar.ledger import sweep
from bursar.ledger.batcher import Batcher, Closed, Overloaded
from bursar.ledger.ports import Reader, StoreError
from bursar.ledger.service import Failed

CLOCK_BEHIND_MS = 1_000
log = structlog.get_logger("bursar.jobs")


async def expire_forever(batcher: Batcher, reader: Reader, clock: Clock, interval_ms: int) -> None:
    """Sweep every `interval_ms` until cancelled."""
    while True:
        try:
            await sweep_once(batcher, reader, clock)
        except (StoreError, Overloaded, Closed) as error:
            log.warning("expiry sweep put off", reason=str(error))
        _watch(clock)
        await asyncio.sleep(interval_ms / 1_000)


async def sweep_once(batcher: Batcher, reader: Reader, clock: Clock) -> int:
    """Expire everything that is due now and return how many leases that ended."""
    ended = 0
    while True:
        due = await asyncio.to_thread(sweep.plan, reader, clock.now_ms())
        outcomes = await asyncio.gather(*map(batcher.execute, due))
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        for outcome in failed:
            log.error("a lease could not be expired", reason=str(outcome.error))
        ended += len(due) - len(failed)
        if len(due) < sweep.SWEEP_MAX or failed:
            return ended


def _watch(clock: Clock) -> None:
    if isinstance(clock, SystemClock) and clock.behind_ms() > CLOCK_BEHIND_MS:
        log.warning(
            "the wall clock is behind the ledger's time; leases keep running at the steady "
            "clock's pace",
            behind_ms=clock.behind_ms(),
        )
