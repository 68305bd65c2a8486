"""What the service around the ledger did: requests, jobs, and how busy its loop is.

The rule that lives here: the event loop alone counts here, and only operations that exist
become labels, so nobody outside can make up a series.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.types import Scope

from bursar.server.observe.tally import Counts, Histogram, Histograms

NO_OPERATION = "none"
"""Probes, scrapes, pages, unknown paths, and methods that a path does not have."""

# The promise is a 99th percentile of 50 ms, so that is a bound, with company on both sides.
REQUEST_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
JOB_BOUNDS_S = (0.001, 0.01, 0.1, 1, 10, 60)
LAG_BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
LAG_EVERY_S = 0.5


@dataclass(slots=True)
class ServiceCounts:
    """An observer of requests and jobs."""

    requests: Counts = field(default_factory=Counts)
    durations: Histograms = field(default_factory=lambda: Histograms(REQUEST_BOUNDS_S))
    job_runs: Counts = field(default_factory=Counts)
    job_durations: Histograms = field(default_factory=lambda: Histograms(JOB_BOUNDS_S))
    lag: Histogram = field(default_factory=lambda: Histogram(LAG_BOUNDS_S))

    def began(self, scope: Scope) -> None:
        """Take no note of a request before it is over."""

    def ended(self, scope: Scope, status: int, took_s: float) -> None:
        """Count a request by its operation and status."""
        operation = scope["bursar"].get("operation", NO_OPERATION)
        self.requests.add((operation, str(status)))
        self.durations.observe(operation, took_s)

    def ran(self, job: str, outcome: str, took_s: float) -> None:
        """Count one run of a job."""
        self.job_runs.add((job, outcome))
        self.job_durations.observe(job, took_s)

    async def watch_loop(self) -> None:
        """Measure, until cancelled, how late the event loop comes to what is due."""
        while True:
            slept_at_s = time.perf_counter()
            await asyncio.sleep(LAG_EVERY_S)
            self.lag.observe(max(0.0, time.perf_counter() - slept_at_s - LAG_EVERY_S))
