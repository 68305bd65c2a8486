"""What a tenant's status does to requests; no operation changes it yet, so the store is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from server.world import Response, Tenant, error, fresh, without_lease

CLOSED = (409, "TENANT_CLOSED")


@pytest.fixture
def busy(tenant: Tenant) -> Tenant:
    return tenant.budget(1_000)


def new_work(tenant: Tenant) -> list[Response]:
    return [tenant.reserve(1), tenant.debit(1)]


def evaluations(tenant: Tenant) -> list[Response]:
    return [tenant.decide(1), tenant.reserve(1, dry_run=True)]


def reads(tenant: Tenant, held: str) -> list[Response]:
    """Return every read of both sides."""
    admin = tenant.server.admin
    return [
        tenant.reservation(held),
        tenant.get("/v1/reservations"),
        tenant.get("/v1/balances", tenant=tenant.id),
        tenant.get("/v1/admin/budgets"),
        admin("GET", f"/v1/reservations/{held}"),
        admin("GET", "/v1/reservations", params={"tenant": tenant.id}),
    ]


def test_a_suspended_tenant(busy: Tenant) -> None:
    """Existing work settles and is read; new work is 403 on every way in (conflict 5)."""
    held = [busy.hold(10) for _ in range(3)]
    busy.set_status("SUSPENDED")
    for refused in new_work(busy) + evaluations(busy):
        assert error(refused) == (403, "FORBIDDEN")
        assert "suspended" in refused.json()["message"]
    assert busy.extend(held[0]).status_code == 200
    assert busy.commit(held[0], 4).status_code == 200
    assert busy.release(held[1]).status_code == 200
    assert busy.admin_release(held[2]).status_code == 200
    assert {response.status_code for response in reads(busy, held[0])} == {200}
    body = {"tenant_id": busy.id, "scope": busy.path("agent:x"), "unit": "TOKENS"}
    body |= {"allocated": {"unit": "TOKENS", "amount": 1}}
    refused = busy.server.admin("POST", "/v1/admin/budgets", body)
    assert error(refused) == (400, "INVALID_REQUEST")
    assert busy.fund("CREDIT", 1).status_code == 200
    busy.set_status("ACTIVE")
    assert busy.reserve(1).status_code == 200


def test_a_closed_tenant(busy: Tenant) -> None:
    """Case 36: the past is replayed, new work is 409, evaluations are DENY, reads stay open."""
    held, settled = [busy.hold(10) for _ in range(2)], busy.hold(10)
    key = {"idempotency_key": "the-first"}
    committed = busy.commit(settled, 4, **key)
    ask = busy.ask(5)
    reserved = busy.call("POST", "/v1/reservations", ask)
    busy.set_status("CLOSED")
    before = busy.state()
    assert busy.commit(settled, 4, **key).content == committed.content
    again = busy.call("POST", "/v1/reservations", ask)
    assert without_lease(again.content) == without_lease(reserved.content)
    refused = [
        *new_work(busy),
        busy.commit(settled, 4),
        busy.commit(held[0], 4),
        busy.release(held[0]),
        busy.extend(held[0]),
        busy.admin_release(held[1]),
        busy.fund("CREDIT", 1),
        busy.turn("freeze"),
    ]
    assert [error(response) for response in refused] == [CLOSED] * len(refused)
    for denied in evaluations(busy):
        assert denied.status_code == 200
        assert (denied.json()["decision"], denied.json()["reason_code"]) == (
            "DENY",
            "TENANT_CLOSED",
        )
    assert {response.status_code for response in reads(busy, held[0])} == {200}
    assert busy.state() == before
    body = {"tenant_id": busy.id, "name": "k"}
    assert error(busy.server.admin("POST", "/v1/admin/api-keys", body)) == CLOSED


@pytest.mark.parametrize("status", ["closed", "CLOZED", "[]", "", "x", None])
def test_an_unreadable_tenant(busy: Tenant, status: str | None) -> None:
    """Case 37: 500 for everything that would change or decide something, and no change."""
    held = busy.hold(10)
    before = busy.state()
    busy.set_status(status)
    refused = [
        *new_work(busy),
        *evaluations(busy),
        busy.commit(held, 4),
        busy.release(held),
        busy.extend(held),
        busy.admin_release(held),
        busy.fund("CREDIT", 1),
        busy.turn("freeze"),
        busy.server.admin("GET", f"/v1/admin/tenants/{busy.id}"),
        busy.server.admin("POST", "/v1/admin/api-keys", {"tenant_id": busy.id, "name": "k"}),
    ]
    for response in refused:
        assert error(response) == (500, "INTERNAL_ERROR")
        message = f"Malformed tenant record: tenant:{busy.id}"
        assert response.json()["message"].startswith(message)
    assert busy.state() == before
    busy.set_status("ACTIVE")
    assert busy.commit(held, 4).status_code == 200


def test_a_list_with_an_unreadable_tenant(new_tenant: Callable[..., Tenant]) -> None:
    """One broken record does not hide the others: the list goes on without it, over all pages."""
    word = fresh("list")
    tenants = [new_tenant(f"{word}-{number}") for number in range(3)]
    tenants[1].set_status("nonsense")
    admin = tenants[0].server.admin
    query = {"search": word, "sort_by": "tenant_id", "sort_dir": "asc"}
    whole = admin("GET", "/v1/admin/tenants", params=query)
    assert [row["tenant_id"] for row in whole.json()["tenants"]] == [tenants[0].id, tenants[2].id]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in tenants:
        page = admin("GET", "/v1/admin/tenants", params=query | {"limit": "1"} | cursor).json()
        seen += [row["tenant_id"] for row in page["tenants"]]
        cursor = {"cursor": page.get("next_cursor", "")}
    assert seen == [tenants[0].id, tenants[2].id]
    assert "next_cursor" not in page
    by_id = admin("GET", f"/v1/admin/tenants/{tenants[1].id}")
    assert error(by_id) == (500, "INTERNAL_ERROR")
