"""Caps that an operator has set as a policy of a real server hold in an agent's turns.

Each case runs against the server, and against the same file embedded in the agent's process; and
once more through the command.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bursar import AsyncCyclesClient, CyclesClient, CyclesConfig
from bursar.agent import QueryEngine, StopReason, TurnResult
from bursar.agent.guarded import TOKENS_USED_UP, GuardedModel, GuardedTools
from bursar.agent.models import model
from bursar.agent.money import STEPS_USED_UP, Purse
from bursar.agent.pricing import FixedPrice
from bursar.agent.tools import Toolbox
from bursar.money import total
from bursar.testing.providers import Reply, ScriptedProvider, ToolUse
from e2e.accounts import Account, open_account
from e2e.servers import Server, Servers

PRICE = FixedPrice(1_000_000, 2_000_000)
BUDGET = 10**9
COOLDOWN_MS = 2_000
KINDS = ["served", "embedded"]
TOOLS = """
from pathlib import Path

def search(text: str) -> str:
    return f"found {text}"

def shell(text: str) -> str:
    Path(__file__).with_name("shell-ran").touch()
    return ""
"""
LOOK = Reply("look", [ToolUse("search", {"text": "x"}), ToolUse("shell", {"text": "x"})])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all cases; each has a tenant of its own."""
    with Servers(tmp_path_factory.mktemp("caps")) as servers:
        yield servers.start()


def capped(server: Server, account: Account, caps: dict[str, Any]) -> str:
    """Give every approval of a tenant these caps; return the policy's id."""
    policy = {"tenant_id": account.tenant, "name": "caps", "scope_pattern": "tenant:*"}
    with server.operator() as operator:
        reply = operator.post("/v1/admin/policies", policy | {"caps": caps})
        assert reply.status == 201, reply.body
        policy_id: str = reply.json()["policy_id"]
        return policy_id


@dataclass(slots=True)
class Agent:
    """An engine with its two tools, and what came of it."""

    engine: QueryEngine
    client: AsyncCyclesClient
    purse: Purse
    ran: list[str]

    async def turn(self, prompt: str = "Look.") -> TurnResult:
        """Submit a turn; whatever becomes of it, nothing is held after it."""
        result = await self.engine.submit(prompt)
        rows = (await self.client.get_balances(tenant=self.client.config.tenant)).body["balances"]
        (row,) = rows
        assert row["reserved"]["amount"] == 0
        assert row["spent"]["amount"] == total(one.amount for one in self.purse.charges)
        return result


Case = Callable[[Agent], Awaitable[None]]


def act(server: Server, account: Account, kind: str, folder: Path, case: Case) -> None:
    """Run a case with an agent of a tenant; the provider speaks over HTTP."""
    ran: list[str] = []

    def search(text: str) -> str:
        ran.append("search")
        return f"found {text}"

    def shell(text: str) -> str:
        ran.append("shell")
        return text

    def connect() -> AsyncCyclesClient:
        if kind == "embedded":
            return AsyncCyclesClient.embedded(server.store, tenant=account.tenant)
        where = {"base_url": server.url, "journal_dir": str(folder / "journal")}
        return AsyncCyclesClient(
            CyclesConfig(api_key=account.secret, tenant=account.tenant, **where)
        )

    async def main() -> None:
        asked = model("openai:gpt-4o-mini")
        async with connect() as client:
            purse = Purse(client)
            tools = GuardedTools(purse, Toolbox([search, shell]))
            engine = QueryEngine(None, GuardedModel(purse, asked, PRICE), tools=tools)
            await case(Agent(engine, client, purse, ran))
        await asked.aclose()

    asyncio.run(main())


@pytest.fixture(params=KINDS)
def capped_agent(
    request: pytest.FixtureRequest,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., ScriptedProvider]:
    """Run a case with a provider and caps; return the provider with what it was asked."""
    kind: str = request.param

    def run(caps: dict[str, Any], replies: list[Reply], case: Case) -> ScriptedProvider:
        account = open_account(server, {"": BUDGET}, unit="USD_MICROCENTS")
        capped(server, account, caps)
        with ScriptedProvider(replies) as provider:
            for name, value in provider.environment.items():
                monkeypatch.setenv(name, value)
            act(server, account, kind, tmp_path, case)
        return provider

    return run


Run = Callable[[dict[str, Any], list[Reply], Case], ScriptedProvider]


def offered(request: dict[str, Any]) -> list[str]:
    return [one["function"]["name"] for one in request.get("tools", [])]


def test_max_tokens_shortens_the_answer(capped_agent: Run) -> None:
    """The provider is told the cap, and its answer is as long as that."""

    async def case(agent: Agent) -> None:
        result = await agent.turn()
        assert (result.stop_reason, result.output) == (StopReason.COMPLETED, "one two")

    provider = capped_agent({"max_tokens": 2}, [Reply("one two three")], case)
    (request,) = provider.requests
    assert 2 in (request.get("max_tokens"), request.get("max_completion_tokens"))


def test_max_tokens_of_none_at_all_ends_the_turn(capped_agent: Run) -> None:
    """No answer fits, so nobody is asked and nothing is charged."""

    async def case(agent: Agent) -> None:
        result = await agent.turn()
        assert result.stop_reason == StopReason.MAX_BUDGET_REACHED
        assert TOKENS_USED_UP in result.detail
        assert result.charges == ()

    assert capped_agent({"max_tokens": 0}, [Reply("one")], case).requests == []


