"""Every denial says what blocked, with numbers, and the cheapest change that would pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from server.world import Json, Response, Tenant, amount, error

AWO = {"overage_policy": "ALLOW_WITH_OVERDRAFT"}
REJECT = {"overage_policy": "REJECT"}


def detail(response: Response) -> Json:
    found: Json = response.json()["details"]["deny_detail"]
    return found


def too_dear(tenant: Tenant) -> Response:
    tenant.budget(100).budget(40, "agent:bot")
    return tenant.reserve(150, "agent:bot")


def frozen(tenant: Tenant) -> Response:
    tenant.budget(100).turn("freeze")
    return tenant.reserve(1)


def over_limit(tenant: Tenant) -> Response:
    tenant.budget(100)
    tenant.debit(150)
    return tenant.reserve(10)


def indebted(tenant: Tenant) -> Response:
    tenant.budget(100, limit=50)
    tenant.debit(130, **AWO)
    tenant.server.sql("UPDATE budget SET overdraft_limit = 0 WHERE tenant = ?", tenant.id)
    return tenant.reserve(10)


def closed_tenant(tenant: Tenant) -> Response:
    tenant.budget(100).set_status("CLOSED")
    return tenant.reserve(1)


def dear_commit(tenant: Tenant) -> Response:
    tenant.budget(100)
    return tenant.commit(tenant.hold(10, **REJECT), 11)


def deep_commit(tenant: Tenant) -> Response:
    tenant.budget(100, limit=20)
    return tenant.commit(tenant.hold(100, **AWO), 130)


def dear_event(tenant: Tenant) -> Response:
    tenant.budget(100)
    return tenant.debit(101, **REJECT)


def dear_debit(tenant: Tenant) -> Response:
    tenant.budget(100)
    return tenant.fund("DEBIT", 101)


def no_budget(tenant: Tenant) -> Response:
    return tenant.reserve(1)


# What is asked -> code, numbers and fix, with @ for the tenant's scope.
DENIALS: list[tuple[Callable[[Tenant], Response], str, Json]] = [
    (
        too_dear,
        "BUDGET_EXCEEDED",
        {
            "blocked_by_scope": "@",
            "budget_remaining": 100,
            "suggested_fix": "Lower the estimate to at most 40, or credit 50 TOKENS to @ and "
            "110 TOKENS to @/agent:bot.",
        },
    ),
    (
        frozen,
        "BUDGET_FROZEN",
        {
            "blocked_by_scope": "@",
            "budget_remaining": 100,
            "suggested_fix": "Unfreeze @ (TOKENS).",
        },
    ),
    (
        over_limit,
        "OVERDRAFT_LIMIT_EXCEEDED",
        {"blocked_by_scope": "@", "budget_remaining": 0, "suggested_fix": "CREDIT 10 TOKENS to @."},
    ),
    (
        indebted,
        "DEBT_OUTSTANDING",
        {
            "blocked_by_scope": "@",
            "budget_remaining": -30,
            "suggested_fix": "REPAY_DEBT 40 TOKENS at @.",
        },
    ),
    (closed_tenant, "TENANT_CLOSED", {"blocked_by_scope": "@"}),
    (dear_commit, "BUDGET_EXCEEDED", {}),
    (deep_commit, "OVERDRAFT_LIMIT_EXCEEDED", {"blocked_by_scope": "@", "budget_remaining": 0}),
    (
        dear_event,
        "BUDGET_EXCEEDED",
        {
            "blocked_by_scope": "@",
            "budget_remaining": 100,
            "suggested_fix": "Credit 1 TOKENS to @.",
        },
    ),
    (
        dear_debit,
        "BUDGET_EXCEEDED",
        {"blocked_by_scope": "@", "budget_remaining": 100, "suggested_fix": "Debit at most 100."},
    ),
    (
        no_budget,
        "NOT_FOUND",
        {"blocked_by_scope": "@", "suggested_fix": "Create a TOKENS budget at @."},
    ),
]


@pytest.mark.parametrize(
    ("provoke", "code", "expected"), DENIALS, ids=lambda value: getattr(value, "__name__", "")
)
def test_denials(
    tenant: Tenant, provoke: Callable[[Tenant], Response], code: str, expected: Json
) -> None:
    """`details.deny_detail` has the reason, and as far as there is one, scope, number and fix."""
    response = provoke(tenant)
    assert error(response) == (404 if code == "NOT_FOUND" else 409, code)
    found = detail(response)
    reason = "BUDGET_NOT_FOUND" if code == "NOT_FOUND" else code
    assert found.pop("reason_code") == reason
    assert len(found["suggested_fix"]) <= 512
    wanted = {
        name: value.replace("@", tenant.scope) if isinstance(value, str) else value
        for name, value in expected.items()
    }
    assert {name: found[name] for name in wanted} == wanted


def test_the_fix_works(tenant: Tenant) -> None:
    """Doing what the fix says is enough, and one less is not."""
    tenant.budget(100).budget(40, "agent:bot")
    fix = detail(tenant.reserve(150, "agent:bot"))["suggested_fix"]
    assert tenant.release(tenant.hold(int(re.findall(r"at most (\d+)", fix)[0]), "agent:bot"))
    for value, below in ((50, ""), (109, "agent:bot")):
        assert tenant.fund("CREDIT", value, below).status_code == 200
    assert error(tenant.reserve(150, "agent:bot")) == (409, "BUDGET_EXCEEDED")
    assert tenant.fund("CREDIT", 1, "agent:bot").status_code == 200
    assert tenant.reserve(150, "agent:bot").status_code == 200


@pytest.mark.parametrize("provoke", [too_dear, frozen, over_limit, indebted, closed_tenant])
def test_a_200_deny_stays_as_its_schema_says(
    tenant: Tenant, provoke: Callable[[Tenant], Response]
) -> None:
    """decide and dry runs say DENY and why in the published fields, and nothing else."""
    code = provoke(tenant).json()["error"]
    below = "agent:bot" if provoke is too_dear else ""
    scopes = [tenant.scope, tenant.path("agent:bot")][: 2 if below else 1]
    common: dict[str, Any] = {"decision": "DENY", "reason_code": code, "affected_scopes": scopes}
    assert tenant.decide(150, below).json() == common
    dry_run = tenant.reserve(150, below, dry_run=True).json()
    assert dry_run == common | {"scope_path": scopes[-1]}


def test_an_allowed_decide_and_dry_run(tenant: Tenant) -> None:
    """They hold nothing; a dry run has neither id nor lease, and shows balances as they are."""
    tenant.budget(100)
    before = tenant.state()
    assert tenant.decide(100).json() == {"decision": "ALLOW", "affected_scopes": [tenant.scope]}
    dry_run = tenant.reserve(100, dry_run=True, ttl_ms=1_000, grace_period_ms=0).json()
    [balance] = dry_run.pop("balances")
    assert balance["remaining"] == amount(100)
    assert dry_run == {
        "decision": "ALLOW",
        "reserved": amount(100),
        "scope_path": tenant.scope,
        "affected_scopes": [tenant.scope],
    }
    assert tenant.state() == before
    assert tenant.listed() == []
