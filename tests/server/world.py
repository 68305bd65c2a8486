"""A tenant of its own on a shared server, and short words for what a test does with it."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conftest import serving
from schemas import CheckedClient

Json = dict[str, Any]
Response = httpx2.Response
ACTION = {"kind": "llm.completion", "name": "test"}
_counter = itertools.count(1)


def fresh(word: str) -> str:
    """Return an id that no other test uses, whatever process it runs in."""
    return f"{word}-{secrets.token_hex(4)}-{next(_counter)}"


def amount(value: int, unit: str = "TOKENS") -> Json:
    return {"unit": unit, "amount": value}


def error(response: Response) -> tuple[int, str]:
    """Return status and code, for one comparison of both."""
    return response.status_code, response.json().get("error", "no error")


def without_lease(body: bytes) -> bytes:
    """Return a reply's bytes without the one field that a replay may change."""
    return re.sub(rb',"remaining_ttl_ms":\d+', b"", body)


@dataclass(frozen=True)
class Server:
    """A running server, and the operator's way in."""

    url: str
    admin_key: str
    client: CheckedClient
    store: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def operator(self) -> dict[str, str]:
        return {"X-Admin-API-Key": self.admin_key}

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Response:
        """Send a request without any credential but those in `headers`."""
        if body is not None:
            options["json"] = body
        return self.client.request(method, path, **options)

    def admin(self, method: str, path: str, body: Any = None, **options: Any) -> Response:
        """Send a request as the operator."""
        headers = self.operator | options.pop("headers", {})
        return self.call(method, path, body, headers=headers, **options)

    def tenant(self, tenant_id: str | None = None, **fields: Any) -> Tenant:
        """Create a tenant with a key that has every default permission."""
        tenant_id = tenant_id or fresh("t")
        body = {"tenant_id": tenant_id, "name": tenant_id.upper(), **fields}
        assert self.admin("POST", "/v1/admin/tenants", body).status_code == 201
        return Tenant(self, tenant_id, self.key(tenant_id))

    def key(self, tenant_id: str, **fields: Any) -> str:
        """Create an API key and return its secret."""
        return str(self.new_key(tenant_id, **fields)["key_secret"])

    def sql(self, statement: str, *values: Any) -> None:
        """Change the store behind the server's back, to reach what no operation reaches yet."""
        with closing(sqlite3.connect(self.store, timeout=10)) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1

    def entries(self, columns: str, tenant_id: str) -> list[Any]:
        """Return columns of a tenant's log, in order."""
        with closing(sqlite3.connect(self.store, timeout=10)) as connection:
            sql = f"SELECT {columns} FROM entry WHERE tenant = ? ORDER BY seq"
            return connection.execute(sql, (tenant_id,)).fetchall()

    def copy_budget(self, tenant: Tenant, copies: int) -> int:
        """Put copies of a tenant's own budget below it, past the log; return how many it has."""
        with closing(sqlite3.connect(self.store, timeout=10)) as connection, connection:
            [row] = connection.execute("SELECT * FROM budget WHERE tenant = ?", (tenant.id,))
            marks = ", ".join("?" * len(row))
            connection.executemany(
                f"INSERT INTO budget VALUES ({marks})",
                (
                    (row[0], f"{row[1]}/agent:c{number}", row[2], fresh("ldg"), *row[4:])
                    for number in range(copies)
                ),
            )
            found = "SELECT count(*) FROM budget WHERE tenant = ?"
            return int(connection.execute(found, (tenant.id,)).fetchone()[0])

    def new_key(self, tenant_id: str, **fields: Any) -> Json:
        body = {"tenant_id": tenant_id, "name": "a key", **fields}
        response = self.admin("POST", "/v1/admin/api-keys", body)
        assert response.status_code == 201, response.text
        created: Json = response.json()
        return created


