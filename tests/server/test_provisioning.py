"""Provisioning over HTTP: tenants, API keys, budgets and their funding (protocol 10.2, 10.3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from bursar.vocabulary import DEFAULT_PERMISSIONS, Permission
from server.world import Json, Response, Server, Tenant, amount, error, fresh

BAD = (400, "INVALID_REQUEST")
DUPLICATE = (409, "DUPLICATE_RESOURCE")
TENANTS, KEYS, BUDGETS = "/v1/admin/tenants", "/v1/admin/api-keys", "/v1/admin/budgets"
SECRET = re.compile(r"cyc_live_[A-Za-z0-9_-]{43}")


# Tenants.


def test_a_tenant_with_every_field(server: Server) -> None:
    """All that was sent is stored and shown, by create, get and list."""
    name = fresh("acme")
    sent = {
        "tenant_id": name,
        "name": "Acme “Inc.” \U0001f680",
        "parent_tenant_id": "acme-group",
        "metadata": {"region": "eu", "": ""},
        "default_commit_overage_policy": "REJECT",
        "default_reservation_ttl_ms": 1_000,
        "max_reservation_ttl_ms": 86_400_000,
        "max_reservation_extensions": 0,
        "reservation_expiry_policy": "GRACE_ONLY",
    }
    created = server.admin("POST", TENANTS, sent)
    assert created.status_code == 201
    row = created.json()
    assert {name: row[name] for name in sent} == sent
    assert row["status"] == "ACTIVE"
    assert row["created_at"] == row["updated_at"]
    assert server.admin("GET", f"{TENANTS}/{name}").json() == row
    listed = server.admin("GET", TENANTS, params={"search": name}).json()["tenants"]
    assert listed == [row]


def test_a_tenants_defaults(server: Server) -> None:
    """What was not sent is the protocol's default."""
    name = fresh("acme")
    row = server.admin("POST", TENANTS, {"tenant_id": name, "name": "A"}).json()
    assert {name: row[name] for name in row if name.endswith(("_ms", "extensions", "policy"))} == {
        "default_reservation_ttl_ms": 60_000,
        "max_reservation_ttl_ms": 3_600_000,
        "max_reservation_extensions": 10,
        "reservation_expiry_policy": "AUTO_RELEASE",
    }
    assert not row.keys() & {"metadata", "parent_tenant_id", "suspended_at", "closed_at"}


def test_creating_a_tenant_again(server: Server) -> None:
    """Case 68: the same name is 200 with the stored row, another name 409."""
    name = fresh("acme")
    first = server.admin("POST", TENANTS, {"tenant_id": name, "name": "A"})
    again = {"tenant_id": name, "name": "A", "max_reservation_extensions": 3}
    second = server.admin("POST", TENANTS, again)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert error(server.admin("POST", TENANTS, again | {"name": "B"})) == DUPLICATE
    assert server.admin("GET", f"{TENANTS}/{name}").json() == first.json()


def test_an_unknown_tenant(server: Server) -> None:
    """404 TENANT_NOT_FOUND, for the tenant itself and for what would belong to it."""
    unknown = (404, "TENANT_NOT_FOUND")
    for name in ("nobody-here", "UPPER", "x" * 300, "a%20b", "%00", "%F0%9F%9A%80", "'; --"):
        assert error(server.admin("GET", f"{TENANTS}/{name}")) == unknown, name
    assert error(server.admin("POST", KEYS, {"tenant_id": "nobody", "name": "k"})) == unknown
    budget = {"scope": "tenant:nobody", "unit": "TOKENS", "allocated": amount(1)}
    assert error(server.admin("POST", BUDGETS, budget | {"tenant_id": "nobody"})) == unknown


@pytest.fixture(scope="module")
def family(server: Server) -> list[str]:
    """Five tenants of one parent, whose ids sort otherwise than their names."""
    parent = fresh("parent")
    names = ["Émile", "bert", "Anna", "dora", "Carl"]
    ids = [f"{parent}-{number}" for number in range(5)]
    for tenant_id, name in zip(ids, names, strict=True):
        server.tenant(tenant_id)  # its name is its id in capitals; the store gets the real one
        server.sql(
            "UPDATE tenant SET name = ?, parent_tenant_id = ? WHERE tenant = ?",
            *(name, parent, tenant_id),
        )
    server.sql("UPDATE tenant SET status = 'SUSPENDED' WHERE tenant = ?", ids[1])
    return [parent, *ids]


