"""`bursar tenant bulk` and `bursar budget bulk`, against a server."""

from typing import Any

import httpx2
import pytest

from bursar.cli.exits import (
    EXIT_CREDENTIAL,
    EXIT_DECLINED,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNKNOWN,
    EXIT_USAGE,
)
from conftest import Served

USD = 100_000_000


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name.split("[")[0].replace("_", "-")[:55])


@pytest.fixture
def three(operator: Any, name: str) -> list[str]:
    """Three tenants of one name."""
    made = [f"{name}-{number}" for number in range(3)]
    for tenant in made:
        assert operator("tenant", "create", tenant).code == 0
    return made


@pytest.fixture
def budgets(operator: Any, name: str) -> str:
    """A tenant with 10, 20 and 30 dollars at three agents, and tokens at one of them."""
    assert operator("tenant", "create", name).code == 0
    for agent, written in (("a", "10USD"), ("b", "20USD"), ("c", "30USD"), ("c", "500 tokens")):
        assert operator("budget", "create", f"tenant:{name}/agent:{agent}", written).code == 0
    return name


def statuses(operator: Any, tenants: list[str]) -> list[str]:
    return [operator("tenant", "show", each, "--json").document["status"] for each in tenants]


def allocated(operator: Any, tenant: str) -> list[int]:
    rows = operator("balances", "--tenant", tenant, "--unit", "USD", "--json").document
    return [row["allocated"]["amount"] // USD for row in rows["balances"]]


def ids(done: Any) -> dict[str, list[str]]:
    return {kind: [row["id"] for row in done[kind]] for kind in ("succeeded", "failed", "skipped")}


def test_tenants_are_changed_and_accounted_for(operator: Any, name: str, three: list[str]) -> None:
    """Every tenant is changed, skipped or fails by itself; failures come first, and end with 1."""
    assert operator("tenant", "suspend", three[1]).code == 0
    words = ("--search", name, "--yes")
    done = operator("tenant", "bulk", "suspend", *words, "--json")
    assert done.code == EXIT_OK
    assert ids(done.document) == {
        "succeeded": [three[0], three[2]],
        "failed": [],
        "skipped": [three[1]],
    }
    assert done.document["total_matched"] == 3
    assert statuses(operator, three) == ["SUSPENDED"] * 3
    assert operator("tenant", "close", three[0], "--yes").code == 0
    some = operator("tenant", "bulk", "reactivate", *words)
    assert some.code == EXIT_FAILED
    assert "reactivate: 3 tenants" in some.out
    lines = [line for line in some.out.splitlines() if line.startswith(name)]
    assert [line.split()[:2] for line in lines] == [
        [three[0], "failed"],
        [three[1], "succeeded"],
        [three[2], "succeeded"],
    ]
    assert "INVALID_TRANSITION" in lines[0]
    skipped = operator("tenant", "bulk", "reactivate", "--search", three[1], "--yes")
    assert "already in target state" in skipped.out
    assert operator("tenant", "bulk", "close", *words).code == EXIT_OK
    assert statuses(operator, three) == ["CLOSED"] * 3


def test_budgets_in_the_unit_of_the_amount(operator: Any, budgets: str) -> None:
    """Dollars go to budgets in dollars alone; rows are named by scope, for programs by ledger."""
    words = ("--tenant", budgets, "--reason", "month end", "--yes")
    ran = operator("budget", "bulk", "credit", "5USD", *words)
    assert (ran.code, ran.err) == (EXIT_OK, "")
    assert "credit: 3 budgets" in ran.out
    assert f"tenant:{budgets}/agent:a" in ran.out
    assert allocated(operator, budgets) == [15, 25, 35]
    debited = operator("budget", "bulk", "debit", "20USD", *words, "--json")
    assert debited.code == EXIT_FAILED
    assert [row["error_code"] for row in debited.document["failed"]] == ["BUDGET_EXCEEDED"]
    assert debited.document["failed"][0]["id"].startswith("ldg_")
    assert allocated(operator, budgets) == [15, 5, 15]
    assert operator("budget", "bulk", "reset", "10USD", *words).code == EXIT_OK
    assert allocated(operator, budgets) == [10, 10, 10]
    spent = operator("budget", "bulk", "reset-spent", "9USD", "--spent", "8USD", *words, "--json")
    assert len(spent.document["succeeded"]) == 3
    used = operator("budget", "list", "--tenant", budgets, "--used-from", "0.8", "--json").document
    assert len(used["ledgers"]) == 3
    assert (
        operator("budget", "list", "--tenant", budgets, "--used-to", "0", "--json").document[
            "ledgers"
        ][0]["unit"]
        == "TOKENS"
    )
    none_owes = operator("budget", "bulk", "repay", "1USD", *words, "--json").document
    assert len(none_owes["skipped"]) == 3
    assert allocated(operator, budgets) == [9, 9, 9]


def test_filters_reach_preview_and_action_alike(operator: Any, budgets: str) -> None:
    """Each filter selects the same rows in what is shown and in what is changed."""
    scope = f"tenant:{budgets}/agent:b"
    assert operator("budget", "freeze", scope).code == 0
    for chosen in (("--scope", scope), ("--status", "FROZEN"), ("--search", "agent:b")):
        words = ("budget", "bulk", "credit", "1USD", "--tenant", budgets, *chosen)
        declined = operator(*words)
        assert declined.code == EXIT_DECLINED
        assert scope in declined.err
        assert "1 budget by $1.00" in declined.err
        done = operator(*words, "--yes", "--json")
        assert done.code == EXIT_FAILED  # it is frozen
        assert [done.document[kind] for kind in ("total_matched", "succeeded")] == [1, []]
    for chosen in (("--over-limit",), ("--in-debt",), ("--used-from", "0.5", "--used-to", "1")):
        words = ("budget", "bulk", "credit", "1USD", "--tenant", budgets, *chosen)
        none = operator(*words)
        assert (none.code, "no budget matches; nothing was changed" in none.err) == (0, True)
    assert allocated(operator, budgets) == [10, 20, 30]


def test_it_shows_and_asks(operator: Any, name: str, three: list[str]) -> None:
    """Without a yes it shows what matches, says how many, and changes nothing."""
    ran = operator("tenant", "bulk", "close", "--search", name)
    assert (ran.code, ran.out) == (EXIT_DECLINED, "")
    assert all(tenant in ran.err for tenant in three)
    assert "closes 3 tenants for good" in ran.err
    told = operator("tenant", "bulk", "close", "--search", name, "--json")
    assert (told.code, told.error["error"]) == (EXIT_DECLINED, "DECLINED")
    assert statuses(operator, three) == ["ACTIVE"] * 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("tenant", "bulk", "close", "--yes"), EXIT_USAGE, "give --status, --search or --parent"),
        (("tenant", "bulk", "close", "--search", "", "--yes"), EXIT_USAGE, "say which tenants"),
        (("tenant", "bulk", "suspend", "--search", "x", "--expect", "501"), EXIT_USAGE, "0 to 500"),
        (("budget", "bulk", "credit", "5", "--tenant", "x"), EXIT_USAGE, "AMOUNT: '5' has no unit"),
        (("budget", "bulk", "credit", "5USD"), EXIT_USAGE, "--tenant"),
        (
            ("budget", "bulk", "credit", "5USD", "--tenant", "x", "--used-from", "90"),
            EXIT_USAGE,
            "--used-from must be from 0 to 1",
        ),
        (
            ("budget", "bulk", "reset-spent", "5USD", "--tenant", "x", "--spent", "1token"),
            EXIT_USAGE,
            "--spent is in TOKENS",
        ),
        (
            ("budget", "bulk", "credit", "5USD", "--tenant", "nobody", "--yes"),
            EXIT_NOT_FOUND,
            "Tenant not found",
        ),
    ],
)
def test_wrong_input(operator: Any, words: tuple[str, ...], code: int, said: str) -> None:
    """Wrong input is refused by name, before anything is changed."""
    ran = operator(*words, "--json")
    assert ran.code == code
    assert said in ran.error["message"]


