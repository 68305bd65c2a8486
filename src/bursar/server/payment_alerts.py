"""The task inside the server that posts alerts to the operator's webhook.

The rule that lives here: it stands beside the payment worker and needs none: what other
processes put into the outbox of the file is told too. A sender that fails as a whole is begun
again, and its leases go back when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import structlog

from bursar.clock import Clock
from bursar.payments.sender import AlertSender, SenderSettings
from bursar.payments.webhook import Webhook
from bursar.server.observe.payment_alerts import AlertCollector, AlertCounts
from bursar.server.payment_settings import webhook_secret
from bursar.server.settings import Settings
from bursar.storage.sqlite import outbox_figures
from bursar.storage.sqlite.payments import SqlitePayments

RESTART_S = 5.0
STOP_S = 1.0
log = structlog.get_logger("bursar.payments")


class Alerting:
    """What the server does about alerts: figures always, a sender where a webhook is set."""

    def __init__(self, settings: Settings, path: Path, clock: Clock) -> None:
        """Take the settings; nothing is opened or told before `run_forever`."""
        self._settings, self._path, self._clock = settings, path, clock
        self.counts = AlertCounts()

    @property
    def is_on(self) -> bool:
        """Whether somebody is to be told."""
        return bool(self._settings.payments_webhook)

    def collector(self) -> AlertCollector:
        """Return what a scrape asks."""

        def figures() -> outbox_figures.OutboxFigures:
            return outbox_figures.gather(self._path, self._clock.now_ms())

        return AlertCollector(self.counts, figures)

    async def run_forever(self) -> None:
        """Post alerts until cancelled."""
        webhook = Webhook(self._settings.payments_webhook, webhook_secret(self._settings))
        log.info("alerts are posted", webhook=webhook.name)
        async with contextlib.aclosing(webhook):
            while True:
                try:
                    await self._send(webhook)
                except Exception as error:
                    log.error("the sender of alerts failed; it is begun again", exc_info=error)
                self.counts.restarts += 1
                await asyncio.sleep(RESTART_S)

    async def _send(self, webhook: Webhook) -> None:
        with contextlib.closing(SqlitePayments.open(self._path, create=False)) as store:
            bounds = SenderSettings(stop_s=STOP_S)
            sender = AlertSender(store, webhook, clock=self._clock, settings=bounds)
            self.counts.began(sender.metrics)
            await sender.run()