def listed(server: Server, path: str, plural: str, **query: Any) -> list[Json]:
    response = server.admin("GET", path, params=query)
    assert response.status_code == 200, response.text
    rows: list[Json] = response.json()[plural]
    return rows


def test_lists_of_tenants(server: Server, family: list[str]) -> None:
    """Filters, search in any case, every order, and pages that fit together."""
    parent, *ids = family

    def names(**query: Any) -> list[str]:
        rows = listed(server, TENANTS, "tenants", **({"parent_tenant_id": parent} | query))
        return [row["tenant_id"] for row in rows]

    assert sorted(names()) == ids
    assert names(sort_by="created_at", sort_dir="asc") == ids
    assert names() == ids[::-1] == names(sort_by="created_at")
    assert names(sort_by="tenant_id", sort_dir="asc") == ids
    by_name = [ids[2], ids[4], ids[1], ids[3], ids[0]]
    assert names(sort_by="name", sort_dir="asc") == by_name
    assert names(sort_by="name") == by_name[::-1]
    assert names(sort_by="status") == [ids[1], ids[0], *ids[2:]]
    assert names(status="SUSPENDED") == [ids[1]]
    assert names(status="CLOSED") == []
    assert names(search="éMILE") == [ids[0]]
    assert names(search=f"{parent.upper()}-3") == [ids[3]]
    assert names(search="") == ids[::-1]
    assert names(search="%") == []
    assert names(parent_tenant_id="nobody") == []
    cut: list[str] = []
    query: Json = {"sort_by": "name", "limit": 2, "parent_tenant_id": parent}
    while True:
        page = server.admin("GET", TENANTS, params=query).json()
        cut += [row["tenant_id"] for row in page["tenants"]]
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert cut == by_name[::-1]
    refused = server.admin("GET", TENANTS, params=query | {"sort_by": "status"})
    assert error(refused) == BAD


@pytest.mark.parametrize("path", [TENANTS, BUDGETS])
@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "x"},
        {"sort_by": "nope"},
        {"sort_dir": "sideways"},
        {"status": "GONE"},
        {"cursor": "garbage"},
        {"search": "x" * 129},
    ],
    ids=str,
)
def test_bad_admin_lists(server: Server, path: str, query: Json) -> None:
    """Bad parameters are 400 and named, as on the runtime plane; a search of 128 is fine."""
    refused = server.admin("GET", path, params=query)
    assert error(refused) == BAD
    assert refused.json()["message"].startswith(f"{next(iter(query))}: ")
    assert server.admin("GET", path, params={"search": "x" * 128}).status_code == 200


# API keys.


def test_a_key_with_every_field(server: Server, tenant: Tenant) -> None:
    """The secret is shown once, has 256 bits, and works with exactly what was asked for."""
    sent = {
        "tenant_id": tenant.id,
        "name": "ci",
        "description": "for tests",
        "permissions": ["balances:read", "reservations:create"],
        "scope_filter": ["agent:*", "workspace:eng"],
        "expires_at": "2100-01-01T00:00:00+02:00",
        "metadata": {"owner": {"team": 7}},
    }
    created = server.admin("POST", KEYS, sent)
    assert created.status_code == 201
    row = created.json()
    secret, key_id = row.pop("key_secret"), row.pop("key_id")
    assert SECRET.fullmatch(secret)
    assert secret.startswith(row.pop("key_prefix"))
    assert row.pop("created_at") < row["expires_at"]
    assert row == {
        "tenant_id": tenant.id,
        "permissions": sent["permissions"],
        "expires_at": "2099-12-31T22:00:00.000Z",
    }
    mine = tenant.with_key(secret).get("/v1/auth/introspect").json()
    assert mine["permissions"] == sorted(sent["permissions"])
    assert mine["scope_filter"] == sent["scope_filter"]
    revoked = server.admin("DELETE", f"{KEYS}/{key_id}", params={"reason": "rotated"})
    assert revoked.status_code == 200
    assert secret not in revoked.text
    shown = revoked.json()
    assert {name: shown[name] for name in shown if not name.endswith("_at")} == {
        "key_id": key_id,
        "key_prefix": secret[:14],
        "tenant_id": tenant.id,
        "name": "ci",
        "description": "for tests",
        "permissions": sent["permissions"],
        "scope_filter": sent["scope_filter"],
        "status": "REVOKED",
        "revoked_reason": "rotated",
        "metadata": sent["metadata"],
    }


