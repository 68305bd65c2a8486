"""A tenant with its budgets and a key, made through the admin plane of a running server."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.connections import Connection, Reply
from e2e.servers import Server

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant and the secret of one of its keys."""

    tenant: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        """The credential that requests of this tenant carry."""
        return {"X-Cycles-API-Key": self.secret}

    def connect(self, server: Server, *, checked: bool = True) -> Connection:
        """Return a connection that speaks for this tenant."""
        return server.connect(self.headers, checked=checked)


def open_account(
    server: Server, budgets: Mapping[str, int], *, unit: str = "TOKENS", **tenant: Any
) -> Account:
    """Create a tenant, a key, and a budget for each path below the tenant ("" is the tenant's)."""
    name = f"acme-{next(_numbers)}"
    with server.operator() as operator:
        _created(operator.post("/v1/admin/tenants", {"tenant_id": name, "name": "Acme"} | tenant))
        key = _created(operator.post("/v1/admin/api-keys", {"tenant_id": name, "name": "laptop"}))
        for path, allocated in budgets.items():
            budget = {
                "tenant_id": name,
                "scope": f"tenant:{name}{path}",
                "unit": unit,
                "allocated": {"unit": unit, "amount": allocated},
            }
            _created(operator.post("/v1/admin/budgets", budget))
    return Account(name, key["key_secret"])


def _created(reply: Reply) -> Any:
    assert reply.status == 201, (reply.status, reply.body)
    return reply.json()


def balances(connection: Connection, tenant: str) -> dict[str, dict[str, int]]:
    """Return the amounts of every budget of a tenant by the path below the tenant."""
    found: dict[str, dict[str, int]] = {}
    reply = connection.get(f"/v1/balances?tenant={tenant}&limit=200")
    assert reply.status == 200, (reply.status, reply.body)
    for row in reply.json()["balances"]:
        path = row["scope_path"].removeprefix(f"tenant:{tenant}")
        amounts = ("allocated", "remaining", "reserved", "spent", "debt")
        found[path] = {name: row.get(name, {"amount": 0})["amount"] for name in amounts}
    return found
