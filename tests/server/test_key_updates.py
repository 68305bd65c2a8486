"""API keys over HTTP after they were made: listed, changed, asked about."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from server.governed import Governed, Json, Tenant, error, governed

KEYS = "/v1/admin/api-keys"
VALIDATE = "/v1/auth/validate"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    with governed(tmp_path_factory.mktemp("keys")) as server:
        yield server


@pytest.fixture
def tenant(operator: Governed) -> Tenant:
    return operator.tenant()


def expire(key: Tenant) -> None:
    """End a key's time without waiting for it."""
    past_ms = int(time.time() * 1000) - 1_000
    key.server.sql("UPDATE api_key SET expires_at_ms = ? WHERE key_id = ?", past_ms, key.key_id)


def listed(server: Governed, **query: Any) -> list[str]:
    """Return the ids of all pages, in order."""
    found: list[str] = []
    while True:
        page = server.done("GET", KEYS, **query)
        found += [row["key_id"] for row in page["keys"]]
        if not page["has_more"]:
            return found
        query["cursor"] = page["next_cursor"]


# Lists.


def test_a_listed_key_is_whole_and_has_no_secret(tenant: Tenant) -> None:
    """Every property but the secret and its hash."""
    made = tenant.with_key(
        name="bot",
        description="for the bot",
        permissions=["balances:read"],
        scope_filter=["agent:bot"],
        metadata={"a": 1},
    )
    response = tenant.server.admin("GET", KEYS, tenant_id=tenant.id, search="bot")
    [row] = response.json()["keys"]
    assert row["key_id"] == made.key_id
    assert row["key_prefix"] == made.secret[:14]
    assert (row["name"], row["description"], row["status"]) == ("bot", "for the bot", "ACTIVE")
    assert (row["permissions"], row["scope_filter"]) == (["balances:read"], ["agent:bot"])
    assert (row["tenant_id"], row["metadata"]) == (tenant.id, {"a": 1})
    assert made.secret not in response.text
    assert "hash" not in response.text
    assert "key_secret" not in response.text


def test_filters(operator: Governed) -> None:
    """Tenant, status of the moment, and a part of id or name, all of them together."""
    mine, other = operator.tenant(), operator.tenant()
    over, ended = mine.with_key(name="Over"), mine.with_key(name="Ended")
    expire(over)
    operator.done("DELETE", f"{KEYS}/{ended.key_id}")
    assert set(listed(operator, tenant_id=mine.id)) == {mine.key_id, over.key_id, ended.key_id}
    assert listed(operator, tenant_id=mine.id, status="ACTIVE") == [mine.key_id]
    assert listed(operator, tenant_id=mine.id, status="EXPIRED") == [over.key_id]
    assert listed(operator, tenant_id=mine.id, status="REVOKED") == [ended.key_id]
    assert listed(operator, tenant_id=mine.id, search="END") == [ended.key_id]
    assert listed(operator, tenant_id=mine.id, search=other.key_id) == []
    assert listed(operator, search=over.key_id[3:20]) == [over.key_id]
    assert {mine.key_id, other.key_id} <= set(listed(operator, status="ACTIVE", limit=100))
    assert listed(operator, tenant_id="nobody") == []
    assert over.key()["status"] == "EXPIRED"
    assert listed(operator, tenant_id=mine.id, status="", search="") == listed(
        operator, tenant_id=mine.id
    )


