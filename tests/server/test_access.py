"""Who may do what: every operation against every kind of credential, and tenants kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bursar.server.auth import Access
from bursar.server.routes import ROUTES
from bursar.vocabulary import Permission
from server.world import ACTION, Response, Server, Tenant, amount, error, fresh

UNAUTHORIZED = (401, "UNAUTHORIZED")
FORBIDDEN = (403, "FORBIDDEN")
LACKING = (403, "INSUFFICIENT_PERMISSIONS")
NOT_FOUND = (404, "NOT_FOUND")
BOT = "agent:bot"

Keys = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One operation: how to call it, what a key needs, and what other tenants get."""

    operation: str
    method: str
    path: str
    body: Callable[[Tenant], Any]
    permission: str | None
    foreign: tuple[int, str] | None  # another tenant's good key; None: it is let in
    access: str = "tenant"
    good: int = 200

    @property
    def lacking(self) -> tuple[int, str]:
        return LACKING if self.path.startswith("/v1/admin") else FORBIDDEN


def nothing(tenant: Tenant) -> None:
    return None


def ask(tenant: Tenant) -> Any:
    return tenant.ask(1, BOT)


def debit(tenant: Tenant) -> Any:
    return {
        "idempotency_key": fresh("k"),
        "subject": tenant.subject(BOT),
        "action": ACTION,
        "actual": amount(1),
    }


def settle(**fields: Any) -> Callable[[Tenant], Any]:
    return lambda tenant: {"idempotency_key": fresh("k")} | fields


def empty(tenant: Tenant) -> Any:
    return {}


def new_budget(tenant: Tenant) -> Any:
    scope = tenant.path(f"{BOT}/toolset:{fresh('x')}")
    return {"scope": scope, "unit": "TOKENS", "allocated": amount(1)}


def credit(tenant: Tenant) -> Any:
    return {"operation": "CREDIT", "amount": amount(1), "idempotency_key": fresh("k")}


def bulk(action: str) -> Callable[[Tenant], Any]:
    def body(tenant: Tenant) -> Any:
        asked: dict[str, Any] = {"filter": {"tenant_id": tenant.id}, "amount": amount(0)}
        if action == "SUSPEND":
            asked = {"filter": {"search": "no tenant is called so"}}
        return asked | {"action": action, "idempotency_key": fresh("k")}

    return body