@pytest.mark.parametrize("caps", [{"tool_denylist": ["shell"]}, {"tool_allowlist": ["search"]}])
def test_tool_lists(capped_agent: Run, caps: dict[str, Any]) -> None:
    """A tool that is not allowed is not offered, and does not run for a model that asks for it."""

    async def case(agent: Agent) -> None:
        result = await agent.turn()
        assert (result.stop_reason, agent.ran) == (StopReason.COMPLETED, ["search"])
        assert [one.tool_name for one in result.permission_denials] == ["shell"]
        assert [one.tool_name for one in agent.engine.permission_denials] == ["shell"]

    first, second = capped_agent(caps, [LOOK, Reply("Done.")], case).requests
    assert (offered(first), offered(second)) == (["search"], ["search"])
    assert "the ledger does not allow shell" in json.dumps(second["messages"])


def test_an_empty_allowlist_allows_what_the_protocol_says(capped_agent: Run) -> None:
    """An empty list of what is allowed is no list: a denial needs a name."""

    async def case(agent: Agent) -> None:
        result = await agent.turn()
        assert (result.stop_reason, agent.ran) == (StopReason.COMPLETED, ["search", "shell"])

    capped_agent({"tool_allowlist": []}, [LOOK, Reply("Done.")], case)


def test_max_steps_remaining_ends_a_turn(capped_agent: Run) -> None:
    """A tool is a step as well: the question after it is not asked; the next turn has its own."""

    async def case(agent: Agent) -> None:
        result = await agent.turn()
        assert result.stop_reason == StopReason.MAX_BUDGET_REACHED
        assert STEPS_USED_UP in result.detail
        assert [one.action for one in result.charges] == ["gpt-4o-mini", "search"]
        assert (await agent.turn("Again.")).stop_reason == StopReason.COMPLETED

    provider = capped_agent({"max_steps_remaining": 1}, [LOOK, Reply("Done.")], case)
    assert len(provider.requests) == 2


def test_no_step_after_the_first_one_means_no_tool(capped_agent: Run) -> None:
    """Where the model's call is the last step that there is, no tool runs."""

    async def case(agent: Agent) -> None:
        result = await agent.turn()
        assert result.stop_reason == StopReason.MAX_BUDGET_REACHED
        assert STEPS_USED_UP in result.detail
        assert [one.action for one in result.charges] == ["gpt-4o-mini"]
        assert agent.ran == []

    capped_agent({"max_steps_remaining": 0}, [LOOK, Reply("Done.")], case)


def test_cooldown_delays_the_next_step(capped_agent: Run) -> None:
    """Between two questions lies at least what the caps say."""

    async def case(agent: Agent) -> None:
        began = time.monotonic()
        assert (await agent.turn()).stop_reason == StopReason.COMPLETED
        assert time.monotonic() - began >= COOLDOWN_MS / 1_000

    capped_agent({"cooldown_ms": COOLDOWN_MS}, [LOOK, Reply("Done.")], case)


def test_a_policy_that_changes_holds_from_the_next_step(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who lifts a cap need not restart the agent."""
    account = open_account(server, {"": BUDGET}, unit="USD_MICROCENTS")
    policy_id = capped(server, account, {"max_tokens": 1})

    async def case(agent: Agent) -> None:
        assert (await agent.turn()).output == "one"
        with server.operator() as operator:
            patch = b'{"caps": {"max_tokens": 2}}'
            reply = operator.send("PATCH", f"/v1/admin/policies/{policy_id}", patch)
            assert reply.status == 200
        assert (await agent.turn()).output == "one two"

    with ScriptedProvider([Reply("one two three")] * 2) as provider:
        for name, value in provider.environment.items():
            monkeypatch.setenv(name, value)
        act(server, account, "served", tmp_path, case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("caps", "code", "said"),
    [
        ({"tool_denylist": ["shell"], "max_tokens": 50}, 0, ""),
        ({"tool_denylist": ["shell"], "max_steps_remaining": 0}, 21, STEPS_USED_UP),
    ],
)
def test_the_command_keeps_within_caps(
    tmp_path: Path, kind: str, caps: dict[str, Any], code: int, said: str
) -> None:
    """`bursar agent run`, with a server and with the ledger beside its session."""
    tools = tmp_path / "tools.py"
    tools.write_text(TOOLS, encoding="utf-8")
    with Servers(tmp_path) as servers, ScriptedProvider([LOOK, Reply("Done.")]) as provider:
        with CyclesClient.embedded(tmp_path / "talk.ledger") as client:
            client.create_budget(BUDGET)
        server = servers.start(store="talk.ledger")
        with server.operator() as operator:
            key = operator.post("/v1/admin/api-keys", {"tenant_id": "default", "name": "agent"})
        account = Account("default", key.json()["key_secret"])
        capped(server, account, caps)
        where = {} if kind == "embedded" else remote(server, account, tmp_path)
        kept = {name: text for name, text in os.environ.items() if not name.startswith("CYCLES_")}
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "bursar.cli", "agent", "run", "Look.", "--json"),
                *("--model", "openai:gpt-4o-mini", "--budget", "1USD", "--tools", str(tools)),
                *("--session", str(tmp_path / "talk.json")),
            ],
            env=kept | provider.environment | where,
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == code, ended.stderr
    document = json.loads(ended.stdout)
    assert said in document["detail"]
    assert not (tmp_path / "shell-ran").exists()
    if code == 0:
        (turn,) = document["turns"]
        assert [name for name, _ in turn["denials"]] == ["shell"]
        assert all(offered(one) == ["search"] for one in provider.requests)


def remote(server: Server, account: Account, folder: Path) -> dict[str, str]:
    """Return the variables that name a ledger."""
    return {
        "CYCLES_BASE_URL": server.url,
        "CYCLES_API_KEY": account.secret,
        "CYCLES_TENANT": account.tenant,
        "CYCLES_JOURNAL_DIR": str(folder / "journal"),
    }
