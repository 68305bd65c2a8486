"""What `--json` prints is what the wire says: it is held to the published schemas."""

from typing import Any

import pytest


def test_json_is_what_the_wire_says(operator: Any, agent_with: Any, schemas: Any) -> None:
    """Each document that is an object or a list of the protocol breaks no rule of its schema."""
    if schemas.ABSENT:
        pytest.skip(schemas.ABSENT)
    seen = 0

    def holds(method: str, path: str, *words: str, status: int = 200) -> Any:
        nonlocal seen
        ran = operator(*words, "--json")
        assert ran.code == 0, (words, ran.err)
        assert schemas.document_problems(method, path, status, ran.document) == [], words
        seen += 1
        return ran.document

    admin, scope = "/v1/admin", "tenant:wired"
    tenant = f"{admin}/tenants/wired"
    holds("POST", f"{admin}/tenants", "tenant", "create", "wired", status=201)
    holds("GET", tenant, "tenant", "show", "wired")
    holds("PATCH", tenant, "tenant", "update", "wired", "--name", "Wired")
    holds("PATCH", tenant, "tenant", "suspend", "wired")
    holds("PATCH", tenant, "tenant", "reactivate", "wired")
    holds("GET", f"{admin}/tenants", "tenant", "list")

    budgets = f"{admin}/budgets"
    holds("POST", budgets, "budget", "create", scope, "20USD", status=201)
    holds("GET", budgets, "budget", "list")
    holds("GET", f"{budgets}/lookup", "budget", "show", scope)
    holds("PATCH", budgets, "budget", "update", scope, "--overdraft", "1USD")
    holds("POST", f"{budgets}/freeze", "budget", "freeze", scope)
    holds("POST", f"{budgets}/unfreeze", "budget", "unfreeze", scope)
    bulk = ("budget", "bulk", "credit", "1USD", "--tenant", "wired", "--yes")
    holds("POST", f"{budgets}/bulk-action", *bulk)
    bulk = ("tenant", "bulk", "suspend", "--search", "nobody", "--yes")
    holds("POST", f"{admin}/tenants/bulk-action", *bulk)

    keys = f"{admin}/api-keys"
    made = holds("POST", keys, "key", "create", "--tenant", "wired", "--name", "k", status=201)
    holds("GET", keys, "key", "list", "--tenant", "wired")
    holds("PATCH", f"{keys}/{made['key_id']}", "key", "update", made["key_id"], "--name", "l")

    policies, small = f"{admin}/policies", ("small", "agent:*", "--max-tokens", "100")
    holds("POST", policies, "policy", "create", *small, "--tenant", "wired", status=201)
    holds("GET", policies, "policy", "list", "--tenant", "wired")

    held = agent_with(made["key_secret"]).reserve("wired", "k1")
    listed = holds("GET", "/v1/reservations", "reservations", "--tenant", "wired")
    assert listed["reservations"][0]["reservation_id"] == held
    holds("GET", f"/v1/reservations/{held}", "reservations", held)
    holds("DELETE", f"{keys}/{made['key_id']}", "key", "revoke", made["key_id"])
    assert seen == 22
