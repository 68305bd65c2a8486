"""What is known to be spent survives the process that knew it, and is settled exactly once."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bursar import AsyncCyclesClient, CyclesConfig
from bursar.agent import QueryEngine
from bursar.agent.calls import Calls, FileCalls, Recorded
from bursar.agent.guarded import GuardedModel, GuardedTools
from bursar.agent.money import Purse
from bursar.agent.ports import ModelError
from bursar.agent.pricing import FixedPrice
from bursar.agent.tools import Toolbox, tool
from bursar.client.exceptions import CyclesTransportError
from bursar.testing.models import ScriptedModel
from bursar.testing.providers import Reply, ToolUse

PRICE = FixedPrice(1_000_000, 2_000_000)
TOOL_COST = 30
KILLED = """
    import asyncio, os, signal, sys
    from bursar import AsyncCyclesClient
    from bursar.agent import QueryEngine
    from bursar.agent.calls import FileCalls
    from agent.test_calls import engine

    class Killed(FileCalls):
        def record(self, key, recorded):
            super().record(key, recorded)
            if key.removeprefix("s/t/") == sys.argv[2]:
                os.kill(os.getpid(), signal.SIGKILL)

    async def main(folder):
        async with AsyncCyclesClient.embedded(f"{folder}/l.db") as client:
            await client.create_budget("1USD")
            await engine(client, Killed(f"{folder}/s.calls")).submit("one", turn_id="t")

    asyncio.run(main(sys.argv[1]))
"""


def search(text: str) -> str:
    return f"found {text}"


def engine(client: AsyncCyclesClient, calls: Calls) -> QueryEngine:
    """An engine that uses a tool and then answers, in each turn."""
    use = Reply(tools=[ToolUse("search", {"text": "x"})], input_tokens=7)
    model = ScriptedModel([use, Reply("so be it", input_tokens=5)] * 2)
    purse = Purse(client, calls=calls)
    tools = GuardedTools(purse, Toolbox([tool(search, cost=TOOL_COST)]))
    return QueryEngine(None, GuardedModel(purse, model, PRICE), tools=tools, session_id="s")


def killed_after(folder: Path, action: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), action]
    ended = subprocess.run(command, check=False, cwd=Path(__file__).parents[1])
    assert ended.returncode == -signal.SIGKILL


def recorded(folder: Path) -> dict[str, int]:
    lines = [json.loads(line) for line in (folder / "s.calls").read_text("utf-8").splitlines()]
    return {one["done"]: one["amount"] for one in lines if "done" in one}


async def money(client: AsyncCyclesClient) -> tuple[int, int]:
    """Return what is spent and what is held."""
    (row,) = (await client.get_balances(tenant="default")).body["balances"]
    return row["spent"]["amount"], row["reserved"]["amount"]


def test_what_was_recorded_is_settled_by_another_turn(tmp_path: Path) -> None:
    """Killed between record and settlement, resumed with another prompt: nothing is lost."""
    killed_after(tmp_path, "0/0")  # the tool: the answer before it was settled
    known = recorded(tmp_path)
    assert sorted(known) == ["s/t/0", "s/t/0/0"]

    async def resumed() -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db") as client:
            assert (await money(client))[0] == known["s/t/0"]
            again = engine(client, FileCalls(tmp_path / "s.calls"))
            result = await again.submit("two", turn_id="u")
            turn = sum(charge.amount for charge in result.charges)
            assert await money(client) == (sum(known.values()) + turn, 0)
            assert turn == sum(recorded(tmp_path).values())  # the turn before is forgotten

    asyncio.run(resumed())


def test_an_unreachable_ledger_is_told_later(tmp_path: Path) -> None:
    """The record stays where it is until the ledger has confirmed it."""
    killed_after(tmp_path, "0")
    known = recorded(tmp_path)
    assert list(known) == ["s/t/0"]

    async def unreachable() -> None:
        config = CyclesConfig("http://127.0.0.1:1", "key", tenant="default", journal_enabled=False)
        async with AsyncCyclesClient(config) as client:
            for _ in range(2):
                with (
                    FileCalls(tmp_path / "s.calls") as calls,
                    pytest.raises(CyclesTransportError),
                ):
                    await engine(client, calls).submit("two", turn_id="u")
                assert recorded(tmp_path) == known

    async def reachable() -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db") as client:
            again = engine(client, FileCalls(tmp_path / "s.calls"))
            result = await again.submit("three", turn_id="v")
            turn = sum(charge.amount for charge in result.charges)
            assert await money(client) == (known["s/t/0"] + turn, 0)

    asyncio.run(unreachable())
    asyncio.run(reachable())


def test_another_question_in_the_same_turn_loses_nothing(tmp_path: Path) -> None:
    """The turn is repeated under its name and with another prompt: both answers are paid for."""
    killed_after(tmp_path, "0")
    known = recorded(tmp_path)

    async def resumed() -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db") as client:
            again = engine(client, FileCalls(tmp_path / "s.calls"))
            result = await again.submit("two", turn_id="t")
            turn = sum(charge.amount for charge in result.charges)
            assert await money(client) == (known["s/t/0"] + turn, 0)

    asyncio.run(resumed())


def test_a_repeated_turn_settles_what_it_finds(tmp_path: Path) -> None:
    """The same prompt again: nobody is asked twice, and the ledger has the turn's sum."""
    killed_after(tmp_path, "0/0")

    async def resumed() -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db") as client:
            again = engine(client, FileCalls(tmp_path / "s.calls"))
            result = await again.submit("one", turn_id="t")
            assert await money(client) == (sum(charge.amount for charge in result.charges), 0)

    asyncio.run(resumed())


