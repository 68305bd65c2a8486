"""The protocol's cases about money, asked over HTTP: scopes, units, overage, debt, freezing."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.world import Response, Tenant, amount, error, fresh

EXCEEDED = (409, "BUDGET_EXCEEDED")
OVER_LIMIT = (409, "OVERDRAFT_LIMIT_EXCEEDED")
AIA = {"overage_policy": "ALLOW_IF_AVAILABLE"}
AWO = {"overage_policy": "ALLOW_WITH_OVERDRAFT"}


def shown(response: Response) -> dict[str, int]:
    """Return remaining by scope path."""
    rows = response.json()["balances"]
    return {row["scope_path"]: row["remaining"]["amount"] for row in rows}


def in_debt(tenant: Tenant, limit: int = 500) -> Tenant:
    """Bring a budget of 1000 to spent 1000 and debt 100."""
    tenant.budget(1_000, limit=limit)
    assert tenant.debit(1_100, **AWO).status_code == 201
    return tenant


def test_a_deep_subject_under_one_budget(tenant: Tenant) -> None:
    """Case 22: all levels are affected, only the budgeted one is shown and charged."""
    tenant.budget(1_000)
    answer = tenant.reserve(100, "workspace:w/agent:bot")
    assert answer.json()["affected_scopes"] == [
        tenant.scope,
        tenant.path("workspace:w"),
        tenant.path("workspace:w/agent:bot"),
    ]
    assert answer.json()["scope_path"] == tenant.path("workspace:w/agent:bot")
    assert shown(answer) == {tenant.scope: 900}
    assert shown(tenant.commit(answer.json()["reservation_id"], 60)) == {tenant.scope: 940}


def test_a_child_in_another_unit_is_skipped(tenant: Tenant) -> None:
    """Case 23: the child's budget counts in another unit, and is no error."""
    tenant.budget(1_000, unit="USD_MICROCENTS").budget(5, "agent:bot")
    answer = tenant.reserve(100, "agent:bot", "USD_MICROCENTS")
    assert shown(answer) == {tenant.scope: 900}
    assert tenant.state("agent:bot")["reserved"] == 0


def four_ways(tenant: Tenant, value: int, below: str, unit: str) -> list[Response]:
    return [
        tenant.reserve(value, below, unit),
        tenant.debit(value, below, unit),
        tenant.decide(value, below, unit),
        tenant.reserve(value, below, unit, dry_run=True),
    ]


def test_unit_mismatch_on_all_four(tenant: Tenant) -> None:
    """Case 24: only other units along the path is 400 with the same details on all four."""
    tenant.budget(10).budget(10, unit="CREDITS").budget(10, "agent:bot", "RISK_POINTS")
    for refused in four_ways(tenant, 1, "agent:bot", "USD_MICROCENTS"):
        assert error(refused) == (400, "UNIT_MISMATCH")
        details = refused.json()["details"]
        assert {name: details[name] for name in details if name != "deny_detail"} == {
            "scope": tenant.scope,
            "requested_unit": "USD_MICROCENTS",
            "expected_units": ["TOKENS", "CREDITS"],
        }


def test_no_budget_on_all_four(tenant: Tenant) -> None:
    """Case 25: no budget in any unit is 404 for reserve and event, a DENY for the others."""
    tenant.budget(10, "agent:other")
    reserve, debit, decide, dry_run = four_ways(tenant, 1, "agent:bot", "TOKENS")
    for refused in (reserve, debit):
        assert error(refused) == (404, "NOT_FOUND")
        message = f"Budget not found for provided scope: {tenant.path('agent:bot')}"
        assert refused.json()["message"].startswith(message)
    for denied in (decide, dry_run):
        assert denied.status_code == 200
        assert denied.json()["decision"] == "DENY"
        assert denied.json()["reason_code"] == "BUDGET_NOT_FOUND"
        assert denied.json()["affected_scopes"] == [tenant.scope, tenant.path("agent:bot")]


def test_over_limit_comes_first(tenant: Tenant) -> None:
    """Case 26: flag, debt and shortage at once, and an estimate of 0: the flag is named."""
    in_debt(tenant, limit=100)
    where = "WHERE tenant = ? AND scope = ?"
    tenant.server.sql(
        f"UPDATE budget SET is_over_limit = 1, overdraft_limit = 0 {where}",
        tenant.id,
        tenant.scope,
    )
    assert error(tenant.reserve(0)) == OVER_LIMIT
    tenant.server.sql(f"UPDATE budget SET is_over_limit = 0 {where}", tenant.id, tenant.scope)
    assert error(tenant.reserve(0)) == (409, "DEBT_OUTSTANDING")
    assert tenant.decide(0).json()["reason_code"] == "DEBT_OUTSTANDING"