@pytest.mark.parametrize(
    ("sort_by", "field"),
    [
        ("key_id", "key_id"),
        ("name", "name"),
        ("tenant_id", "tenant_id"),
        ("status", "status"),
        ("created_at", "created_at"),
        ("expires_at", "expires_at"),
    ],
)
def test_orders_and_pages(operator: Governed, sort_by: str, field: str) -> None:
    """In either direction, by pages of any size: each key once, in the order of a plain sort."""
    tenant = operator.tenant()
    for number, days in enumerate((3, 1, 2)):
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400 * days))
        tenant.with_key(name=f"n{number % 2}", expires_at=when)
    operator.done("DELETE", f"{KEYS}/{tenant.key_id}")
    rows = operator.done("GET", KEYS, tenant_id=tenant.id)["keys"]
    for descending in (False, True):
        wanted = sorted(rows, key=lambda row: str(row["key_id"]))
        wanted.sort(key=lambda row: str(row[field]), reverse=descending)
        direction = "desc" if descending else "asc"
        for limit in (1, 2, 100):
            found = listed(
                operator, tenant_id=tenant.id, sort_by=sort_by, sort_dir=direction, limit=limit
            )
            assert found == [row["key_id"] for row in wanted]


def test_newest_first(tenant: Tenant) -> None:
    """Without a wish the list is by creation, descending."""
    time.sleep(0.002)
    later = tenant.with_key()
    assert listed(tenant.server, tenant_id=tenant.id) == [later.key_id, tenant.key_id]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 101},
        {"status": "active"},
        {"sort_by": "nope"},
        {"sort_dir": "up"},
        {"search": "x" * 129},
        {"cursor": "nope"},
    ],
)
def test_bad_lists(operator: Governed, query: Json) -> None:
    """Each is refused by the name of its parameter."""
    refused = operator.admin("GET", KEYS, **query)
    assert error(refused) == (400, "INVALID_REQUEST")
    assert refused.json()["message"].startswith(f"{next(iter(query))}: ")


def test_a_cursor_is_for_its_own_list(tenant: Tenant) -> None:
    """Other filters, another order or another list refuse it."""
    tenant.with_key()
    query = {"tenant_id": tenant.id, "limit": 1}
    cursor = tenant.server.done("GET", KEYS, **query)["next_cursor"]
    for other in ({"tenant_id": "x"}, {"status": "ACTIVE"}, {"sort_by": "name"}, {"search": "a"}):
        refused = tenant.server.admin("GET", KEYS, **(query | other | {"cursor": cursor}))
        assert error(refused) == (400, "INVALID_REQUEST")
    refused = tenant.server.admin("GET", "/v1/admin/tenants", cursor=cursor)
    assert error(refused) == (400, "INVALID_REQUEST")


# Changes.


