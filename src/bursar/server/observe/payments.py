"""Payments and their worker, for a scraper.

The rule that lives here: what is kept is asked of the file when somebody scrapes, whoever
looks at the payments; what the worker did is shown only where one runs in this server. A
value is in the smallest unit of its asset, so it is never added up over assets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bursar.ledger.ports import StoreError
from bursar.payments.outcome import TERMINAL, Money
from bursar.payments.records import Change
from bursar.payments.worker import PaymentWorker
from bursar.server.observe.tally import Histogram
from bursar.storage.sqlite.payment_figures import PaymentFigures

AGE_BOUNDS_S = (60, 300, 900, 1_800, 3_600, 7_200, 21_600, 86_400, 259_200)
RESOLUTION_BOUNDS_S = (2, 10, 30, 60, 300, 900, 1_800, 3_600, 21_600, 86_400)


@dataclass(slots=True)
class PaymentCounts:
    """What the worker of this server did, over every restart of it.

    Attributes:
        worker: the one that runs now; None where this server has none.
        restarts: how often it failed as a whole and was begun again.
    """

    worker: PaymentWorker | None = None
    restarts: int = 0
    resolved: dict[Money, Histogram] = field(
        # From the beginning on, so that the first of its kind shows as an increase.
        default_factory=lambda: {each: Histogram(RESOLUTION_BOUNDS_S) for each in sorted(TERMINAL)}
    )

    def saved(self, change: Change) -> None:
        """Take note of a payment that a look has resolved."""
        after = change.after
        by_proof = any(
            event.money in TERMINAL and not event.what.startswith(("SEEN_", "WORK_"))
            for event in change.events
        )
        if by_proof and after.money in TERMINAL:
            took_s = (after.updated_at_ms - after.created_at_ms) / 1_000
            self.resolved[after.money].observe(took_s)


class PaymentCollector(Collector):
    """The payments of the ledger's file, and the worker that looks at them."""

    def __init__(self, counts: PaymentCounts, figures: Callable[[], PaymentFigures]) -> None:
        """Ask `figures` at every scrape."""
        self._counts = counts
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of payments; without an answer from the store, the worker's."""
        yield from self._worker()
        try:
            found = self._figures()
        except (StoreError, OSError):
            return  # bursar_health says so; a scrape must still tell the rest
        yield from self._kept(found)

    def _kept(self, found: PaymentFigures) -> Iterator[Metric]:
        count = GaugeMetricFamily(
            "bursar_payments", "Payments on record.", labels=["money", "disposition"]
        )
        for tally in found.tallies:
            count.add_metric([tally.money, tally.disposition], tally.count)
        yield count
        value = GaugeMetricFamily(
            "bursar_payments_open_value",
            "What is not closed is worth, in the asset's smallest unit.",
            labels=["money", "disposition", "network", "asset"],
        )
        for about, units in sorted((found.values or {}).items()):
            value.add_metric([*about], units)
        yield value
        yield _ages(found.ages_s)
        yield GaugeMetricFamily(
            "bursar_payments_late",
            "Unresolved payments whose authorization ended twice the chain's finality ago.",
            value=found.late,
        )
        yield GaugeMetricFamily(
            "bursar_payments_due", "Payments that wait for their look.", value=found.due
        )
        yield GaugeMetricFamily(
            "bursar_payments_lag_seconds",
            "How long the longest due payment has waited for its look.",
            value=found.lag_s,
        )

    def _worker(self) -> Iterator[Metric]:
        worker = self._counts.worker
        heartbeat = GaugeMetricFamily(
            "bursar_payments_heartbeat_timestamp_seconds",
            "When the worker of this server began its last round.",
        )
        looks = CounterMetricFamily(
            "bursar_payments_looks_total",
            "Looks at payments, by what came of them.",
            labels=["outcome"],
        )
        saves = CounterMetricFamily(
            "bursar_payments_saves_total", "Looks that were saved, or refused.", labels=["outcome"]
        )
        failures = CounterMetricFamily(
            "bursar_payments_store_failures_total", "Transactions of the worker that failed."
        )
        left_alone = GaugeMetricFamily(
            "bursar_payments_left_alone",
            "1 for endpoints that failed too often and are not asked for a while.",
            labels=["endpoint"],
        )
        if worker is not None:
            did = worker.metrics
            heartbeat.add_metric([], did.heartbeat_ms / 1_000)
            looks.add_metric(["answered"], max(0, did.looks - did.unreachable))
            looks.add_metric(["unreachable"], did.unreachable)
            looks.add_metric(["postponed"], did.postponed)
            for name in ("saved", "stale", "fenced"):
                saves.add_metric([name], getattr(did, name))
            failures.add_metric([], did.store_failures)
            for name in worker.left_alone():
                left_alone.add_metric([name], 1)
        yield from (heartbeat, looks, saves, failures, left_alone)
        yield CounterMetricFamily(
            "bursar_payments_worker_restarts_total",
            "How often the worker failed as a whole and was begun again.",
            value=self._counts.restarts,
        )
        resolved = HistogramMetricFamily(
            "bursar_payments_resolution_seconds",
            "Time from a payment's record to the proof of its outcome.",
            labels=["money"],
        )
        for label, histogram in self._counts.resolved.items():
            resolved.add_metric([label], histogram.buckets(), histogram.total)
        yield resolved


def _ages(ages_s: Sequence[float]) -> Metric:
    """Return the ages of what is unresolved now: a histogram that may shrink."""
    counts = [0] * (len(AGE_BOUNDS_S) + 1)
    for age_s in ages_s:
        counts[bisect_left(AGE_BOUNDS_S, age_s)] += 1
    names = [*map(str, AGE_BOUNDS_S), "+Inf"]
    family = HistogramMetricFamily(
        "bursar_payments_unresolved_age_seconds", "Ages of the payments that are unresolved now."
    )
    family.add_metric([], list(zip(names, accumulate(counts), strict=True)), sum(ages_s))
    return family
