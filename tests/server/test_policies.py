"""Policies over HTTP: each field bites, and bites again after the server was restarted.

The tests of a field run twice on one ledger: on the server that stored the policies, and on one
that was started on the same file after it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conftest import Served, serving
from schemas import CheckedClient

Json = dict[str, Any]
_keys = itertools.count()
CAPS = {"max_tokens": 5, "tool_denylist": ["shell"]}
PAST, FUTURE = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


def tokens(amount: int) -> Json:
    return {"unit": "TOKENS", "amount": amount}


@dataclass
class Desk:
    """A tenant on a running server, and its operator."""

    served: Served
    client: CheckedClient
    key: str = ""

    def admin(self, method: str, path: str, body: Any = None, **query: str) -> httpx2.Response:
        headers = {"X-Admin-API-Key": self.served.admin_key}
        return self.client.request(method, path, json=body, params=query, headers=headers)

    def ask(self, method: str, path: str, body: Any = None, key: str = "") -> httpx2.Response:
        headers = {"X-Cycles-API-Key": key or self.key}
        return self.client.request(method, path, json=body, headers=headers)

    def new_key(self, **fields: Any) -> str:
        body = {"tenant_id": "acme", "name": "k", **fields}
        response = self.admin("POST", "/v1/admin/api-keys", body)
        assert response.status_code == 201, response.text
        return str(response.json()["key_secret"])

    def policy(self, agent: str, **fields: Any) -> Json:
        """Store a policy for one agent's scope."""
        fields = {"scope_pattern": f"tenant:acme/agent:{agent}", "name": agent} | fields
        response = self.admin("POST", "/v1/admin/policies", {"tenant_id": "acme"} | fields)
        assert response.status_code == 201, response.text
        stored: Json = response.json()
        return stored

    def change(self, policy: Json, **fields: Any) -> httpx2.Response:
        return self.admin("PATCH", f"/v1/admin/policies/{policy['policy_id']}", fields)

    def reserve(self, agent: str, amount: int = 1, **fields: Any) -> httpx2.Response:
        return self.ask("POST", fields.pop("path", "/v1/reservations"), {
            "idempotency_key": f"k-{next(_keys)}-{time.time_ns()}",
            "subject": {"tenant": "acme", "agent": agent},
            "action": {"kind": "llm.completion", "name": "m"},
            "estimate": tokens(amount),
        } | fields)  # fmt: skip

    def hold(self, agent: str, amount: int = 1, **fields: Any) -> Json:
        response = self.reserve(agent, amount, **fields)
        assert response.status_code == 200, response.text
        held: Json = response.json()
        return held

    def commit(self, held: Json, amount: int = 1) -> httpx2.Response:
        path = f"/v1/reservations/{held['reservation_id']}/commit"
        body = {"idempotency_key": f"c-{time.time_ns()}", "actual": tokens(amount)}
        return self.ask("POST", path, body)

    def extend(self, held: Json) -> httpx2.Response:
        path = f"/v1/reservations/{held['reservation_id']}/extend"
        body = {"idempotency_key": f"e-{time.time_ns()}", "extend_by_ms": 1}
        return self.ask("POST", path, body)


@contextlib.contextmanager
def opened(folder: Path, *, new: bool) -> Iterator[Desk]:
    """Start a server on the ledger in a folder; a new ledger gets a tenant and a budget."""
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving(folder))
        client = stack.enter_context(CheckedClient(base_url=served.url, timeout=30))
        desk = Desk(served, client)
        provide(desk, new=new)
        yield desk


def provide(desk: Desk, *, new: bool) -> None:
    if new:
        body: Json = {"tenant_id": "acme", "name": "Acme", "default_reservation_ttl_ms": 50_000}
        assert desk.admin("POST", "/v1/admin/tenants", body).status_code == 201
        body = {"tenant_id": "acme", "scope": "tenant:acme", "unit": "TOKENS"}
        body |= {"allocated": tokens(10**9), "commit_overage_policy": "ALLOW_IF_AVAILABLE"}
        assert desk.admin("POST", "/v1/admin/budgets", body).status_code == 201
    desk.key = desk.new_key()


