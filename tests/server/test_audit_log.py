"""The audit log over HTTP: who did what, what was refused to whom, and every filter of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from bursar.server.routes import ROUTES
from server.world import ACTION, Json, Response, Server, Tenant, amount, error, fresh

LOGS = "/v1/admin/audit/logs"
WITHIN_S = 10
AGENT = "test-agent/1.0"


def logs(server: Server, **query: Any) -> list[Json]:
    response = server.admin("GET", LOGS, params=query)
    assert response.status_code == 200, response.text
    rows: list[Json] = response.json()["logs"]
    return rows


def line_of(server: Server, response: Response) -> Json:
    """Return the one line of a request; that of a stranger may take a moment."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := logs(server, request_id=response.headers["x-request-id"])):
        assert time.monotonic() < deadline, "the request has no line"
        time.sleep(0.01)
    assert len(found) == 1
    return found[0]


def no_line(server: Server, response: Response) -> bool:
    return not logs(server, request_id=response.headers["x-request-id"])


def test_a_mutation_has_one_line(tenant: Tenant) -> None:
    """It names the caller, the resource, what was asked for, and its place in the log."""
    tenant.budget(100)
    response = tenant.reserve(7, "agent:bot")
    held = response.json()["reservation_id"]
    line = line_of(tenant.server, response)
    [(seq, entry_hash)] = tenant.server.entries("seq, entry_hash", tenant.id)[-1:]
    assert line["log_id"] == f"{tenant.id}.{seq:012d}"
    assert line["key_id"].startswith("key_")
    assert line["trace_id"] == response.headers["x-cycles-trace-id"]
    assert line["metadata"].pop("idempotency_key")
    assert line | {"timestamp": "", "key_id": "", "trace_id": "", "log_id": ""} == {
        "log_id": "",
        "timestamp": "",
        "tenant_id": tenant.id,
        "key_id": "",
        "request_id": response.headers["x-request-id"],
        "trace_id": "",
        "status": 200,
        "operation": "createReservation",
        "resource_type": "reservation",
        "resource_id": held,
        "subject": tenant.subject("agent:bot"),
        "action": ACTION,
        "amount": amount(7),
        "metadata": {"actor_type": "api_key", "seq": seq, "entry_hash": entry_hash},
    }


def test_what_each_step_came_to(tenant: Tenant) -> None:
    """A commit says what it charged, a debit what it cost, a funding by how much."""
    tenant.budget(100)
    held = tenant.hold(9)
    committed = line_of(tenant.server, tenant.commit(held, 4))
    assert (committed["amount"], committed["resource_id"]) == (amount(4), held)
    assert committed["subject"] == tenant.subject()
    event = {"idempotency_key": fresh("k"), "subject": tenant.subject(), "action": ACTION}
    event |= {"actual": amount(3), "metadata": {"note": "{not json"}}
    debited = line_of(tenant.server, tenant.call("POST", "/v1/events", event))
    assert (debited["amount"], debited["action"]) == (amount(3), ACTION)
    assert debited["metadata"]["asked"]["metadata"] == {"note": "{not json"}
    funded = line_of(tenant.server, tenant.fund("CREDIT", 5, reason="{top up"))
    assert (funded["amount"], funded["resource_id"]) == (amount(5), f"{tenant.scope}/TOKENS")
    assert funded["metadata"]["asked"]["reason"] == "{top up"
    assert funded["metadata"]["actor_type"] == "admin_on_behalf_of"


def test_the_operator_on_behalf_is_visible(tenant: Tenant) -> None:
    """An operator's release is the tenant's line, by an operator, with its reason."""
    tenant.budget(100)
    response = tenant.admin_release(tenant.hold(1), reason="stuck")
    line = line_of(tenant.server, response)
    assert line["metadata"]["actor_type"] == "admin_on_behalf_of"
    assert line["metadata"]["asked"] == {"reason": "stuck"}
    assert (line["tenant_id"], line["operation"]) == (tenant.id, "releaseReservation")
    assert "key_id" not in line


def test_why_a_key_was_revoked_is_in_its_line(tenant: Tenant) -> None:
    """The reason of a revocation is found where the operator looks for it."""
    key_id = tenant.server.new_key(tenant.id)["key_id"]
    path = f"/v1/admin/api-keys/{key_id}"
    line = line_of(tenant.server, tenant.server.admin("DELETE", path, params={"reason": "leaked"}))
    assert (line["operation"], line["resource_id"]) == ("revokeApiKey", key_id)
    assert line["metadata"]["asked"] == {"reason": "leaked"}


