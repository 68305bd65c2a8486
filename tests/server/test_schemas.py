"""The checker that every other test relies on finds what it is for."""

from __future__ import annotations

import json
from typing import Any

import pytest

import schemas

IDS = {"X-Request-Id": "r-1", "X-Cycles-Trace-Id": "0af7651916cd43dd8448eb211c80319c"}
HEADERS = IDS | {"Content-Type": "application/json"}
AMOUNT = {"unit": "TOKENS", "amount": 5}
RELEASED = {"status": "RELEASED", "released": AMOUNT}
BALANCE = {
    "scope": "tenant:a",
    "scope_path": "tenant:a",
    "remaining": AMOUNT,
    "spent": AMOUNT,
    "allocated": {"unit": "TOKENS", "amount": 10},
    "reserved": {"unit": "TOKENS", "amount": 0},
}
RELEASE = ("POST", "/v1/reservations/r/release")
BUDGETS = ("GET", "/v1/admin/budgets")

needs_schemas = pytest.mark.skipif(schemas.ABSENT is not None, reason=str(schemas.ABSENT))


def refusal(**fields: Any) -> dict[str, Any]:
    ids = {"request_id": "r-1", "trace_id": IDS["X-Cycles-Trace-Id"]}
    return {"error": "NOT_FOUND", "message": "No.", **ids, **fields}


def found(
    operation: tuple[str, str], status: int, body: Any, headers: dict[str, str] | None = None
) -> list[str]:
    return schemas.problems(*operation, status, headers or HEADERS, json.dumps(body).encode())


def test_a_good_response_passes() -> None:
    """Nothing is wrong with answers and errors of either plane, nor with an empty 204."""
    assert found(RELEASE, 200, RELEASED | {"balances": [BALANCE]}) == []
    assert found(RELEASE, 404, refusal()) == []
    assert found(BUDGETS, 403, refusal(error="INSUFFICIENT_PERMISSIONS")) == []
    assert found(BUDGETS, 200, {"ledgers": [], "has_more": False}) == []
    assert found(("GET", "/nowhere"), 404, refusal()) == []
    assert schemas.problems("GET", "/x", 204, IDS, b"") == []
    assert schemas.problems("HEAD", "/x", 404, HEADERS, b"") == []


@needs_schemas
@pytest.mark.parametrize(
    ("operation", "status", "body", "said"),
    [
        (RELEASE, 200, {"status": "RELEASED"}, "'released' is a required property"),
        (RELEASE, 200, RELEASED | {"more": 1}, "'more' was unexpected"),
        (RELEASE, 200, RELEASED | {"status": "COMMITTED"}, "$.status: "),
        (RELEASE, 200, RELEASED | {"released": {"unit": "EUR", "amount": 1}}, "$.released.unit"),
        (RELEASE, 200, RELEASED | {"released": {"unit": "TOKENS", "amount": -1}}, "minimum"),
        (RELEASE, 201, RELEASED, "status 201 is not declared"),
        (("GET", "/nowhere"), 200, {}, "status 200 is not declared"),
        (RELEASE, 403, refusal(error="INSUFFICIENT_PERMISSIONS"), "is not one of"),
        (RELEASE, 404, refusal(more=1), "'more' was unexpected"),
        (("GET", "/v1/balances?tenant=a"), 200, {"balances": [{"scope": "x"}]}, "'scope_path'"),
        (("GET", "/v1/balances?unit=TOKENS"), 200, {"balances": [BALANCE]}, "'ledger_id'"),
        (BUDGETS, 200, {"ledgers": [{"created_at": "yesterday"}]}, "is not a 'date-time'"),
    ],
)
def test_schemas_are_held(operation: tuple[str, str], status: int, body: Any, said: str) -> None:
    """A body that breaks its published schema is reported with its place."""
    problems = found(operation, status, body)
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (200, RELEASED, {"Content-Type": "application/json"}, "X-Request-Id is missing"),
        (200, RELEASED, HEADERS | {"X-Cycles-Trace-Id": "0" * 32}, "X-Cycles-Trace-Id is"),
        (200, RELEASED, HEADERS | {"X-Cycles-Trace-Id": "A" * 32}, "X-Cycles-Trace-Id is"),
        (200, RELEASED, HEADERS | {"Content-Type": "text/plain"}, "content-type is"),
        (200, RELEASED | {"balances": [None]}, HEADERS, "$.balances[0] is null"),
        (200, RELEASED | {"reason": None}, HEADERS, "$.reason is null"),
        (200, {"has_more": True}, HEADERS, "has_more must be true exactly when"),
        (200, {"next_cursor": "x"}, HEADERS, "has_more must be true exactly when"),
        (
            200,
            {"balances": [BALANCE | {"debt": AMOUNT}]},
            HEADERS,
            "$.balances[0]: allocated is not remaining + spent + reserved + debt",
        ),
        (404, refusal(request_id="r-2"), HEADERS, "request_id 'r-2' is not the header's"),
        (404, refusal(trace_id="1" * 32), HEADERS, "trace_id"),
        (409, refusal(), HEADERS, "NOT_FOUND does not go with status 409"),
        (
            409,
            refusal(error="BUDGET_EXCEEDED"),
            HEADERS,
            "BUDGET_EXCEEDED is a denial without details.deny_detail",
        ),
        (404, refusal(message=""), HEADERS, "message is missing or empty"),
        (405, refusal(error="INVALID_REQUEST"), HEADERS, "a 405 needs Allow"),
        (429, refusal(error="LIMIT_EXCEEDED"), HEADERS, "a 429 needs Retry-After"),
        (404, [], HEADERS, "an error body is an object"),
    ],
)
def test_what_holds_for_every_response_is_held(
    status: int, body: Any, headers: dict[str, str], said: str
) -> None:
    """Ids, nulls, sums, pages and error codes are checked with or without schemas."""
    problems = found(("POST", "/v1/reservations/r/release"), status, body, headers)
    assert any(problem.startswith(said) for problem in problems), problems


def test_what_a_caller_put_into_metadata_is_its_own() -> None:
    """A free object may hold null, and anything that looks like a balance."""
    row = {"metadata": {"a": None, "b": BALANCE | {"debt": AMOUNT}}}
    assert not any("null" in p or "allocated" in p for p in found(("GET", "/x"), 200, row))


def test_a_body_that_is_not_json_is_reported() -> None:
    """An empty or plain text body has no place in the protocol."""
    for body in (b"", b"Not Found"):
        problems = schemas.problems("GET", "/v1/balances", 404, HEADERS, body)
        assert problems[0].startswith("the body is not JSON")


@needs_schemas
def test_every_operation_of_the_server_is_in_the_schemas() -> None:
    """No route answers with a shape that nobody published."""
    from bursar.server.routes import ROUTES

    known = {(operation.method, operation.operation_id) for operation in schemas.operations()}
    # The next revision's document renames it after the one field that it adds.
    assert ("PATCH", "updateTenantObserveMode") in known
    known.add(("PATCH", "updateTenant"))
    # The next revision of the protocol renames an operation of this one.
    assert ("PATCH", "updatePolicyActionQuotas") in known
    known.add(("PATCH", "updatePolicy"))
    known.add(("GET", "getBudgetPeriod"))  # our own: how a budget renews itself
    assert {(route.method, route.operation_id) for route in ROUTES} <= known
