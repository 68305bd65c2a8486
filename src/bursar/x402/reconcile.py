"""Finds out what became of payments whose answer was lost, once or as a loop.

The rule that lives here: a reconciler reads. It never settles, because to settle again is to
pay; what it finds goes into the records, and what follows from that is told through their
outbox. One prover, with its long-lived connections, serves every payment and every round.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
from dataclasses import replace
from typing import Final

from bursar.clock import Clock, SystemClock
from bursar.payments.outcome import WireStatus
from bursar.payments.ports import PaymentStore, Prover
from bursar.payments.schedule import Pace, Rng
from bursar.payments.sender import AlertSender
from bursar.payments.worker import PaymentWorker, WorkerMetrics, WorkerSettings
from bursar.x402.funding import Funder

PAYMENT_ORPHANED: Final = WireStatus.ORPHANED
"""`payment-orphaned`: the money moved, and nothing was delivered for it."""
_log = logging.getLogger("bursar.x402")


async def reconcile_failed_payments(
    storage: PaymentStore,
    *,
    prover: Prover,
    clock: Clock | None = None,
    rng: Rng | None = None,
    pace: Pace | None = None,
    settings: WorkerSettings | None = None,
) -> WorkerMetrics:
    """Look once at every payment that is due, however many there are, and return what was done.

    Args:
        storage: where payments are kept.
        prover: who asks the chain, such as a `ChainProver`; the caller closes it.
        clock: the time.
        rng: for the jitter of the next looks.
        pace: how often payments are looked at.
        settings: how many at a time, and for how long.
    """
    worker = _worker(storage, prover, clock, rng, pace, settings or WorkerSettings())
    await worker.sweep()
    return worker.metrics


async def run_x402_reconciliation_loop(
    storage: PaymentStore,
    interval_seconds: float = 30.0,
    *,
    prover: Prover,
    funder: Funder | None = None,
    alerts: AlertSender | None = None,
    clock: Clock | None = None,
    rng: Rng | None = None,
    pace: Pace | None = None,
    settings: WorkerSettings | None = None,
) -> None:
    """Look at payments as they fall due, until cancelled.

    Run it as one task, and await that task after you cancel it: it gives its leases back
    first, within a moment, and then raises `CancelledError`. A worker that fails as a whole is
    begun again after a few seconds, and the log says so.

    Args:
        storage: where payments are kept.
        interval_seconds: how long to sleep where nothing is due.
        prover: who asks the chain; the caller closes it after the loop.
        funder: funds budgets with payments that are final.
        alerts: tells a webhook what the outbox holds.
        clock: the time.
        rng: for the jitter.
        pace: how often payments are looked at.
        settings: bounds of the worker; their `poll_s` is replaced by `interval_seconds`.
    """
    if not 0 < interval_seconds <= 3600:
        raise ValueError(
            f"interval_seconds must be above 0 and at most 3600; got {interval_seconds}"
        )
    given = settings or WorkerSettings(start_s=min(1.0, interval_seconds))
    given = replace(given, poll_s=interval_seconds)
    worker = _worker(storage, prover, clock, rng, pace, given)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run_forever(), name="bursar-x402-reconciliation")
        if funder is not None:
            tasks.create_task(_fund(funder, interval_seconds), name="bursar-x402-funding")
        if alerts is not None:
            tasks.create_task(alerts.run(), name="bursar-x402-alerts")


async def _fund(funder: Funder, interval_seconds: float) -> None:
    while True:
        try:
            await funder.sweep()
        except Exception as error:  # noqa: BLE001  # the outbox keeps it; the loop goes on
            _log.warning("budgets were not funded: %s", type(error).__name__)
        await asyncio.sleep(interval_seconds)


def _worker(
    storage: PaymentStore,
    prover: Prover,
    clock: Clock | None,
    rng: Rng | None,
    pace: Pace | None,
    settings: WorkerSettings,
) -> PaymentWorker:
    return PaymentWorker(
        storage,
        prover,
        owner=f"x402-{os.getpid()}-{secrets.token_hex(4)}",
        clock=clock or SystemClock(),
        rng=rng or random.Random(),
        pace=pace,
        settings=settings,
    )