NAMED = "?scope={scope}&unit=TOKENS&tenant_id={tenant}"
HELD = "/v1/reservations/{held}"
BUDGETS = "/v1/admin/budgets"
MATRIX = [
    Row("createReservation", "POST", "/v1/reservations", ask, "reservations:create", FORBIDDEN),
    Row("decide", "POST", "/v1/decide", ask, "reservations:create", FORBIDDEN),
    Row("createEvent", "POST", "/v1/events", debit, "reservations:create", FORBIDDEN, good=201),
    Row(
        *("commitReservation", "POST", f"{HELD}/commit", settle(actual=amount(1))),
        *("reservations:commit", FORBIDDEN),
    ),
    Row(
        *("releaseReservation", "POST", f"{HELD}/release", settle()),
        *("reservations:release", FORBIDDEN, "either"),
    ),
    Row(
        *("extendReservation", "POST", f"{HELD}/extend", settle(extend_by_ms=1_000)),
        *("reservations:extend", FORBIDDEN),
    ),
    Row("getReservation", "GET", HELD, nothing, "reservations:list", FORBIDDEN, "either"),
    Row(
        *("listReservations", "GET", "/v1/reservations?tenant={tenant}", nothing),
        *("reservations:list", FORBIDDEN, "either"),
    ),
    Row("getBalances", "GET", "/v1/balances?tenant={tenant}", nothing, "balances:read", FORBIDDEN),
    Row(
        *("createBudget", "POST", BUDGETS, new_budget, "budgets:write"),
        *((400, "INVALID_REQUEST"), "either", 201),
    ),
    Row("listBudgets", "GET", BUDGETS, nothing, "budgets:read", None, "either"),
    Row(
        *("lookupBudget", "GET", f"{BUDGETS}/lookup{NAMED}", nothing, "budgets:read"),
        *(FORBIDDEN, "either"),
    ),
    Row(
        *("fundBudget", "POST", f"{BUDGETS}/fund{NAMED}", credit, "budgets:write"),
        *(FORBIDDEN, "either"),
    ),
    Row(
        *("freezeBudget", "POST", f"{BUDGETS}/freeze{NAMED}", nothing, None),
        *(UNAUTHORIZED, "operator"),
    ),
    Row(
        *("unfreezeBudget", "POST", f"{BUDGETS}/unfreeze{NAMED}", nothing, None),
        *(UNAUTHORIZED, "operator"),
    ),
    Row(
        *(
            "createTenant",
            "POST",
            "/v1/admin/tenants",
            lambda t: {"tenant_id": t.id, "name": t.id.upper()},
        ),
        *(None, UNAUTHORIZED, "operator"),
    ),
    Row("listTenants", "GET", "/v1/admin/tenants", nothing, None, UNAUTHORIZED, "operator"),
    Row(
        *("getTenant", "GET", "/v1/admin/tenants/{tenant}", nothing, None),
        *(UNAUTHORIZED, "operator"),
    ),
    Row(
        *("createApiKey", "POST", "/v1/admin/api-keys", lambda t: {"tenant_id": t.id, "name": "k"}),
        *(None, UNAUTHORIZED, "operator", 201),
    ),
    Row(
        *("revokeApiKey", "DELETE", "/v1/admin/api-keys/{key_id}", nothing),
        *(None, UNAUTHORIZED, "operator"),
    ),
    Row(
        *("updateTenant", "PATCH", "/v1/admin/tenants/{tenant}", empty, None),
        *(UNAUTHORIZED, "operator"),
    ),
    Row(
        *("bulkActionTenants", "POST", "/v1/admin/tenants/bulk-action", bulk("SUSPEND")),
        *(None, UNAUTHORIZED, "operator"),
    ),
    Row(
        *("bulkActionBudgets", "POST", f"{BUDGETS}/bulk-action"),
        *(bulk("CREDIT"), None, UNAUTHORIZED, "operator"),
    ),
    Row("updateBudget", "PATCH", f"{BUDGETS}{NAMED}", empty, None, UNAUTHORIZED, "operator"),
    Row("listApiKeys", "GET", "/v1/admin/api-keys", nothing, None, UNAUTHORIZED, "operator"),
    Row(
        *("updateApiKey", "PATCH", "/v1/admin/api-keys/{key_id}", empty, None),
        *(UNAUTHORIZED, "operator"),
    ),
    Row(
        *("validateApiKey", "POST", "/v1/auth/validate", lambda t: {"key_secret": t.secret}),
        *(None, UNAUTHORIZED, "operator"),
    ),
    Row("introspectAuth", "GET", "/v1/auth/introspect", nothing, None, None, "either"),
]


@pytest.fixture(scope="module")
def owner(server: Server) -> Tenant:
    return server.tenant().budget(10**9).budget(10**9, BOT)


@pytest.fixture(scope="module")
def keys(server: Server, owner: Tenant) -> Keys:
    """One key of each kind; the garbage is of the right form."""
    revoked, expired = server.new_key(owner.id), server.new_key(owner.id)
    assert server.admin("DELETE", f"/v1/admin/api-keys/{revoked['key_id']}").status_code == 200
    server.sql("UPDATE api_key SET expires_at_ms = 1 WHERE key_id = ?", expired["key_id"])
    return {
        "garbage": "cyc_live_" + "x" * 43,
        "blank": "",
        "revoked": revoked["key_secret"],
        "expired": expired["key_secret"],
        "foreign": server.tenant().secret,
        "outside": server.key(owner.id, scope_filter=["agent:other"]),
        "inside": server.key(owner.id, scope_filter=["workspace:eng", BOT]),
        "none": server.key(owner.id, permissions=[]),
        **{
            permission.value: server.key(owner.id, permissions=[permission.value])
            for permission in Permission
        },
    }


def send(row: Row, tenant: Tenant, headers: dict[str, str], *, operator: bool = False) -> Response:
    """Call an operation on something of its own, so that calls do not meet."""
    path = row.path
    if "{held}" in path:
        path = path.replace("{held}", tenant.hold(1, BOT))
    if "{key_id}" in path:
        path = path.replace("{key_id}", tenant.server.new_key(tenant.id)["key_id"])
    path = path.format(tenant=tenant.id, scope=tenant.path(BOT))
    body = row.body(tenant)
    if operator and row.operation == "createBudget":
        body |= {"tenant_id": tenant.id}
    return tenant.server.call(row.method, path, body, headers=headers)