CHANGES: Json = {
    "name": "another name",
    "description": "what it is for",
    "permissions": ["balances:read", "admin:read"],
    "scope_filter": ["agent:*", "workspace:eng"],
    "metadata": {"team": ["a", 1, None]},
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_property_changes_and_the_others_stay(tenant: Tenant, name: str) -> None:
    """The answer is the key as it then is, without its secret."""
    before = tenant.key()
    answer = tenant.patch_key(**{name: CHANGES[name]})
    assert (answer.status_code, answer.json()) == (200, before | {name: CHANGES[name]})
    assert tenant.key() == answer.json()
    assert tenant.secret not in answer.text


def test_what_changes_nothing_leaves_no_entry(tenant: Tenant) -> None:
    """An empty change, and one that says what already is, answer the stored key."""
    before, logged = tenant.key(), tenant.server.log(tenant.id)
    for body in ({}, {"name": "a key"}, {"permissions": before["permissions"]}):
        assert tenant.patch_key(**body).json() == before
    assert tenant.server.log(tenant.id) == logged


def test_permissions_and_filter_bite_with_the_next_request(tenant: Tenant) -> None:
    """A key that was used a moment ago loses and gets back what it may do at once."""
    tenant.budget(1_000)
    for _ in range(3):
        assert tenant.reserve(1, "agent:a").status_code == 200
        tenant.patch_key(permissions=["balances:read"])
        refused = tenant.reserve(1, "agent:a")
        assert error(refused) == (403, "FORBIDDEN")
        assert "reservations:create" in refused.json()["message"]
        tenant.patch_key(permissions=["reservations:create"], scope_filter=["agent:b"])
        assert error(tenant.reserve(1, "agent:a")) == (403, "FORBIDDEN")
        assert tenant.reserve(1, "agent:b").status_code == 200
        assert tenant.patch_key(scope_filter=[]).json().get("scope_filter") is None
    tenant.patch_key(permissions=[])
    assert error(tenant.reserve(1)) == (403, "FORBIDDEN")


def test_what_has_ended_is_not_changed(tenant: Tenant) -> None:
    """Revoked and expired keys are 409 with codes of their own, and stay as they were."""
    over, ended = tenant.with_key(), tenant.with_key()
    expire(over)
    tenant.server.done("DELETE", f"{KEYS}/{ended.key_id}")
    for key, code in ((over, "KEY_EXPIRED"), (ended, "KEY_REVOKED")):
        before = key.key()
        assert error(key.patch_key(permissions=["admin:write"])) == (409, code)
        assert key.key() == before
    tenant.patch(status="CLOSED")
    assert error(over.patch_key(name="x")) == (409, "TENANT_CLOSED")
    assert error(ended.patch_key(name="x")) == (409, "TENANT_CLOSED")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"permissions": ["fly"]}, "permissions[0]: must be one of reservations:create, "),
        ({"permissions": "balances:read"}, "permissions: must be an array"),
        ({"permissions": None}, "permissions: must be"),
        ({"scope_filter": [1]}, "scope_filter[0]: must be a string"),
        ({"scope_filter": ["agent:*", "agnet:*"]}, "scope_filter[1]: segment 'agnet:*' must be"),
        ({"scope_filter": ["tenant:other"]}, "scope_filter[0]: must start with tenant:"),
        ({"name": ""}, "name: must not be blank"),
        ({"description": "x" * 1025}, "description: must be at most 1024"),
        ({"metadata": 1}, "metadata: must be a JSON object"),
        ({"expires_at": "2030-01-01T00:00:00Z"}, "expires_at: unknown field"),
        ({"status": "ACTIVE"}, "status: unknown field"),
        ({"tenant_id": "other"}, "tenant_id: unknown field"),
        ({"key_secret": "x"}, "key_secret: unknown field"),
    ],
)
def test_bad_changes(tenant: Tenant, body: Json, said: str) -> None:
    """Each is refused by the name of its field, and nothing is changed."""
    before = tenant.key()
    refused = tenant.patch_key(**body)
    assert error(refused) == (400, "INVALID_REQUEST")
    assert refused.json()["message"].startswith(said)
    assert tenant.key() == before


def test_an_unknown_key(operator: Governed) -> None:
    """404, with the id that was asked for."""
    refused = operator.admin("PATCH", f"{KEYS}/key_nothing", {"name": "x"})
    assert error(refused) == (404, "NOT_FOUND")
    assert "key_nothing" in refused.json()["message"]


def test_only_the_operator_sees_and_changes_keys(tenant: Tenant) -> None:
    """A tenant's key cannot give itself what it lacks, nor look at others."""
    strong = tenant.with_key(permissions=["admin:write", "admin:apikeys:write"])
    path = f"{KEYS}/{strong.key_id}"
    assert error(strong.call("PATCH", path, {"permissions": []})) == (401, "UNAUTHORIZED")
    assert error(strong.call("GET", KEYS)) == (401, "UNAUTHORIZED")
    body = {"key_secret": strong.secret}
    assert error(strong.call("POST", VALIDATE, body)) == (401, "UNAUTHORIZED")


# Validation.


def validated(key: Tenant, secret: str | None = None) -> Json:
    return key.server.done("POST", VALIDATE, {"key_secret": secret or key.secret})


def test_a_good_key(tenant: Tenant) -> None:
    """All that the key is good for, and no reason."""
    key = tenant.with_key(permissions=["balances:read"], scope_filter=["agent:*"])
    assert validated(key) == {
        "valid": True,
        "tenant_id": tenant.id,
        "key_id": key.key_id,
        "permissions": ["balances:read"],
        "scope_filter": ["agent:*"],
        "expires_at": key.key()["expires_at"],
    }
    assert "scope_filter" not in validated(tenant)