@dataclass(frozen=True)
class Tenant:
    """One tenant, speaking with one of its keys."""

    server: Server
    id: str
    secret: str
    also: dict[str, str] = field(default_factory=dict)  # headers sent with every request

    @property
    def scope(self) -> str:
        return f"tenant:{self.id}"

    def path(self, below: str = "") -> str:
        """Return the full scope of `agent:bot` and the like; empty is the tenant's own."""
        return f"{self.scope}/{below}" if below else self.scope

    def set_status(self, status: str | None) -> None:
        """Write a status into the tenant's record, sensible or not."""
        self.server.sql("UPDATE tenant SET status = ? WHERE tenant = ?", status, self.id)

    def with_key(self, secret: str) -> Tenant:
        return Tenant(self.server, self.id, secret, self.also)

    def subject(self, below: str = "") -> Json:
        levels = dict(part.split(":", 1) for part in below.split("/") if part)
        return {"tenant": self.id, **levels}

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Response:
        headers = {"X-Cycles-API-Key": self.secret} | self.also | options.pop("headers", {})
        return self.server.call(method, path, body, headers=headers, **options)

    def get(self, path: str, **query: Any) -> Response:
        return self.call("GET", path, params=query)

    # Budgets.

    def budget(
        self, allocated: int, below: str = "", unit: str = "TOKENS", **fields: Any
    ) -> Tenant:
        """Create a budget and return the tenant, so that calls can be chained."""
        body = {"scope": self.path(below), "unit": unit, "allocated": amount(allocated, unit)}
        body |= {"tenant_id": self.id} | fields
        if "limit" in body:
            body["overdraft_limit"] = amount(body.pop("limit"), unit)
        response = self.server.admin("POST", "/v1/admin/budgets", body)
        assert response.status_code == 201, response.text
        return self

    def ledger(self, below: str = "", unit: str = "TOKENS") -> Json:
        """Return a budget as the operator sees it."""
        query = {"scope": self.path(below), "unit": unit}
        response = self.server.admin("GET", "/v1/admin/budgets/lookup", params=query)
        assert response.status_code == 200, response.text
        row: Json = response.json()
        return row

    def state(self, below: str = "", unit: str = "TOKENS") -> dict[str, Any]:
        """Return the numbers of a budget: remaining, reserved, spent, debt, over."""
        row = self.ledger(below, unit)
        numbers = {name: row[name]["amount"] for name in ("remaining", "reserved", "spent", "debt")}
        return numbers | {"over": row["is_over_limit"]}

    def fund(
        self, operation: str, value: int, below: str = "", unit: str = "TOKENS", **fields: Any
    ) -> Response:
        query = {"scope": self.path(below), "unit": unit, "tenant_id": self.id}
        body = {"operation": operation, "amount": amount(value, unit), **fields}
        return self.server.admin("POST", "/v1/admin/budgets/fund", body, params=query)

    def turn(self, verb: str, below: str = "", unit: str = "TOKENS", body: Any = None) -> Response:
        """Freeze or unfreeze."""
        query = {"scope": self.path(below), "unit": unit}
        return self.server.admin("POST", f"/v1/admin/budgets/{verb}", body, params=query)

    # The runtime plane. A key is made up unless the test names one.

    def ask(self, value: int, below: str = "", unit: str = "TOKENS", **fields: Any) -> Json:
        """Return the body of a reserve."""
        return {
            "idempotency_key": fresh("k"),
            "subject": self.subject(below),
            "action": ACTION,
            "estimate": amount(value, unit),
        } | fields

    def reserve(self, value: int, below: str = "", unit: str = "TOKENS", **fields: Any) -> Response:
        return self.call("POST", "/v1/reservations", self.ask(value, below, unit, **fields))

    def decide(self, value: int, below: str = "", unit: str = "TOKENS", **fields: Any) -> Response:
        return self.call("POST", "/v1/decide", self.ask(value, below, unit, **fields))

    def hold(self, value: int, below: str = "", unit: str = "TOKENS", **fields: Any) -> str:
        """Reserve what must succeed and return the reservation's id."""
        response = self.reserve(value, below, unit, **fields)
        assert response.status_code == 200, response.text
        return str(response.json()["reservation_id"])

    def commit(self, held: str, value: int, unit: str = "TOKENS", **fields: Any) -> Response:
        body = {"idempotency_key": fresh("k"), "actual": amount(value, unit)} | fields
        return self.call("POST", f"/v1/reservations/{held}/commit", body)

    def release(self, held: str, **fields: Any) -> Response:
        body = {"idempotency_key": fresh("k")} | fields
        return self.call("POST", f"/v1/reservations/{held}/release", body)

    def admin_release(self, held: str, **fields: Any) -> Response:
        body = {"idempotency_key": fresh("k")} | fields
        return self.server.admin("POST", f"/v1/reservations/{held}/release", body)

    def extend(self, held: str, by_ms: int = 1_000, **fields: Any) -> Response:
        body = {"idempotency_key": fresh("k"), "extend_by_ms": by_ms} | fields
        return self.call("POST", f"/v1/reservations/{held}/extend", body)

    def debit(self, value: int, below: str = "", unit: str = "TOKENS", **fields: Any) -> Response:
        body = self.ask(value, below, unit)
        body["actual"] = body.pop("estimate")
        return self.call("POST", "/v1/events", body | fields)

    def reservation(self, held: str) -> Response:
        return self.get(f"/v1/reservations/{held}")

    def listed(self, **query: Any) -> list[str]:
        """Return the ids of one page of reservations, in its order."""
        response = self.get("/v1/reservations", **query)
        assert response.status_code == 200, response.text
        return [row["reservation_id"] for row in response.json()["reservations"]]

    def balances(self, **query: Any) -> list[Json]:
        response = self.get("/v1/balances", **({"tenant": self.id} | query))
        assert response.status_code == 200, response.text
        rows: list[Json] = response.json()["balances"]
        return rows


@contextlib.contextmanager
def started(directory: Path, **environment: str) -> Iterator[Server]:
    """Run a server with settings from the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        running = serving(directory)
        served = running.__enter__()
    with contextlib.ExitStack() as stack:
        stack.push(running)
        client = stack.enter_context(CheckedClient(base_url=served.url, timeout=30))
        yield Server(served.url, served.admin_key, client, directory / "ledger.db")