def test_it_needs_the_admin_key(bursar: Any, served: Served) -> None:
    """A tenant's key is not enough."""
    words = ("tenant", "bulk", "suspend", "--status", "ACTIVE", "--yes")
    ran = bursar(*words, "--base-url", served.url, "--api-key", "cyc_live_x")
    assert (ran.code, "this needs the admin key" in ran.err) == (EXIT_CREDENTIAL, True)


def test_rows_that_come_to_match_are_not_changed(operator: Any, budgets: str) -> None:
    """Where more match than were looked at nothing is changed, and it says what to do."""
    words = ("budget", "bulk", "credit", "5USD", "--tenant", budgets, "--yes", "--expect", "2")
    ran = operator(*words, "--json")
    assert (ran.code, ran.error["error"]) == (EXIT_REFUSED, "COUNT_MISMATCH")
    assert allocated(operator, budgets) == [10, 20, 30]


def test_asked_again_it_happens_once(operator: Any, budgets: str) -> None:
    """The key and the number of an earlier attempt give its answer, whatever matches by now."""
    chosen = ("--tenant", budgets, "--used-to", "0", "--search", "agent:", "--yes", "--json")
    words = ("budget", "bulk", "reset-spent", "10USD", "--spent", "5USD", *chosen)
    first = operator(*words, "--idempotency-key", "december").document
    assert len(first["succeeded"]) == 3
    again = operator(*words, "--idempotency-key", "december", "--expect", "3")
    assert (again.code, again.document) == (EXIT_OK, first)
    other = operator(*words, "--idempotency-key", "december")
    assert (other.code, other.error["error"]) == (EXIT_REFUSED, "IDEMPOTENCY_MISMATCH")


def test_a_lost_answer_says_how_to_ask_again(
    operator: Any, budgets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the key and the number, for without both it would be another request."""
    request = httpx2.Client.request

    def lose(client: httpx2.Client, method: str, *words: Any, **fields: Any) -> httpx2.Response:
        answer = request(client, method, *words, **fields)
        if method == "POST":
            raise httpx2.ReadError("cut")
        return answer

    monkeypatch.setattr(httpx2.Client, "request", lose)
    monkeypatch.setattr("bursar.cli.remote.caller.PAUSES_S", (0.0,))
    words = ("budget", "bulk", "credit", "5USD", "--tenant", budgets, "--yes")
    ran = operator(*words, "--idempotency-key", "top-up")
    assert ran.code == EXIT_UNKNOWN
    assert "Run it again with --idempotency-key top-up --expect 3" in ran.err
    assert allocated(operator, budgets) == [15, 25, 35]


def test_too_many_match(operator: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than one bulk action may change are refused before it asks."""
    for number in range(2):
        assert operator("tenant", "create", f"{name}-{number}").code == 0
    monkeypatch.setattr("bursar.cli.remote.bulk.BULK_ROWS_MAX", 1)
    ran = operator("tenant", "bulk", "suspend", "--search", name, "--yes")
    assert ran.code == EXIT_USAGE
    assert "more than 1 tenants match" in ran.err
    assert statuses(operator, [f"{name}-0"]) == ["ACTIVE"]