def api_key(secret: str) -> dict[str, str]:
    return {"X-Cycles-API-Key": secret}


rows = pytest.mark.parametrize("row", MATRIX, ids=lambda row: row.operation)


# Who may manage policies depends on their patterns; test_policies walks these.
POLICIES = {"createPolicy", "listPolicies", "updatePolicy"}


def test_the_matrix_is_complete() -> None:
    """Every route of the server is a row, with the same access."""
    assert sorted((row.operation, Access(row.access)) for row in MATRIX) == sorted(
        (route.operation_id, route.access) for route in ROUTES if route.operation_id not in POLICIES
    )


@rows
@pytest.mark.parametrize("kind", ["no credential", "garbage", "blank", "revoked", "expired"])
def test_without_a_good_credential(owner: Tenant, keys: Keys, row: Row, kind: str) -> None:
    """Case 58: 401 for every reason, with the ids in headers and body (the client checks them)."""
    headers = {} if kind == "no credential" else api_key(keys[kind])
    before = owner.state(BOT)["spent"]
    assert error(send(row, owner, headers)) == UNAUTHORIZED
    assert owner.state(BOT)["spent"] == before


@rows
def test_another_tenants_key(owner: Tenant, keys: Keys, row: Row) -> None:
    """Nothing of another tenant can be reached, and naming it is refused."""
    response = send(row, owner, api_key(keys["foreign"]))
    if row.foreign is not None:
        assert error(response) == row.foreign
        return
    assert response.status_code == 200
    assert owner.id not in response.text


@rows
def test_the_permission_is_what_counts(owner: Tenant, keys: Keys, row: Row) -> None:
    """A key with exactly the permission is let in; one without, or with only its twin, is not."""
    if row.permission is None:
        for kind in ("admin:read", "admin:write", "budgets:write"):
            expected = 401 if row.access == "operator" else row.good
            assert send(row, owner, api_key(keys[kind])).status_code == expected
        return
    assert send(row, owner, api_key(keys[row.permission])).status_code == row.good
    wildcard = "admin:read" if row.method == "GET" else "admin:write"
    other = "admin:write" if row.method == "GET" else "admin:read"
    assert send(row, owner, api_key(keys[wildcard])).status_code == row.good
    for kind in ("none", other, "webhooks:read", "policies:write"):
        refused = send(row, owner, api_key(keys[kind]))
        assert error(refused) == row.lacking
        assert row.permission in refused.json()["message"]


@rows
def test_the_scope_filter_is_what_counts(owner: Tenant, keys: Keys, row: Row) -> None:
    """Outside its filter a key gets 403, and lists leave out what lies there."""
    if row.access == "operator":
        return
    inside, outside = (send(row, owner, api_key(keys[kind])) for kind in ("inside", "outside"))
    assert inside.status_code == row.good
    if row.operation == "introspectAuth":
        assert outside.json()["scope_filter"] == ["agent:other"]
    elif row.operation in ("listReservations", "getBalances", "listBudgets"):
        [shown] = [rows for rows in inside.json().values() if isinstance(rows, list)]
        [hidden] = [rows for rows in outside.json().values() if isinstance(rows, list)]
        assert {BOT in shown_row["scope_path"] for shown_row in shown} == {True}
        assert hidden == []
    else:
        assert error(outside) == FORBIDDEN
        assert "agent:other" in outside.json()["message"]


@rows
def test_the_operator(owner: Tenant, row: Row) -> None:
    """Case 51: the admin key acts where it may, and where it may not it is ignored: 401."""
    tenant = owner.server.tenant().budget(1_000).budget(1_000, BOT)
    if row.operation == "unfreezeBudget":
        assert tenant.turn("freeze", BOT).status_code == 200
    headers = owner.server.operator
    response = send(row, tenant, headers, operator=True)
    if row.access == "tenant":
        assert error(response) == UNAUTHORIZED
        assert send(row, tenant, headers | api_key(tenant.secret)).status_code == row.good
    else:
        assert response.status_code == row.good
        assert "x-cycles-tenant" not in response.headers


