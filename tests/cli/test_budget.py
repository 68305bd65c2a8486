"""`bursar budget` and `bursar balances`, against a server."""

from typing import Any

import pytest

from bursar.cli.exits import EXIT_CREDENTIAL, EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_USAGE

USD = 100_000_000


@pytest.fixture
def scope(operator: Any, request: pytest.FixtureRequest) -> str:
    """The scope of a new tenant."""
    name = request.node.name.split("[")[0].replace("_", "-")[:64]
    assert operator("tenant", "create", name).code == 0
    return f"tenant:{name}"


@pytest.fixture
def budget(operator: Any, scope: str) -> str:
    """The scope of a new budget of 100 dollars."""
    assert operator("budget", "create", scope, "100USD").code == 0
    return scope


def test_create_reads_amounts(operator: Any, scope: str) -> None:
    """Amounts are read as people write them and are exact on the wire."""
    words = ("budget", "create", scope, "20.50USD", "--overdraft", "$0.50", "--overage", "REJECT")
    row = operator(*words, "--json").document
    assert row["allocated"] == {"unit": "USD_MICROCENTS", "amount": 2_050_000_000}
    assert row["overdraft_limit"]["amount"] == 50_000_000
    tokens = operator("budget", "create", scope, "1.5M tokens", "--json").document
    assert tokens["allocated"] == {"unit": "TOKENS", "amount": 1_500_000}
    again = operator("budget", "create", scope, "1USD", "--json")
    assert (again.code, again.error["error"]) == (EXIT_REFUSED, "DUPLICATE_RESOURCE")
    assert "$20.50" in operator("budget", "show", scope, "--unit", "usd").out


def test_two_units_need_a_choice(operator: Any, budget: str) -> None:
    """Where a scope has several budgets the command asks which; with one it knows."""
    assert operator("budget", "show", budget, "--json").document["unit"] == "USD_MICROCENTS"
    assert operator("budget", "create", budget, "300credits").code == 0
    ran = operator("budget", "show", budget)
    assert ran.code == EXIT_USAGE
    assert "add --unit with" in ran.err
    assert operator("budget", "show", budget, "--unit", "credits").code == 0


def test_funding(operator: Any, budget: str) -> None:
    """Each operation does what it says, and tells before and after."""

    def after(verb: str, amount: str, *more: str) -> tuple[int, int]:
        done = operator("budget", verb, budget, amount, *more, "--json").document
        assert done["idempotency_key"]
        return done["new_allocated"]["amount"] // USD, done["new_spent"]["amount"] // USD

    assert after("fund", "20USD", "--reason", "top-up") == (120, 0)
    assert after("debit", "30USD") == (90, 0)
    assert after("reset", "50USD") == (50, 0)
    assert after("reset-spent", "60USD", "--spent", "10USD") == (60, 10)
    assert after("repay", "5USD") == (65, 10)
    told = operator("budget", "fund", budget, "1USD").out
    assert "$65.00 -> $66.00" in told
    assert "cli-" in told
    too_much = operator("budget", "debit", budget, "1000USD", "--json")
    assert (too_much.code, too_much.error["error"]) == (EXIT_REFUSED, "BUDGET_EXCEEDED")


def test_key_makes_funding_happen_once(operator: Any, budget: str) -> None:
    """The same key funds once; with another amount it is refused."""
    words = ("budget", "fund", budget, "20USD", "--idempotency-key", "top-up-1", "--json")
    first = operator(*words).document
    assert operator(*words).document == first
    assert operator("budget", "show", budget, "--json").document["allocated"]["amount"] == 120 * USD
    other = operator(*words[:3], "21USD", *words[4:])
    assert (other.code, other.error["error"]) == (EXIT_REFUSED, "IDEMPOTENCY_MISMATCH")
    assert other.error["idempotency_key"] == "top-up-1"


def test_freeze_and_unfreeze(operator: Any, budget: str) -> None:
    """Freezing says how to undo it; doing it twice is refused."""
    ran = operator("budget", "freeze", budget, "--reason", "a loop")
    assert "FROZEN" in ran.out
    assert f"undo: bursar budget unfreeze {budget} --unit USD_MICROCENTS\n" in ran.out
    assert operator("budget", "freeze", budget).code == EXIT_REFUSED
    assert operator("budget", "unfreeze", budget, "--json").document["status"] == "ACTIVE"


def test_update(operator: Any, budget: str) -> None:
    """The limit and the overage policy change; nothing to change is a mistake."""
    words = ("budget", "update", budget, "--overdraft", "2USD", "--overage", "ALLOW_WITH_OVERDRAFT")
    row = operator(*words, "--json").document
    assert row["overdraft_limit"]["amount"] == 2 * USD
    assert row["commit_overage_policy"] == "ALLOW_WITH_OVERDRAFT"
    assert operator("budget", "update", budget).code == EXIT_USAGE
    mixed = operator("budget", "update", budget, "--overdraft", "2USD", "--unit", "tokens")
    assert mixed.code == EXIT_USAGE


