"""Agents below a turn and the ledger: one purse, one set of keys, and nothing paid twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from agent.sub_agent_kinds import ASKS, asked, child, limited, uses, when, words
from agent.test_money import PRICE, held, with_caps
from bursar import AsyncCyclesClient
from bursar.agent import (
    CancelScope,
    PermissionDenial,
    QueryEngine,
    QueryEngineConfig,
    StopReason,
    SubAgent,
    TurnResult,
    UsageSummary,
)
from bursar.agent.calls import Calls, FileCalls
from bursar.agent.guarded import GuardedModel, GuardedTools
from bursar.agent.money import Purse
from bursar.agent.ports import ModelEvent, ModelRequest, Role, Stop, TextDelta, TokenUsage, ToolCall
from bursar.agent.tools import Permissions, Toolbox, tool
from bursar.client.guard import AsyncStreamHandle
from bursar.testing import ScriptedLedger
from bursar.testing.models import ScriptedModel
from bursar.testing.providers import Reply, ToolUse

TOOL_COST, BUDGET = 30, 10**6
Case = Callable[[ScriptedLedger, Purse], Coroutine[Any, Any, None]]


def run(case: Case, budget: int = BUDGET) -> None:
    with ScriptedLedger() as ledger:
        ledger.budget(budget)
        asyncio.run(case(ledger, Purse(ledger.async_client)))


def paying(purse: Purse, box: list[Any], *replies: Reply, **options: Any) -> QueryEngine:
    """Return an engine whose turns, and all below them, a purse pays for."""
    model = ScriptedModel([*replies, words(1)])
    engine = QueryEngine(
        options.pop("config", limited()),
        GuardedModel(purse, model, PRICE),
        tools=GuardedTools(purse, Toolbox(box)),
        session_id="s",
        **options,
    )
    model_of[engine] = model
    return engine


model_of: dict[QueryEngine, ScriptedModel] = {}


def paid(*replies: Reply, **options: Any) -> SubAgent:
    return child(*replies, price=PRICE, **{"max_tokens": 100, **options})


def recorded(result: TurnResult) -> int:
    """Return the sum of a turn's charges."""
    amounts = [one.amount for one in result.charges]
    assert len({(one.key, one.reservation_id) for one in result.charges}) == len(amounts)
    return sum(one for one in amounts if isinstance(one, int))


async def settled(ledger: ScriptedLedger) -> int:
    """Wait for what was cut off to account for itself; return what the ledger says is spent."""
    await when(lambda: not held(ledger))
    return ledger.spent()


def search(prompt: str) -> str:
    return f"found {prompt}"


def test_the_purse_of_the_turn_above_pays() -> None:
    """For its model and its tools, under keys that begin with the call's key."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        helper = paid(uses("search"), words(4), tools=Toolbox([tool(search, cost=TOOL_COST)]))
        engine = paying(purse, [helper], uses("helper"))
        result = await engine.submit("go", turn_id="t")
        price = [2 * ASKS, 2 * ASKS, TOOL_COST, 2 * 4, 0, 2]
        assert [one.amount for one in result.charges] == price
        keys = [one.key.partition("/")[2].partition("#")[0] for one in result.charges]
        below = f"s/t/0/0/helper/0/{keys[1].split('/')[6]}"
        assert keys == [
            *("s/t/0", f"{below}/0", f"{below}/0/0", f"{below}/1", "s/t/0/0", "s/t/1"),
        ]
        spent = (engine.state.spent_microcents, recorded(result), ledger.spent())
        assert spent == (sum(price),) * 3
        assert held(ledger) == 0

    run(case)


def test_what_broke_off_below_is_recorded_above() -> None:
    """Its time was over in the middle of an answer: the turn goes on, and tells the bound."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        helper = paid(words(5, stalls_after=2))

        async def impatient(prompt: str) -> str:
            scope = CancelScope()
            task = asyncio.ensure_future(helper.engine().submit(prompt, cancel_event=scope))
            await when(lambda: asked(helper))
            scope.cancel(StopReason.TIMEOUT)
            return str((await task).stop_reason)

        engine = paying(purse, [impatient], uses("impatient"))
        result = await engine.submit("go")
        assert (result.stop_reason, told_of(engine)) == ("completed", [("timeout", False)])
        assert [one.bound for one in result.charges] == [False, True, False, False]
        assert recorded(result) == await settled(ledger) == engine.state.spent_microcents

    run(case)


