"""Who may do what: every operation against every kind of credential, and tenants kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bursar.authority.principal import Principal, capabilities
from bursar.server.auth import Access
from bursar.server.routes import ROUTES
from bursar.vocabulary import Permission
from server.world import ACTION, Response, Server, Tenant, amount, error, fresh

UNAUTHORIZED = (401, "UNAUTHORIZED")
FORBIDDEN = (403, "FORBIDDEN")
INVALID = (400, "INVALID_REQUEST")
LACKING = (403, "INSUFFICIENT_PERMISSIONS")
NOT_FOUND = (404, "NOT_FOUND")
BOT = "agent:bot"

Keys = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One operation: how to call it, what a key needs, and what other tenants get.

    `CREDENTIALS` says what becomes of every kind of credential.
    """

    operation: str
    method: str
    path: str
    body: Callable[[Tenant], Any]
    permission: str | None
    foreign: tuple[int, str] | None  # another tenant's good key; None: it is let in
    access: str = "tenant"
    good: int = 200
    suspended: tuple[int, str] | None = None  # the key of a suspended tenant; None: all is well
    lists: bool = False

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


def new_policy(tenant: Tenant) -> Any:
    """Return a policy that says nothing, and so disturbs nobody."""
    return {"name": fresh("p"), "scope_pattern": tenant.path(BOT)}


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
BUDGETS, POLICIES = "/v1/admin/budgets", "/v1/admin/policies"
MATRIX = [
    Row(
        *("createReservation", "POST", "/v1/reservations", ask, "reservations:create", FORBIDDEN),
        suspended=FORBIDDEN,
    ),
    Row(
        *("decide", "POST", "/v1/decide", ask, "reservations:create", FORBIDDEN),
        suspended=FORBIDDEN,
    ),
    Row(
        *("createEvent", "POST", "/v1/events", debit, "reservations:create", FORBIDDEN),
        good=201,
        suspended=FORBIDDEN,
    ),
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
        lists=True,
    ),
    Row(
        *(
            "getBalances",
            "GET",
            "/v1/balances?tenant={tenant}",
            nothing,
            "balances:read",
            FORBIDDEN,
        ),
        lists=True,
    ),
    Row(
        *("createBudget", "POST", BUDGETS, new_budget, "budgets:write"),
        *(INVALID, "either", 201, INVALID),
    ),
    Row("listBudgets", "GET", BUDGETS, nothing, "budgets:read", None, "either", lists=True),
    Row("createPolicy", "POST", POLICIES, new_policy, "policies:write", INVALID, "either", 201),
    Row(
        *(
            "listPolicies",
            "GET",
            f"{POLICIES}?tenant_id={{tenant}}",
            nothing,
            "policies:read",
            None,
        ),
        *("either",),
        lists=True,
    ),
    Row(
        *("updatePolicy", "PATCH", f"{POLICIES}/{{policy_id}}", empty, "policies:write", FORBIDDEN),
        "either",
    ),
    Row(
        *("lookupBudget", "GET", f"{BUDGETS}/lookup{NAMED}", nothing, "budgets:read"),
        *(FORBIDDEN, "either"),
    ),
    Row(
        *("getBudgetPeriod", "GET", f"{BUDGETS}/period{NAMED}", nothing, "budgets:read"),
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
    Row("listAuditLogs", "GET", "/v1/admin/audit/logs", nothing, None, UNAUTHORIZED, "operator"),
    Row("getAdminOverview", "GET", "/v1/admin/overview", nothing, None, UNAUTHORIZED, "operator"),
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
        "no permission": server.key(owner.id, permissions=[]),
        "every permission": owner.secret,
        **{
            permission.value: server.key(owner.id, permissions=[permission.value])
            for permission in Permission
        },
    }


Prepared = tuple[str, str, Any]


