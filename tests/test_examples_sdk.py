"""The examples that call a model do so for real, and the ledger knows what each of them spent.

Each runs as a reader would run it: in a process of its own, against a real server, with the
provider's own package. Only the provider is scripted (`bursar.testing.providers`), so what a
run must have cost is known in advance, to the microcent.
"""

import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bursar import StreamUsage
from bursar.integrations.genai_prices import cost_fn
from bursar.testing.providers import Reply, ScriptedProvider, ToolUse
from conftest import Served, free_port, serving, wait_until

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RUN_WITHIN_S = 60
DOLLAR = 100_000_000
OPENAI, ANTHROPIC = "gpt-4o-mini", "claude-haiku-4-5"
numbers = itertools.count(1)


def price(model: str, tokens_input: int, tokens_output: int) -> int:
    return cost_fn(model)(StreamUsage(tokens_input, tokens_output))


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant of its own for one example."""

    served: Served
    tenant: str
    environment: Mapping[str, str]

    def admin(self, method: str, path: str, **body: object) -> Any:
        headers = {"X-Admin-API-Key": self.served.admin_key}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self.served.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def give(self, amount: int, scope: str = "") -> None:
        allocated = {"unit": "USD_MICROCENTS", "amount": amount}
        self.admin(
            "POST", "/v1/admin/budgets", tenant_id=self.tenant, unit="USD_MICROCENTS",
            scope=f"tenant:{self.tenant}{scope}", allocated=allocated,
        )  # fmt: skip

    def balance(self) -> dict[str, int]:
        """Return what the tenant's budget says, and check that it adds up."""
        query = f"?tenant_id={self.tenant}&scope_prefix=tenant:{self.tenant}"
        found = self.admin("GET", f"/v1/admin/budgets{query}")["ledgers"]
        (own,) = [one for one in found if one["scope"] == f"tenant:{self.tenant}"]
        amounts = {
            name: own[name]["amount"] for name in ("allocated", "remaining", "reserved", "spent")
        }
        left = amounts["allocated"] - amounts["reserved"] - amounts["spent"]
        assert amounts["remaining"] == left
        return amounts


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all examples."""
    with serving(tmp_path_factory.mktemp("examples")) as found:
        yield found


@pytest.fixture
def account(served: Served, tmp_path: Path) -> Account:
    """A new tenant, without any budget."""
    tenant = f"acme-{next(numbers)}"
    found = Account(served, tenant, {})
    found.admin("POST", "/v1/admin/tenants", tenant_id=tenant, name=tenant)
    key = found.admin("POST", "/v1/admin/api-keys", tenant_id=tenant, name="example")
    return Account(served, tenant, os.environ | {
        "CYCLES_BASE_URL": served.url, "CYCLES_API_KEY": key["key_secret"],
        "CYCLES_TENANT": tenant, "CYCLES_JOURNAL_DIR": str(tmp_path / "journal"),
    })  # fmt: skip


def run(example: str, account: Account, provider: ScriptedProvider) -> tuple[int, str]:
    """Run an example; return its exit status and what it printed."""
    process = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example)],
        env=account.environment | provider.environment,
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
    )
    return process.returncode, process.stdout + process.stderr


EXAMPLES_SDK = ("05_openai_call.py", "06_openai_stream.py", "07_anthropic_cancelled.py",
                "08_tool_loop.py", "09_fastapi_route.py")  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES_SDK)
def test_what_is_not_set_is_named(example: str, account: Account) -> None:
    """Without a server an example ends with one line that says what it needs."""
    nothing = {name: "" for name in account.environment if name.startswith("CYCLES_")}
    alone = Account(account.served, account.tenant, {**account.environment, **nothing})
    with ScriptedProvider([]) as provider:
        status, printed = run(example, alone, provider)
    assert (status, printed) == (
        2,
        "not set: CYCLES_BASE_URL, CYCLES_API_KEY, CYCLES_TENANT - see the top of this file\n",
    )


def test_openai_call_costs_what_it_used(account: Account) -> None:
    """A plain call commits what the provider counted, and gives the rest of the hold back."""
    account.give(DOLLAR)
    with ScriptedProvider([Reply("A book of what was spent.", input_tokens=14)]) as provider:
        status, printed = run("05_openai_call.py", account, provider)
    cost = price(OPENAI, 14, 6)
    assert (status, printed) == (
        0,
        "A book of what was spent.\n"
        f"tenant:{account.tenant} has spent ${cost / DOLLAR:.8f} of $1.00\n",
    )
    assert account.balance() | {"remaining": 0} == {
        "allocated": DOLLAR, "reserved": 0, "spent": cost, "remaining": 0,
    }  # fmt: skip
    assert provider.requests[0]["max_completion_tokens"] == 200


def test_openai_call_is_not_made_without_a_budget_for_it(account: Account) -> None:
    """A call that could cost more than there is never reaches the provider."""
    account.give(1_000)
    with ScriptedProvider([]) as provider:
        status, printed = run("05_openai_call.py", account, provider)
    assert (status, provider.requests) == (1, []), printed
    assert re.fullmatch(
        rf"denied: Lower the estimate to at most 1000, or credit \d+ USD_MICROCENTS to "
        rf"tenant:{account.tenant}\.\n",
        printed,
    )
    assert account.balance()["spent"] == 0


def test_openai_stream_costs_what_its_last_chunk_says(account: Account) -> None:
    """The provider's own count, which comes last, beats the count of pieces."""
    account.give(DOLLAR)
    story = "Once upon a time every cent had a name."
    with ScriptedProvider([Reply(story, input_tokens=33)]) as provider:
        status, printed = run("06_openai_stream.py", account, provider)
    cost = price(OPENAI, 33, 9)
    assert (status, printed) == (0, f"{story}\n33 tokens in, 9 out: ${cost / DOLLAR:.8f}\n")
    assert (account.balance()["spent"], account.balance()["reserved"]) == (cost, 0)