@rows
def test_a_wrong_admin_key_decides_alone(owner: Tenant, row: Row) -> None:
    """Case 50: where the operator may act, a wrong admin key is 401 even beside a good API key."""
    for wrong in ("x" * 32, "", owner.server.admin_key[:-1], owner.server.admin_key + "x"):
        headers = {"X-Admin-API-Key": wrong} | api_key(owner.secret)
        response = send(row, owner, headers)
        if row.access == "tenant":
            assert response.status_code == row.good
        else:
            assert error(response) == UNAUTHORIZED


def test_the_log_says_who_it_was(server: Server) -> None:
    """Case 52: an operator's release is an entry on behalf of the tenant; a replay adds none."""
    tenant = server.tenant().budget(100)
    first, second = tenant.hold(1), tenant.hold(1)
    key = {"idempotency_key": fresh("k")}
    assert tenant.admin_release(first, **key).status_code == 200
    assert tenant.release(second).status_code == 200
    before = server.entries("verb, actor, key_id IS NOT NULL", tenant.id)
    assert before[-4:] == [
        ("Reserve", "api_key", 1),
        ("Reserve", "api_key", 1),
        ("Release", "admin_on_behalf_of", 0),
        ("Release", "api_key", 1),
    ]
    assert tenant.admin_release(first, **key).status_code == 200
    assert tenant.release(first).status_code == 409
    assert tenant.reserve(101).status_code == 409
    assert server.entries("verb, actor, key_id IS NOT NULL", tenant.id) == before


def test_the_operator_has_to_name_a_tenant(owner: Tenant) -> None:
    """Case 50: an operator's list without a tenant is 400, and so are its fund and its create."""
    admin = owner.server.admin
    refused = admin("GET", "/v1/reservations")
    assert error(refused) == (400, "INVALID_REQUEST")
    message = "tenant query parameter is required when using admin key authentication"
    assert refused.json()["message"] == message
    query = {"scope": owner.scope, "unit": "TOKENS"}
    refused = admin("POST", f"{BUDGETS}/fund", credit(owner), params=query)
    assert error(refused) == (400, "INVALID_REQUEST")
    assert "tenant_id" in refused.json()["message"]
    refused = admin("POST", BUDGETS, new_budget(owner))
    assert error(refused) == (400, "INVALID_REQUEST")
    assert "tenant_id" in refused.json()["message"]
    refused = owner.call("POST", BUDGETS, new_budget(owner) | {"tenant_id": owner.id})
    assert error(refused) == (400, "INVALID_REQUEST")


def test_unknown_is_404_and_foreign_is_403(owner: Tenant) -> None:
    """Case 18: 129 characters are 400, 128 unknown ones 404, another tenant's 403."""
    other = owner.server.tenant()
    held = owner.hold(1)
    expected = {
        "x" * 129: (400, "INVALID_REQUEST"),
        "x" * 128: NOT_FOUND,
        held: FORBIDDEN,
    }
    for identity, refusal in expected.items():
        assert error(other.commit(identity, 1)) == refusal
        assert error(other.release(identity)) == refusal
        assert error(other.extend(identity)) == refusal
        assert error(other.reservation(identity)) == refusal
    admin = owner.server.admin
    assert error(admin("GET", f"/v1/reservations/{'x' * 129}")) == (400, "INVALID_REQUEST")
    assert error(admin("GET", "/v1/reservations/unknown")) == NOT_FOUND
    assert error(owner.admin_release("unknown")) == NOT_FOUND


def test_a_subjects_tenant_is_compared_exactly(owner: Tenant) -> None:
    """A tenant in other letters is another tenant: 403, before any budget is looked at."""
    body = owner.ask(1) | {"subject": {"tenant": owner.id.upper()}}
    for path in ("/v1/reservations", "/v1/decide"):
        assert error(owner.call("POST", path, body)) == FORBIDDEN
    assert error(owner.debit(1, subject={"tenant": owner.id + "-corp"})) == FORBIDDEN


