"""`bursar explain`: every kind of denial is told, and the command that it names helps."""

import itertools
import json
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.exits import EXIT_CREDENTIAL, EXIT_FAILED, EXIT_OK, EXIT_USAGE
from bursar.cli.explain.question import asked
from bursar.cli.explain.verdict import judge
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget
from bursar.vocabulary import BudgetStatus, Unit
from conftest import Served

Run = Callable[..., Any]
_numbers = itertools.count(1)
UNIT = "TOKENS"


@dataclass(frozen=True, slots=True)
class World:
    """A tenant of its own on the module's server."""

    run: Run
    served: Served
    tenant: str
    key: str

    @property
    def bot(self) -> str:
        return f"tenant:{self.tenant}/agent:bot"

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        return self.send(method, path, body, {"X-Admin-API-Key": self.served.admin_key})

    def act(self, path: str, body: Any) -> Any:
        return self.send("POST", path, body, {"X-Cycles-API-Key": self.key})

    def send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(
            self.served.url + path,
            method=method,
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    def budget(self, amount: int, scope: str = "", unit: str = UNIT, **more: Any) -> str:
        scope = scope or f"tenant:{self.tenant}"
        allocated = {"unit": unit, "amount": amount}
        body = {"tenant_id": self.tenant, "scope": scope, "unit": unit, "allocated": allocated}
        self.admin("POST", "/v1/admin/budgets", body | more)
        return scope

    def turn(self, scope: str, verb: str) -> None:
        self.admin("POST", f"/v1/admin/budgets/{verb}?scope={scope}&unit={UNIT}", {})

    def spend(self, amount: int, overage: str) -> None:
        self.act(
            "/v1/events",
            {
                "idempotency_key": f"k{next(_numbers)}",
                "subject": {"tenant": self.tenant, "agent": "bot"},
                "action": {"kind": "llm", "name": "m"},
                "actual": {"unit": UNIT, "amount": amount},
                "overage_policy": overage,
            },
        )

    def reserve(self, agent: str, key: str) -> Any:
        return self.act(
            "/v1/reservations",
            {
                "idempotency_key": key,
                "subject": {"tenant": self.tenant, "agent": agent},
                "action": {"kind": "llm", "name": "m"},
                "estimate": {"unit": UNIT, "amount": 4},
            },
        )

    def explain(self, *words: str, code: int, with_key: bool = True) -> Any:
        env = {"CYCLES_API_KEY": self.key} if with_key else {}
        ran = self.run("explain", *words, "--json", **env)
        assert ran.code == code, ran
        return ran.document

    def asked(self, amount: str = "400tokens", **more: Any) -> Any:
        return self.explain(amount, "--subject", self.bot, **more)


@pytest.fixture
def world(operator: Run, served: Served) -> World:
    name = f"acme-{next(_numbers)}"
    world = World(operator, served, name, "")
    world.admin("POST", "/v1/admin/tenants", {"tenant_id": name, "name": "Acme"})
    key = world.admin("POST", "/v1/admin/api-keys", {"tenant_id": name, "name": "k"})
    return World(operator, served, name, key["key_secret"])


def too_small(world: World) -> None:
    world.budget(300)
    world.budget(1_000, world.bot)


def too_small_twice(world: World) -> None:
    world.budget(300)
    world.budget(100, world.bot)


def frozen(world: World) -> None:
    world.turn(world.budget(1_000), "freeze")


def frozen_and_too_small(world: World) -> None:
    world.turn(world.budget(300), "freeze")
    world.budget(100, world.bot)


def over_limit(world: World) -> None:
    scope = world.budget(1_000, overdraft_limit={"unit": UNIT, "amount": 500})
    world.spend(1_400, "ALLOW_WITH_OVERDRAFT")
    limit = {"overdraft_limit": {"unit": UNIT, "amount": 100}}
    world.admin("PATCH", f"/v1/admin/budgets?scope={scope}&unit={UNIT}", limit)


def no_budget(world: World) -> None:
    del world


def another_unit(world: World) -> None:
    world.budget(1_000, unit="CREDITS")


def suspended(world: World) -> None:
    world.budget(300)
    world.admin("PATCH", f"/v1/admin/tenants/{world.tenant}", {"status": "SUSPENDED"})


DENIALS: dict[str, tuple[Callable[[World], None], int]] = {
    "BUDGET_EXCEEDED": (too_small, 1),
    "BUDGET_EXCEEDED twice": (too_small_twice, 2),
    "BUDGET_FROZEN": (frozen, 1),
    "BUDGET_FROZEN and more": (frozen_and_too_small, 3),
    "OVERDRAFT_LIMIT_EXCEEDED": (over_limit, 1),
    "BUDGET_NOT_FOUND": (no_budget, 1),
    "UNIT_MISMATCH": (another_unit, 1),
    "TENANT_SUSPENDED": (suspended, 2),
}


@pytest.mark.parametrize("kind", DENIALS)
def test_the_commands_that_are_told_let_it_pass(world: World, kind: str) -> None:
    """Each kind of denial is told with its reason; run as they stand, the commands help."""
    make, steps = DENIALS[kind]
    make(world)
    said = world.asked(code=EXIT_FAILED)
    assert said["reason_code"] == kind.split()[0]
    assert (said["decision"], said["decided_by"]) == ("DENY", "server")
    assert said["notes"] == [], "the ledger's rules and the server agree"
    assert len(said["commands"]) == steps, said["commands"]
    assert said["deny_detail"].get("suggested_fix") or kind == "UNIT_MISMATCH"
    for command in said["commands"]:
        assert world.run(*shlex.split(command)[1:]).code == EXIT_OK, command
    after = world.asked(code=EXIT_OK)
    assert (after["decision"], after["commands"]) == ("ALLOW", [])


def test_a_debt_without_a_flag_is_repaid() -> None:
    """No sequence of requests leads there any more, but an older ledger may hold it."""
    budget = Budget(
        *("acme", "tenant:acme", Unit.TOKENS, "ldg_1", 1_000, 950, 0, 0, 50, 0),
        is_over_limit=False,
        status=BudgetStatus.ACTIVE,
        created_at_ms=1,
        updated_at_ms=1,
    )
    question = asked("tenant:acme", {}, "llm", "400tokens")
    found = judge(Snapshot(budgets={("acme", "tenant:acme", Unit.TOKENS): budget}), question, 2)
    assert found.denial is not None
    assert found.denial["reason_code"] == "DEBT_OUTSTANDING"
    assert found.commands == ["bursar budget repay tenant:acme 50TOKENS"]


@pytest.mark.parametrize("kind", [kind for kind in DENIALS if kind.startswith("BUDGET_EXC")])
def test_the_smaller_amount_that_is_told_fits(world: World, kind: str) -> None:
    DENIALS[kind][0](world)
    fits = world.asked(code=EXIT_FAILED)["fits"]
    assert world.asked(f"{fits}tokens", code=EXIT_OK)["decision"] == "ALLOW"
    assert world.asked(f"{fits + 1}tokens", code=EXIT_FAILED)["decision"] == "DENY"


def test_what_is_closed_for_good_has_no_command(world: World) -> None:
    world.budget(1_000)
    world.admin("PATCH", f"/v1/admin/tenants/{world.tenant}", {"status": "CLOSED"})
    said = world.asked(code=EXIT_FAILED, with_key=False)
    assert (said["reason_code"], said["commands"]) == ("TENANT_CLOSED", [])
    assert said["deny_detail"]["suggested_fix"].startswith("None:")


def test_each_scope_has_its_line(world: World) -> None:
    """With a budget or without, in which unit, how much of it, and what it says."""
    world.budget(1_000)
    world.budget(100, world.bot)
    world.budget(50, f"{world.bot}/toolset:web", "CREDITS")
    words = ("400tokens", "--tenant", world.tenant, "--app", "x", "--agent", "bot")
    said = world.explain(*words, code=EXIT_OK)
    # The agent's budget lies under the tenant, and not under this app.
    assert [(row["scope"].rpartition("/")[2], row["verdict"]) for row in said["scopes"]] == [
        (f"tenant:{world.tenant}", "passes"),
        ("app:x", "no budget"),
        ("agent:bot", "no budget"),
    ]
    said = world.explain("400tokens", "--subject", f"{world.bot}/toolset:web", code=EXIT_FAILED)
    assert [row["verdict"] for row in said["scopes"]] == ["passes", "BUDGET_EXCEEDED", "no budget"]
    assert said["scopes"][1]["remaining"] == 100
    assert said["scopes"][2]["other_units"] == ["CREDITS"]
    shown = world.run("explain", "400tokens", "--subject", world.bot, CYCLES_API_KEY=world.key)
    assert shown.code == EXIT_FAILED
    for part in ("1,000 tokens", "BUDGET_EXCEEDED", "bursar budget fund", "at most 100TOKENS"):
        assert part in shown.out


def test_the_policy_that_acts_is_told(world: World) -> None:
    world.budget(1_000)
    policy = {"name": "p", "scope_pattern": "agent:*", "caps": {"max_tokens": 7}, "priority": 2}
    rates = {"rate_limits": {"max_reservations_per_minute": 3}}
    body = {"tenant_id": world.tenant} | policy | rates
    world.admin("POST", "/v1/admin/policies", body)
    said = world.asked(code=EXIT_OK)
    assert (said["decision"], said["caps"]) == ("ALLOW_WITH_CAPS", {"max_tokens": 7})
    assert said["policy"]["name"] == "p"
    assert said["policy"]["max_reservations_per_minute"] == 3
    ours = world.asked(code=EXIT_OK, with_key=False)
    assert (ours["decision"], ours["decided_by"]) == ("ALLOW_WITH_CAPS", "rules")
    assert ours["caps"] == {"max_tokens": 7}


def test_nothing_is_held_and_no_limit_is_used_up(world: World) -> None:
    """A policy that allows one reservation a minute still allows it after many questions."""
    world.budget(1_000)
    rates = {"rate_limits": {"max_reservations_per_minute": 1}}
    body = {"tenant_id": world.tenant, "name": "p", "scope_pattern": "agent:*"} | rates
    world.admin("POST", "/v1/admin/policies", body)
    for _ in range(3):
        row = world.asked(code=EXIT_OK)["scopes"][0]
        assert (row["reserved"], row["remaining"]) == (0, 1_000)
    reserved = world.act(
        "/v1/reservations",
        {
            "idempotency_key": "k",
            "subject": {"tenant": world.tenant, "agent": "bot"},
            "action": {"kind": "llm", "name": "m"},
            "estimate": {"unit": UNIT, "amount": 400},
        },
    )
    assert reserved["decision"] == "ALLOW"


@pytest.mark.parametrize("with_key", [True, False])
def test_a_rate_limit_that_is_used_up_is_a_denial(world: World, with_key: bool) -> None:
    """The ledger would answer 429 until the minute is over; other scopes have their own count."""
    world.budget(1_000)
    rates = {"rate_limits": {"max_reservations_per_minute": 2}}
    body = {"tenant_id": world.tenant, "name": "p", "scope_pattern": "agent:*"} | rates
    world.admin("POST", "/v1/admin/policies", body)
    if time.time() % 60 > 50:
        time.sleep(60 - time.time() % 60)  # the minute must not end within the test
    for number in range(2):
        used = world.asked(code=EXIT_OK, with_key=with_key)["rate_limit"]
        assert (used["counted"], used["max_reservations_per_minute"]) == (number, 2)
        for agent in ("bot", "other"):
            world.reserve(agent, f"{agent}-{number}")
    said = world.asked(code=EXIT_FAILED, with_key=with_key)
    assert (said["decision"], said["reason_code"]) == ("DENY", "LIMIT_EXCEEDED")
    assert said["decided_by"] == "rules"
    assert (said["commands"], said["fits"]) == ([], None)
    assert "send the same request again in" in said["message"]
    with pytest.raises(urllib.error.HTTPError, match="429"):
        world.reserve("bot", "one-too-many")
    free = world.explain("4tokens", "--subject", f"{world.bot}2", code=EXIT_OK, with_key=with_key)
    assert free["rate_limit"]["counted"] == 0


def test_a_key_that_may_not_count_is_told_so(world: World) -> None:
    world.budget(1_000)
    rates = {"rate_limits": {"max_reservations_per_minute": 2}}
    body = {"tenant_id": world.tenant, "name": "p", "scope_pattern": "agent:*"} | rates
    world.admin("POST", "/v1/admin/policies", body)
    may = ["reservations:create", "balances:read", "policies:read"]
    body = {"tenant_id": world.tenant, "name": "few", "permissions": may}
    key = world.admin("POST", "/v1/admin/api-keys", body)["key_secret"]
    said = world.explain("4tokens", "--subject", world.bot, "--api-key", key, code=EXIT_OK)
    assert "reservations:list" in said["notes"][0]


def test_a_wrong_unit_has_its_reason_without_the_server(world: World) -> None:
    another_unit(world)
    said = world.asked(code=EXIT_FAILED, with_key=False)
    assert (said["reason_code"], said["decided_by"]) == ("UNIT_MISMATCH", "rules")


def test_a_tenant_that_does_not_exist_is_made_first(world: World) -> None:
    ghost = f"ghost-{next(_numbers)}"
    words = ("4tokens", "--subject", f"tenant:{ghost}/agent:bot")
    said = world.explain(*words, code=EXIT_FAILED, with_key=False)
    assert said["message"].startswith(f"Tenant {ghost} does not exist")
    assert said["commands"][0] == f"bursar tenant create {ghost}"
    for command in said["commands"]:
        assert world.run(*shlex.split(command)[1:]).code == EXIT_OK, command
    assert world.explain(*words, code=EXIT_OK, with_key=False)["decision"] == "ALLOW"


def test_a_tenants_own_key_is_enough(world: World) -> None:
    """Without the admin key the tenant's own budgets are read."""
    too_small(world)
    said = world.explain(
        "400tokens", "--subject", world.bot, "--api-key", world.key, code=EXIT_FAILED
    )
    assert said["reason_code"] == "BUDGET_EXCEEDED"
    assert said["scopes"][0]["remaining"] == 300


def test_a_recorded_request_is_asked_again(world: World, tmp_path: Path) -> None:
    too_small(world)
    body = {
        "idempotency_key": "k",
        "subject": {"tenant": world.tenant, "agent": "bot"},
        "action": {"kind": "llm", "name": "m"},
        "estimate": {"unit": UNIT, "amount": 400},
        "ttl_ms": 1_000,
    }
    file = tmp_path / "request.json"
    file.write_text(json.dumps(body))
    said = world.explain("--reservation-request", str(file), code=EXIT_FAILED)
    assert said["reason_code"] == "BUDGET_EXCEEDED"
    file.write_text(json.dumps(body | {"colour": "red"}))
    ran = world.run("explain", "--reservation-request", str(file))
    assert ran.code == EXIT_USAGE
    assert "colour: unknown field" in ran.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--subject", "tenant:acme"), "AMOUNT is missing"),
        (("4tokens", "--subject", "acme"), "--subject is a path"),
        (("4tokens", "--subject", "tenant:a", "--agent", "b"), "say the same thing"),
        (("4tokens", "--agent", "b"), "subject.tenant is missing"),
        (("4 bananas", "--tenant", "acme"), "AMOUNT"),
    ],
)
def test_what_cannot_be_asked_is_said(operator: Run, words: tuple[str, ...], expected: str) -> None:
    ran = operator("explain", *words)
    assert ran.code == EXIT_USAGE
    assert expected in ran.err


def test_a_foreign_key_is_an_error_and_no_denial(world: World) -> None:
    ran = world.run("explain", "4tokens", "--tenant", "other", CYCLES_API_KEY=world.key)
    assert ran.code == EXIT_CREDENTIAL
    assert "belongs to" in ran.err
