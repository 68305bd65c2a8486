"""Changing what a budget allows over HTTP: limit, overage policy, metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from server.governed import Governed, Json, Tenant, amount, error, governed

INT64_MAX = 2**63 - 1
AWO = {"overage_policy": "ALLOW_WITH_OVERDRAFT"}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    with governed(tmp_path_factory.mktemp("budgets")) as server:
        yield server


@pytest.fixture
def tenant(operator: Governed) -> Tenant:
    return operator.tenant().budget(1_000)


def test_one_property_changes_and_the_others_stay(tenant: Tenant) -> None:
    """The answer is the ledger as it then is."""
    changes: list[Json] = [
        {"overdraft_limit": amount(70)},
        {"commit_overage_policy": "ALLOW_WITH_OVERDRAFT"},
    ]
    for change in changes:
        before = tenant.ledger()
        answer = tenant.patch_budget(**change)
        assert answer.status_code == 200
        after = answer.json()
        assert before | change | {"updated_at": after["updated_at"]} == after
        assert tenant.ledger() == after


def test_metadata_is_kept_and_not_shown(tenant: Tenant) -> None:
    """The published ledger has no member for it; the log and the store have it."""
    answer = tenant.patch_budget(metadata={"owner": "search"})
    assert answer.status_code == 200
    assert "metadata" not in answer.json()
    assert tenant.server.log(tenant.id)[-1] == "UpdateBudget"
    statement = "UPDATE budget SET metadata = NULL WHERE tenant = ? AND metadata = ?"
    tenant.server.sql(statement, tenant.id, '{"owner":"search"}')


def test_what_changes_nothing_leaves_no_entry(tenant: Tenant) -> None:
    """An empty change, and one that says what already is, answer the stored ledger."""
    before, logged = tenant.ledger(), tenant.server.log(tenant.id)
    for body in ({}, {"overdraft_limit": amount(0)}):
        answer = tenant.patch_budget(**body)
        assert (answer.status_code, answer.json()) == (200, before)
    assert tenant.server.log(tenant.id) == logged


def test_the_limit_decides_over_the_flag(tenant: Tenant) -> None:
    """A limit below the debt sets the flag, one at it takes it away; no amount moves."""
    tenant.patch_budget(overdraft_limit=amount(100))
    assert tenant.debit(1_100, **AWO).status_code == 201
    assert tenant.numbers() == (-100, 0, 1_000, 100)
    assert tenant.patch_budget(overdraft_limit=amount(99)).json()["is_over_limit"] is True
    assert error(tenant.reserve(0)) == (409, "OVERDRAFT_LIMIT_EXCEEDED")
    assert tenant.patch_budget(overdraft_limit=amount(100)).json()["is_over_limit"] is False
    assert error(tenant.reserve(0)) == (409, "BUDGET_EXCEEDED")  # below 0, but not blocked
    assert tenant.numbers() == (-100, 0, 1_000, 100)


def test_any_change_clears_the_flag_of_a_capped_charge(tenant: Tenant) -> None:
    """Without debt nothing justifies the flag, so even an empty change takes it away."""
    held = tenant.hold(1_000)
    assert tenant.commit(held, 1_500).json()["charged"] == amount(1_000)
    assert error(tenant.reserve(0)) == (409, "OVERDRAFT_LIMIT_EXCEEDED")
    assert tenant.patch_budget().json()["is_over_limit"] is False
    assert tenant.reserve(0).status_code == 200


def test_the_new_limit_and_policy_bite(tenant: Tenant) -> None:
    """Overdraft up to the new limit; the policy is for reservations made after it."""
    early = tenant.hold(500)
    tenant.patch_budget(overdraft_limit=amount(20), commit_overage_policy="ALLOW_WITH_OVERDRAFT")
    late = tenant.hold(500)
    assert error(tenant.commit(late, 521)) == (409, "OVERDRAFT_LIMIT_EXCEEDED")
    assert tenant.commit(late, 520).status_code == 200
    assert tenant.numbers() == (-20, 500, 500, 20)
    assert tenant.commit(early, 500).status_code == 200


def test_a_frozen_budget_is_updated_and_stays_frozen(tenant: Tenant) -> None:
    """Freezing stops work and funding, not the operator's settings."""
    tenant.turn("freeze")
    answer = tenant.patch_budget(overdraft_limit=amount(5)).json()
    assert (answer["status"], answer["overdraft_limit"]) == ("FROZEN", amount(5))
    assert error(tenant.fund("CREDIT", 1)) == (409, "BUDGET_FROZEN")


