"""Bulk actions over HTTP: which rows, what becomes of each, and the same answer again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest

from server.world import Json, Response, Server, Tenant, amount, error, fresh

TENANTS, BUDGETS = "/v1/admin/tenants/bulk-action", "/v1/admin/budgets/bulk-action"
LOG = "__admin__"
CHANGES = "json_extract(changes, '$.correlation_id')"


def act(server: Server, path: str, action: str, chosen: Json, **fields: Any) -> Response:
    body = {"filter": chosen, "action": action, "idempotency_key": fresh("b")} | fields
    return server.admin("POST", path, body)


def on_tenants(server: Server, action: str, chosen: Json, **fields: Any) -> Response:
    return act(server, TENANTS, action, chosen, **fields)


def on_budgets(
    tenant: Tenant, action: str, value: int, chosen: Json | None = None, **fields: Any
) -> Response:
    chosen = {"tenant_id": tenant.id} | (chosen or {})
    return act(tenant.server, BUDGETS, action, chosen, **({"amount": amount(value)} | fields))


def rows(response: Response) -> dict[str, list[str]]:
    """Return the ids in each list, and that they are all the rows there are."""
    assert response.status_code == 200, response.text
    body = response.json()
    found = {
        name: sorted(row["id"] for row in body[name]) for name in ("succeeded", "failed", "skipped")
    }
    assert body["total_matched"] == sum(map(len, found.values()))
    return found


def family(server: Server, count: int = 3) -> tuple[str, list[Tenant]]:
    """Return some tenants and a text that only they have in their ids."""
    word = fresh("fam")
    return word, [server.tenant(f"{word}-{number}") for number in range(count)]


def status(tenant: Tenant) -> str:
    return str(tenant.server.admin("GET", f"/v1/admin/tenants/{tenant.id}").json()["status"])


def test_suspend_and_reactivate(server: Server) -> None:
    """Each row once: changed, already so, or unable; and the call is 200 whatever they are."""
    word, (first, second, third) = family(server)
    assert rows(on_tenants(server, "SUSPEND", {"search": f"{word}-0"}))["succeeded"] == [first.id]
    assert (
        server.admin("PATCH", f"/v1/admin/tenants/{third.id}", {"status": "CLOSED"}).status_code
        == 200
    )
    response = on_tenants(server, "SUSPEND", {"search": word}, expected_count=3)
    assert rows(response) == {
        "succeeded": [second.id],
        "failed": [third.id],
        "skipped": [first.id],
    }
    body = response.json()
    assert body["failed"][0]["error_code"] == "INVALID_TRANSITION"
    assert "Cannot transition from CLOSED" in body["failed"][0]["message"]
    assert body["skipped"] == [{"id": first.id, "reason": "ALREADY_IN_TARGET_STATE"}]
    assert [status(one) for one in (first, second, third)] == ["SUSPENDED", "SUSPENDED", "CLOSED"]
    again = on_tenants(server, "REACTIVATE", {"search": word, "status": "CLOSED"})
    assert rows(again) == {"succeeded": [], "failed": [third.id], "skipped": []}
    again = on_tenants(server, "REACTIVATE", {"search": word, "status": "SUSPENDED"})
    assert rows(again)["succeeded"] == [first.id, second.id]


def test_close_takes_everything_along(server: Server) -> None:
    """Closing in bulk is closing: budgets, holds and keys end too; a closed tenant is skipped."""
    word, (first, second) = family(server, 2)
    first.budget(100)
    first.hold(10)
    assert on_tenants(server, "CLOSE", {"search": first.id}).status_code == 200
    assert rows(on_tenants(server, "CLOSE", {"search": word})) == {
        "succeeded": [second.id],
        "failed": [],
        "skipped": [first.id],
    }
    assert first.ledger()["status"] == "CLOSED"
    assert first.state()["reserved"] == 0
    assert error(first.get("/v1/reservations")) == (401, "UNAUTHORIZED")


def test_parent_and_status_select_too(server: Server) -> None:
    """The filters are those of the list, joined with AND."""
    parent = server.tenant()
    child, other = (server.tenant(parent_tenant_id=parent.id) for _ in range(2))
    other.set_status("SUSPENDED")
    chosen = {"parent_tenant_id": parent.id, "status": "ACTIVE", "search": ""}
    assert rows(on_tenants(server, "SUSPEND", chosen))["succeeded"] == [child.id]


def test_an_unreadable_tenant_fails_alone(server: Server) -> None:
    """A record that makes no sense is one failed row."""
    word, (first, second) = family(server, 2)
    first.set_status("closed")
    response = on_tenants(server, "SUSPEND", {"search": word})
    assert rows(response) == {"succeeded": [second.id], "failed": [first.id], "skipped": []}
    assert response.json()["failed"][0]["error_code"] == "INTERNAL_ERROR"


FUNDED = [
    ("CREDIT", 50, {}, (1_050, 0)),
    ("DEBIT", 100, {}, (900, 0)),
    ("RESET", 70, {}, (70, 0)),
    ("RESET_SPENT", 70, {"spent": amount(9)}, (70, 9)),
    ("RESET_SPENT", 70, {}, (70, 0)),
    ("CREDIT", 1, {"spent": amount(9)}, (1_001, 0)),
]


@pytest.mark.parametrize(("action", "value", "fields", "after"), FUNDED)
def test_funding_in_bulk(
    tenant: Tenant, action: str, value: int, fields: Json, after: tuple[int, int]
) -> None:
    """Every budget is funded as a single request would fund it."""
    tenant.budget(1_000).budget(1_000, "agent:bot")
    found = rows(on_budgets(tenant, action, value, **fields))
    ids = [tenant.ledger(below)["ledger_id"] for below in ("", "agent:bot")]
    assert found == {"succeeded": sorted(ids), "failed": [], "skipped": []}
    for below in ("", "agent:bot"):
        row = tenant.ledger(below)
        assert (row["allocated"]["amount"], row["spent"]["amount"]) == after


def test_what_becomes_of_each_budget(tenant: Tenant) -> None:
    """A wrong unit, a frozen budget and too little are rows that failed; the others go on."""
    tenant.budget(100).budget(5, "agent:low").budget(100, "agent:cold")
    tenant.budget(100, "agent:usd", unit="USD_MICROCENTS")
    assert tenant.turn("freeze", "agent:cold").status_code == 200
    body = on_budgets(tenant, "DEBIT", 50, expected_count=4, reason="less").json()
    names = {
        tenant.ledger(below, unit)["ledger_id"]: below
        for below, unit in (
            ("", "TOKENS"),
            ("agent:low", "TOKENS"),
            ("agent:cold", "TOKENS"),
            ("agent:usd", "USD_MICROCENTS"),
        )
    }
    assert [names[row["id"]] for row in body["succeeded"]] == [""]
    assert {names[row["id"]]: row["error_code"] for row in body["failed"]} == {
        "agent:low": "BUDGET_EXCEEDED",
        "agent:cold": "INVALID_TRANSITION",
        "agent:usd": "INVALID_TRANSITION",
    }
    assert all(row["message"] for row in body["failed"])


def test_a_closed_tenants_budgets_all_fail(tenant: Tenant) -> None:
    """All rows failed is still 200."""
    tenant.budget(100)
    tenant.server.admin("PATCH", f"/v1/admin/tenants/{tenant.id}", {"status": "CLOSED"})
    response = on_budgets(tenant, "CREDIT", 1)
    assert rows(response)["succeeded"] == []
    assert [row["error_code"] for row in response.json()["failed"]] == ["TENANT_CLOSED"]


def test_repaying_where_there_is_debt(tenant: Tenant) -> None:
    """A budget without debt is skipped, not credited."""
    tenant.budget(100, limit=1_000).budget(100, "agent:bot", limit=1_000)
    overage = {"overage_policy": "ALLOW_WITH_OVERDRAFT"}
    assert tenant.debit(150, **overage).status_code == 201
    found = rows(on_budgets(tenant, "REPAY_DEBT", 50))
    assert found["succeeded"] == [tenant.ledger()["ledger_id"]]
    assert found["skipped"] == [tenant.ledger("agent:bot")["ledger_id"]]
    assert tenant.state()["debt"] == 0
    assert tenant.ledger("agent:bot")["allocated"]["amount"] == 100


FILTERS: list[tuple[Json, set[str]]] = [
    ({}, {"", "agent:a", "agent:ab"}),
    ({"scope_prefix": "tenant:{}/agent:A"}, {"agent:a"}),
    ({"search": "AGENT:AB"}, {"agent:ab"}),
    ({"has_debt": False, "over_limit": False}, {"", "agent:a", "agent:ab"}),
    ({"has_debt": True}, set()),
    ({"status": "FROZEN"}, {"agent:ab"}),
    ({"unit": "CREDITS"}, set()),
    ({"utilization_min": 0.5, "utilization_max": 1}, {"agent:a"}),
]


@pytest.mark.parametrize(("chosen", "scopes"), FILTERS)
def test_the_filters_of_the_list(tenant: Tenant, chosen: Json, scopes: set[str]) -> None:
    """What a filter matches is what the list of budgets shows for it."""
    tenant.budget(100).budget(10, "agent:a").budget(100, "agent:ab")
    assert tenant.debit(5, "agent:a").status_code == 201
    assert tenant.turn("freeze", "agent:ab").status_code == 200
    chosen = {
        name: value.format(tenant.id) if isinstance(value, str) else value
        for name, value in chosen.items()
    }
    query = {name: str(value) for name, value in chosen.items()} | {"tenant_id": tenant.id}
    listed = tenant.server.admin("GET", "/v1/admin/budgets", params=query).json()["ledgers"]
    found = rows(on_budgets(tenant, "CREDIT", 1, chosen))
    assert sorted(row["ledger_id"] for row in listed) == sorted(chain(*found.values()))
    assert {row["scope"] for row in listed} == {tenant.path(below) for below in scopes}


BAD: list[tuple[str, Json, str]] = [
    (TENANTS, {"filter": {}}, "filter: name at least one of"),
    (TENANTS, {"filter": {"search": ""}}, "filter: name at least one of"),
    (TENANTS, {"filter": {"observe_mode": "x"}}, "filter: name at least one of"),
    (TENANTS, {"filter": {"status": "ACTIVE", "search": None}}, "filter.search: must be left out"),
    (TENANTS, {"filter": {"stat": "ACTIVE"}}, "filter.stat: unknown field; did you mean status?"),
    (TENANTS, {"filter": {"search": "x" * 129}}, "filter.search: must be at most 128 characters"),
    (TENANTS, {"action": "DELETE"}, "action: must be one of SUSPEND, REACTIVATE, CLOSE"),
    (TENANTS, {"expected_count": -1}, "expected_count: must be between 0"),
    (TENANTS, {"idempotency_key": "k" * 129}, "idempotency_key: must be between 1 and 128"),
    (BUDGETS, {"filter": {}}, "filter.tenant_id: is required"),
    (BUDGETS, {"filter": {"tenant_id": ""}}, "filter.tenant_id: must name a tenant"),
    (BUDGETS, {"amount": None}, "amount: is required for CREDIT"),
    (BUDGETS, {"amount": amount(-1)}, "amount.amount: must be between 0"),
    (
        BUDGETS,
        {"filter": {"tenant_id": "t", "utilization_min": 0.6, "utilization_max": 0.5}},
        "filter.utilization_min: must not be above utilization_max",
    ),
    (
        BUDGETS,
        {"filter": {"tenant_id": "t", "utilization_min": 1.5}},
        "filter.utilization_min: must be between 0 and 1, got 1.5",
    ),
    (
        BUDGETS,
        {"filter": {"tenant_id": "t", "utilization_min": "1"}},
        'filter.utilization_min: must be a number, got "1"',
    ),
    (BUDGETS, {"reason": "x" * 513}, "reason: must be at most 512 characters"),
]


@pytest.mark.parametrize(("path", "change", "says"), BAD)
def test_what_is_refused(tenant: Tenant, path: str, change: Json, says: str) -> None:
    """400 names the field, and nothing changes."""
    tenant.budget(10)
    body: Json = {"filter": {"search": tenant.id}, "action": "CLOSE", "idempotency_key": "k"}
    if path == BUDGETS:
        body = body | {"filter": {"tenant_id": tenant.id}, "action": "CREDIT", "amount": amount(1)}
    body |= change
    body = {name: value for name, value in body.items() if value is not None}
    response = tenant.server.admin("POST", path, body)
    assert error(response) == (400, "INVALID_REQUEST")
    assert response.json()["message"].startswith(says)
    assert status(tenant) == "ACTIVE"
    assert tenant.state()["remaining"] == 10


def test_an_unknown_tenant(server: Server) -> None:
    chosen = {"tenant_id": "nobody-there"}
    response = act(server, BUDGETS, "CREDIT", chosen, amount=amount(1))
    assert error(response) == (404, "TENANT_NOT_FOUND")


def test_no_tenant_takes_the_name_of_the_operation(server: Server) -> None:
    """`bulk-action` would be a tenant that nobody could read."""
    body = {"tenant_id": "bulk-action", "name": "x"}
    response = server.admin("POST", "/v1/admin/tenants", body)
    assert error(response) == (400, "INVALID_REQUEST")
    assert "choose another id" in response.json()["message"]


def test_the_count_must_be_what_is_expected(tenant: Tenant) -> None:
    """Case 76: one more or less is 409 without a write, and the key is still free."""
    tenant.budget(10).budget(10, "agent:bot")
    key = fresh("k")
    for wrong in (0, 1, 3):
        response = on_budgets(tenant, "CREDIT", 5, expected_count=wrong, idempotency_key=key)
        assert error(response) == (409, "COUNT_MISMATCH")
        assert response.json()["details"] == {"total_matched": 2}
    assert tenant.state()["remaining"] == 10
    done = on_budgets(tenant, "CREDIT", 5, expected_count=2, idempotency_key=key)
    assert len(rows(done)["succeeded"]) == 2


def test_five_hundred_rows_and_no_more(server: Server) -> None:
    """Case 76: 501 rows are 400 with the count, whatever is expected; 500 are changed."""
    tenant = server.tenant()
    tenant.budget(10)
    assert server.copy_budget(tenant, 500) == 501
    for expected in ({}, {"expected_count": 501}):
        response = on_budgets(tenant, "CREDIT", 1, **expected)
        assert error(response) == (400, "LIMIT_EXCEEDED")
        assert response.json()["details"] == {"total_matched": 501}
        assert "retry-after" not in response.headers
    response = on_budgets(tenant, "CREDIT", 1, expected_count=500)
    assert error(response) == (409, "COUNT_MISMATCH")
    response = on_budgets(tenant, "CREDIT", 1, {"search": "agent:"}, expected_count=500)
    assert len(rows(response)["succeeded"]) == 500
    assert tenant.state()["remaining"] == 10
    assert tenant.state("agent:c499")["remaining"] == 11


def test_the_same_again(tenant: Tenant) -> None:
    """Case 77: byte for byte the same answer, applied once, whatever matches by now."""
    tenant.budget(10).budget(10, "agent:bot")
    key = fresh("k")
    said = {"expected_count": 2, "idempotency_key": key}
    first = on_budgets(tenant, "CREDIT", 5, **said)
    tenant.budget(10, "agent:new")
    again = on_budgets(tenant, "CREDIT", 5, **said)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert tenant.state()["remaining"] == 15
    assert tenant.state("agent:new")["remaining"] == 10
    for other in (
        on_budgets(tenant, "CREDIT", 6, **said),
        on_budgets(tenant, "DEBIT", 5, **said),
        on_budgets(tenant, "CREDIT", 5, {"search": "x"}, **said),
        on_budgets(tenant, "CREDIT", 5, idempotency_key=key),
        on_budgets(tenant.server.tenant(), "CREDIT", 5, **said),
    ):
        assert error(other) == (409, "IDEMPOTENCY_MISMATCH")
    # Another endpoint has keys of its own.
    assert on_tenants(tenant.server, "SUSPEND", {"search": "0.0"}, idempotency_key=key).is_success


def test_header_and_body_name_one_key(tenant: Tenant) -> None:
    tenant.budget(10)
    body = {
        "filter": {"tenant_id": tenant.id},
        "action": "CREDIT",
        "amount": amount(1),
        "idempotency_key": fresh("k"),
    }
    response = tenant.server.admin("POST", BUDGETS, body, headers={"X-Idempotency-Key": "another"})
    assert error(response) == (400, "INVALID_REQUEST")


def test_twins_at_the_same_time(server: Server) -> None:
    """Eight equal requests at once: one answer for all, and every budget funded once."""
    tenant = server.tenant().budget(10)
    server.copy_budget(tenant, 200)
    key = fresh("k")

    def send(_: int) -> bytes:
        return on_budgets(tenant, "CREDIT", 5, idempotency_key=key).content

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(send, range(8)))
    assert len(answers) == 1
    assert json.loads(answers.pop())["total_matched"] == 201
    query = {"tenant_id": tenant.id, "limit": 100}
    shown = server.admin("GET", "/v1/admin/budgets", params=query).json()["ledgers"]
    assert {row["allocated"]["amount"] for row in shown} == {15}


def test_what_the_logs_say(tenant: Tenant) -> None:
    """One correlation id in every row's entry, and the outcome in the operator's own log."""
    tenant.budget(10).budget(3, "agent:bot")
    server = tenant.server
    response = on_budgets(tenant, "DEBIT", 5, reason="less", idempotency_key=fresh("k"))
    request_id = response.headers["x-request-id"]
    correlation = f"budget_bulk_action:debit:{request_id}"
    columns = f"verb, actor, request_id, {CHANGES}"
    assert server.entries(columns, tenant.id)[-1] == (
        *("Fund", "admin_on_behalf_of", request_id, correlation),
    )
    log = [row for row in server.entries(f"{columns}, body, changes", LOG) if row[2] == request_id]
    assert [row[:4] for row in log] == [
        ("BeginBulk", "admin_on_behalf_of", request_id, correlation),
        ("FinishBulkBudgets", "admin_on_behalf_of", request_id, correlation),
    ]
    assert log[1][4] == response.text
    asked = json.loads(log[1][5])["asked"]
    assert asked["action"] == "DEBIT"
    assert asked["duration_ms"] >= 0
    request = json.loads(asked["request"])
    assert request["filter"] == {"tenant_id": tenant.id}
    assert request["reason"] == "less"


def test_tenants_have_their_correlation_too(server: Server) -> None:
    word, (first,) = family(server, 1)
    response = on_tenants(server, "CLOSE", {"search": word})
    expected = f"tenant_bulk_action:close:{response.headers['x-request-id']}"
    assert server.entries(f"verb, {CHANGES}", first.id)[-1] == ("CloseTenant", expected)
