"""Funding over HTTP: what each operation does to a budget, and what it refuses (protocol 3.8)."""

from __future__ import annotations

from typing import Any

import pytest

from server.world import Json, Tenant, amount, error

NUMBERS = ("allocated", "remaining", "debt", "spent")
FUND = "/v1/admin/budgets/fund"
MAX = 2**63 - 1


def indebted(tenant: Tenant) -> Tenant:
    """Allocated 1000, reserved 50, spent 950, debt 300: remaining -300."""
    tenant.budget(1_000, limit=500)
    tenant.hold(50)
    assert tenant.debit(1_250, overage_policy="ALLOW_WITH_OVERDRAFT").status_code == 201
    return tenant


@pytest.mark.parametrize(
    ("operation", "value", "fields", "allocated", "remaining", "debt", "spent"),
    [
        ("CREDIT", 500, {}, 1_500, 200, 300, 950),
        ("CREDIT", 0, {}, 1_000, -300, 300, 950),
        ("RESET", 5_000, {}, 5_000, 3_700, 300, 950),
        ("RESET", 0, {}, 0, -1_300, 300, 950),
        ("RESET_SPENT", 2_000, {}, 2_000, 1_650, 300, 0),
        ("RESET_SPENT", 2_000, {"spent": amount(7)}, 2_000, 1_643, 300, 7),
        ("REPAY_DEBT", 100, {}, 1_000, -200, 200, 950),
        ("REPAY_DEBT", 300, {}, 1_000, 0, 0, 950),
        ("REPAY_DEBT", 400, {}, 1_100, 100, 0, 950),
        ("CREDIT", 1, {"spent": amount(999), "reason": "r" * 512}, 1_001, -299, 300, 950),
        ("DEBIT", 0, {}, None, None, None, None),
    ],
)
def test_operations(
    tenant: Tenant,
    operation: str,
    value: int,
    fields: Json,
    allocated: int | None,
    remaining: int,
    debt: int,
    spent: int,
) -> None:
    """Cases 63 and 64: the answer shows each number before and after, and the budget agrees."""
    indebted(tenant)
    answer = tenant.fund(operation, value, **fields)
    if allocated is None:  # nothing can be taken from a budget below zero, not even nothing
        assert error(answer) == (409, "BUDGET_EXCEEDED")
        return
    body = answer.json()
    before = dict(zip(NUMBERS, (1_000, -300, 300, 950), strict=True))
    after = dict(zip(NUMBERS, (allocated, remaining, debt, spent), strict=True))
    assert body.pop("operation") == operation
    assert body.pop("timestamp") == tenant.ledger()["updated_at"]
    assert body == {
        **{f"previous_{name}": amount(number) for name, number in before.items()},
        **{f"new_{name}": amount(number) for name, number in after.items()},
    }
    row = tenant.ledger()
    assert {name: row[name]["amount"] for name in NUMBERS} == after
    assert row["reserved"] == amount(50)


def test_debit_to_the_last(tenant: Tenant) -> None:
    """Case 65: exactly what remains can be taken, one more cannot."""
    tenant.budget(100)
    tenant.hold(30)
    assert error(tenant.fund("DEBIT", 71)) == (409, "BUDGET_EXCEEDED")
    assert tenant.fund("DEBIT", 70).json()["new_remaining"] == amount(0)
    assert tenant.ledger()["allocated"] == amount(30)


@pytest.mark.parametrize("operation", ["CREDIT", "DEBIT", "RESET", "RESET_SPENT", "REPAY_DEBT"])
def test_any_funding_clears_the_flag_of_a_cap(tenant: Tenant, operation: str) -> None:
    """Case 66: with no debt above the limit, the budget is no longer over its limit."""
    tenant.budget(100)
    assert tenant.debit(150).json()["charged"] == amount(100)
    assert tenant.state()["over"] is True
    assert tenant.fund(operation, 100 if operation == "RESET" else 0).status_code == 200
    assert tenant.state()["over"] is False


