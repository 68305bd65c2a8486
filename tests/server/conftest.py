"""One real server for the whole folder, and a fresh tenant for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from server.world import Server, Tenant, started

SWEEP_MS = 50


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shared server; it sweeps often so that nobody waits for it."""
    directory = tmp_path_factory.mktemp("server")
    unlimited = {
        "BURSAR_AUTH_FAILURES_PER_MINUTE": "0",  # of tests that try bad credentials
        "BURSAR_METRICS_TENANTS_MAX": "10000",  # every test has a tenant of its own
    }
    with started(directory, BURSAR_SWEEP_INTERVAL_MS=str(SWEEP_MS), **unlimited) as running:
        yield running


@pytest.fixture
def tenant(server: Server) -> Tenant:
    return server.tenant()


@pytest.fixture
def new_tenant(server: Server) -> Callable[..., Tenant]:
    """Return a function that makes tenants, with fields of their own."""
    return server.tenant