def store_everything(desk: Desk) -> None:
    """Store one policy for each field, each at an agent of its own."""
    desk.policy("caps", caps=CAPS)
    desk.policy("overage", commit_overage_policy="REJECT")
    desk.policy("ttl", reservation_ttl_override={"default_ttl_ms": 20_000})
    desk.policy("ttl-max", reservation_ttl_override={"max_ttl_ms": 10_000})
    desk.policy("extensions", reservation_ttl_override={"max_extensions": 0})
    desk.policy("reserves", rate_limits={"max_reservations_per_minute": 1})
    desk.policy("commits", rate_limits={"max_commits_per_minute": 1})
    desk.policy("later", caps=CAPS, effective_from=FUTURE)
    desk.policy("since", caps=CAPS, effective_from=PAST)
    desk.policy("over", caps=CAPS, effective_until=PAST)
    desk.policy("until", caps=CAPS, effective_until=FUTURE)
    desk.policy("low", caps=CAPS, priority=1)
    desk.policy("high", scope_pattern="*/agent:low", caps={"max_tokens": 1}, priority=2)
    off = desk.policy("off", caps=CAPS)
    assert desk.change(off, status="DISABLED").json()["status"] == "DISABLED"
    desk.policy("below", scope_pattern="tenant:acme/workspace:eng/*", caps={"max_tokens": 2})
    desk.policy("kind", scope_pattern="toolset:*", caps={"max_tokens": 3})
    desk.policy("exact", scope_pattern="tenant:acme", caps={"max_tokens": 4})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module", params=["as stored", "after a restart"])
def desk(request: pytest.FixtureRequest, directory: Path) -> Iterator[Desk]:
    """The server that stored the policies, and then another one on the same file."""
    new = not (directory / "ledger.db").exists()
    with opened(directory, new=new) as desk:
        if new:
            store_everything(desk)
        yield desk


def test_caps(desk: Desk) -> None:
    """`caps` turn ALLOW into ALLOW_WITH_CAPS everywhere, and hold the whole estimate."""
    for answer in (
        desk.hold("caps", 7),
        desk.hold("caps", 7, dry_run=True),
        desk.hold("caps", 7, path="/v1/decide"),
    ):
        assert (answer["decision"], answer["caps"]) == ("ALLOW_WITH_CAPS", CAPS)
        assert answer.get("reserved", tokens(7)) == tokens(7)
    plain = desk.hold("nobody", 7)
    assert (plain["decision"], "caps" in plain) == ("ALLOW", False)


def test_overage(desk: Desk) -> None:
    """`commit_overage_policy` beats the budget's, and a request beats it."""
    refused = desk.commit(desk.hold("overage"), 2)
    assert (refused.status_code, refused.json()["error"]) == (409, "BUDGET_EXCEEDED")
    asked = desk.hold("overage", overage_policy="ALLOW_IF_AVAILABLE")
    assert desk.commit(asked, 2).status_code == 200
    assert desk.commit(desk.hold("nobody"), 2).status_code == 200


def test_lease(desk: Desk) -> None:
    """`reservation_ttl_override`: default, maximum and extensions, each for itself."""
    assert desk.hold("ttl")["remaining_ttl_ms"] == 20_000
    assert desk.hold("ttl", ttl_ms=30_000)["remaining_ttl_ms"] == 30_000
    assert desk.hold("ttl-max")["remaining_ttl_ms"] == 10_000
    assert desk.hold("ttl-max", ttl_ms=30_000)["remaining_ttl_ms"] == 10_000
    assert desk.hold("nobody")["remaining_ttl_ms"] == 50_000
    assert desk.extend(desk.hold("nobody")).status_code == 200
    refused = desk.extend(desk.hold("extensions"))
    assert (refused.status_code, refused.json()["error"]) == (409, "MAX_EXTENSIONS_EXCEEDED")


def throttled(response: httpx2.Response) -> bool:
    """Return whether a request came too early; it must then say when to come back."""
    if response.status_code == 200:
        return False
    assert response.status_code == 429, response.text
    body = response.json()
    assert body["error"] == "LIMIT_EXCEEDED"
    assert "deny_detail" not in body["details"]
    wait = response.headers["retry-after"]
    assert wait.isdigit()
    assert 1 <= int(wait) <= 60
    return True