def test_debt_with_a_limit_does_not_block(tenant: Tenant) -> None:
    """Case 27: with an overdraft limit, debt alone blocks nothing that remains."""
    in_debt(tenant)
    assert tenant.fund("CREDIT", 300).status_code == 200
    assert tenant.state()["debt"] == 100
    assert tenant.reserve(200).status_code == 200
    assert error(tenant.reserve(1)) == EXCEEDED


def test_the_outermost_failure_is_named(tenant: Tenant) -> None:
    """Case 28: a short parent beats its frozen child."""
    tenant.budget(10).budget(1_000, "agent:bot")
    assert tenant.turn("freeze", "agent:bot").status_code == 200
    refused = tenant.reserve(11, "agent:bot")
    assert error(refused) == EXCEEDED
    assert refused.json()["details"]["deny_detail"]["blocked_by_scope"] == tenant.scope
    assert error(tenant.reserve(10, "agent:bot")) == (409, "BUDGET_FROZEN")


def test_a_capped_commit_flags_the_short_one(tenant: Tenant) -> None:
    """Case 29: 150 above 1000: charged 150, the parent over its limit and the child not."""
    tenant.budget(150).budget(1_000, "agent:bot")
    answer = tenant.commit(tenant.hold(100, "agent:bot", **AIA), 200).json()
    assert answer["charged"] == amount(150)
    assert "released" not in answer
    zero = {"reserved": 0, "debt": 0}
    assert tenant.state() == {"remaining": 0, "spent": 150, "over": True} | zero
    assert tenant.state("agent:bot") == {"remaining": 850, "spent": 150, "over": False} | zero
    [parent, child] = answer["balances"]
    assert parent["is_over_limit"] is True
    assert "is_over_limit" not in child


def test_nothing_left_for_the_overage(tenant: Tenant) -> None:
    """Case 30: charged is the estimate, the budget is over its limit, the next reserve blocked."""
    tenant.budget(100)
    held = tenant.hold(100)
    assert tenant.commit(held, 150).json()["charged"] == amount(100)
    assert error(tenant.reserve(0)) == OVER_LIMIT
    assert tenant.decide(0).json()["reason_code"] == "OVERDRAFT_LIMIT_EXCEEDED"


def test_overdraft_without_a_limit(tenant: Tenant) -> None:
    """Case 31: it behaves as ALLOW_IF_AVAILABLE: capped, and no debt."""
    tenant.budget(100)
    answer = tenant.commit(tenant.hold(80, **AWO), 150).json()
    assert answer["charged"] == amount(100)
    assert tenant.state() == {"remaining": 0, "reserved": 0, "spent": 100, "debt": 0, "over": True}


def test_overdraft_beyond_its_limit(tenant: Tenant) -> None:
    """Case 32: refused, nothing changes, the reservation is active and can be released."""
    tenant.budget(1_000, limit=200)
    held = tenant.hold(800, **AWO)
    before = tenant.state()
    assert error(tenant.commit(held, 1_300)) == OVER_LIMIT
    assert tenant.state() == before
    assert tenant.reservation(held).json()["status"] == "ACTIVE"
    assert tenant.release(held).status_code == 200
    held = tenant.hold(800, **AWO)
    assert tenant.commit(held, 1_200).json()["charged"] == amount(1_200)
    assert tenant.state()["debt"] == 200


def test_an_event_on_an_empty_budget(tenant: Tenant) -> None:
    """Case 33: it is applied, charged 0, and sets the flag."""
    tenant.budget(0)
    answer = tenant.debit(10)
    assert answer.status_code == 201
    assert answer.json()["charged"] == amount(0)
    assert tenant.state()["over"] is True


def test_events_pass_debt_and_flag(tenant: Tenant) -> None:
    """Case 34: blocks are for reservations; a frozen budget stops an event too."""
    tenant.budget(100)
    assert tenant.commit(tenant.hold(50), 150).json()["charged"] == amount(100)
    assert tenant.state()["over"] is True
    assert "charged" not in tenant.debit(0).json()
    in_debt(tenant.server.tenant())
    assert tenant.turn("freeze").status_code == 200
    assert error(tenant.debit(0)) == (409, "BUDGET_FROZEN")