def test_a_cascade_is_one_line_that_names_what_went_along(tenant: Tenant) -> None:
    tenant.budget(100).budget(50, "agent:bot")
    held = tenant.hold(1)
    response = tenant.server.admin("PATCH", f"/v1/admin/tenants/{tenant.id}", {"status": "CLOSED"})
    cascade = line_of(tenant.server, response)["metadata"]["cascade"]
    assert cascade["reservations"] == {"count": 1, "ids": [held]}
    assert cascade["budgets"]["count"] == 2
    assert cascade["api_keys"]["count"] == 1
    assert logs(tenant.server, resource_id=held, operation="releaseReservation") == []


def test_a_bulk_action_is_one_line_with_every_outcome(tenant: Tenant) -> None:
    """What was asked for and what became of each row; the rows have lines of their own."""
    tenant.budget(10).budget(20, "agent:bot")
    body = {
        "filter": {"tenant_id": tenant.id},
        "action": "CREDIT",
        "amount": amount(5),
        "idempotency_key": fresh("k"),
        "expected_count": 2,
    }
    response = tenant.server.admin("POST", "/v1/admin/budgets/bulk-action", body)
    assert response.status_code == 200, response.text
    request_id = response.headers["x-request-id"]
    of_all = {"request_id": request_id, "tenant_id": "__admin__"}
    [line] = logs(tenant.server, **of_all)
    assert line["operation"] == "bulkActionBudgets"
    assert line["metadata"]["outcome"] == response.json()
    assert line["metadata"]["asked"]["request"]["filter"] == body["filter"]
    rows = logs(tenant.server, tenant_id=tenant.id, operation="fundBudget")
    assert [row["amount"] for row in rows] == [amount(5)] * 2
    together = line["metadata"]["correlation_id"]
    assert {row["metadata"]["correlation_id"] for row in rows} == {together}