def test_tenants_with_like_names(server: Server) -> None:
    """Case 40: `acme` never sees a row of `acme-corp`, and `?tenant=Acme` is 403."""
    name = fresh("acme")
    acme = server.tenant(name).budget(10).budget(10, BOT)
    corp = server.tenant(f"{name}-corp").budget(10).budget(10, BOT)
    held = acme.hold(1, BOT)
    corp.hold(1, BOT)
    assert acme.listed() == acme.listed(agent="bot") == acme.listed(tenant=name) == [held]
    paths = {row["scope_path"] for row in acme.balances()}
    assert paths == {acme.scope, acme.path(BOT)}
    rows = acme.get(BUDGETS, scope_prefix=acme.scope, tenant_id=corp.id).json()["ledgers"]
    assert {row["scope"] for row in rows} == paths
    rows = acme.get("/v1/balances", scope_prefix=acme.scope).json()["balances"]
    assert {row["scope"] for row in rows} == paths
    rows = server.admin("GET", BUDGETS, params={"scope_prefix": acme.scope}).json()["ledgers"]
    assert {row["scope"] for row in rows} == paths
    for path in ("/v1/reservations", "/v1/balances"):
        for tenant in (name.upper(), corp.id):
            assert error(acme.get(path, tenant=tenant)) == FORBIDDEN


def test_a_key_is_refused_as_soon_as_it_is_revoked(server: Server) -> None:
    """The authenticator remembers good keys, but not beyond their revocation."""
    tenant = server.tenant().budget(10)
    key = server.new_key(tenant.id)
    mine = tenant.with_key(key["key_secret"])
    assert mine.reserve(1).status_code == 200
    query = {"reason": "leaked"}
    response = server.admin("DELETE", f"/v1/admin/api-keys/{key['key_id']}", params=query)
    assert response.status_code == 200
    assert error(mine.reserve(1)) == UNAUTHORIZED
    assert tenant.reserve(1).status_code == 200


TENANT_ONLY_FALSE = (
    *("view_tenants", "view_api_keys", "view_audit", "view_overview"),
    *("manage_tenants", "manage_api_keys"),
)
CAPABILITIES: dict[str, set[str]] = {
    "budgets:read": {"view_budgets"},
    "admin:budgets:read": {"view_budgets"},
    "budgets:write": {"manage_budgets"},
    "admin:budgets:write": {"manage_budgets"},
    "policies:read": {"view_policies"},
    "admin:policies:read": {"view_policies"},
    "policies:write": {"manage_policies"},
    "admin:policies:write": {"manage_policies"},
    "webhooks:read": {"view_webhooks"},
    "admin:webhooks:read": {"view_webhooks"},
    "webhooks:write": {"manage_webhooks"},
    "admin:webhooks:write": {"manage_webhooks"},
    "events:read": {"view_events"},
    "admin:events:read": {"view_events"},
    "reservations:list": {"view_reservations"},
    **{
        f"reservations:{verb}": {"view_reservations", "manage_reservations"}
        for verb in ("create", "commit", "release", "extend")
    },
    "admin:read": {f"view_{what}" for what in ("budgets", "policies", "webhooks", "events")}
    | {"view_reservations"},
    "admin:write": {f"manage_{what}" for what in ("budgets", "policies", "webhooks")}
    | {"manage_reservations"},
    "none": set(),
}
SILENT = ("balances:read", "admin:tenants:read", "admin:tenants:write", "admin:apikeys:read")
SILENT += ("admin:apikeys:write", "admin:audit:read")


@pytest.mark.parametrize("held", [*CAPABILITIES, *SILENT])
def test_capabilities_of_a_tenant(owner: Tenant, keys: Keys, held: str) -> None:
    """Case 75: fifteen flags by permission, six of them false whatever a tenant's key holds."""
    response = owner.with_key(keys[held]).get("/v1/auth/introspect")
    body = response.json()
    assert body["auth_type"] == "tenant"
    assert body["authenticated"] is True
    assert body["tenant_id"] == owner.id == response.headers["x-cycles-tenant"]
    assert body["permissions"] == ([] if held == "none" else [held])
    assert "scope_filter" not in body
    flags = body["capabilities"]
    assert len(flags) == 15
    assert {name for name, flag in flags.items() if flag} == CAPABILITIES.get(held, set())
    assert not any(flags[name] for name in TENANT_ONLY_FALSE)


def test_capabilities_of_the_operator(server: Server) -> None:
    """Everything, and no tenant."""
    body = server.admin("GET", "/v1/auth/introspect").json()
    assert body["auth_type"] == "admin"
    assert body["permissions"] == ["*"]
    assert len(body["capabilities"]) == 15
    assert set(body["capabilities"].values()) == {True}
    assert not body.keys() & {"tenant_id", "scope_filter"}
