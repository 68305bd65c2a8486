"""The same ledger reached in four ways: embedded or served, by the sync or the async client."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bursar import AsyncCyclesClient, CyclesClient, CyclesConfig, CyclesResponse
from e2e.accounts import Account
from e2e.servers import Server

WAYS = ("embedded-sync", "embedded-async", "served-sync", "served-async")
_numbers = itertools.count(1)


class Side:
    """One client, whose methods are called the same way whatever it is."""

    def __init__(self, client: Any, tenant: str, runner: asyncio.Runner, served: Server | None):
        self.client = client
        self.tenant = tenant
        self._runner = runner
        self._served = served

    def call(self, method: str, *arguments: Any, **named: Any) -> CyclesResponse:
        """Call a method of the client."""
        return self.wait(getattr(self.client, method)(*arguments, **named))

    def wait(self, found: Any) -> Any:
        """Return a value, or what an awaitable gives."""
        if not inspect.isawaitable(found):
            return found

        async def waited() -> Any:
            return await found

        return self._runner.run(waited())

    def budget(self, amount: int, scope: str = "", unit: str = "TOKENS", **more: Any) -> None:
        """Create a budget below the tenant, as an operator does."""
        path = f"tenant:{self.tenant}{scope}"
        allocated = {"unit": unit, "amount": amount}
        body = {"scope": path, "unit": unit, "allocated": allocated, **more}
        if self._served is None:
            self._embedded(body)
            return
        with self._served.operator() as operator:
            reply = operator.post("/v1/admin/budgets", {"tenant_id": self.tenant, **body})
            assert reply.status == 201, reply.body

    def _embedded(self, body: Mapping[str, Any]) -> None:
        """What the client's own `create_budget` does, with every field of the admin plane."""
        from bursar.authority import budgets
        from bursar.authority.principal import OPERATOR

        text = json.dumps({"tenant_id": self.tenant, **body}).encode()
        answer = self.client._ledger._perform(budgets.create_budget, OPERATOR, text)
        assert answer.status == 201, answer

    def spending(self, amount: int, key: str, **more: Any) -> dict[str, Any]:
        """Return a request to reserve."""
        return {
            "idempotency_key": key,
            "subject": {"tenant": self.tenant},
            "action": {"kind": "llm.completion", "name": "model"},
            "estimate": {"unit": "TOKENS", "amount": amount},
            **more,
        }

    def event(self, amount: int, key: str, **more: Any) -> dict[str, Any]:
        """Return a request to debit."""
        found = self.spending(amount, key, **more)
        found["actual"] = found.pop("estimate")
        return found

    def held(self, amount: int, key: str, **more: Any) -> str:
        """Reserve and return the id."""
        answer = self.call("create_reservation", self.spending(amount, key, **more))
        assert answer.status == 200, answer
        assert answer.body is not None
        return str(answer.body["reservation_id"])

    def balance(self) -> dict[str, int]:
        """Return the amounts of the tenant's budget."""
        answer = self.call("get_balances", tenant=self.tenant)
        assert answer.body is not None
        row = answer.body["balances"][0]
        names = ("allocated", "remaining", "reserved", "spent")
        return {name: row.get(name, {"amount": 0})["amount"] for name in names}


@contextmanager
def opened(way: str, server: Server, directory: Path, tenant: str | None = None) -> Iterator[Side]:
    """Open one side for a tenant of its own."""
    where, shell = way.split("-")
    name = tenant or f"side-{next(_numbers)}"
    kind: Any = CyclesClient if shell == "sync" else AsyncCyclesClient
    with asyncio.Runner() as runner:
        if where == "embedded":
            client = kind.embedded(directory / f"{name}.db", tenant=name)
        else:
            account = _account(server, name)
            config = CyclesConfig(
                server.url, account.secret, tenant=name, journal_dir=str(directory / "journal")
            )
            client = kind(config)
        side = Side(client, name, runner, server if where == "served" else None)
        try:
            yield side
        finally:
            side.call("close" if shell == "sync" else "aclose")


def _account(server: Server, name: str) -> Account:
    with server.operator() as operator:
        assert operator.post("/v1/admin/tenants", {"tenant_id": name, "name": name}).status == 201
        key = operator.post("/v1/admin/api-keys", {"tenant_id": name, "name": "laptop"})
        assert key.status == 201, key.body
    return Account(name, key.json()["key_secret"])