def test_an_expiry_is_the_systems(tenant: Tenant) -> None:
    tenant.budget(100)
    held = tenant.hold(1, ttl_ms=1_000, grace_period_ms=0)
    deadline = time.monotonic() + WITHIN_S
    query = {"tenant_id": tenant.id, "operation": "expireReservation"}
    while not (found := logs(tenant.server, **query)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found[0]["resource_id"] == held
    assert found[0]["metadata"]["actor_type"] == "system"
    assert len(found[0]["trace_id"]) == 32
    assert "request_id" not in found[0]
    assert "request_id" not in found[0]


def test_a_denial_has_one_line(tenant: Tenant) -> None:
    """It is there when the answer is: code, reason, scope, and what was asked for."""
    tenant.budget(5)
    headers = {"User-Agent": AGENT}
    response = tenant.call("POST", "/v1/reservations", tenant.ask(9, "agent:bot"), headers=headers)
    assert error(response) == (409, "BUDGET_EXCEEDED")
    [line] = logs(tenant.server, request_id=response.headers["x-request-id"])
    assert line["log_id"] == line["request_id"]
    assert line["key_id"].startswith("key_")
    assert line | {"timestamp": "", "key_id": "", "trace_id": "", "log_id": ""} == {
        "log_id": "",
        "timestamp": "",
        "tenant_id": tenant.id,
        "key_id": "",
        "request_id": response.headers["x-request-id"],
        "trace_id": "",
        "status": 409,
        "error_code": "BUDGET_EXCEEDED",
        "operation": "createReservation",
        "resource_type": "reservation",
        "source_ip": "127.0.0.1",
        "user_agent": AGENT,
        "subject": tenant.subject("agent:bot"),
        "action": ACTION,
        "amount": amount(9),
        "metadata": {
            "actor_type": "api_key",
            "method": "POST",
            "path": "/v1/reservations",
            "scope": tenant.scope,
            "remaining": 5,
        },
    }


REFUSED: list[tuple[str, str, str, Any, tuple[int, str], str, str | None]] = [
    # who, method, path, body, answer, operation, resource id
    ("tenant", "GET", "/v1/reservations/nope", None, (404, "NOT_FOUND"), "getReservation", "nope"),
    ("tenant", "GET", "/v1/balances", None, (400, "INVALID_REQUEST"), "getBalances", None),
    ("tenant", "POST", "/v1/decide", {}, (400, "INVALID_REQUEST"), "decide", None),
    ("tenant", "PUT", "/v1/decide", None, (405, "INVALID_REQUEST"), "unlistedRoute", None),
    ("admin", "GET", "/v1/nothing", None, (404, "NOT_FOUND"), "unlistedRoute", None),
    (
        *("admin", "GET", "/v1/admin/tenants/nope", None),
        *((404, "TENANT_NOT_FOUND"), "getTenant", "nope"),
    ),
    (
        *("admin", "POST", "/v1/admin/budgets/freeze?scope=tenant:Nope&unit=TOKENS", None),
        *((404, "BUDGET_NOT_FOUND"), "freezeBudget", "tenant:nope/TOKENS"),
    ),
    ("nobody", "GET", "/v1/balances", None, (401, "UNAUTHORIZED"), "getBalances", None),
    ("nobody", "GET", LOGS, None, (401, "UNAUTHORIZED"), "listAuditLogs", None),
]


@pytest.mark.parametrize(
    ("who", "method", "path", "body", "answer", "operation", "resource_id"), REFUSED
)
def test_every_failure_has_one_line(
    tenant: Tenant,
    who: str,
    method: str,
    path: str,
    body: Any,
    answer: tuple[int, str],
    operation: str,
    resource_id: str | None,
) -> None:
    """Whoever asked, whatever for: the line says so, under the caller's name or a sentinel."""
    server = tenant.server
    call = {"tenant": tenant.call, "admin": server.admin, "nobody": server.call}[who]
    response = call(method, path, body)
    assert answer == error(response)
    line = line_of(server, response)
    assert answer == (line["status"], line["error_code"])
    assert operation == line["operation"]
    assert resource_id == line.get("resource_id")
    # Nobody is known before a route is: a path that does not exist asks for no credential.
    known = "__unauth__" if operation == "unlistedRoute" else None
    owner = {"tenant": tenant.id, "admin": "__admin__", "nobody": "__unauth__"}[who]
    assert line["tenant_id"] == (known or owner)
    assert "subject" not in line


def test_what_changes_nothing_has_no_line(tenant: Tenant) -> None:
    """Neither a read, nor a replay, nor a probe."""
    tenant.budget(100)
    key = fresh("k")
    assert line_of(tenant.server, tenant.reserve(1, idempotency_key=key))
    silent = [
        tenant.reserve(1, idempotency_key=key),
        tenant.get("/v1/balances", tenant=tenant.id),
        tenant.server.admin("GET", LOGS),
        tenant.server.call("GET", "/health/live"),
    ]
    for response in silent:
        assert response.status_code == 200
        assert no_line(tenant.server, response)


def test_only_refusals_say_where_they_came_from(tenant: Tenant) -> None:
    """What was accepted is read from the log of entries, which has no addresses."""
    tenant.budget(10)
    accepted, refused = (line_of(tenant.server, tenant.reserve(n)) for n in (1, 100))
    origin = {"source_ip", "user_agent"}
    assert (accepted.keys() & origin, refused.keys() & origin) == (set(), origin)


def test_a_denied_dry_run_is_an_answer(tenant: Tenant) -> None:
    """A decision of no is 200 and an entry; it is no failure."""
    tenant.budget(1)
    line = line_of(tenant.server, tenant.decide(9))
    assert (line["status"], line["operation"]) == (200, "decide")
    assert "error_code" not in line


def test_what_was_sent_cannot_forge_a_line(tenant: Tenant) -> None:
    """A user agent is kept on one line and to 1024 characters; a path is too."""
    headers = {"User-Agent": "a\tb" + "x" * 2_000}
    response = tenant.call("GET", "/v1/reservations/" + "y%0A" * 40, headers=headers)
    assert response.status_code == 404
    line = line_of(tenant.server, response)
    assert line["user_agent"] == "ab" + "x" * 1_022
    assert line["resource_id"] == "y" * 40
    assert line["metadata"]["path"] == "/v1/reservations/" + "y" * 40


BAD: list[tuple[Json, str]] = [
    ({"status": "abc"}, "status"),
    ({"status": 99}, "status"),
    ({"status": 200, "status_min": 100}, "status"),
    ({"status": 200, "status_max": 300}, "status"),
    ({"status_min": 99}, "status_min"),
    ({"status_max": 600}, "status_max"),
    ({"status_min": 300, "status_max": 200}, "status_min"),
    ({"operation": ",".join(f"o{n}" for n in range(26))}, "operation"),
    ({"resource_type": ",".join(f"o{n}" for n in range(26))}, "resource_type"),
    ({"error_code": ",".join(f"o{n}" for n in range(26))}, "error_code"),
    ({"error_code_exclude": ",".join(f"o{n}" for n in range(26))}, "error_code_exclude"),
    ({"search": "x" * 129}, "search"),
    ({"sort_by": "color"}, "sort_by"),
    ({"sort_dir": "up"}, "sort_dir"),
    ({"from": "yesterday"}, "from"),
    ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
    ({"limit": 101}, "limit"),
    ({"cursor": "garbage"}, "cursor"),
]


@pytest.mark.parametrize(("query", "named"), BAD, ids=[str(row[0])[:40] for row in BAD])
def test_a_bad_filter_is_named(server: Server, query: Json, named: str) -> None:
    response = server.admin("GET", LOGS, params=query)
    assert error(response) == (400, "INVALID_REQUEST")
    assert response.json()["message"].startswith(f"{named}:")


def some(tenant: Tenant) -> None:
    """Leave a handful of lines of different kinds."""
    tenant.budget(10)
    tenant.commit(tenant.hold(2), 1)
    assert tenant.reserve(99).status_code == 409
    assert tenant.get("/v1/reservations/nope").status_code == 404


Check = Callable[[Json], bool]
GOOD: list[tuple[Json, Check, int]] = [
    ({}, lambda line: True, 7),
    ({"operation": "createReservation"}, lambda line: line["operation"][-3:] == "ion", 2),
    ({"operation": "createReservation,commitReservation"}, lambda line: True, 3),
    ({"resource_type": "budget,tenant"}, lambda line: line["status"] == 201, 2),
    ({"error_code": "NOT_FOUND, BUDGET_EXCEEDED"}, lambda line: "error_code" in line, 2),
    ({"error_code": "NO_SUCH"}, lambda line: False, 0),
    ({"error_code_exclude": "NOT_FOUND"}, lambda line: True, 6),
    ({"status": 404}, lambda line: line["error_code"] == "NOT_FOUND", 1),
    ({"status_min": 201, "status_max": 404}, lambda line: 201 <= line["status"] <= 404, 4),
    ({"search": "COMMITres"}, lambda line: line["operation"] == "commitReservation", 1),
    ({"search": ""}, lambda line: True, 7),
    ({"resource_id": "nope"}, lambda line: line["status"] == 404, 1),
    ({"to": "2020-01-01T00:00:00Z"}, lambda line: False, 0),
    ({"from": "2020-01-01T00:00:00Z"}, lambda line: True, 7),
    ({"trace_id": "0" * 32}, lambda line: False, 0),
    ({"unknown": "ignored"}, lambda line: True, 7),
]


@pytest.mark.parametrize(("query", "fits", "count"), GOOD, ids=[str(row[0]) for row in GOOD])
def test_filters(tenant: Tenant, query: Json, fits: Check, count: int) -> None:
    """The tenant and its key, a budget, a hold, a commit, and two refusals: seven lines."""
    some(tenant)
    found = logs(tenant.server, tenant_id=tenant.id, **query)
    assert all(fits(line) for line in found)
    assert count == len(found)


def test_filters_by_key_and_trace(tenant: Tenant) -> None:
    tenant.budget(10)
    trace = "ab" * 16
    headers = {"X-Cycles-Trace-Id": trace}
    done = tenant.call("POST", "/v1/reservations", tenant.ask(1), headers=headers)
    refused = tenant.call("POST", "/v1/reservations", tenant.ask(99), headers=headers)
    found = logs(tenant.server, tenant_id=tenant.id, trace_id=trace)
    assert {line["request_id"] for line in found} == {
        response.headers["x-request-id"] for response in (done, refused)
    }
    by_key = logs(tenant.server, key_id=found[0]["key_id"])
    assert [line["log_id"] for line in by_key] == [line["log_id"] for line in found]


@pytest.mark.parametrize(
    "sort_by", ["timestamp", "operation", "resource_type", "tenant_id", "key_id", "status"]
)
def test_pages_in_every_order(tenant: Tenant, sort_by: str) -> None:
    """Every line comes once; a cursor is bound to its order and its filters."""
    some(tenant)
    query = {"tenant_id": tenant.id, "sort_by": sort_by, "sort_dir": "asc"}
    whole = [line["log_id"] for line in logs(tenant.server, **query)]
    walked: list[str] = []
    cursor: Json = {}
    while True:
        body = tenant.server.admin("GET", LOGS, params=query | {"limit": 2} | cursor).json()
        walked += [line["log_id"] for line in body["logs"]]
        if not body["has_more"]:
            break
        cursor = {"cursor": body["next_cursor"]}
        for other in ({"sort_dir": "desc"}, {"tenant_id": "other"}, {"status": 200}):
            response = tenant.server.admin("GET", LOGS, params=query | cursor | other)
            assert error(response) == (400, "INVALID_REQUEST")
    assert walked == whole
    assert len(set(whole)) == 7


def test_every_route_is_about_something() -> None:
    """A line without a type of resource cannot be filtered for."""
    from bursar.server.failures import _resource_type

    untyped = [route.path for route in ROUTES if _resource_type(route.path) is None]
    assert not untyped