@pytest.mark.parametrize("ends", ["cancelled", "timeout"])
def test_a_turn_that_does_not_commit_tells_what_was_spent_below(ends: str) -> None:
    """Answers, tools, and the answer that it was cut off in."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        helper = paid(
            *(uses("search"), words(5, stalls_after=2)),
            tools=Toolbox([tool(search, cost=TOOL_COST)]),
        )
        engine = paying(purse, [helper], uses("helper"), grace_seconds=5)
        scope = CancelScope()
        task = asyncio.ensure_future(engine.submit("go", cancel_event=scope))
        await when(lambda: len(asked(helper)) == 2)
        scope.cancel(StopReason(ends))
        result = await task
        assert (result.stop_reason, engine.state.spent_microcents) == (ends, 0)
        assert recorded(result) == await settled(ledger) > 4 * ASKS + TOOL_COST

    run(case)


def test_a_denial_of_the_ledger_is_told_and_ends_nothing_above() -> None:
    """The next action of the turn above is asked of the ledger anew."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        helper = paid(words(1), max_tokens=10_000)
        engine = paying(purse, [helper], uses("helper"), max_tokens=50)
        result = await engine.submit("go")
        assert result.stop_reason == "completed"
        ((text, is_error),) = told_of(engine)
        assert is_error
        assert "helper ended as max_budget_reached: BUDGET_EXCEEDED" in text
        assert asked(helper) == []
        assert recorded(result) == ledger.spent()

    run(case, budget=5_000)


def told_of(engine: QueryEngine) -> list[tuple[str, bool]]:
    results = model_of[engine].requests[-1].messages[-1].results
    return [(one.text, one.is_error) for one in results]


def test_a_price_that_nobody_knows_is_told() -> None:
    """A model without a list price is not asked."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        helper = child(words(1))
        engine = paying(purse, [helper], uses("helper"))
        await engine.submit("go")
        assert "UnknownModel" in told_of(engine)[0][0]
        assert asked(helper) == []

    run(case)


def test_money_is_never_more_than_the_slice() -> None:
    """Answers become as short as the rest of the money, and then there are none."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        rich, poor = paid(words(99), name="rich"), paid(words(99), name="poor")
        rich.config, poor.config = (limited(max_money_microcents=one) for one in (200, 40))
        engine = paying(purse, [rich, poor], uses("rich", "poor"))
        result = await engine.submit("go")
        ended = [text for text, _ in told_of(engine)]
        assert ended[0].startswith("word")
        assert "poor ended as max_budget_reached: MAX_MONEY: scripted: its shortest" in ended[1]
        (request,) = asked(rich)
        assert 0 < request.max_tokens < 100
        assert recorded(result) == ledger.spent()
        assert asked(poor) == []

    run(case)


def test_the_cost_of_tools_is_held_as_well() -> None:
    """Of two that run at the same time, the one that the money does not suffice for is denied."""
    used: list[str] = []

    async def pay(prompt: str) -> str:
        used.append(prompt)
        return prompt

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        limits = limited(max_money_microcents=2 * ASKS * 2 + 300 + 150)
        engine = paying(purse, [tool(pay, cost=300)], uses("pay", "pay"), config=limits)
        result = await engine.submit("go")
        assert result.stop_reason == "max_budget_reached"
        assert result.detail.startswith("MAX_MONEY: pay: it costs 300 microcents, and 150 are left")
        assert used == ["do it"]
        assert recorded(result) == ledger.spent() == 2 * ASKS * 2 + 300

    run(case)


def test_a_charge_is_told_before_the_ledger_has_confirmed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A turn that is cancelled meanwhile says so, and the ledger is told in the end."""
    commit, answers = AsyncStreamHandle.commit, asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        await answers.wait()
        return await commit(*arguments)

    monkeypatch.setattr(AsyncStreamHandle, "commit", slow)

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        engine, scope = paying(purse, [], words(4)), CancelScope()
        task = asyncio.ensure_future(engine.submit("go", cancel_event=scope))
        await when(lambda: purse.charges)
        scope.cancel()
        result = await task
        assert [one.settled for one in result.charges] == [False]
        answers.set()
        assert await settled(ledger) == recorded(result) > 0

    run(case)


def test_steps_of_the_ledger_hold_above_and_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four more after the first, whoever makes them; another turn begins anew."""
    with_caps(monkeypatch, max_steps_remaining=4)

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        helper = paid(uses("search"), words(1), tools=Toolbox([search]))
        engine = paying(purse, [helper], uses("helper"))
        result = await engine.submit("go")
        assert result.stop_reason == "max_budget_reached"
        assert result.detail.startswith("MAX_STEPS_REMAINING")
        assert len(asked(helper)) == 2
        assert (await engine.submit("once more")).stop_reason == "completed"

    run(case)


