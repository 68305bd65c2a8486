"""The scrape: every metric with its name, its meaning and its labels.

The rule that lives here: a metric's name is written nowhere else in the code, and what is
costly to know (files, open reservations) is asked for only when somebody scrapes.
"""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from bursar import __version__
from bursar.ledger.ports import StoreError
from bursar.server import health
from bursar.server.observe.ledger import LedgerCounts
from bursar.server.observe.service import ServiceCounts
from bursar.server.observe.tally import Counts, Histogram, Histograms
from bursar.storage.sqlite.statistics import Statistics


class Exposition:
    """Writes what was counted in the format that the scraper asks for."""

    def __init__(
        self,
        ledger: LedgerCounts,
        service: ServiceCounts,
        state: health.State,
        statistics: Callable[[], Statistics],
        *more: Collector,
    ) -> None:
        """Tie the counts to one page."""
        self._registry = CollectorRegistry()
        self._registry.register(LedgerCollector(ledger))
        self._registry.register(ServiceCollector(service, state))
        self._registry.register(StoreCollector(statistics))
        for collector in more:
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def page(self, accept: str) -> tuple[str, bytes]:
        """Return the content type and the body of a scrape."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)


class LedgerCollector(Collector):
    """What the ledger answered, under the names of the protocol's reference server."""

    def __init__(self, counts: LedgerCounts) -> None:
        """Read from `counts`; without tenants told apart there is no tenant label."""
        self._counts = counts
        self._tenant = ["tenant"] if counts.tenants_max else []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the ledger."""
        yield from self._reservations()
        yield from self._others()
        yield from self._batches()

    def _reservations(self) -> Iterator[Metric]:
        told = [*self._tenant, "decision", "reason"]
        yield self._filled(
            CounterMetricFamily(
                "cycles_reservations_reserve_total",
                "Reservations asked for, dry runs included.",
                labels=[*told, "overage_policy"],
            ),
            self._counts.reserve,
        )
        yield self._filled(
            CounterMetricFamily(
                "cycles_reservations_commit_total",
                "Commits asked for.",
                labels=[*told, "overage_policy"],
            ),
            self._counts.commit,
        )
        yield self._filled(
            CounterMetricFamily(
                "cycles_reservations_release_total",
                "Releases asked for.",
                labels=[*self._tenant, "actor_type", "decision", "reason"],
            ),
            self._counts.release,
        )
        yield self._filled(
            CounterMetricFamily(
                "cycles_reservations_extend_total", "Extensions asked for.", labels=told
            ),
            self._counts.extend,
        )
        yield self._filled(
            CounterMetricFamily(
                "cycles_reservations_expired_total",
                "Leases that ended without being settled.",
                labels=self._tenant,
            ),
            self._counts.expired,
        )
        yield self._filled(
            CounterMetricFamily(
                "cycles_reservations_quarantined_total",
                "Reservations that the sweep cannot read and passes over.",
                labels=[*self._tenant, "reason"],
            ),
            self._counts.quarantined,
        )

    def _others(self) -> Iterator[Metric]:
        yield self._filled(
            CounterMetricFamily(
                "cycles_events_total",
                "Direct debits asked for.",
                labels=[*self._tenant, "decision", "reason", "overage_policy"],
            ),
            self._counts.debit,
        )
        yield self._filled(
            CounterMetricFamily(
                "cycles_overdraft_incurred_total",
                "Commits and debits that left a budget owing more than before.",
                labels=self._tenant,
            ),
            self._counts.overdraft,
        )

    def _batches(self) -> Iterator[Metric]:
        yield filled(
            CounterMetricFamily(
                "bursar_commands_failed_total",
                "Commands that the ledger could not execute, by the error.",
                labels=["error"],
            ),
            self._counts.failures.items(),
        )
        yield measured(
            HistogramMetricFamily("bursar_batch_commands", "Commands in one transaction."),
            self._counts.sizes,
        )
        yield measured(
            HistogramMetricFamily(
                "bursar_transaction_duration_seconds",
                "Time of one transaction, until it was durable or had failed.",
            ),
            self._counts.took,
        )

    def _filled(self, family: CounterMetricFamily, counts: Counts) -> Metric:
        skipped = 1 - len(self._tenant)
        return filled(family, [(labels[skipped:], count) for labels, count in counts.items()])


class ServiceCollector(Collector):
    """Requests, jobs, the queue, and whether the service can do its job."""

    def __init__(self, counts: ServiceCounts, state: health.State) -> None:
        """Read from `counts` and from what the probes look at."""
        self._counts = counts
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the service."""
        yield from self._requests()
        yield from self._jobs()
        yield from self._now()

    def _requests(self) -> Iterator[Metric]:
        yield filled(
            CounterMetricFamily(
                "bursar_http_requests_total",
                "Requests by operation and status.",
                labels=["operation", "status"],
            ),
            self._counts.requests.items(),
        )
        yield by_label(
            HistogramMetricFamily(
                "bursar_http_request_duration_seconds",
                "Time from a request's headers to the end of its answer.",
                labels=["operation"],
            ),
            self._counts.durations,
        )

    def _jobs(self) -> Iterator[Metric]:
        yield filled(
            CounterMetricFamily(
                "cycles_maintenance_runs_total",
                "Runs of the server's own jobs.",
                labels=["job", "outcome"],
            ),
            self._counts.job_runs.items(),
        )
        yield by_label(
            HistogramMetricFamily(
                "cycles_maintenance_duration_seconds", "Time of one run of a job.", labels=["job"]
            ),
            self._counts.job_durations,
        )

    def _now(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "bursar_queue_commands",
            "Commands that wait for the writer.",
            value=self._state.batcher.waiting,
        )
        yield measured(
            HistogramMetricFamily(
                "bursar_event_loop_lag_seconds", "How late the event loop came to a timer."
            ),
            self._counts.lag,
        )
        healthy = GaugeMetricFamily(
            "bursar_health", "1 if a check of /health/ready passes, else 0.", labels=["check"]
        )
        for check, result in health.ready(self._state)[1]["checks"].items():
            healthy.add_metric([check], int(result == "ok"))
        yield healthy