def test_reservations_per_minute(desk: Desk) -> None:
    """Three in a row cross the border of a minute at most once: one is too many at least."""
    assert any(throttled(desk.reserve("reserves")) for _ in range(3))
    # Decisions are not limited.
    assert desk.reserve("reserves", dry_run=True).status_code == 200
    assert desk.reserve("reserves", path="/v1/decide").status_code == 200


def test_commits_per_minute(desk: Desk) -> None:
    """The same for commits; the reservation that was told to wait stays active."""
    held = [desk.hold("commits", ttl_ms=600_000) for _ in range(3)]
    waits = [row for row in held if throttled(desk.commit(row))]
    assert waits
    row = desk.ask("GET", f"/v1/reservations/{waits[0]['reservation_id']}").json()
    assert row["status"] == "ACTIVE"


@pytest.mark.parametrize(
    ("agent", "caps"),
    [("later", None), ("since", CAPS), ("over", None), ("until", CAPS), ("off", None)],
)
def test_window_and_status(desk: Desk, agent: str, caps: Json | None) -> None:
    """`effective_from`, `effective_until` and `status` decide whether a policy is looked at."""
    assert desk.hold(agent).get("caps") == caps


def test_priority(desk: Desk) -> None:
    """The higher priority governs, though its pattern is shorter."""
    assert desk.hold("low")["caps"] == {"max_tokens": 1}


@pytest.mark.parametrize(
    ("subject", "caps"),
    [
        ({}, {"max_tokens": 4}),
        ({"workspace": "eng"}, None),
        ({"workspace": "Eng", "agent": "x"}, {"max_tokens": 2}),
        ({"workspace": "engine", "agent": "x"}, None),
        ({"app": "x", "toolset": "web"}, {"max_tokens": 3}),
        ({"agent": "caps", "toolset": "web"}, {"max_tokens": 3}),
    ],
    ids=str,
)
def test_scope_pattern(desk: Desk, subject: Json, caps: Json | None) -> None:
    """`scope_pattern` is matched against the subject's deepest scope."""
    held = desk.hold("", subject={"tenant": "acme", **subject})
    assert held.get("caps") == caps


def test_a_restart_forgets_no_count(tmp_path: Path) -> None:
    """What a minute counted before a stop still counts after it."""
    for attempt in itertools.count(1):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        minute = time.time() // 60
        with opened(folder, new=True) as desk:
            desk.policy("slow", rate_limits={"max_reservations_per_minute": 2})
            before = [desk.reserve("slow").status_code for _ in range(2)]
        with opened(folder, new=False) as desk:
            after = desk.reserve("slow").status_code
        if minute == time.time() // 60:  # else a new window began in between; once more
            assert (before, after) == ([200, 200], 429)
            return
        assert attempt < 3