def test_a_keys_defaults(server: Server, tenant: Tenant) -> None:
    """The default permissions, no filter, ninety days; every known permission is accepted."""
    row = server.new_key(tenant.id)
    assert row["permissions"] == [permission.value for permission in DEFAULT_PERMISSIONS]
    assert row["created_at"][:4] <= row["expires_at"][:4]
    everything = [permission.value for permission in Permission]
    assert server.new_key(tenant.id, permissions=everything)["permissions"] == everything
    assert server.new_key(tenant.id, permissions=[])["permissions"] == []
    secrets = {server.new_key(tenant.id)["key_secret"] for _ in range(5)}
    assert len(secrets) == 5


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"permissions": ["reservations:destroy"]}, "permissions[0]: must be one of"),
        ({"permissions": "balances:read"}, "permissions: must be an array"),
        ({"permissions": [5]}, "permissions[0]: "),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at: must lie in the future"),
        ({"expires_at": "tomorrow"}, "expires_at: 'tomorrow' is not a date-time"),
        ({"expires_at": "2100-01-01T00:00:00"}, "expires_at: "),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at: "),
        ({"scope_filter": "agent:*"}, "scope_filter: must be an array"),
        ({"scope_filter": ["a\0"]}, "scope_filter[0]: "),
        ({"scope_filter": ["agent:*", "foo"]}, "scope_filter[1]: segment 'foo' must be kind:value"),
        ({"scope_filter": ["tenant:other/agent:x"]}, "scope_filter[0]: must start with tenant:"),
        ({"name": ""}, "name: must not be blank"),
        ({"name": "x" * 257}, "name: must be at most 256 characters"),
        ({"description": "x" * 1_025}, "description: must be at most 1024"),
        ({"metadata": [1]}, "metadata: must be a JSON object"),
        ({"key_secret": "mine"}, "key_secret: unknown field"),
    ],
    ids=str,
)
def test_bad_keys(server: Server, tenant: Tenant, fields: Json, said: str) -> None:
    """400, with the field and its limit."""
    refused = server.admin("POST", KEYS, {"tenant_id": tenant.id, "name": "k"} | fields)
    assert error(refused) == BAD
    assert said in refused.json()["message"]


def test_revoking_is_final(server: Server, tenant: Tenant) -> None:
    """A second time is 409 KEY_REVOKED, an unknown key 404, a long reason 400."""
    path = f"{KEYS}/{server.new_key(tenant.id)['key_id']}"
    assert error(server.admin("DELETE", path, params={"reason": "x" * 513})) == BAD
    first = server.admin("DELETE", path, params={"reason": "x" * 512})
    assert first.json()["revoked_at"] >= first.json()["created_at"]
    assert error(server.admin("DELETE", path)) == (409, "KEY_REVOKED")
    for unknown in ("key_unknown", "x" * 500, "%00"):
        assert error(server.admin("DELETE", f"{KEYS}/{unknown}")) == (404, "NOT_FOUND")


# Budgets.


def create(tenant: Tenant, **fields: Any) -> Response:
    body = {"scope": tenant.scope, "unit": "TOKENS", "allocated": amount(10)}
    body |= {"tenant_id": tenant.id} | fields
    return tenant.server.admin("POST", BUDGETS, body)


def test_a_budget_with_every_field(tenant: Tenant) -> None:
    """All of it is stored and shown, by create, lookup, list and the admin form of balances."""
    sent = {
        "scope": tenant.path("workspace:w/agent:bot"),
        "unit": "CREDITS",
        "allocated": amount(100, "CREDITS"),
        "overdraft_limit": amount(20, "CREDITS"),
        "commit_overage_policy": "ALLOW_WITH_OVERDRAFT",
        "rollover_policy": "CARRY_FORWARD",
        "period_start": "2026-01-01T00:00:00.000Z",
        "period_end": "2027-01-01T00:00:00.000Z",
    }
    created = create(tenant, **sent, metadata={"cost_center": [1, None]})
    assert created.status_code == 201
    row = created.json()
    assert {name: row[name] for name in sent} == sent
    zero = amount(0, "CREDITS")
    assert {name: row[name] for name in ("spent", "reserved", "debt")} == dict.fromkeys(
        ("spent", "reserved", "debt"), zero
    )
    assert (row["remaining"], row["is_over_limit"]) == (sent["allocated"], False)
    assert (row["status"], row["tenant_id"]) == ("ACTIVE", tenant.id)
    assert row["scope_path"] == sent["scope"]
    assert tenant.ledger("workspace:w/agent:bot", "CREDITS") == row
    assert tenant.get(BUDGETS).json()["ledgers"] == [row]
    assert tenant.get("/v1/balances", unit="CREDITS").json()["balances"] == [row]


