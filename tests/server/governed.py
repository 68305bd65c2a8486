"""A server that a test may stop, kill and start again on one ledger, and its operator.

Every response is checked against the published schemas by the client. What no operation can
reach (a status that makes no sense, a key without a tenant) is written into the file with SQL.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from bursar.ledger.audit import Report, audit
from bursar.storage.sqlite.store import SqliteStore
from conftest import STOP_WITHIN_S, Served, free_port, wait_until_ready
from schemas import CheckedClient

Json = dict[str, Any]
Response = httpx2.Response
ACTION = {"kind": "llm.completion", "name": "test"}


def fresh(word: str) -> str:
    return f"{word}-{secrets.token_hex(6)}"


def amount(value: int, unit: str = "TOKENS") -> Json:
    return {"unit": unit, "amount": value}


def error(response: Response) -> tuple[int, str]:
    """Return status and code, for one comparison of both."""
    return response.status_code, response.json().get("error", "no error")


@dataclass
class Governed:
    """One ledger and its server, running or not."""

    directory: Path
    admin_key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    process: subprocess.Popen[bytes] | None = None
    client: CheckedClient | None = None

    @property
    def store(self) -> Path:
        return self.directory / "ledger.db"

    def start(self) -> None:
        served = Served(free_port(), self.admin_key, self.directory / "server.log")
        command = [sys.executable, "-m", "bursar.cli", "serve", "--store", "sqlite:///ledger.db"]
        command += ["--host", "127.0.0.1", "--port", str(served.port)]
        with served.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=os.environ | {"BURSAR_ADMIN_KEY": self.admin_key},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until_ready(self.process, served)
        except BaseException:
            self.kill()
            raise
        self.client = CheckedClient(base_url=served.url, timeout=30)

    def stop(self) -> None:
        """Let the server finish, and see that it does."""
        assert self.process is not None
        self.process.terminate()
        try:
            assert self.process.wait(STOP_WITHIN_S) == 0
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process as a power cut would."""
        if self.client is not None:
            self.client.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.client = self.process = None

    def audit(self) -> Report:
        """Check the file of a server that does not run against its own log."""
        assert self.process is None
        with closing(SqliteStore.open(self.store, create=False)) as store:
            return audit(store.reader)

    def sql(self, statement: str, *values: Any) -> None:
        """Change one row of the file past all rules."""
        with closing(sqlite3.connect(self.store, timeout=10)) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1

    def log(self, tenant: str) -> list[str]:
        """Return the verbs of a tenant's log."""
        with closing(sqlite3.connect(self.store, timeout=10)) as connection:
            found = connection.execute(
                "SELECT verb FROM entry WHERE tenant = ? ORDER BY seq", (tenant,)
            )
            return [verb for (verb,) in found]

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Response:
        assert self.client is not None
        if body is not None:
            options["json"] = body
        return self.client.request(method, path, **options)

    def admin(self, method: str, path: str, body: Any = None, **params: Any) -> Response:
        """Send a request as the operator."""
        headers = {"X-Admin-API-Key": self.admin_key}
        return self.call(method, path, body, headers=headers, params=params)

    def done(self, method: str, path: str, body: Any = None, **params: Any) -> Json:
        """Send a request as the operator that must succeed, and return the answer."""
        response = self.admin(method, path, body, **params)
        assert response.status_code < 300, response.text
        answer: Json = response.json()
        return answer

    def tenant(self, **fields: Any) -> Tenant:
        """Create a tenant with a key that has every default permission."""
        tenant_id = fresh("t")
        self.done("POST", "/v1/admin/tenants", {"tenant_id": tenant_id, "name": "T"} | fields)
        tenant = Tenant(self, tenant_id, "", "")
        return tenant.with_key()


