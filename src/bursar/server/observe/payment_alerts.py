"""The outbox of payments and its sender, for a scraper.

The rule that lives here: what waits is asked of the file when somebody scrapes, whoever tells
it; what the sender did is shown only where one runs in this server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bursar.ledger.ports import StoreError
from bursar.payments.records import Topic
from bursar.payments.sender import SenderMetrics
from bursar.storage.sqlite.outbox_figures import OutboxFigures

OUTCOMES = ("accepted", "refused", "unreachable")


@dataclass(slots=True)
class AlertCounts:
    """What the sender of this server did, over every restart of it.

    Attributes:
        sender: what the one that runs now did; None where this server has none.
        restarts: how often it failed as a whole and was begun again.
    """

    sender: SenderMetrics | None = None
    restarts: int = 0
    _before: SenderMetrics = field(default_factory=SenderMetrics)

    def began(self, sender: SenderMetrics) -> None:
        """Count on with another sender."""
        if self.sender is not None:
            for name in (*OUTCOMES, "parked", "store_failures"):
                done = getattr(self._before, name) + getattr(self.sender, name)
                setattr(self._before, name, done)
        self.sender = sender

    def total(self, name: str) -> int:
        """Return one count over all restarts."""
        now = 0 if self.sender is None else getattr(self.sender, name)
        return int(getattr(self._before, name) + now)


class AlertCollector(Collector):
    """What is to be told of payments, and the sender that tells it."""

    def __init__(self, counts: AlertCounts, figures: Callable[[], OutboxFigures]) -> None:
        """Ask `figures` at every scrape."""
        self._counts = counts
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the outbox; without an answer from the store, the sender's."""
        yield from self._sender()
        try:
            found = self._figures()
        except (StoreError, OSError):
            return  # bursar_health says so; a scrape must still tell the rest
        count = GaugeMetricFamily(
            "bursar_payments_outbox",
            "Open entries of the outbox: they wait to be told, or are parked.",
            labels=["topic", "state"],
        )
        overdue = GaugeMetricFamily(
            "bursar_payments_outbox_overdue_seconds",
            "How long the longest due entry has waited to be told.",
            labels=["topic"],
        )
        for topic in Topic:
            for is_parked, state in ((False, "waiting"), (True, "parked")):
                count.add_metric([topic, state], found.counts.get((topic, is_parked), 0))
            overdue.add_metric([topic], found.overdue_s.get(topic, 0.0))
        yield from (count, overdue)

    def _sender(self) -> Iterator[Metric]:
        heartbeat = GaugeMetricFamily(
            "bursar_payments_sender_heartbeat_timestamp_seconds",
            "When the sender of this server began its last round.",
        )
        told = CounterMetricFamily(
            "bursar_payments_alerts_told_total",
            "Requests to the webhook, by what came of them.",
            labels=["outcome"],
        )
        parked = CounterMetricFamily(
            "bursar_payments_alerts_parked_total", "Alerts that were given up until somebody looks."
        )
        failures = CounterMetricFamily(
            "bursar_payments_sender_store_failures_total",
            "Transactions of the sender that failed.",
        )
        if self._counts.sender is not None:
            heartbeat.add_metric([], self._counts.sender.heartbeat_ms / 1_000)
            for outcome in OUTCOMES:
                told.add_metric([outcome], self._counts.total(outcome))
            parked.add_metric([], self._counts.total("parked"))
            failures.add_metric([], self._counts.total("store_failures"))
        yield from (heartbeat, told, parked, failures)
        yield CounterMetricFamily(
            "bursar_payments_sender_restarts_total",
            "How often the sender failed as a whole and was begun again.",
            value=self._counts.restarts,
        )