def test_the_same_budget_twice(tenant: Tenant) -> None:
    """A scope in a unit is there once, in whatever letters; another unit is another budget."""
    tenant.budget(10, "agent:bot")
    assert error(create(tenant, scope=tenant.path("agent:bot"))) == DUPLICATE
    assert error(create(tenant, scope=tenant.path("agent:BOT"))) == DUPLICATE
    assert tenant.state("agent:bot")["remaining"] == 10
    tenant.budget(10, "agent:bot", "CREDITS")


GOOD_SCOPES = [
    "",
    "agent:b",
    "workspace:a.b_c-d",
    "app:1",
    "workspace:w/toolset:t",
    "agent:" + "x" * 128,
]
BAD_SCOPES = [
    "",
    "agent:bot",
    "tenant:",
    "tenant:other",
    "tenant:@-corp",
    "tenant:@/",
    "/tenant:@",
    "tenant:@//agent:a",
    "tenant:@/agent",
    "tenant:@/agent:",
    "tenant:@/agent:a b",
    "tenant:@/agent:-a",
    "tenant:@/agent:a.",
    "tenant:@/agent:ä",
    "tenant:@/agent:*",
    "tenant:@/robot:a",
    "tenant:@/Agent:a",
    "tenant:@/agent:a/workspace:w",
    "tenant:@/agent:a/agent:b",
    "tenant:@/tenant:@",
    "tenant:@/agent:" + "x" * 129,
    "tenant:@/agent:a:b",
    "tenant:@ ",
    "tenant:@\n",
]


def test_scope_grammar(tenant: Tenant) -> None:
    """A scope begins with its tenant, keeps the order of levels, repeats none (2.3)."""
    for below in GOOD_SCOPES:
        assert create(tenant, scope=tenant.path(below)).status_code == 201, below
    for scope in BAD_SCOPES:
        refused = create(tenant, scope=scope.replace("@", tenant.id))
        assert error(refused) == BAD, scope
        assert refused.json()["message"].startswith("scope: "), scope


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"allocated": amount(1, "CREDITS")}, "UNIT_MISMATCH", "allocated.unit"),
        ({"overdraft_limit": amount(1, "CREDITS")}, "UNIT_MISMATCH", "overdraft_limit.unit"),
        ({"allocated": amount(-1)}, "INVALID_REQUEST", "allocated.amount: "),
        ({"allocated": 5}, "INVALID_REQUEST", "allocated: must be a JSON object"),
        ({"overdraft_limit": amount(2**63)}, "INVALID_REQUEST", "overdraft_limit.amount: "),
        ({"unit": "EUR"}, "INVALID_REQUEST", "unit: must be one of"),
        ({"commit_overage_policy": "NO"}, "INVALID_REQUEST", "commit_overage_policy: must be"),
        ({"rollover_policy": "ALL"}, "INVALID_REQUEST", "rollover_policy: must be one of"),
        ({"period_start": "now"}, "INVALID_REQUEST", "period_start: "),
        ({"period_start": "0001-01-01T00:00:00+01:00"}, "INVALID_REQUEST", "period_start: "),
        (
            {"period_start": "2026-01-02T00:00:00Z", "period_end": "2026-01-01T00:00:00Z"},
            "INVALID_REQUEST",
            "period_end: must be later than period_start",
        ),
        ({"status": "FROZEN"}, "INVALID_REQUEST", "status: unknown field"),
        ({"scope": None}, "INVALID_REQUEST", "scope: "),
        ({"metadata": "x"}, "INVALID_REQUEST", "metadata: must be a JSON object"),
    ],
    ids=str,
)
def test_bad_budgets(tenant: Tenant, fields: Json, code: str, said: str) -> None:
    """400, with the field; and nothing is created."""
    refused = create(tenant, **fields)
    assert error(refused) == (400, code)
    assert said in refused.json()["message"]
    assert tenant.get(BUDGETS).json()["ledgers"] == []