@dataclass(frozen=True)
class Tenant:
    """One tenant, speaking with one of its keys."""

    server: Governed
    id: str
    key_id: str
    secret: str

    @property
    def path(self) -> str:
        return f"/v1/admin/tenants/{self.id}"

    def with_key(self, **fields: Any) -> Tenant:
        """Create a key and return the tenant speaking with it."""
        body = {"tenant_id": self.id, "name": "a key"} | fields
        made = self.server.done("POST", "/v1/admin/api-keys", body)
        return Tenant(self.server, self.id, made["key_id"], made["key_secret"])

    def scope(self, below: str = "") -> str:
        return f"tenant:{self.id}/{below}" if below else f"tenant:{self.id}"

    def where(self, below: str = "", unit: str = "TOKENS") -> Json:
        return {"scope": self.scope(below), "unit": unit}

    def patch(self, **fields: Any) -> Response:
        return self.server.admin("PATCH", self.path, fields)

    def record(self) -> Json:
        return self.server.done("GET", self.path)

    def key(self) -> Json:
        """Return this key's row of the list."""
        rows = self.server.done("GET", "/v1/admin/api-keys", search=self.key_id)["keys"]
        assert len(rows) == 1
        row: Json = rows[0]
        return row

    def patch_key(self, **fields: Any) -> Response:
        return self.server.admin("PATCH", f"/v1/admin/api-keys/{self.key_id}", fields)

    def budget(
        self, allocated: int, below: str = "", unit: str = "TOKENS", **fields: Any
    ) -> Tenant:
        body = self.where(below, unit) | {"allocated": amount(allocated, unit)}
        self.server.done("POST", "/v1/admin/budgets", body | {"tenant_id": self.id} | fields)
        return self

    def ledger(self, below: str = "", unit: str = "TOKENS") -> Json:
        return self.server.done("GET", "/v1/admin/budgets/lookup", **self.where(below, unit))

    def numbers(self, below: str = "", unit: str = "TOKENS") -> tuple[int, int, int, int]:
        """Return remaining, reserved, spent and debt."""
        row = self.ledger(below, unit)
        names = ("remaining", "reserved", "spent", "debt")
        remaining, reserved, spent, debt = (row[name]["amount"] for name in names)
        return remaining, reserved, spent, debt

    def patch_budget(self, below: str = "", unit: str = "TOKENS", **fields: Any) -> Response:
        return self.server.admin("PATCH", "/v1/admin/budgets", fields, **self.where(below, unit))

    def turn(self, verb: str, below: str = "") -> Response:
        return self.server.admin("POST", f"/v1/admin/budgets/{verb}", {}, **self.where(below))

    def fund(self, operation: str, value: int, below: str = "") -> Response:
        body = {"operation": operation, "amount": amount(value)}
        params = self.where(below) | {"tenant_id": self.id}
        return self.server.admin("POST", "/v1/admin/budgets/fund", body, **params)

    def call(self, method: str, path: str, body: Any = None, **params: Any) -> Response:
        headers = {"X-Cycles-API-Key": self.secret}
        return self.server.call(method, path, body, headers=headers, params=params)

    def ask(self, value: int, below: str = "", unit: str = "TOKENS", **fields: Any) -> Json:
        levels = dict(part.split(":", 1) for part in below.split("/") if part)
        return {
            "idempotency_key": fresh("k"),
            "subject": {"tenant": self.id} | levels,
            "action": ACTION,
            "estimate": amount(value, unit),
        } | fields

    def reserve(self, value: int, below: str = "", unit: str = "TOKENS", **fields: Any) -> Response:
        return self.call("POST", "/v1/reservations", self.ask(value, below, unit, **fields))

    def hold(self, value: int, below: str = "", unit: str = "TOKENS", **fields: Any) -> str:
        """Reserve what must succeed and return the reservation's id."""
        response = self.reserve(value, below, unit, **fields)
        assert response.status_code == 200, response.text
        return str(response.json()["reservation_id"])

    def decide(self, value: int, below: str = "") -> Response:
        return self.call("POST", "/v1/decide", self.ask(value, below))

    def debit(self, value: int, **fields: Any) -> Response:
        body = self.ask(value)
        body["actual"] = body.pop("estimate")
        return self.call("POST", "/v1/events", body | fields)

    def settle(self, verb: str, held: str, **fields: Any) -> Response:
        body = {"idempotency_key": fresh("k")} | fields
        return self.call("POST", f"/v1/reservations/{held}/{verb}", body)

    def commit(self, held: str, value: int, **fields: Any) -> Response:
        return self.settle("commit", held, **({"actual": amount(value)} | fields))

    def release(self, held: str) -> Response:
        return self.settle("release", held)

    def extend(self, held: str) -> Response:
        return self.settle("extend", held, extend_by_ms=1_000)

    def admin_release(self, held: str) -> Response:
        body = {"idempotency_key": fresh("k")}
        return self.server.admin("POST", f"/v1/reservations/{held}/release", body)

    def reservation(self, held: str) -> Json:
        """Return a reservation as the operator sees it."""
        return self.server.done("GET", f"/v1/reservations/{held}")


@contextmanager
def governed(directory: Path) -> Iterator[Governed]:
    """Run a server on a new ledger; whatever a test did to it, it is gone afterwards."""
    server = Governed(directory)
    server.start()
    try:
        yield server
        if server.process is not None:
            server.stop()
    finally:
        server.kill()