def refused(key: Tenant, secret: str | None = None) -> tuple[str, str, str | None]:
    """Return reason, tenant and key of an answer that must be no."""
    answer = validated(key, secret)
    assert answer["valid"] is False
    assert not {"permissions", "scope_filter"} & answer.keys()
    return answer["reason"], answer["tenant_id"], answer.get("key_id")


def test_secrets_of_no_key(tenant: Tenant) -> None:
    """One that begins like a stored key is told from one that begins like none."""
    assert refused(tenant, tenant.secret[:-1] + "~") == ("INVALID_KEY", "", None)
    assert refused(tenant, tenant.secret + "x") == ("INVALID_KEY", "", None)
    assert refused(tenant, tenant.secret[:14]) == ("INVALID_KEY", "", None)
    for unknown in (tenant.secret[:13], "cyc_live_" + "~" * 43, "x", tenant.server.admin_key):
        assert refused(tenant, unknown) == ("KEY_NOT_FOUND", "", None)
    answer = tenant.server.done("POST", VALIDATE, {"key_secret": ""})
    assert (answer["valid"], answer["reason"]) == (False, "KEY_NOT_FOUND")


def test_keys_that_have_ended(tenant: Tenant) -> None:
    """Revoked before expired, as everywhere; the key is still named."""
    over, ended = tenant.with_key(), tenant.with_key()
    expire(over)
    tenant.server.done("DELETE", f"{KEYS}/{ended.key_id}")
    assert refused(over) == ("KEY_EXPIRED", tenant.id, over.key_id)
    assert refused(ended) == ("KEY_REVOKED", tenant.id, ended.key_id)
    expire(ended)
    assert refused(ended) == ("KEY_REVOKED", tenant.id, ended.key_id)


def test_tenants_that_may_not_work(tenant: Tenant) -> None:
    """Suspended until reactivated; a close revokes the keys, and says so first."""
    mine = (tenant.id, tenant.key_id)
    tenant.patch(status="SUSPENDED")
    assert refused(tenant) == ("TENANT_SUSPENDED", *mine)
    tenant.patch(status="ACTIVE")
    assert validated(tenant)["valid"] is True
    tenant.patch(status="CLOSED")
    assert refused(tenant) == ("KEY_REVOKED", *mine)
    tenant.server.sql("UPDATE api_key SET status = 'ACTIVE' WHERE key_id = ?", tenant.key_id)
    assert refused(tenant) == ("TENANT_CLOSED", *mine)


def test_keys_whose_tenant_cannot_be_told(operator: Governed) -> None:
    """A tenant that is gone or unreadable, and a key of nobody, are reasons and not failures."""
    gone, torn, nobodys = (operator.tenant() for _ in range(3))
    operator.sql("DELETE FROM tenant WHERE tenant = ?", gone.id)
    assert refused(gone) == ("TENANT_NOT_FOUND", gone.id, gone.key_id)
    operator.sql("UPDATE tenant SET status = 'closed' WHERE tenant = ?", torn.id)
    assert refused(torn) == ("INTERNAL_ERROR", torn.id, torn.key_id)
    operator.sql("UPDATE api_key SET tenant = '' WHERE key_id = ?", nobodys.key_id)
    assert refused(nobodys) == ("KEY_NOT_OWNED_BY_TENANT", "", nobodys.key_id)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "key_secret: is required"),
        ({"key_secret": 5}, "key_secret: must be a string, got 5"),
        ({"key_secret": None}, "key_secret: must be"),
        ({"key_secret": "x", "tenant_id": "y"}, "tenant_id: unknown field"),
    ],
)
def test_bad_questions(operator: Governed, body: Json, said: str) -> None:
    """What cannot be understood is 400, not an invalid key."""
    answer = operator.admin("POST", VALIDATE, body)
    assert error(answer) == (400, "INVALID_REQUEST")
    assert answer.json()["message"].startswith(said)