def test_refused_stream_costs_nothing(account: Account) -> None:
    """A provider that refuses before it streams has billed nothing: the hold goes back."""
    account.give(DOLLAR)
    with ScriptedProvider([Reply("no such model", status=404)]) as provider:
        status, printed = run("06_openai_stream.py", account, provider)
    assert status == 1
    assert "no such model" in printed
    assert (account.balance()["spent"], account.balance()["reserved"]) == (0, 0)


def test_broken_stream_costs_what_had_come(account: Account) -> None:
    """A connection that breaks in the middle has cost its prompt, by our count, and its pieces."""
    account.give(DOLLAR)
    with ScriptedProvider([Reply("one two three four five", breaks_after=3)]) as provider:
        status, printed = run("06_openai_stream.py", account, provider)
    assert (status, printed.startswith("one two three")) == (1, True), printed
    prompt = len("Tell me a story about a careful bookkeeper.") // 4
    balance = account.balance()
    assert (balance["spent"], balance["reserved"]) == (price(OPENAI, prompt, 3), 0)


def test_cancelled_stream_costs_what_it_used(account: Account) -> None:
    """A stream that is left in the middle commits exactly what had come until then."""
    account.give(DOLLAR)
    endless = Reply("again and " * 200, input_tokens=25, pause_s=0.02)
    with ScriptedProvider([endless]) as provider:
        status, printed = run("07_anthropic_cancelled.py", account, provider)
        wait_until(lambda: provider.cut_off == 1)
    said = re.search(r"cancelled after 2\.0 seconds\n25 tokens in, (\d+) out: \$(\S+)\n$", printed)
    assert status == 0, printed
    assert said is not None, printed
    pieces = int(said[1])
    assert 0 < pieces < 400
    assert f"{price(ANTHROPIC, 25, pieces) / DOLLAR:.8f}" == said[2]
    balance = account.balance()
    assert (balance["spent"], balance["reserved"]) == (price(ANTHROPIC, 25, pieces), 0)


