"""The payment worker inside the server, and the sender of its alerts: off unless set up.

The rule that lives here: each is one supervised task. A worker that fails as a whole is begun
again, its leases go back when the server stops, and an alert is a log line with all its facts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from bursar.clock import Clock, SystemClock
from bursar.payments.schedule import Pace
from bursar.payments.worker import PaymentWorker, WorkerSettings
from bursar.server.observe.payments import PaymentCollector, PaymentCounts
from bursar.server.payment_alerts import Alerting
from bursar.server.payment_settings import open_facilitators
from bursar.server.settings import Settings
from bursar.storage.sqlite import payment_figures
from bursar.storage.sqlite.payments import SqlitePayments

if TYPE_CHECKING:
    from bursar.x402.facilitators import Facilitator
    from bursar.x402.prover import ChainProver

RESTART_S = 5.0
STOP_S = 1.0
"""How long looks may go on while the server stops; their leases then go back."""
PACE = Pace()
log = structlog.get_logger("bursar.payments")


class Reconciliation:
    """What the server has to do with payments: figures always, a worker where it is set up."""

    def __init__(self, settings: Settings, path: Path, clock: Clock | None = None) -> None:
        """Take the settings; nothing is opened or asked before `run_forever`."""
        self._settings = settings
        self._path = path
        self._clock = clock or SystemClock()
        self.counts = PaymentCounts()
        self.alerting = Alerting(settings, path, self._clock)

    def collector(self) -> PaymentCollector:
        """Return what a scrape asks."""

        def figures() -> payment_figures.PaymentFigures:
            return payment_figures.gather(self._path, self._clock.now_ms(), PACE)

        return PaymentCollector(self.counts, figures)

    async def run_forever(self) -> None:
        """Look at payments and post alerts until cancelled, whichever of them is set up."""
        work = []
        if self._settings.payments_rpc:
            work.append(self._look_forever())
        if self.alerting.is_on:
            work.append(self.alerting.run_forever())
        if not work:
            return
        with _told():
            async with asyncio.TaskGroup() as tasks:
                for one in work:
                    tasks.create_task(one)

    async def _look_forever(self) -> None:
        """Look at payments until cancelled."""
        from bursar.x402 import endpoints
        from bursar.x402.finality import read_finality
        from bursar.x402.prover import ChainProver

        addresses = endpoints.read_rpc(self._settings.payments_rpc.split())
        facilitators = open_facilitators(self._settings)
        prover = ChainProver(
            endpoints.open_rpc(addresses),
            facilitators=facilitators,
            finality=read_finality(self._settings.payments_finality.split()),
        )
        told = {"networks": sorted(addresses), "facilitators": sorted(facilitators)}
        log.info("payments are looked at", finality=self._settings.payments_finality, **told)
        try:
            await self._supervise(prover)
        finally:
            await _close(prover, facilitators)

    async def _supervise(self, prover: ChainProver) -> None:
        while True:
            try:
                await self._work(prover)
            except Exception as error:
                log.error("the payment worker failed; it is begun again", exc_info=error)
            self.counts.restarts += 1
            await asyncio.sleep(RESTART_S)

    async def _work(self, prover: ChainProver) -> None:
        with contextlib.closing(SqlitePayments.open(self._path, create=False)) as store:
            self.counts.worker = PaymentWorker(
                store,
                prover,
                owner=f"{socket.gethostname()}-{os.getpid()}",
                clock=self._clock,
                rng=random.SystemRandom(),
                pace=PACE,
                settings=WorkerSettings(stop_s=STOP_S),
                saved=self.counts.saved,
            )
            await self.counts.worker.run()


async def _close(prover: ChainProver, facilitators: dict[str, Facilitator]) -> None:
    """Let go of every connection."""
    await prover.aclose()
    for facilitator in facilitators.values():
        await facilitator.aclose()


class _Lines(logging.Handler):
    """Writes what the worker says as the server writes its own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line: an alert with the facts of its payment, anything else as it is said."""
        facts = dict(getattr(record, "payment", {}))
        said = facts.pop("event", None) or record.getMessage()
        log.log(record.levelno, said, **facts)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Send the lines of `bursar.payments` to the server's log for as long as this lasts."""
    logger, lines = logging.getLogger("bursar.payments"), _Lines()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.propagate = before
