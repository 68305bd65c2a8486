"""Changing, suspending and reactivating a tenant over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from server.governed import Governed, Json, Tenant, amount, error, governed


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    with governed(tmp_path_factory.mktemp("tenants")) as server:
        yield server


@pytest.fixture
def tenant(operator: Governed) -> Tenant:
    return operator.tenant()


SETTINGS: dict[str, Any] = {
    "name": "Another name",
    "metadata": {"team": "search"},
    "default_commit_overage_policy": "REJECT",
    "default_reservation_ttl_ms": 2_000,
    "max_reservation_ttl_ms": 5_000,
    "max_reservation_extensions": 0,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_one_setting_changes_and_the_others_stay(tenant: Tenant, name: str) -> None:
    """What is not sent is left as it is."""
    before = tenant.record()
    answer = tenant.patch(**{name: SETTINGS[name]})
    assert answer.status_code == 200
    after = answer.json()
    assert tenant.record() == after
    assert before | {name: SETTINGS[name], "updated_at": after["updated_at"]} == after


def test_settings_together_and_metadata_replaced_whole(tenant: Tenant) -> None:
    """One request changes all of them in one entry."""
    assert tenant.patch(metadata={"a": "1", "b": "2"}).status_code == 200
    answer = tenant.patch(**SETTINGS).json()
    assert answer | SETTINGS == answer
    assert tenant.patch(metadata={}).json()["metadata"] == {}
    assert tenant.server.log(tenant.id)[-3:] == ["UpdateTenant"] * 3


def test_what_changes_nothing_leaves_no_entry(tenant: Tenant) -> None:
    """An empty change, and one that says what already is, answer the stored record."""
    before = tenant.record()
    for body in ({}, {"name": "T"}, {"status": "ACTIVE"}):
        answer = tenant.patch(**body)
        assert (answer.status_code, answer.json()) == (200, before)
    assert "UpdateTenant" not in tenant.server.log(tenant.id)


def test_settings_bite(tenant: Tenant) -> None:
    """The lease, its limit and the extensions of the next reservation follow the new settings."""
    tenant.budget(1_000)
    tenant.patch(**SETTINGS)
    answer = tenant.reserve(1).json()
    assert 0 < answer["remaining_ttl_ms"] <= 2_000
    assert 2_000 < tenant.reserve(1, ttl_ms=60_000).json()["remaining_ttl_ms"] <= 5_000
    refused = tenant.extend(answer["reservation_id"])
    assert error(refused) == (409, "MAX_EXTENSIONS_EXCEEDED")


def test_a_reservation_keeps_the_policy_it_was_made_under(tenant: Tenant) -> None:
    """Case 47: the tenant's default changes after the reserve; the reservation's does not."""
    tenant.budget(1_000)
    tenant.patch(default_commit_overage_policy="REJECT")
    strict = tenant.hold(100)
    tenant.patch(default_commit_overage_policy="ALLOW_IF_AVAILABLE")
    loose = tenant.hold(100)
    assert error(tenant.commit(strict, 150)) == (409, "BUDGET_EXCEEDED")
    assert tenant.commit(loose, 150).json()["charged"] == amount(150)


def test_suspending_and_reactivating(tenant: Tenant) -> None:
    """Existing work settles and is read; new work is 403 until the tenant is active again."""
    tenant.budget(1_000)
    held = [tenant.hold(10) for _ in range(4)]
    suspended = tenant.patch(status="SUSPENDED").json()
    assert suspended["status"] == "SUSPENDED"
    assert suspended["suspended_at"] == suspended["updated_at"]
    for refused in (
        tenant.reserve(1),
        tenant.debit(1),
        tenant.decide(1),
        tenant.reserve(1, dry_run=True),
    ):
        assert error(refused) == (403, "FORBIDDEN")
        detail = refused.json()["details"]["deny_detail"]
        assert detail["reason_code"] == "TENANT_SUSPENDED"
        assert detail["suggested_fix"] == f"Reactivate tenant {tenant.id}."
    assert tenant.extend(held[0]).status_code == 200
    assert tenant.commit(held[0], 4).status_code == 200
    assert tenant.release(held[1]).status_code == 200
    assert tenant.admin_release(held[2]).status_code == 200
    assert tenant.call("GET", f"/v1/reservations/{held[3]}").status_code == 200
    assert tenant.call("GET", "/v1/balances", tenant=tenant.id).status_code == 200
    assert tenant.fund("CREDIT", 4).status_code == 200
    assert tenant.patch_budget(overdraft_limit=amount(5)).status_code == 200
    assert tenant.with_key().patch_key(name="n").status_code == 200
    assert tenant.numbers() == (990, 10, 4, 0)
    active = tenant.patch(status="ACTIVE").json()
    assert active["status"] == "ACTIVE"
    assert "suspended_at" not in active
    assert tenant.reserve(1).status_code == 200


def test_a_suspended_tenant_gets_no_budget(tenant: Tenant) -> None:
    """A budget needs an active tenant."""
    tenant.patch(status="SUSPENDED")
    body = tenant.where() | {"allocated": amount(1), "tenant_id": tenant.id}
    refused = tenant.server.admin("POST", "/v1/admin/budgets", body)
    assert error(refused) == (400, "INVALID_REQUEST")


def test_suspending_again_keeps_the_time(tenant: Tenant) -> None:
    """A second suspend changes nothing."""
    first = tenant.patch(status="SUSPENDED")
    assert tenant.patch(status="SUSPENDED").json() == first.json()
    assert tenant.server.log(tenant.id).count("UpdateTenant") == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"status": "closed"}, 'status: must be one of ACTIVE, SUSPENDED, CLOSED, got "closed"'),
        ({"status": None}, "status: must be "),
        ({"name": " "}, "name: must not be blank"),
        ({"name": "x" * 257}, "name: must be at most 256"),
        ({"tenant_id": "other"}, "tenant_id: unknown field"),
        ({"parent_tenant_id": "other"}, "parent_tenant_id: unknown field"),
        ({"reservation_expiry_policy": "GRACE_ONLY"}, "reservation_expiry_policy: unknown field"),
        ({"default_reservation_ttl_ms": 999}, "default_reservation_ttl_ms: must be between 1000"),
        ({"max_reservation_ttl_ms": 86_400_001}, "max_reservation_ttl_ms: must be between 1000"),
        ({"max_reservation_extensions": -1}, "max_reservation_extensions: must be between 0"),
        ({"metadata": {"a": 1}}, "metadata.a: must be a string"),
        ({"default_commit_overage_policy": "ALLOW"}, "default_commit_overage_policy: must be one"),
        ([], "the body must be a JSON object"),
    ],
)
def test_bad_changes(tenant: Tenant, body: Any, said: str) -> None:
    """Each is refused by the name of its field, and nothing is changed."""
    before = tenant.record()
    refused = tenant.server.admin("PATCH", tenant.path, body)
    assert error(refused) == (400, "INVALID_REQUEST")
    assert refused.json()["message"].startswith(said)
    assert tenant.record() == before


def test_an_unknown_tenant(operator: Governed) -> None:
    """404, with the name that was asked for."""
    for body in ({"name": "x"}, {"status": "CLOSED"}, {}):
        refused = operator.admin("PATCH", "/v1/admin/tenants/nobody", body)
        assert error(refused) == (404, "TENANT_NOT_FOUND")
        assert "nobody" in refused.json()["message"]


def test_only_the_operator_changes_tenants(tenant: Tenant) -> None:
    """A tenant's key, with whatever permission, and a wrong admin key are 401."""
    strong = tenant.with_key(permissions=["admin:write", "admin:tenants:write"])
    assert error(strong.call("PATCH", tenant.path, {"name": "x"})) == (401, "UNAUTHORIZED")
    headers: Json = {"X-Admin-API-Key": "wrong"}
    refused = tenant.server.call("PATCH", tenant.path, {"name": "x"}, headers=headers)
    assert error(refused) == (401, "UNAUTHORIZED")
    assert error(tenant.server.call("PATCH", tenant.path, {})) == (401, "UNAUTHORIZED")