class StoreCollector(Collector):
    """The ledger's file, and what runs."""

    def __init__(self, statistics: Callable[[], Statistics]) -> None:
        """Ask `statistics` at every scrape."""
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the store; without an answer from it, there are none."""
        info = GaugeMetricFamily(
            "bursar_build_info", "Always 1; the labels say what runs.", labels=list(BUILD)
        )
        info.add_metric(list(BUILD.values()), 1)
        yield info
        try:
            found = self._statistics()
        except (StoreError, OSError):
            return  # bursar_health says so; a scrape must still tell the rest
        yield from self._store(found)

    def _store(self, found: Statistics) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "bursar_reservations_active",
            "Reservations that hold something now.",
            value=found.reservations_active,
        )
        yield GaugeMetricFamily(
            "bursar_store_bytes", "Size of the ledger's file.", value=found.file_bytes
        )
        yield GaugeMetricFamily(
            "bursar_store_wal_bytes", "Size of the write-ahead log.", value=found.wal_bytes
        )
        yield GaugeMetricFamily(
            "bursar_store_free_bytes", "Space left where the ledger lies.", value=found.free_bytes
        )
        yield SummaryMetricFamily(
            "bursar_checkpoint_duration_seconds",
            "Time of moving the write-ahead log into the file.",
            count_value=found.checkpoints,
            sum_value=found.checkpoint_s,
        )


BUILD = {
    "version": __version__,
    "python": platform.python_version(),
    "sqlite": sqlite3.sqlite_version,
}


def filled(family: CounterMetricFamily, rows: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    """Return a counter with one series for each row."""
    for labels, count in rows:
        family.add_metric(labels, count)
    return family


def measured(family: HistogramMetricFamily, histogram: Histogram) -> Metric:
    """Return a histogram without labels."""
    family.add_metric([], histogram.buckets(), histogram.total)
    return family


def by_label(family: HistogramMetricFamily, histograms: Histograms) -> Metric:
    """Return a histogram with one label."""
    for label, histogram in histograms.items():
        family.add_metric([label], histogram.buckets(), histogram.total)
    return family