# The admin plane.


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A server whose policies are made by the tests."""
    with opened(tmp_path_factory.mktemp("office"), new=True) as desk:
        body = {"tenant_id": "other", "name": "Other"}
        assert desk.admin("POST", "/v1/admin/tenants", body).status_code == 201
        yield desk


def error(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json().get("error", "none")


def test_a_policy_as_stored(office: Desk) -> None:
    """What was said is stored, and shown by list; nothing that was not said is made up."""
    said = {
        "name": "Everything",
        "description": "all fields",
        "scope_pattern": "tenant:ACME/Agent:All".replace("Agent", "agent"),
        "priority": 2**53 + 1,
        "caps": {"max_tokens": 0, "tool_allowlist": ["a"], "cooldown_ms": 1},
        "commit_overage_policy": "REJECT",
        "reservation_ttl_override": {"default_ttl_ms": 1_000, "max_extensions": 0},
        "rate_limits": {"max_commits_per_minute": 2**63 - 1},
        "effective_from": "2026-01-01T02:00:00+02:00",
        "effective_until": "2026-01-01T00:00:00Z",
    }
    stored = office.policy("x", **said)
    assert stored.pop("policy_id").startswith("pol_")
    assert stored["created_at"] == stored["updated_at"]
    expected = said | {"scope_pattern": "tenant:acme/agent:all", "status": "ACTIVE"}
    expected |= {"effective_from": "2026-01-01T00:00:00.000Z"}
    expected |= {"effective_until": "2026-01-01T00:00:00.000Z"}
    assert expected == {name: stored[name] for name in stored if not name.endswith("ed_at")}
    assert office.policy("plain").keys() == {
        *("policy_id", "name", "scope_pattern", "priority", "status", "created_at", "updated_at")
    }
    listed = office.ask("GET", "/v1/admin/policies").json()["policies"]
    assert stored in [{k: v for k, v in row.items() if k != "policy_id"} for row in listed]


def test_patch(office: Desk) -> None:
    """What is absent stays, what is given replaces, an empty object takes away."""
    made = office.policy("patched", caps=CAPS, rate_limits={"max_commits_per_minute": 1})
    after = office.change(made, priority=7).json()
    assert after == made | {"priority": 7, "updated_at": after["updated_at"]}
    after = office.change(made, caps={}, rate_limits={}, description="d").json()
    assert {"caps", "rate_limits"}.isdisjoint(after)
    assert (after["description"], after["priority"]) == ("d", 7)
    assert office.hold("patched")["decision"] == "ALLOW"
    assert office.change(made, caps=CAPS).status_code == 200
    assert office.hold("patched")["decision"] == "ALLOW_WITH_CAPS"
    office.policy("taken")
    assert error(office.change(made, name="taken")) == (409, "DUPLICATE_RESOURCE")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scope_pattern": "*"}, "scope_pattern: '*' is no pattern; write"),
        ({"scope_pattern": "tenant:other/*"}, "scope_pattern: must start with tenant:acme"),
        ({"priority": -1}, "priority"),
        ({"priority": True}, "priority"),
        ({"name": " "}, "name"),
        ({"name": "n" * 257}, "name"),
        ({"description": "d" * 1025}, "description"),
        ({"caps": None}, "caps"),
        ({"caps": {"max_tokens": -1}}, "caps.max_tokens"),
        ({"caps": {"max_dollars": 1}}, "caps.max_dollars"),
        ({"caps": {"tool_denylist": ["t" * 256] * 80}}, "caps: must be at most 16384 bytes"),
        ({"commit_overage_policy": "MAYBE"}, "commit_overage_policy"),
        ({"reservation_ttl_override": {"max_ttl_ms": 999}}, "reservation_ttl_override.max_ttl_ms"),
        ({"reservation_ttl_override": {"max_extensions": -1}}, "max_extensions"),
        ({"rate_limits": {"max_reservations_per_minute": 0}}, "max_reservations_per_minute"),
        ({"rate_limits": {"per_second": 1}}, "rate_limits.per_second"),
        ({"effective_from": "2026-01-01T00:00:00"}, "effective_from"),
        ({"effective_from": FUTURE, "effective_until": PAST}, "effective_until: must not be"),
        ({"status": "ACTIVE"}, "status"),
    ],
)
def test_bad_policies_are_told_what_is_wrong(office: Desk, fields: Json, said: str) -> None:
    """400, and the message names the field."""
    body = {"tenant_id": "acme", "name": "bad", "scope_pattern": "agent:*"} | fields
    response = office.admin("POST", "/v1/admin/policies", body)
    assert error(response) == (400, "INVALID_REQUEST")
    assert said in response.json()["message"]


def test_who_may(office: Desk) -> None:
    """Dual auth: the operator names a tenant, a tenant is its key's; both need permission."""
    made = office.policy("who")
    path = f"/v1/admin/policies/{made['policy_id']}"
    body = {"name": "own", "scope_pattern": "agent:*"}
    assert error(office.admin("POST", "/v1/admin/policies", body)) == (400, "INVALID_REQUEST")
    assert error(office.admin("GET", "/v1/admin/policies")) == (400, "INVALID_REQUEST")
    named = body | {"tenant_id": "acme"}
    assert error(office.ask("POST", "/v1/admin/policies", named)) == (400, "INVALID_REQUEST")
    assert office.ask("POST", "/v1/admin/policies", body).status_code == 201
    assert error(office.ask("POST", "/v1/admin/policies", body)) == (409, "DUPLICATE_RESOURCE")
    assert office.ask("PATCH", path, {"priority": 1}).status_code == 200
    unknown = body | {"tenant_id": "nobody"}
    assert error(office.admin("POST", "/v1/admin/policies", unknown)) == (404, "TENANT_NOT_FOUND")
    missing = "/v1/admin/policies/pol_none"
    assert error(office.ask("PATCH", missing, {})) == (404, "NOT_FOUND")

    reads = office.new_key(permissions=["policies:read"])
    assert office.ask("GET", "/v1/admin/policies", key=reads).status_code == 200
    denied = (403, "INSUFFICIENT_PERMISSIONS")
    assert error(office.ask("PATCH", path, {}, key=reads)) == denied
    assert error(office.ask("POST", "/v1/admin/policies", body, key=reads)) == denied
    writes = office.new_key(permissions=["policies:write"])
    assert error(office.ask("GET", "/v1/admin/policies", key=writes)) == denied

    theirs = office.new_key(tenant_id="other")
    assert error(office.ask("PATCH", path, {}, key=theirs)) == (403, "FORBIDDEN")
    assert office.ask("GET", "/v1/admin/policies", key=theirs).json()["policies"] == []


