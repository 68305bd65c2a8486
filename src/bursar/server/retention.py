"""Forgetting what was refused long ago.

The rule that lives here: failures alone are forgotten, in steps that no writer waits long
for. The log of what was accepted is never shortened: balances are proved by it.
"""

from __future__ import annotations

import asyncio

import structlog

from bursar.clock import Clock
from bursar.core.trail import UNAUTHENTICATED
from bursar.ledger.ports import Store, StoreError
from bursar.server.failures import Failures

DAY_MS = 86_400_000
FORGET_EVERY_S = 60.0
FINISH_EVERY_S = 1.0
STEP_ROWS = 500
STEPS_MAX = 20  # 10,000 rows a round
log = structlog.get_logger("bursar.jobs")


async def finish_forever(failures: Failures, clock: Clock) -> None:
    """Write down, once a window is over, how many strangers a line stands for."""
    while True:
        failures.finish(clock.now_ms())
        await asyncio.sleep(FINISH_EVERY_S)


async def forget_forever(store: Store, clock: Clock, days: int, stranger_days: int) -> None:
    """Forget old failures every minute until cancelled."""
    while True:
        try:
            await asyncio.to_thread(forget_once, store, clock.now_ms(), days, stranger_days)
        except StoreError as error:
            log.warning("old failures could not be deleted; tried again", reason=str(error))
        await asyncio.sleep(FORGET_EVERY_S)


def forget_once(store: Store, now_ms: int, days: int, stranger_days: int) -> int:
    """Delete what is too old, up to a bound, and return how many rows that were.

    Args:
        store: where the failures are.
        now_ms: the ledger's time.
        days: how long those of a known caller stay; 0 is for ever.
        stranger_days: how long those of a stranger stay; 0 is for ever.
    """
    gone = 0
    for of, kept_days in ((UNAUTHENTICATED, stranger_days), (None, days)):
        before_ms = now_ms - kept_days * DAY_MS
        for _ in range(STEPS_MAX if kept_days else 0):
            deleted = store.forget_failures(of=of, before_ms=before_ms, limit=STEP_ROWS)
            gone += deleted
            if deleted < STEP_ROWS:
                break
    return gone