def test_list(operator: Any, budget: str) -> None:
    """Filters reach the server; an empty list says what to do."""
    tenant = budget.removeprefix("tenant:")
    operator("budget", "create", f"{budget}/agent:a", "5USD")
    rows = operator("budget", "list", "--tenant", tenant, "--json").document["ledgers"]
    assert len(rows) == 2
    one = operator("budget", "list", "--scope", f"{budget}/agent:a", "--unit", "USD", "--json")
    assert len(one.document["ledgers"]) == 1
    none = operator("budget", "list", "--tenant", tenant, "--in-debt")
    assert (none.code, none.out) == (0, "")
    assert "no budget" in none.err
    assert operator("budget", "list", "--used-from", "2").code == EXIT_USAGE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "tenant:acme", "20"), "has no unit"),
        (("create", "tenant:acme", "0,50USD"), "cannot read"),
        (("create", "tenant:acme", "0.000000001USD"), "finer than one"),
        (("create", "tenant:acme", "-5USD"), "-5USD"),
        (("create", "agent:x", "5USD"), "begins with its tenant"),
        (("create", "tenant:acme", "5USD", "--overdraft", "5tokens"), "counts in USD_MICROCENTS"),
        (("fund", "tenant:acme", "5EUR"), "unknown unit"),
        (("fund", "acme", "5USD"), "begins with its tenant"),
        (("reset-spent", "tenant:acme", "5USD", "--spent", "5"), "--spent: '5' has no unit"),
        (("show", "tenant:acme", "--unit", "EUR"), "--unit must be one of"),
        (("list", "--unit", "EUR"), "--unit must be one of"),
        (("list", "--limit", "-1"), "--limit must be"),
    ],
)
def test_wrong_input(operator: Any, words: tuple[str, ...], said: str) -> None:
    """Wrong input is refused before anything is sent, and the option is named."""
    ran = operator("budget", *words, "--json")
    assert ran.code == EXIT_USAGE
    assert said in ran.error["message"]


@pytest.mark.parametrize("verb", ["show", "freeze", "unfreeze", "update"])
def test_no_such_budget(operator: Any, scope: str, verb: str) -> None:
    """A scope without a budget is not found, whatever is asked of it."""
    more = ("--overage", "REJECT") if verb == "update" else ()
    assert operator("budget", verb, scope, *more).code == EXIT_NOT_FOUND
    assert operator("budget", "fund", scope, "1USD").code == EXIT_NOT_FOUND


def test_tenant_manages_its_own(operator: Any, budget: str) -> None:
    """A tenant's key creates and funds its own budgets, and does not freeze."""
    tenant = budget.removeprefix("tenant:")
    key = operator("key", "create", "--tenant", tenant, "--name", "k", "--json").document
    own = ("--api-key", key["key_secret"], "--json")
    assert operator("budget", "create", f"{budget}/agent:a", "5USD", *own).code == 0
    assert operator("budget", "fund", budget, "1USD", *own).code == 0
    assert operator("budget", "show", budget, *own).document["allocated"]["amount"] == 101 * USD
    without = operator("budget", "freeze", budget, *own, BURSAR_ADMIN_KEY="")
    assert without.code == EXIT_CREDENTIAL
    assert "this needs the admin key" in without.error["message"]


def test_balances(operator: Any, budget: str) -> None:
    """Both the operator and the tenant see every scope, outer ones first, with a bar."""
    tenant = budget.removeprefix("tenant:")
    operator("budget", "create", f"{budget}/agent:a", "5USD")
    operator("budget", "reset-spent", f"{budget}/agent:a", "5USD", "--spent", "4.60USD")
    key = operator("key", "create", "--tenant", tenant, "--name", "k", "--json").document
    own = ("--api-key", key["key_secret"])
    seen = operator("balances", "--tenant", tenant, "--json").document
    assert [row["scope"] for row in seen["balances"]] == [budget, f"{budget}/agent:a"]
    assert operator("balances", *own, "--json").document == seen
    shown = operator("balances", *own, "--unit", "usd").out
    assert "$0.40" in shown
    assert "92%" in shown
    one = operator("balances", *own, "--scope", f"{budget}/agent:a", "--json").document
    assert len(one["balances"]) == 1
    other = operator("balances", *own, "--tenant", "another", "--json")
    assert other.code == EXIT_CREDENTIAL
    assert operator("balances", "--limit", "1", "--json").document["has_more"] is True
    assert operator("balances", "--unit", "EUR").code == EXIT_USAGE


def test_renewal_is_set_shown_changed_and_ended(operator: Any, scope: str) -> None:
    """A plan is given at creation or later, told in a sentence, and stopped again."""
    words = ("budget", "create", scope, "20USD", "--every", "MONTH")
    made = operator(*words, "--time-zone", "Europe/Berlin", "--rollover", "CARRY_FORWARD", "--json")
    assert made.document["period_end"] > made.document["period_start"]
    shown = " ".join(operator("budget", "show", scope).out.split())
    assert "MONTH by the clocks of Europe/Berlin, $20.00 each, rollover CARRY_FORWARD" in shown
    assert operator("budget", "update", scope, "--every", "WEEK").code == 0
    assert "WEEK by the clocks of UTC" in " ".join(operator("budget", "show", scope).out.split())
    assert operator("budget", "update", scope, "--every", "NEVER").code == 0
    assert "renews" not in operator("budget", "show", scope).out


def test_what_cannot_be_a_renewal_is_refused(operator: Any, scope: str) -> None:
    """The option is named, and so is the fix."""
    ran = operator("budget", "create", scope, "20USD", "--time-zone", "Europe/Berlin")
    assert (ran.code, "--every" in ran.err) == (EXIT_USAGE, True)
    ran = operator("budget", "create", scope, "20USD", "--every", "MONTH", "--time-zone", "Berlin")
    assert "Europe/Berlin" in ran.err
    assert operator("budget", "create", scope, "20USD", "--every", "FORTNIGHT").code == EXIT_USAGE
    ran = operator("budget", "create", scope, "20USD", "--every", "ROLLING")
    assert "period_start" in ran.err