def test_a_tenant_funds_its_own(tenant: Tenant) -> None:
    """A tenant's `tenant_id` is not looked at; without a key it funds each time."""
    tenant.budget(100)
    query = {"scope": tenant.scope, "unit": "TOKENS", "tenant_id": "somebody-else"}
    body = {"operation": "CREDIT", "amount": amount(5), "metadata": {"a": 1}}
    for expected in (105, 110):
        answer = tenant.call("POST", FUND, body, params=query)
        assert answer.json()["new_allocated"] == amount(expected)


@pytest.mark.parametrize(
    ("query", "fields", "refusal", "said"),
    [
        ({"scope": ""}, {}, (400, "INVALID_REQUEST"), "scope: query parameter is required"),
        ({"unit": ""}, {}, (400, "INVALID_REQUEST"), "unit: query parameter is required"),
        ({"unit": "EUR"}, {}, (400, "INVALID_REQUEST"), "unit: must be one of"),
        ({"tenant_id": ""}, {}, (400, "INVALID_REQUEST"), "tenant_id: "),
        ({"tenant_id": "other"}, {}, (400, "INVALID_REQUEST"), "scope: must start with"),
        ({"scope": "@/agent:none"}, {}, (404, "BUDGET_NOT_FOUND"), "Budget not found"),
        ({"unit": "CREDITS"}, {}, (404, "BUDGET_NOT_FOUND"), "Budget not found"),
        ({}, {"amount": amount(1, "CREDITS")}, (400, "UNIT_MISMATCH"), "amount.unit is CREDITS"),
        (
            {},
            {"operation": "RESET_SPENT", "spent": amount(1, "CREDITS")},
            (400, "UNIT_MISMATCH"),
            "spent.unit is CREDITS",
        ),
        (
            {},
            {"operation": "RESET_SPENT", "spent": amount(-1)},
            (400, "INVALID_REQUEST"),
            "spent.amount: must be between 0 and",
        ),
        ({}, {"operation": "BURN"}, (400, "INVALID_REQUEST"), "operation: must be one of"),
        ({}, {"operation": None}, (400, "INVALID_REQUEST"), "operation: "),
        ({}, {"amount": amount(-1)}, (400, "INVALID_REQUEST"), "amount.amount: must be"),
        ({}, {"amount": amount(MAX)}, (400, "INVALID_REQUEST"), "amount: the budget would exceed"),
        ({}, {"reason": "x" * 513}, (400, "INVALID_REQUEST"), "reason: must be at most 512"),
        ({}, {"idempotency_key": ""}, (400, "INVALID_REQUEST"), "idempotency_key: "),
        ({}, {"allocated": amount(5)}, (400, "INVALID_REQUEST"), "allocated: unknown field"),
    ],
    ids=str,
)
def test_what_is_refused(
    tenant: Tenant, query: Json, fields: Json, refusal: tuple[int, str], said: str
) -> None:
    """The message names what is wrong, and the budget is as it was."""
    tenant.budget(100)
    before = tenant.ledger()
    asked: dict[str, Any] = {"scope": "@", "unit": "TOKENS", "tenant_id": tenant.id} | query
    asked["scope"] = asked["scope"].replace("@", tenant.scope)
    body = {"operation": "CREDIT", "amount": amount(1)} | fields
    refused = tenant.server.admin("POST", FUND, body, params=asked)
    assert error(refused) == refusal
    assert refused.json()["message"].startswith(said)
    assert tenant.ledger() == before


def test_a_key_in_the_header_alone_is_a_key(tenant: Tenant) -> None:
    """The same funding sent twice under one header key is applied once."""
    tenant.budget(1_000)
    query = {"scope": tenant.path(), "unit": "TOKENS", "tenant_id": tenant.id}
    body = {"operation": "CREDIT", "amount": amount(10)}

    def credit(key: str, body: Any = body) -> Any:
        headers = {"X-Idempotency-Key": key}
        where = "/v1/admin/budgets/fund"
        return tenant.server.admin("POST", where, body, params=query, headers=headers)

    first, again = credit("f1"), credit("f1")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content
    assert tenant.state()["remaining"] == 1_010
    other = credit("f1", body | {"amount": amount(11)})
    assert error(other) == (409, "IDEMPOTENCY_MISMATCH")
    assert credit("k" * 257).status_code == 400
    assert tenant.state()["remaining"] == 1_010