def test_a_scope_filter_bounds_patterns(office: Desk) -> None:
    """A key with a filter manages only policies that cannot reach beyond it."""
    bounded = office.new_key(scope_filter=["agent:mine"])
    path = "/v1/admin/policies"
    for pattern, status in (
        ("*/agent:mine", 201),
        ("tenant:acme/agent:mine/*", 201),
        ("agent:*", 403),
        ("tenant:acme/*", 403),
        ("tenant:acme/agent:yours", 403),
    ):
        body = {"name": f"bounded {pattern}", "scope_pattern": pattern}
        assert office.ask("POST", path, body, key=bounded).status_code == status, pattern
    beyond = office.policy("yours")
    assert error(office.ask("PATCH", f"{path}/{beyond['policy_id']}", {}, key=bounded)) == (
        403,
        "FORBIDDEN",
    )
    rows = office.ask("GET", path, key=bounded).json()["policies"]
    assert sorted(row["scope_pattern"] for row in rows) == [
        "*/agent:mine",
        "tenant:acme/agent:mine/*",
    ]


def test_list(office: Desk) -> None:
    """Filters by pattern and status, and pages whose cursor belongs to its filters."""
    for name in ("one", "two", "three"):
        office.policy(name, scope_pattern="workflow:*")
    off = office.policy("four", scope_pattern="workflow:*")
    office.change(off, status="DISABLED")

    def names(**query: str) -> tuple[list[str], Json]:
        body = office.admin("GET", "/v1/admin/policies", tenant_id="acme", **query).json()
        return [row["name"] for row in body["policies"]], body

    assert sorted(names(scope_pattern="Workflow:*")[0]) == ["four", "one", "three", "two"]
    assert names(scope_pattern="workflow:*", status="DISABLED")[0] == ["four"]
    assert names(status="ACTIVE", scope_pattern="nothing:*", has_action_quotas="true")[0] == []
    first, body = names(scope_pattern="workflow:*", limit="3")
    rest, _ = names(scope_pattern="workflow:*", limit="3", cursor=body["next_cursor"])
    assert len(first) == 3
    assert sorted(first + rest) == ["four", "one", "three", "two"]
    stale = office.admin("GET", "/v1/admin/policies", tenant_id="acme", cursor=body["next_cursor"])
    assert error(stale) == (400, "INVALID_REQUEST")


def test_the_log_says_who(tmp_path: Path) -> None:
    """A change by the operator is one for the tenant, and the tenant's log holds it whole."""
    with opened(tmp_path, new=True) as desk:
        made = desk.policy("x", caps=CAPS)
        own = desk.ask("PATCH", f"/v1/admin/policies/{made['policy_id']}", {"priority": 3})
        assert own.status_code == 200
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        found = connection.execute(
            "SELECT verb, actor, changes FROM entry WHERE verb LIKE '%Policy' ORDER BY seq"
        ).fetchall()
    assert [row[:2] for row in found] == [
        ("CreatePolicy", "admin_on_behalf_of"),
        ("UpdatePolicy", "api_key"),
    ]
    states: list[Any] = [json.loads(row[2])["policies"][0] for row in found]
    assert [state[5] for state in states] == [0, 3]
