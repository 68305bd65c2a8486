"""The same ledger reached in four ways: embedded or served, by the sync or the async client."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bursar import AsyncCyclesClient, CyclesClient, CyclesConfig, CyclesResponse
from bursar.authority.principal import OPERATOR
from bursar.server.routes import ROUTES
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

    @property
    def embedded(self) -> bool:
        """Whether the ledger is in this process."""
        return self._served is None

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
        """Create a budget below the tenant: as an operator, or with the client's own method."""
        path = f"tenant:{self.tenant}{scope}"
        if self._served is None:
            self.wait(self.client.create_budget(amount, scope=path, unit=unit, **more))
            return
        allocated = {"unit": unit, "amount": amount}
        body = {"scope": path, "unit": unit, "allocated": allocated, **more}
        self.operate("POST", "/v1/admin/budgets", {"tenant_id": self.tenant, **body})

    def operate(self, method: str, path: str, body: Mapping[str, Any], **query: str) -> Any:
        """Do what an operator does, on the server or on the embedded ledger itself."""
        if self._served is not None:
            with self._served.operator() as operator:
                reply = operator.send(
                    method, f"{path}?{urlencode(query)}", json.dumps(body).encode()
                )
            assert reply.status < 300, reply.body
            return reply.json()
        operation, named = _route(method, path)
        answer = self.client._ledger._perform(
            operation, OPERATOR, json.dumps(body).encode(), query, named
        )
        assert answer.is_success, answer
        return answer.body

    def rewrite(self, statement: str, *values: Any) -> None:
        """Change one row of the ledger past all rules, to reach what no operation reaches."""
        file = self.client._ledger._file if self._served is None else self._served.store
        with closing(sqlite3.connect(file, timeout=10)) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1

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


def _route(method: str, path: str) -> tuple[Any, dict[str, str]]:
    """Return the operation at a path, and what the path names."""
    for route in ROUTES:
        pattern = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", route.path)
        found = re.fullmatch(pattern, path)
        if found and route.method == method:
            return route.operation, found.groupdict()
    raise AssertionError(f"no route {method} {path}")


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