def test_freezing_does_not_stop_what_was_reserved(tenant: Tenant) -> None:
    """Cases 35 and 79: commit, release and extend work, and holds go back where they were."""
    tenant.budget(100).budget(100, "agent:bot")
    held = [tenant.hold(10, "agent:bot/toolset:t") for _ in range(3)]
    for below in ("", "agent:bot"):
        assert tenant.turn("freeze", below).status_code == 200
    assert tenant.extend(held[0]).status_code == 200
    assert tenant.commit(held[0], 4).status_code == 200
    assert tenant.release(held[1]).status_code == 200
    assert tenant.admin_release(held[2]).status_code == 200
    expected = {"remaining": 96, "reserved": 0, "spent": 4, "debt": 0, "over": False}
    assert tenant.state() == tenant.state("agent:bot") == expected
    for refused in (tenant.reserve(1, "agent:bot"), tenant.reserve(0)):
        assert error(refused) == (409, "BUDGET_FROZEN")


def test_zero_and_exact(tenant: Tenant) -> None:
    """Cases 41 and 42: an estimate of 0 can be reserved and settled; A=E releases nothing."""
    tenant.budget(100)
    answer = tenant.reserve(0).json()
    assert answer["reserved"] == amount(0)
    settled = tenant.commit(answer["reservation_id"], 0).json()
    assert settled["charged"] == amount(0)
    assert "released" not in settled
    exact = tenant.commit(tenant.hold(10), 10).json()
    assert exact["charged"] == amount(10)
    assert "released" not in exact
    less = tenant.commit(tenant.hold(10), 4).json()
    assert (less["charged"], less["released"]) == (amount(4), amount(6))


def test_a_tenants_overage_policy(new_tenant: Callable[..., Tenant]) -> None:
    """Case 46: the tenant's REJECT holds for requests that name no policy of their own."""
    tenant = new_tenant(default_commit_overage_policy="REJECT").budget(100)
    held = tenant.hold(10)
    assert error(tenant.commit(held, 11)) == EXCEEDED
    assert tenant.commit(held, 10).status_code == 200
    assert tenant.commit(tenant.hold(10, **AIA), 11).json()["charged"] == amount(11)
    assert error(tenant.debit(80)) == EXCEEDED
    assert tenant.debit(80, **AIA).status_code == 201


def test_a_budget_made_later_is_not_touched(tenant: Tenant) -> None:
    """Case 48: a reservation settles in the budgets it was made with."""
    tenant.budget(100)
    held = tenant.hold(10, "agent:bot")
    tenant.budget(50, "agent:bot")
    assert shown(tenant.commit(held, 10)) == {tenant.scope: 90}
    assert tenant.state("agent:bot")["remaining"] == 50


def test_a_subject_without_a_tenant(tenant: Tenant) -> None:
    """Case 61: the path has no tenant, no budget can be there, and the key's tenant owns it."""
    tenant.budget(100).budget(100, "agent:bot")
    body = tenant.ask(1) | {"subject": {"agent": "bot"}}
    refused = tenant.call("POST", "/v1/reservations", body)
    assert error(refused) == (404, "NOT_FOUND")
    assert "agent:bot" in refused.json()["message"]
    assert tenant.scope not in refused.json()["message"]
    denied = tenant.call("POST", "/v1/decide", body).json()
    assert (denied["reason_code"], denied["affected_scopes"]) == ("BUDGET_NOT_FOUND", ["agent:bot"])


def test_released_budget_can_be_reserved_again(tenant: Tenant) -> None:
    """Case 62: the whole budget is available again."""
    tenant.budget(100)
    answer = tenant.release(tenant.hold(100)).json()
    assert answer["released"] == amount(100)
    assert tenant.reserve(100).status_code == 200


def test_scopes_are_lower_case_and_subjects_are_kept(tenant: Tenant) -> None:
    """`Bot` and `bot` are one scope; what was sent is what a reservation shows."""
    tenant.budget(100, "agent:bot")
    dimensions = {"Run ID": "7", "b": ""}
    subject = {"tenant": tenant.id, "agent": "Bot", "dimensions": dimensions}
    action = {"kind": "tool.search", "name": "Web", "tags": ["a", ""]}
    held = tenant.hold(1, subject=subject, action=action)
    row = tenant.reservation(held).json()
    assert row["subject"] == subject
    assert row["action"] == action
    assert row["scope_path"] == tenant.path("agent:bot")