@pytest.fixture(scope="module")
def portfolio(server: Server) -> Tenant:
    """Budgets that differ in everything a list filters and sorts by."""
    tenant = server.tenant()
    tenant.budget(0).budget(100, "agent:a", limit=50).budget(100, "agent:b")
    tenant.budget(100, "agent:c", "CREDITS", commit_overage_policy="REJECT").budget(4, "app:z")
    assert tenant.turn("freeze", "agent:c", "CREDITS").status_code == 200
    # Spend is written, because the tenant's own budget of 0 would cap every charge below it.
    where = "WHERE tenant = ? AND scope = ?"
    for below, spent, debt, over in (
        ("agent:a", 100, 30, 0),
        ("agent:b", 25, 0, 1),
        ("app:z", 2, 0, 0),
    ):
        server.sql(
            f"UPDATE budget SET spent = ?, debt = ?, is_over_limit = ?, "
            f"remaining = allocated - ? - ? {where}",
            *(spent, debt, over, spent, debt, tenant.id, tenant.path(below)),
        )
    return tenant


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"sort_by": "scope", "sort_dir": "asc"}, ["", "a", "b", "c", "z"]),
        ({}, ["a", "z", "b", "", "c"]),
        ({"sort_by": "utilization"}, ["a", "z", "b", "", "c"]),
        ({"sort_by": "utilization", "sort_dir": "asc"}, ["", "c", "b", "z", "a"]),
        ({"sort_by": "debt"}, ["a", "", "b", "c", "z"]),
        ({"sort_by": "unit", "sort_dir": "asc"}, ["c", "", "a", "b", "z"]),
        ({"sort_by": "status"}, ["c", "", "a", "b", "z"]),
        ({"sort_by": "tenant_id"}, ["", "a", "b", "c", "z"]),
        ({"sort_by": "commit_overage_policy"}, ["c", "", "a", "b", "z"]),
        ({"unit": "CREDITS"}, ["c"]),
        ({"status": "FROZEN"}, ["c"]),
        ({"status": "CLOSED"}, []),
        ({"over_limit": "true"}, ["b"]),
        ({"over_limit": "FALSE", "unit": "TOKENS"}, ["a", "z", ""]),
        ({"has_debt": "true"}, ["a"]),
        ({"has_debt": "false", "sort_by": "scope"}, ["z", "c", "b", ""]),
        ({"utilization_min": "0.25"}, ["a", "z", "b"]),
        ({"utilization_max": "0.25", "utilization_min": "0.25"}, ["b"]),
        ({"utilization_min": "0.250001", "utilization_max": "1"}, ["a", "z"]),
        ({"utilization_max": "0"}, ["", "c"]),
        ({"search": "AGENT:"}, ["a", "b", "c"]),
        ({"search": "nothing"}, []),
        (
            {"has_debt": "", "over_limit": "", "utilization_min": "", "unit": ""},
            ["a", "z", "b", "", "c"],
        ),
    ],
    ids=str,
)
def test_lists_of_budgets(portfolio: Tenant, query: Json, expected: list[str]) -> None:
    """Each filter and each order, by tenant and by operator, page by page."""
    below = {"": "", "a": "agent:a", "b": "agent:b", "c": "agent:c", "z": "app:z"}
    scopes = [portfolio.path(below[name]) for name in expected]
    for whose in (portfolio.get, operators(portfolio)):
        rows = whose(BUDGETS, **query).json()["ledgers"]
        found = [row["scope"] for row in rows]
        assert found == scopes
        cut: list[str] = []
        more: Json = {"limit": 2, **query}
        while True:
            page = whose(BUDGETS, **more).json()
            cut += [row["scope"] for row in page["ledgers"]]
            if not page.get("has_more"):
                break
            more["cursor"] = page["next_cursor"]
        assert cut == found


def operators(tenant: Tenant) -> Callable[..., Response]:
    """Return a `get` as the operator who asks for this tenant."""

    def get(path: str, **query: Any) -> Response:
        return tenant.server.admin("GET", path, params={"tenant_id": tenant.id} | query)

    return get