def test_tool_loop_keeps_within_its_caps(account: Account) -> None:
    """Tokens are limited, a denied tool is neither offered nor used, and steps wait."""
    account.give(DOLLAR)
    account.admin(
        "POST", "/v1/admin/policies", tenant_id=account.tenant, name="careful",
        scope_pattern=f"tenant:{account.tenant}",
        caps={"max_tokens": 12, "tool_denylist": ["shell"], "cooldown_ms": 200},
    )  # fmt: skip
    script = [
        Reply(tools=[ToolUse("shell", {"text": "rm -rf /"})], input_tokens=30),
        Reply(tools=[ToolUse("search", {"text": "ledgers"})], input_tokens=50),
        Reply("word " * 40, input_tokens=70),
    ]
    with ScriptedProvider(script) as provider:
        status, printed = run("08_tool_loop.py", account, provider)
    cost = price(ANTHROPIC, 30, 10) + price(ANTHROPIC, 50, 10) + price(ANTHROPIC, 70, 12)
    spent = f"tenant:{account.tenant} has spent ${cost / DOLLAR:.8f}\n"
    assert (status, printed) == (0, "word " * 11 + f"word\n{spent}")
    assert (account.balance()["spent"], account.balance()["reserved"]) == (cost, 0)
    asked = provider.requests
    assert [one["max_tokens"] for one in asked] == [12, 12, 12]
    assert [[tool["name"] for tool in one["tools"]] for one in asked] == [["search"]] * 3
    results = [one["messages"][-1]["content"][0] for one in asked[1:]]
    assert [result["content"] for result in results] == [
        "shell is not allowed",
        "42 pages about ledgers",
    ]
    assert provider.times[2] - provider.times[0] >= 2 * 0.2


def test_tool_loop_uses_what_it_may(account: Account) -> None:
    """Without caps, every tool is offered and the limit of tokens is the program's own."""
    account.give(DOLLAR)
    script = [Reply(tools=[ToolUse("shell", {"text": "ls"})]), Reply("done")]
    with ScriptedProvider(script) as provider:
        status, printed = run("08_tool_loop.py", account, provider)
    assert (status, printed.startswith("done\n")) == (0, True), printed
    assert [tool["name"] for tool in provider.requests[0]["tools"]] == ["search", "shell"]
    assert provider.requests[1]["max_tokens"] == 500
    assert provider.requests[1]["messages"][-1]["content"][0]["content"] == "ran ls"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """A provider that always says the same, for as long as it is asked."""
    with ScriptedProvider(itertools.repeat(Reply("It is a book.", input_tokens=15))) as found:
        yield found


@pytest.fixture
def web(account: Account, provider: ScriptedProvider, tmp_path: Path) -> Iterator[int]:
    """The web service of the example on a port of its own; it must stop cleanly."""
    port = free_port()
    log = tmp_path / "web.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(EXAMPLES / "09_fastapi_route.py")],
            env=account.environment | provider.environment | {"PORT": str(port)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, log.read_text()
        yield port
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    try:
        return request(port, "GET", "/openapi.json")[0] == 200
    except OSError:
        return False


def request(
    port: int, method: str, path: str, user: str = ""
) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={"X-User": user} if user else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers
    finally:
        connection.close()


def test_route_is_guarded(account: Account, web: int, provider: ScriptedProvider) -> None:
    """Each user spends until their own budget says no; the 402 tells them what would help."""
    account.give(DOLLAR)
    cost = price(OPENAI, 15, 4)
    held = price(OPENAI, len(b"What is a ledger?") + 20, 200)
    account.give(held + cost, "/agent:ann")
    ask = ("POST", "/ask?prompt=What+is+a+ledger%3F")
    assert request(web, *ask, "ann")[:2] == (200, {"answer": "It is a book."})
    assert request(web, *ask, "ann")[0] == 200
    status, why, _ = request(web, *ask, "ann")
    assert (status, why["error"]) == (402, "BUDGET_EXCEEDED")
    assert why["blocked_by_scope"] == f"tenant:{account.tenant}/agent:ann"
    assert why["suggested_fix"].startswith(f"Lower the estimate to at most {held - cost}, or ")
    assert request(web, *ask, "bob")[0] == 200
    spent = request(web, "GET", "/spent")[1]
    assert spent[f"tenant:{account.tenant}"] == 3 * cost == account.balance()["spent"]
    assert account.balance()["reserved"] == 0
    assert len(provider.requests) == 3


def test_route_says_when_to_come_back(account: Account, web: int) -> None:
    """A limit of rate is a 429 with the seconds to wait."""
    account.give(DOLLAR)
    account.admin(
        "POST", "/v1/admin/policies", tenant_id=account.tenant, name="slow",
        scope_pattern="agent:*", rate_limits={"max_reservations_per_minute": 1},
    )  # fmt: skip
    ask = ("POST", "/ask?prompt=Hello", "ann")
    found = [request(web, *ask) for _ in range(3)]
    status, why, headers = next(one for one in found if one[0] != 200)
    assert (status, why["error"]) == (429, "LIMIT_EXCEEDED")
    assert 1 <= int(headers["Retry-After"]) <= 60