def prepare(row: Row, tenant: Tenant) -> Prepared:
    """Return method, path and body for something of the call's own, so that calls do not meet."""
    path = row.path
    if "{held}" in path:
        path = path.replace("{held}", tenant.hold(1, BOT))
    if "{key_id}" in path:
        path = path.replace("{key_id}", tenant.server.new_key(tenant.id)["key_id"])
    if "{policy_id}" in path:
        made = tenant.call("POST", POLICIES, new_policy(tenant))
        path = path.replace("{policy_id}", made.json()["policy_id"])
    return row.method, path.format(tenant=tenant.id, scope=tenant.path(BOT)), row.body(tenant)


def named_by_the_operator(row: Row, prepared: Prepared, tenant: Tenant) -> Prepared:
    """Add what only the operator says: whose object it makes."""
    method, path, body = prepared
    if row.operation in ("createBudget", "createPolicy"):
        body = body | {"tenant_id": tenant.id}
    return method, path, body


def api_key(secret: str) -> dict[str, str]:
    return {"X-Cycles-API-Key": secret}


def test_the_matrix_is_complete() -> None:
    """Every route of the server is a row, with the same access; a new one fails until it is."""
    assert sorted((row.operation, Access(row.access)) for row in MATRIX) == sorted(
        (route.operation_id, route.access) for route in ROUTES
    )