def test_scope_prefix_is_by_whole_segments(portfolio: Tenant) -> None:
    """A prefix is a path with everything under it, in any case; `agent:a` is not `agent:ab`."""
    tenant = portfolio.server.tenant()
    for below in ("", "workspace:w", "workspace:w/agent:a", "workspace:w2"):
        tenant.budget(1, below)
    query = {"scope_prefix": tenant.path("workspace:W"), "sort_by": "scope", "sort_dir": "asc"}
    rows = tenant.get(BUDGETS, **query).json()["ledgers"]
    below = [tenant.path("workspace:w"), tenant.path("workspace:w/agent:a")]
    assert [row["scope"] for row in rows] == below


@pytest.mark.parametrize(
    "query",
    [
        {"utilization_min": "0.6", "utilization_max": "0.5"},
        {"utilization_min": "-0.1"},
        {"utilization_min": "nan"},
        {"utilization_max": "1.1"},
        {"utilization_max": "half"},
        {"over_limit": "yes"},
        {"has_debt": "1"},
        {"unit": "EUR"},
    ],
    ids=str,
)
def test_bad_budget_filters(portfolio: Tenant, query: Json) -> None:
    """Case 53 for budgets: what makes no sense is 400 and named."""
    refused = portfolio.get(BUDGETS, **query)
    assert error(refused) == BAD
    assert refused.json()["message"].startswith(f"{next(iter(query))}: ")


def test_lookup(tenant: Tenant) -> None:
    """An exact match of scope and unit; unknown is 404, missing and malformed names are 400."""
    tenant.budget(10, "agent:bot")
    path = f"{BUDGETS}/lookup"
    query = {"scope": tenant.path("agent:BOT"), "unit": "TOKENS"}
    assert tenant.get(path, **query).json() == tenant.ledger("agent:bot")
    unknown = (404, "BUDGET_NOT_FOUND")
    assert error(tenant.get(path, **(query | {"unit": "CREDITS"}))) == unknown
    assert error(tenant.get(path, **(query | {"scope": tenant.scope}))) == unknown
    for change, said in (
        ({"scope": ""}, "scope: "),
        ({"unit": ""}, "unit: "),
        ({"unit": "tokens"}, "unit: "),
        ({"scope": tenant.path("robot:x")}, "scope: "),
    ):
        refused = tenant.get(path, **(query | change))
        assert error(refused) == BAD
        assert refused.json()["message"].startswith(said)
    foreign = query | {"scope": "tenant:somebody-else"}
    assert error(tenant.get(path, **foreign)) == (403, "FORBIDDEN")
    assert error(tenant.server.admin("GET", path, params=foreign)) == unknown


def test_freezing(tenant: Tenant) -> None:
    """Case 67: freezing twice, unfreezing what is active and funding what is frozen are 409."""
    tenant.budget(10)
    frozen = tenant.turn("freeze", body={"reason": "audit", "metadata": {"ticket": 5}})
    assert (frozen.status_code, frozen.json()["status"]) == (200, "FROZEN")
    assert tenant.ledger() == frozen.json()
    again = tenant.turn("freeze")
    assert error(again) == (409, "INVALID_REQUEST")
    assert "already frozen" in again.json()["message"]
    for operation in ("CREDIT", "DEBIT", "RESET", "RESET_SPENT", "REPAY_DEBT"):
        assert error(tenant.fund(operation, 1)) == (409, "BUDGET_FROZEN")
    thawed = tenant.turn("unfreeze")
    assert (thawed.status_code, thawed.json()["status"]) == (200, "ACTIVE")
    again = tenant.turn("unfreeze")
    assert error(again) == (409, "INVALID_REQUEST")
    assert "already active" in again.json()["message"]
    assert error(tenant.turn("freeze", "agent:none")) == (404, "BUDGET_NOT_FOUND")
    for body, said in (
        ({"reason": "x" * 513}, "reason: "),
        ({"because": 1}, "because: unknown field"),
        ([], "the body must be a JSON object"),
    ):
        refused = tenant.turn("freeze", body=body)
        assert error(refused) == BAD
        assert said in refused.json()["message"]
    assert tenant.ledger()["status"] == "ACTIVE"