def test_a_closed_budget_is_not_updated(tenant: Tenant) -> None:
    """What closed its tenant is in the way first; alone it is BUDGET_CLOSED."""
    tenant.server.sql("UPDATE budget SET status = 'CLOSED' WHERE tenant = ?", tenant.id)
    assert error(tenant.patch_budget(overdraft_limit=amount(5))) == (409, "BUDGET_CLOSED")
    tenant.patch(status="CLOSED")
    assert error(tenant.patch_budget(overdraft_limit=amount(5))) == (409, "TENANT_CLOSED")


@pytest.mark.parametrize("limit", [0, 2**53 + 1, INT64_MAX])
def test_limits_are_exact(tenant: Tenant, limit: int) -> None:
    """Above 2**53 as below it."""
    tenant.patch_budget(overdraft_limit=amount(7))
    assert tenant.patch_budget(overdraft_limit=amount(limit)).status_code == 200
    assert tenant.ledger()["overdraft_limit"] == amount(limit)


def test_another_unit(tenant: Tenant) -> None:
    """A limit in another unit is refused with the unit that would do."""
    refused = tenant.patch_budget(overdraft_limit=amount(5, "CREDITS"))
    assert error(refused) == (400, "UNIT_MISMATCH")
    details = refused.json()["details"]
    assert details["expected_units"] == ["TOKENS"]
    assert details["requested_unit"] == "CREDITS"
    tenant.budget(10, unit="CREDITS")
    assert tenant.patch_budget(unit="CREDITS", overdraft_limit=amount(5, "CREDITS")).is_success
    assert tenant.ledger()["overdraft_limit"] == amount(0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"overdraft_limit": amount(-1)}, "overdraft_limit.amount: must be between 0"),
        ({"overdraft_limit": amount(2**63)}, "overdraft_limit.amount: must be between 0"),
        ({"overdraft_limit": 5}, "overdraft_limit: must be a JSON object"),
        ({"overdraft_limit": None}, "overdraft_limit: must be"),
        ({"commit_overage_policy": "SOME"}, "commit_overage_policy: must be one of"),
        ({"metadata": []}, "metadata: must be a JSON object"),
        ({"allocated": amount(5)}, "allocated: unknown field"),
        ({"status": "CLOSED"}, "status: unknown field"),
        ({"spent": amount(0)}, "spent: unknown field"),
    ],
)
def test_bad_changes(tenant: Tenant, body: Json, said: str) -> None:
    """Each is refused by the name of its field, and nothing is changed."""
    before = tenant.ledger()
    refused = tenant.patch_budget(**body)
    assert error(refused) == (400, "INVALID_REQUEST")
    assert refused.json()["message"].startswith(said)
    assert tenant.ledger() == before


def test_which_budget(tenant: Tenant) -> None:
    """Scope and unit are required and readable; what they do not name is 404."""
    admin, where = tenant.server.admin, tenant.where()
    cases: list[tuple[Any, tuple[int, str], str]] = [
        ({"unit": "TOKENS"}, (400, "INVALID_REQUEST"), "scope: query parameter is required"),
        ({"scope": where["scope"]}, (400, "INVALID_REQUEST"), "unit: query parameter is required"),
        (where | {"unit": "EUR"}, (400, "INVALID_REQUEST"), "unit: must be one of"),
        (where | {"scope": "agent:x"}, (400, "INVALID_REQUEST"), "scope: "),
        (where | {"unit": "CREDITS"}, (404, "BUDGET_NOT_FOUND"), "Budget not found: scope"),
        (tenant.where("agent:x"), (404, "BUDGET_NOT_FOUND"), "Budget not found: scope"),
        ({"scope": "tenant:nobody", "unit": "TOKENS"}, (404, "BUDGET_NOT_FOUND"), "Budget not"),
    ]
    for params, expected, said in cases:
        refused = admin("PATCH", "/v1/admin/budgets", {}, **params)
        assert error(refused) == expected
        assert refused.json()["message"].startswith(said)


def test_only_the_operator_changes_budgets(tenant: Tenant) -> None:
    """Whatever a tenant's key may do, it may not raise its own overdraft."""
    strong = tenant.with_key(permissions=["admin:write", "budgets:write"])
    refused = strong.call(
        "PATCH", "/v1/admin/budgets", {"overdraft_limit": amount(5)}, **tenant.where()
    )
    assert error(refused) == (401, "UNAUTHORIZED")
    assert tenant.ledger()["overdraft_limit"] == amount(0)