# A process that is killed.


class Answering:
    """A model that wants `names` after a prompt, and says so many words after tools."""

    name = "answering"

    def __init__(self, names: list[str], asked: Path) -> None:
        self.names, self.asked = names, asked

    async def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        with self.asked.open("a", encoding="utf-8") as file:
            file.write(f"{request.key}\n")
        last = request.messages[-1]
        if last.role is Role.USER and self.names:
            for number, one in enumerate(self.names):
                yield ToolCall(f"c{number}", one, json.dumps({"prompt": f"{one} {last.text}"}))
            yield TokenUsage(3, 5)
        else:
            yield TextDelta("so be it")
            yield TokenUsage(3, 7)
        yield Stop()


def session(client: AsyncCyclesClient, calls: Calls, folder: Path) -> QueryEngine:
    """A turn with an agent as a tool, and one that uses agents of its own, at the same time."""

    def agent(name: str, tools: list[Any] | None = None) -> SubAgent:
        names = [getattr(one, "name", None) or one.spec.name for one in tools or []]
        box = Toolbox([*(tools or []), search], Permissions(deny=frozenset({"search"})))
        model = Answering([*names, "search"] if tools else [], folder / "asked")
        return SubAgent(
            name, model, about="Helps.", tools=box, price=PRICE, max_tokens=60,
            config=limited(max_output_tokens=50),
        )  # fmt: skip

    low = agent("low")
    high = agent("high", [low, tool(search, name="look", cost=TOOL_COST)])

    async def orchestrate(prompt: str) -> str:
        one, other = high.engine(), low.engine()
        found = await asyncio.gather(one.submit(prompt), other.submit(prompt))
        return " ".join([*(result.output for result in found), (await one.submit("on")).output])

    purse = Purse(client, calls=calls)
    model = Answering(["high", "orchestrate", "high"], folder / "asked")
    tools = GuardedTools(purse, Toolbox([high, orchestrate]))
    config = limited(max_output_tokens=400)
    return QueryEngine(config, GuardedModel(purse, model, PRICE), tools=tools, session_id="s")


WORKERS = """
    import asyncio, os, pathlib, signal, sys
    from bursar import AsyncCyclesClient
    from bursar.agent.calls import FileCalls
    from agent.test_sub_agents_money import session

    class Killed(FileCalls):
        left = 0
        def record(self, key, recorded):
            super().record(key, recorded)
            Killed.left -= 1
            if Killed.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    async def main(folder):
        async with AsyncCyclesClient.embedded(folder / "l.db") as client:
            await client.create_budget("1USD", exist_ok=True)
            engine = session(client, Killed(folder / "s.calls"), folder)
            await engine.submit("go", turn_id="t")

    for line in sys.stdin:
        count, folder = line.rstrip().split(" ", 1)
        worker = os.fork()
        if worker == 0:
            Killed.left = int(count)
            asyncio.run(main(pathlib.Path(folder)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
"""
Kill = Callable[[Path, int], None]