def test_gaps_are_skipped(tenant: Tenant) -> None:
    """tenant/agent and tenant/workspace/agent are different scopes; all six make six paths."""
    tenant.budget(100).budget(0, "agent:bot")
    assert tenant.reserve(1, "workspace:w/agent:bot").status_code == 200
    assert error(tenant.reserve(1, "agent:bot")) == EXCEEDED
    levels = ["workspace:a", "app:b", "workflow:c", "agent:d", "toolset:e"]
    answer = tenant.decide(1, "/".join(levels)).json()
    paths = [tenant.path("/".join(levels[:depth])) for depth in range(6)]
    assert answer["affected_scopes"] == paths
    shuffled = {"toolset": "e", "agent": "d", "tenant": tenant.id, "app": "b", "workspace": "a"}
    answer = tenant.decide(1, subject=shuffled).json()
    assert answer["affected_scopes"][-1] == tenant.path("workspace:a/app:b/agent:d/toolset:e")


def test_commit_against_release(tenant: Tenant) -> None:
    """Case 39: of a commit and an operator's release exactly one wins, every time."""
    tenant.budget(1_000)
    held = [tenant.hold(10) for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        racing = [
            (pool.submit(tenant.commit, one, 4), pool.submit(tenant.admin_release, one))
            for one in held
        ]
        results = [(commit.result(), release.result()) for commit, release in racing]
    for pair in results:
        assert sorted(response.status_code for response in pair) == [200, 409]
        [loser] = [response for response in pair if response.status_code == 409]
        assert error(loser) == (409, "RESERVATION_FINALIZED")
    committed = sum(commit.status_code == 200 for commit, _ in results)
    state = tenant.state()
    assert (state["reserved"], state["spent"]) == (0, 4 * committed)


def test_fifty_agents_never_oversubscribe(tenant: Tenant) -> None:
    """Concurrent reserves take exactly what there is, in the parent as in the children."""
    tenant.budget(100)
    for agent in range(5):
        tenant.budget(25, f"agent:a{agent}")
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda n: tenant.reserve(3, f"agent:a{n % 5}"), range(60)),
        )
    granted = sum(answer.status_code == 200 for answer in answers)
    assert granted == 33
    assert {error(a) for a in answers if a.status_code != 200} == {EXCEEDED}
    assert tenant.state()["remaining"] == 1
    assert sum(tenant.state(f"agent:a{agent}")["reserved"] for agent in range(5)) == 99


@pytest.mark.parametrize("seed", [1, 2])
def test_any_mix_keeps_the_books(tenant: Tenant, seed: int) -> None:
    """Case 80: eight threads mix every operation; the sums hold and so do the limits."""
    allocated, limit = 2_000, 300
    tenant.budget(allocated, limit=limit).budget(allocated, "agent:a", limit=limit)

    def work(number: int) -> int:
        """Return what was charged, as the answers said."""
        chance, charged = random.Random(seed * 1_000 + number), 0
        for _ in range(25):
            policy = chance.choice(["REJECT", "ALLOW_IF_AVAILABLE", "ALLOW_WITH_OVERDRAFT"])
            fields: dict[str, Any] = {"overage_policy": policy}
            value = chance.randrange(60)
            if chance.random() < 0.2:
                answer = tenant.debit(value, "agent:a", **fields)
                if answer.status_code == 201:
                    charged += answer.json().get("charged", amount(value))["amount"]
                continue
            answer = tenant.reserve(value, "agent:a", **fields)
            if answer.status_code != 200:
                assert answer.status_code == 409
                continue
            held = answer.json()["reservation_id"]
            if chance.random() < 0.3:
                assert tenant.release(held).status_code == 200
                continue
            settled = tenant.commit(held, value + chance.randrange(-value, 40))
            if settled.status_code == 200:
                charged += settled.json()["charged"]["amount"]
            else:
                assert error(settled)[0] == 409
                assert tenant.release(held, idempotency_key=fresh("k")).status_code == 200
        return charged

    with ThreadPoolExecutor(8) as pool:
        charged = sum(pool.map(work, range(8)))
    for below in ("", "agent:a"):
        state = tenant.state(below)
        assert state["reserved"] == 0
        assert state["spent"] + state["debt"] == charged <= allocated + limit
        assert state["debt"] <= limit