GOOD, LIMITED, OF_FOREIGN, OF_LACKING, OF_SUSPENDED = (
    *("good", "limited", "what foreign says", "what lacking says", "what suspended says"),
)
Told = tuple[int, str] | str
CREDENTIALS: dict[str, tuple[Told, Told, Told]] = {
    # what is sent             where a tenant may act   either may      the operator may
    "nothing": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "garbage": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "blank": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "revoked": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "expired": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "of a closed tenant": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "of a suspended tenant": (OF_SUSPENDED, OF_SUSPENDED, UNAUTHORIZED),
    "foreign": (OF_FOREIGN, OF_FOREIGN, UNAUTHORIZED),
    "every permission": (GOOD, GOOD, UNAUTHORIZED),
    "the permission alone": (GOOD, GOOD, UNAUTHORIZED),
    "its older name": (GOOD, GOOD, UNAUTHORIZED),
    "the wildcard": (GOOD, GOOD, UNAUTHORIZED),
    "the other wildcard": (OF_LACKING, OF_LACKING, UNAUTHORIZED),
    "another permission": (OF_LACKING, OF_LACKING, UNAUTHORIZED),
    "no permission": (OF_LACKING, OF_LACKING, UNAUTHORIZED),
    "inside": (GOOD, GOOD, UNAUTHORIZED),
    "outside": (LIMITED, LIMITED, UNAUTHORIZED),
    "wrong admin": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "longer admin": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "blank admin": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "admin": (UNAUTHORIZED, GOOD, GOOD),
    "wrong admin and a good key": (GOOD, UNAUTHORIZED, UNAUTHORIZED),
    "admin and a good key": (GOOD, GOOD, GOOD),
    "admin and garbage": (UNAUTHORIZED, GOOD, GOOD),
    "a key sent as admin": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
    "admin sent as a key": (UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
}
COLUMNS = (Access.TENANT, Access.EITHER, Access.OPERATOR)


def expected(row: Row, kind: str) -> Told:
    """Look up what a row's operation answers to a kind of credential."""
    told = CREDENTIALS[kind][COLUMNS.index(Access(row.access))]
    if told == OF_FOREIGN:
        return row.foreign or LIMITED
    if told == OF_LACKING:
        return GOOD if row.permission is None else row.lacking
    if told == OF_SUSPENDED:
        return row.suspended or GOOD
    return told


def credential(row: Row, kind: str, keys: Keys, server: Server) -> dict[str, str]:
    """Return the headers of a kind of credential, for the permission that a row needs."""
    admin, looks = server.admin_key, row.method == "GET"
    sent_as_admin = {
        "wrong admin": "x" * 32,
        "longer admin": admin + "x",
        "blank admin": "",
        "admin": admin,
        "wrong admin and a good key": admin[:-1],
        "admin and a good key": admin,
        "admin and garbage": admin,
        "a key sent as admin": keys["every permission"],
    }
    older = f"admin:{row.permission}"
    sent_as_key = {
        "the permission alone": keys[row.permission or "no permission"],
        "its older name": keys[older if older in keys else row.permission or "no permission"],
        "the wildcard": keys["admin:read" if looks else "admin:write"],
        "the other wildcard": keys["admin:write" if looks else "admin:read"],
        "another permission": keys["webhooks:read"],
        "wrong admin and a good key": keys["every permission"],
        "admin and a good key": keys["every permission"],
        "admin and garbage": keys["garbage"],
        "admin sent as a key": admin,
    } | {name: keys[name] for name in keys if name in CREDENTIALS}
    headers = {"X-Admin-API-Key": sent_as_admin[kind]} if kind in sent_as_admin else {}
    return headers | (api_key(sent_as_key[kind]) if kind in sent_as_key else {})


@pytest.mark.parametrize("kind", CREDENTIALS)
@pytest.mark.parametrize("row", MATRIX, ids=lambda row: row.operation)
def test_every_route_with_every_credential(owner: Tenant, keys: Keys, row: Row, kind: str) -> None:
    """Cases 50, 51, 58: status and code for every pair, and what is refused changes nothing."""
    server, told = owner.server, expected(row, kind)
    tenant = owner
    if kind.startswith("of a ") or (told == GOOD and row.operation.endswith("freezeBudget")):
        tenant = server.tenant().budget(10**6).budget(10**6, BOT)
        keys = keys | {kind: tenant.secret}
    prepared = prepare(row, tenant)
    if tenant is not owner and row.operation == "unfreezeBudget":
        assert tenant.turn("freeze", BOT).status_code == 200
    if kind.startswith("of a "):
        body = {"status": kind.split()[2].upper()}
        patched = server.admin("PATCH", f"/v1/admin/tenants/{tenant.id}", body)
        assert patched.status_code == 200
    before = tenant.ledger(BOT)
    headers = credential(row, kind, keys, server)
    operator = row.access != "tenant" and headers.get("X-Admin-API-Key") == server.admin_key
    if operator:
        prepared = named_by_the_operator(row, prepared, tenant)
    response = server.call(*prepared, headers=headers)
    if told == GOOD:
        assert response.status_code == row.good, response.text
        assert response.headers.get("x-cycles-tenant") == (None if operator else tenant.id)
    elif told == LIMITED:
        assert_limited(row, response, tenant)
    else:
        assert error(response) == told
        assert tenant.ledger(BOT) == before
        if told == row.lacking and CREDENTIALS[kind][0] == OF_LACKING:
            assert str(row.permission) in response.json()["message"]


def assert_limited(row: Row, response: Response, tenant: Tenant) -> None:
    """Check that a key which reaches nothing of a tenant's gets nothing of it."""
    if row.lists:
        assert response.status_code == 200, response.text
        [rows] = [rows for rows in response.json().values() if isinstance(rows, list)]
        assert tenant.id not in str(rows)
    elif row.operation == "introspectAuth":
        shown = response.json()
        assert shown["tenant_id"] != tenant.id or shown["scope_filter"] == ["agent:other"]
    else:
        assert error(response) == FORBIDDEN
        assert "agent:other" in response.json()["message"]


MANAGED = {
    "view_budgets": Permission.BUDGETS_READ,
    "view_policies": Permission.POLICIES_READ,
    "view_webhooks": Permission.WEBHOOKS_READ,
    "view_events": Permission.EVENTS_READ,
    "manage_budgets": Permission.BUDGETS_WRITE,
    "manage_policies": Permission.POLICIES_WRITE,
    "manage_webhooks": Permission.WEBHOOKS_WRITE,
}


@pytest.mark.parametrize("held", Permission)
def test_what_introspection_promises_is_let_in(held: Permission) -> None:
    """A flag is true exactly for a key whose operations pass, whatever the permission is called."""
    principal = Principal("acme", permissions=frozenset({held.value}))
    flags = capabilities(principal)
    assert {name: flags[name] for name in MANAGED} == {
        name: principal.may(permission) for name, permission in MANAGED.items()
    }


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
    "no permission": set(),
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
    assert body["permissions"] == ([] if held == "no permission" else [held])
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
