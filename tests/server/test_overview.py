"""The operator's overview: counts, what is in trouble, and what just went wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.world import ACTION, Json, Server, amount, started

WITHIN_S = 10


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Server]:
    """A server that nobody else uses, since an overview is about everybody."""
    with started(tmp_path, BURSAR_SWEEP_INTERVAL_MS="50") as server:
        yield server


def overview(server: Server) -> Json:
    response = server.admin("GET", "/v1/admin/overview")
    assert response.status_code == 200, response.text
    body: Json = response.json()
    return body


def test_an_empty_server(quiet: Server) -> None:
    """Everything is there and zero."""
    body = overview(quiet)
    assert body.pop("as_of").endswith("Z")
    assert body == {
        "event_window_seconds": 3600,
        "tenant_counts": {"total": 0, "active": 0, "suspended": 0, "closed": 0},
        "budget_counts": {
            "total": 0,
            "active": 0,
            "frozen": 0,
            "closed": 0,
            "over_limit": 0,
            "with_debt": 0,
            "by_unit": {},
        },
        "over_limit_scopes": [],
        "debt_scopes": [],
        "webhook_counts": {"total": 0, "active": 0, "disabled": 0, "with_failures": 0},
        "failing_webhooks": [],
        "event_counts": {"total_recent": 0, "by_category": {}},
        "recent_denials": [],
        "recent_expiries": [],
        "recent_denials_by_reason": {},
    }


def test_counts(quiet: Server) -> None:
    acme = quiet.tenant("acme").budget(100).budget(5, unit="CREDITS").budget(1, "agent:a")
    quiet.tenant("beta")
    quiet.tenant("gone")
    for name, status in (("beta", "SUSPENDED"), ("gone", "CLOSED")):
        changed = quiet.admin("PATCH", f"/v1/admin/tenants/{name}", {"status": status})
        assert changed.status_code == 200
    assert acme.turn("freeze", "agent:a").status_code == 200
    body = overview(quiet)
    assert body["tenant_counts"] == {"total": 3, "active": 1, "suspended": 1, "closed": 1}
    assert body["budget_counts"] == {
        "total": 3,
        "active": 2,
        "frozen": 1,
        "closed": 0,
        "over_limit": 0,
        "with_debt": 0,
        "by_unit": {"TOKENS": 2, "CREDITS": 1},
    }


def test_the_worst_debts_come_first(quiet: Server) -> None:
    """At most ten of them, over all tenants."""
    for number in range(12):
        tenant = quiet.tenant().budget(0, limit=100)
        body = {"idempotency_key": "e", "subject": tenant.subject(), "action": ACTION}
        body |= {"actual": amount(number + 1), "overage_policy": "ALLOW_WITH_OVERDRAFT"}
        assert tenant.call("POST", "/v1/events", body).status_code == 201
    body = overview(quiet)
    assert [row["debt"] for row in body["debt_scopes"]] == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3]
    assert body["debt_scopes"][0]["overdraft_limit"] == 100
    assert body["budget_counts"]["with_debt"] == 12
    assert body["over_limit_scopes"] == []


def test_budgets_over_their_limit(quiet: Server) -> None:
    acme = quiet.tenant("acme").budget(10)
    assert acme.commit(acme.hold(10), 25).status_code == 200  # capped, and flagged
    [row] = overview(quiet)["over_limit_scopes"]
    assert row == {
        "scope": "tenant:acme",
        "unit": "TOKENS",
        "allocated": 10,
        "remaining": 0,
        "debt": 0,
    }


def test_denials_and_expiries_of_the_last_hour(quiet: Server) -> None:
    """The newest ten denials, each with its reason; refusals that are no denials are not."""
    acme = quiet.tenant("acme").budget(10)
    held = acme.hold(3, "agent:bot", ttl_ms=1_000, grace_period_ms=0)
    refused = [acme.reserve(100 + number, "agent:bot") for number in range(11)]
    assert acme.get("/v1/reservations/nope").status_code == 404
    assert acme.reserve(1, unit="CREDITS").status_code == 400
    body = overview(quiet)
    assert body["recent_denials_by_reason"] == {"BUDGET_EXCEEDED": 11}
    shown = body["recent_denials"]
    assert [event["request_id"] for event in shown] == [
        response.headers["x-request-id"] for response in reversed(refused[1:])
    ]
    assert shown[0]["event_type"] == "reservation.denied"
    assert shown[0]["tenant_id"] == "acme"
    assert shown[0]["scope"] == "tenant:acme"
    assert shown[0]["actor"]["type"] == "api_key"
    assert shown[0]["data"] == {
        "scope": "tenant:acme",
        "unit": "TOKENS",
        "reason_code": "BUDGET_EXCEEDED",
        "requested_amount": 110,
        "remaining": 7,
        "action": ACTION,
        "subject": acme.subject("agent:bot"),
    }
    deadline = time.monotonic() + WITHIN_S
    while not (gone := overview(quiet)["recent_expiries"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert gone[0]["data"]["reservation_id"] == held
    assert gone[0]["data"]["estimated_amount"] == 3
    assert gone[0]["actor"] == {"type": "system"}


def test_a_question_that_is_answered_no_is_no_denial(quiet: Server) -> None:
    """Decisions and dry runs that say DENY are answers: only what was to be held counts."""
    acme = quiet.tenant("acme").budget(10)
    asked = {"idempotency_key": "k", "subject": acme.subject(), "action": ACTION}
    decided = acme.call("POST", "/v1/decide", asked | {"estimate": amount(11)})
    dry = acme.reserve(11, dry_run=True)
    assert [answer.json()["decision"] for answer in (decided, dry)] == ["DENY", "DENY"]
    body = overview(quiet)
    assert (body["recent_denials"], body["recent_denials_by_reason"]) == ([], {})
