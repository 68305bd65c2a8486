"""A tenant's side of the tests: its clients, what its server answered them, its one budget.

The rule that lives here: a client is used as its users use it. Only its HTTP client gets a hook
that looks at each response; what the hook finds fails the test when it ends, because the clients
swallow errors by design.
"""

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from runcycles import AsyncCyclesClient, CyclesClient, CyclesConfig

import schemas
from e2e.accounts import Account, balances
from e2e.servers import Server

USD = "USD_MICROCENTS"
ALLOCATED = 1_000_000


class Desk:
    """A tenant's side: its clients, what its server answered them, its one budget."""

    def __init__(self, server: Server, account: Account, folder: Path) -> None:
        self.account = account
        self.calls: Counter[str] = Counter()
        self.problems: list[str] = []
        self._server = server
        self._folder = folder

    @property
    def tenant(self) -> str:
        return self.account.tenant

    def config(self, **changes: Any) -> CyclesConfig:
        """Return a configuration whose journal lies in the test's folder and retries quickly."""
        settings: dict[str, Any] = {
            "base_url": self._server.url,
            "api_key": self.account.secret,
            "tenant": self.tenant,
            "journal_dir": str(self._folder / "journal"),
            "retry_initial_delay": 0.05,
            "retry_flush_timeout": 5.0,
        }
        return CyclesConfig(**(settings | changes))

    def watch(self, client: CyclesClient) -> CyclesClient:
        """Look at every response that a client gets."""
        client._http.event_hooks = {"response": [self._look]}
        return client

    def watch_async(self, client: AsyncCyclesClient) -> AsyncCyclesClient:
        """Look at every response that an asynchronous client gets."""

        async def look(response: httpx.Response) -> None:
            await response.aread()
            self._look(response)

        client._http.event_hooks = {"response": [look]}
        return client

    def balance(self) -> dict[str, int]:
        """Return the amounts of the tenant's budget."""
        with self.account.connect(self._server) as connection:
            return balances(connection, self.tenant)[""]

    def spent(self) -> int:
        """Return what was spent, and insist that nothing is held any more."""
        found = self.balance()
        assert found["reserved"] == 0, found
        return found["spent"]

    def rows(self) -> list[dict[str, Any]]:
        """Return the tenant's reservations, the oldest first."""
        path = "/v1/reservations?sort_dir=asc&include=metadata,committed_metadata"
        with self.account.connect(self._server) as connection:
            rows: list[dict[str, Any]] = connection.get(path).json()["reservations"]
        return rows

    def journal(self) -> list[Path]:
        """Return the settlements that a client has not finished."""
        return list((self._folder / "journal").rglob("*.json"))

    def _look(self, response: httpx.Response) -> None:
        response.read()
        request = response.request
        last = urlsplit(str(request.url)).path.rpartition("/")[2]
        self.calls[f"{request.method} {last} {response.status_code}"] += 1
        self.problems += schemas.problems(
            request.method,
            str(request.url),
            response.status_code,
            response.headers,
            response.content,
        )