def done(attempt: int, asked: str = "x") -> Recorded:
    return Recorded(
        attempt, f"r-{attempt}", "m", "llm.completion", asked, 5, bound=False, answer=[]
    )


def places(calls: Calls, key: str) -> list[tuple[str, int]]:
    return [(name, one.attempt) for name, one in calls.owed(key)]


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_owed(tmp_path: Path, kept: bool) -> None:
    """Owed is what is not settled, of other turns and of a key that is asked anew."""

    def again(calls: Calls) -> Calls:
        if isinstance(calls, FileCalls):
            calls.close()
        return FileCalls(tmp_path / "s.calls") if kept else calls

    calls = again(Calls())
    for key in ("s/t/0", "s/t/1", "s/t/2"):
        calls.record(key, done(calls.begin(key)))
    calls.settled("s/t/1", 2)
    calls = again(calls)
    assert places(calls, "s/t/9") == []
    assert places(calls, "s/t/0") == [("s/t/0", 1)]
    assert calls.recall("s/t/1", "x") == done(2)
    calls = again(calls)
    calls.begin("s/u/0")
    calls = again(calls)
    assert places(calls, "s/u/0") == [("s/t/0", 1), ("s/t/2", 3)]
    assert calls.recall("s/t/0", "x") == done(1)
    assert calls.recall("s/t/1", "x") is None
    assert calls.begin("s/t/0") == 5  # no number is given out twice
    calls.settled("s/t/0", 1)
    calls.settled("s/t/2", 3)
    assert again(calls).owed("s/u/0") == []


class Unconfirmed(Calls):
    """Calls whose settlements nobody hears of."""

    def settled(self, key: str, attempt: int) -> None:
        """Hear nothing."""


def test_a_charge_that_is_settled_again_counts_once(tmp_path: Path) -> None:
    """A commit that was not seen to be confirmed is repeated by the next turn, and replayed."""

    async def case() -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db") as client:
            await client.create_budget("1USD")
            purse = Purse(client, calls=Unconfirmed())
            model = GuardedModel(purse, ScriptedModel([Reply("yes", input_tokens=5)] * 2), PRICE)
            talk = QueryEngine(None, model)
            for text in ("one", "two"):
                await talk.submit(text)
            assert len(purse.charges) == 2
            assert await money(client) == (talk.state.spent_microcents, 0)

    asyncio.run(case())


def inbox(client: AsyncCyclesClient, model: ScriptedModel, calls: Calls | None = None) -> Any:
    """Return an engine of a session that everybody calls alike."""
    purse = Purse(client, calls=calls)
    return QueryEngine(None, GuardedModel(purse, model, PRICE), session_id="inbox")


def test_sessions_of_one_name_pay_each_for_itself() -> None:
    """Three agents with the same session id and prompt, at once: three reservations."""

    async def case() -> None:
        async with AsyncCyclesClient.embedded(":memory:") as client:
            await client.create_budget("1USD")
            model = ScriptedModel([Reply("so be it", input_tokens=5, pause_s=0.01)] * 3)
            flows = [inbox(client, model).submit("Sort the inbox.") for _ in range(3)]
            charges = [charge for one in await asyncio.gather(*flows) for charge in one.charges]
            assert len({one.reservation_id for one in charges}) == 3
            assert await money(client) == (3 * (5 + 2 * 3), 0)

    asyncio.run(case())


def test_a_name_can_be_given() -> None:
    """It is the only thing in a key that is drawn."""
    assert Calls("nightly").name == "nightly"
    assert Calls().name != Calls().name


@pytest.mark.parametrize("kept", [False, True])
def test_a_prompt_can_be_repeated_for_ever(tmp_path: Path, kept: bool) -> None:
    """A turn that never commits, tried again and again between others, always has a number."""

    async def case() -> None:
        async with AsyncCyclesClient.embedded(":memory:") as client:
            await client.create_budget("1USD")
            calls = FileCalls(tmp_path / "s.calls") if kept else None
            engine = inbox(client, ScriptedModel([Reply("no", status=500)] * 24), calls)
            for prompt in ["one", "other"] * 12:
                with pytest.raises(ModelError):
                    await engine.submit(prompt)
            assert await money(client) == (0, 0)

    asyncio.run(case())


def test_each_process_can_ask_the_same(tmp_path: Path) -> None:
    """The ninth night with the same session id and prompt is paid for like the first."""

    async def night() -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db") as client:
            await client.create_budget("1USD", exist_ok=True)
            model = ScriptedModel([Reply("so be it", input_tokens=5)])
            assert (await inbox(client, model).submit("Sort the inbox.")).charges[0].amount == 11

    async def spent() -> int:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db") as client:
            return (await money(client))[0]

    for _ in range(9):
        asyncio.run(night())
    assert asyncio.run(spent()) == 9 * 11
