"""Request ids and trace ids on every response, and whose trace a request belongs to."""

from __future__ import annotations

import re

import pytest

from schemas import TRACE_ID
from server.world import Response, Server, Tenant, error

T1, T2 = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{T1}-b7ad6b7169203331-01"
REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def trace_of(response: Response) -> str:
    return str(response.headers["x-cycles-trace-id"])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": PARENT}, T1),
        ({"traceparent": PARENT, "X-Cycles-Trace-Id": T2}, T1),
        ({"X-Cycles-Trace-Id": T2}, T2),
        ({"X-Cycles-Trace-Id": T2.upper()}, T2),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01", "X-Cycles-Trace-Id": T2}, T2),
        ({"traceparent": f"00-{T1}-{'0' * 16}-01", "X-Cycles-Trace-Id": T2}, T2),
        ({"traceparent": f"ff-{T1}-b7ad6b7169203331-01", "X-Cycles-Trace-Id": T2}, T2),
        ({"traceparent": f"01-{T1}-b7ad6b7169203331-01", "X-Cycles-Trace-Id": T2}, T2),
        ({"traceparent": PARENT + "-extra", "X-Cycles-Trace-Id": T2}, T2),
        ({"traceparent": PARENT.upper(), "X-Cycles-Trace-Id": T2}, T2),
        ({"traceparent": "", "X-Cycles-Trace-Id": T2}, T2),
        ({"traceparent": "x" * 5_000, "X-Cycles-Trace-Id": T2}, T2),
        ({"X-Cycles-Trace-Id": "0" * 32}, None),
        ({"X-Cycles-Trace-Id": T2[:-1]}, None),
        ({"X-Cycles-Trace-Id": T2 + "0"}, None),
        ({"X-Cycles-Trace-Id": "not hex"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_whose_trace(tenant: Tenant, headers: dict[str, str], expected: str | None) -> None:
    """Cases 59 and 60: traceparent wins, malformed headers are ignored and never refused."""
    tenant.budget(10)
    good = tenant.call("POST", "/v1/reservations", tenant.ask(1), headers=headers)
    bad = tenant.server.call("POST", "/v1/reservations", tenant.ask(1), headers=headers)
    missing = tenant.server.call("GET", "/nowhere", headers=headers)
    assert [r.status_code for r in (good, bad, missing)] == [200, 401, 404]
    traces = {trace_of(response) for response in (good, bad, missing)}
    if expected is None:
        assert len(traces) == 3
        assert all(TRACE_ID.fullmatch(trace) for trace in traces)
    else:
        assert traces == {expected}


def test_a_request_id_is_the_servers_own(tenant: Tenant) -> None:
    """It is new for every request, and one that was sent is not used."""
    sent = {"X-Request-Id": "mine"}
    answers = [tenant.call("GET", "/v1/auth/introspect", headers=sent) for _ in range(3)]
    found = {answer.headers["x-request-id"] for answer in answers}
    assert len(found) == 3
    assert all(REQUEST_ID.fullmatch(request_id) for request_id in found)


def test_both_ids_are_kept_with_what_they_did(tenant: Tenant) -> None:
    """The ids of a request are in the ledger's entry of what it changed."""
    tenant.budget(10)
    answer = tenant.call("POST", "/v1/reservations", tenant.ask(1), headers={"traceparent": PARENT})
    entries = tenant.server.entries("verb, request_id, trace_id", tenant.id)
    assert entries[-1] == ("Reserve", answer.headers["x-request-id"], T1)


def test_which_tenant(tenant: Tenant) -> None:
    """Answers to a tenant name it; the operator's and refused ones do not."""
    assert tenant.get("/v1/balances", tenant=tenant.id).headers["x-cycles-tenant"] == tenant.id
    assert "x-cycles-tenant" not in tenant.server.admin("GET", "/v1/admin/tenants").headers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/reservations", "GET, POST"),
        ("DELETE", "/v1/decide", "POST"),
        ("POST", "/v1/balances", "GET"),
        ("DELETE", "/v1/admin/tenants/x", "GET, PATCH"),
        ("HEAD", "/v1/balances", "GET"),
        ("OPTIONS", "/v1/reservations/x/commit", "POST"),
        ("TRACE", "/v1/auth/introspect", "GET"),
        ("GET", "/v1/admin/budgets/fund", "POST"),
        ("POST", "/health/live", "GET, HEAD"),
    ],
)
def test_the_wrong_method(server: Server, method: str, path: str, allowed: str) -> None:
    """405 INVALID_REQUEST, with the methods that the path has."""
    response = server.admin(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    if method != "HEAD":
        assert error(response) == (405, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/reservations/",
        "/v1/reservations/a/b",
        "/v1/reservations/a/commit/",
        "//v1/reservations",
        "/V1/reservations",
        "/v1/reservations%2Fx",
        "/v1/reservations/a%2Fcommit",
        "/v1/../v1/balances/..",
        "/v2/balances",
        "/health",
        "/favicon.ico",
        "/\U0001f680",
    ],
)
def test_unknown_paths(server: Server, path: str) -> None:
    """404 NOT_FOUND for every method; nothing is redirected or guessed."""
    for method in ("GET", "POST", "DELETE"):
        assert error(server.admin(method, path)) == (404, "NOT_FOUND")


def test_health(server: Server) -> None:
    """Both probes are open, and say what they looked at; HEAD has no body."""
    assert server.call("GET", "/health/live").json() == {"status": "live"}
    ready = server.call("GET", "/health/ready").json()
    assert ready["status"] == "ready"
    assert set(ready["checks"].values()) == {"ok"}
    for path in ("/health/live", "/health/ready"):
        head = server.call("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")
