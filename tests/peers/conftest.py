"""A server, tenants on it, and published clients whose every response is checked."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runcycles import AsyncCyclesClient, CyclesClient

from e2e.accounts import open_account
from e2e.servers import Server, Servers
from peers.desk import ALLOCATED, USD, Desk


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all peers; each test has a tenant of its own."""
    with Servers(tmp_path_factory.mktemp("peers")) as servers:
        started = servers.start(environment={"BURSAR_SWEEP_INTERVAL_MS": "100"})
        yield started
        assert started.stop() == 0, started.logged()


@pytest.fixture
def desk(server: Server, tmp_path: Path) -> Iterator[Desk]:
    """A tenant with one budget."""
    made = Desk(server, open_account(server, {"": ALLOCATED}, unit=USD), tmp_path)
    yield made
    assert made.problems == []
    assert made.calls, "no response was looked at"


@pytest.fixture
def client(desk: Desk) -> Iterator[CyclesClient]:
    with CyclesClient(desk.config()) as made:
        yield desk.watch(made)


@pytest.fixture
def run_async(desk: Desk) -> Callable[[Callable[[AsyncCyclesClient], Any]], Any]:
    """Run a coroutine function with an asynchronous client and return what it returns."""

    def run(work: Callable[[AsyncCyclesClient], Any]) -> Any:
        async def inner() -> Any:
            async with AsyncCyclesClient(desk.config()) as made:
                return await work(desk.watch_async(made))

        return asyncio.run(inner())

    return run
