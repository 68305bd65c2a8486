"""Work that the server does by itself: expire what is due, begin new periods, watch the clock.

The rule that lives here: a job only asks the ledger, through the same queue as everybody
else. It survives any failure of one round; the next round looks again.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import structlog

from bursar import ids
from bursar.clock import Clock, SystemClock
from bursar.core.commands import Expire, Roll
from bursar.core.state import Budget
from bursar.ledger import periods, sweep
from bursar.ledger.batcher import Batcher, Closed, Overloaded
from bursar.ledger.calendar import UnknownZone
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


async def renew_forever(batcher: Batcher, reader: Reader, clock: Clock, interval_ms: int) -> None:
    """Begin new periods every `interval_ms` until cancelled."""
    stuck: set[tuple[str, str, str]] = set()
    while True:
        try:
            await renew_once(batcher, reader, clock, stuck)
        except (StoreError, Overloaded, Closed) as error:
            log.warning("new periods put off", reason=str(error))
        except Exception as error:
            log.error("new periods failed; the next round tries again", exc_info=error)
        await asyncio.sleep(interval_ms / 1_000)


async def renew_once(
    batcher: Batcher, reader: Reader, clock: Clock, stuck: set[tuple[str, str, str]]
) -> int:
    """Begin every period that is due now and return how many that were.

    Args:
        batcher: where the commands go.
        reader: where the budgets come from.
        clock: the ledger's time.
        stuck: budgets in a time zone that this machine does not know. They are reported
            once, added here, and stay in their period until the zone is known.
    """
    begun = 0
    while True:
        most = periods.ROLLS_MAX + len(stuck)
        now_ms, trace_id = clock.now_ms(), ids.new_trace_id()
        found = await asyncio.to_thread(reader.ended, now_ms, most)
        planned = [_roll(budget, now_ms, trace_id, stuck) for budget in found]
        rolls = [roll for roll in planned if roll is not None]
        outcomes = await asyncio.gather(*map(batcher.execute, rolls))
        for roll, outcome in zip(rolls, outcomes, strict=True):
            if isinstance(outcome, Failed):
                log.error(
                    "a period could not begin",
                    tenant=roll.tenant,
                    scope=roll.scope,
                    reason=str(outcome.error),
                )
        accepted = sum(isinstance(outcome, Accepted) for outcome in outcomes)
        begun += accepted
        if len(rolls) < periods.ROLLS_MAX or accepted < len(rolls):
            return begun


def _roll(
    budget: Budget, now_ms: int, trace_id: str, stuck: set[tuple[str, str, str]]
) -> Roll | None:
    where = (budget.tenant, budget.scope, budget.unit.value)
    try:
        roll = periods.roll(budget, now_ms, trace_id)
    except UnknownZone as error:
        if where not in stuck:
            log.error(
                "a budget stays in its period; update tzdata, or PATCH its period",
                tenant=budget.tenant,
                scope=budget.scope,
                reason=str(error),
            )
        stuck.add(where)
        return None
    stuck.discard(where)
    return roll


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
        now_ms, trace_id = clock.now_ms(), ids.new_trace_id()
        found = await asyncio.to_thread(sweep.plan, reader, now_ms, trace_id, most)
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
