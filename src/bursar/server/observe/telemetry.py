"""Everything that watches one server, put together.

The rule that lives here: whoever is watched knows one observer, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from bursar.ledger.observer import Executed
from bursar.server import health
from bursar.server.observe.exposition import Exposition
from bursar.server.observe.ledger import LedgerCounts
from bursar.server.observe.seam import RequestObserver
from bursar.server.observe.service import ServiceCounts
from bursar.storage.sqlite.statistics import Statistics

if TYPE_CHECKING:
    from bursar.server.observe.spans import Spans  # needs the extra `otel`


@dataclass(slots=True)
class Telemetry:
    """The observer of a server's ledger and of its jobs."""

    ledger: LedgerCounts
    service: ServiceCounts = field(default_factory=ServiceCounts)
    spans: Spans | None = None

    @property
    def request_observers(self) -> tuple[RequestObserver, ...]:
        """Who is told of requests."""
        return (self.service,) if self.spans is None else (self.service, self.spans)

    def executed(self, batch: Executed) -> None:
        """Take note of a transaction."""
        self.ledger.executed(batch)
        if self.spans is not None:
            self.spans.executed(batch)

    def ran(self, job: str, outcome: str, took_s: float) -> None:
        """Take note of a run of a job."""
        self.service.ran(job, outcome, took_s)

    def quarantine(self, tenant: str, reason: str) -> None:
        """Take note of a reservation that cannot be read."""
        self.ledger.quarantine(tenant, reason)

    def close(self) -> None:
        """Send what is not sent yet."""
        if self.spans is not None:
            self.spans.close()

    def exposition(
        self, state: health.State, statistics: Callable[[], Statistics], *more: Collector
    ) -> Exposition:
        """Return what is shown to a scraper, and what others show beside it."""
        return Exposition(self.ledger, self.service, state, statistics, *more)