@pytest.fixture(scope="module")
def kill() -> Iterator[Kill]:
    """Return what runs the turn in a process that is killed after so many records."""
    command = [sys.executable, "-c", textwrap.dedent(WORKERS)]
    with subprocess.Popen(
        command, stdin=PIPE, stdout=PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        wishes, answers = parent.stdin, parent.stdout

        def killed(folder: Path, after: int) -> None:
            print(after, folder, file=wishes, flush=True)
            assert int(answers.readline()) == -signal.SIGKILL

        yield killed
        wishes.close()


def keys_asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text("utf-8").splitlines()


async def finished(folder: Path) -> tuple[TurnResult, QueryEngine, int]:
    """Repeat the turn from what is on the disk; return it, and what the ledger says is spent."""
    async with AsyncCyclesClient.embedded(folder / "l.db") as client:
        await client.create_budget("1USD", exist_ok=True)
        engine = session(client, FileCalls(folder / "s.calls"), folder)
        result = await engine.submit("go", turn_id="t")
        (row,) = (await client.get_balances(tenant="default")).body["balances"]
        return result, engine, row["spent"]["amount"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TurnResult, list[str]]:
    """The turn as it is when nobody kills it, and the keys under which models were asked."""
    folder = tmp_path_factory.mktemp("whole")
    result, engine, spent = asyncio.run(finished(folder))
    assert result.stop_reason == "completed"
    assert spent == recorded(result) == engine.state.spent_microcents
    assert len(result.charges) == 26
    assert set(result.permission_denials) == {PermissionDenial("search", "search is denied")}
    return result, keys_asked(folder)


@pytest.mark.parametrize("after", [[1], [2], [6], [11], [16], [21], [24], [26], [3, 9, 5]])
def test_killed_and_resumed(
    after: list[int], whole: tuple[TurnResult, list[str]], kill: Kill, tmp_path: Path
) -> None:
    """The turn is the same, nobody was asked twice, and the ledger has its sum once."""
    for count in after:
        kill(tmp_path, count)
    result, engine, spent = asyncio.run(finished(tmp_path))
    expected, asked_once = whole
    assert (result.output, result.usage) == (expected.output, expected.usage)
    assert len(result.permission_denials) == len(expected.permission_denials)
    assert {(one.action, one.amount) for one in result.charges} == {
        (one.action, one.amount) for one in expected.charges
    }
    assert len(result.charges) == len(expected.charges)
    assert spent == recorded(result) == engine.state.spent_microcents
    before = keys_asked(tmp_path)
    assert set(before) == set(asked_once)
    # Those that were being answered at the moment of the kill have no record.
    assert len(before) - len(asked_once) <= 4 * len(after)


def test_a_recorded_call_tells_again_what_was_below_it(tmp_path: Path) -> None:
    """The agent is not asked again, and its tokens, charges and denials are the turn's."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        results = []
        for turn in range(2):
            helper = paid(
                *(uses("search"), words(4)),
                tools=Toolbox([search], Permissions(deny=frozenset({"search"}))),
            )
            again = Purse(ledger.async_client, calls=FileCalls(tmp_path / "s.calls"))
            engine = paying(again, [helper], uses("helper"))
            results.append(await engine.submit("go", turn_id="t"))
            assert len(asked(helper)) == (0 if turn else 2)
            again._calls.close()
        first, second = results
        assert first.usage == second.usage == UsageSummary(0, 2 * ASKS + 4 + 1)
        assert first.permission_denials == second.permission_denials != ()
        assert set(first.charges) == set(second.charges) == set(again.charges)
        assert recorded(second) == ledger.spent()

    run(case)


class Deaf:
    """A model that does not hear that it is cancelled, until it is let go."""

    name = "deaf"

    def __init__(self) -> None:
        self.asked, self.go = 0, threading.Event()

    def complete_sync(self, request: ModelRequest, **_: Any) -> Iterator[ModelEvent]:
        self.asked += 1
        self.go.wait(60)
        yield TokenUsage(10, request.max_tokens)
        yield Stop()


def test_what_a_turn_left_behind_counts_until_it_is_known() -> None:
    """A call that nobody waits for may still cost its bound: no later turn has that money."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        deaf = Deaf()
        config = QueryEngineConfig(max_budget_tokens=None, max_money_microcents=1_000)
        engine = QueryEngine(config, GuardedModel(purse, deaf, PRICE), max_tokens=10**6)
        for _ in range(3):
            result = await engine.submit("hello", cancel_event=CancelScope(timeout_seconds=0.1))
            assert result.stop_reason in ("timeout", "max_budget_reached")
        assert deaf.asked <= 1
        deaf.go.set()
        assert await settled(ledger) <= 1_000

    run(case)


def test_what_a_sub_agent_left_behind_counts_until_it_is_known() -> None:
    """Its slice is free again, but for what its open call may still cost."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        deaf = Deaf()
        sub = SubAgent(
            *("deaf", deaf),
            about="Hears nothing.",
            price=PRICE,
            timeout_seconds=0.1,
            max_tokens=500,
        )
        config = QueryEngineConfig(max_budget_tokens=None, max_money_microcents=3_000)
        wishes = [Reply(tools=[ToolUse("deaf", {"prompt": "hm"})], input_tokens=1)] * 5
        engine = paying(purse, [sub], *wishes, config=config, max_tokens=10)
        await engine.submit("hello")
        deaf.go.set()
        assert await settled(ledger) <= 3_000

    run(case)
