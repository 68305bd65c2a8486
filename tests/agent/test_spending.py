"""What a session has spent counts against its limit, whatever became of its turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from agent.models import engine_of
from bursar.agent import (
    CancelScope,
    QueryEngine,
    QueryEngineConfig,
    TurnResult,
    arun_turn_loop,
    load_session,
    run_turn_loop,
)
from bursar.agent.calls import Calls, FileCalls
from bursar.agent.guarded import GuardedModel, GuardedTools
from bursar.agent.money import Purse
from bursar.agent.ports import Charge, ModelError
from bursar.agent.pricing import FixedPrice
from bursar.agent.results import Dimension, Overrun
from bursar.agent.tools import Toolbox, tool
from bursar.client.guard import AsyncStreamHandle
from bursar.testing import ScriptedLedger
from bursar.testing.models import ScriptedModel
from bursar.testing.providers import Reply, ToolUse

PRICE = FixedPrice(1_000_000, 2_000_000)  # a microcent for a token in, two for one out
BROKEN = Reply("one two three", breaks_after=1)
MOST = 2 * 100 + 2 * 20 + len("Hi")
"""What a call with that prompt and 100 tokens of an answer is reserved for."""


def engine(
    ledger: ScriptedLedger, replies: Iterable[Reply], limit: int, **options: Any
) -> tuple[QueryEngine, ScriptedModel]:
    """Return an engine whose money is limited, and its model."""
    calls: Calls | None = options.pop("calls", None)
    purse, model = Purse(ledger.async_client, calls=calls), ScriptedModel(replies)
    config = QueryEngineConfig(max_turns=99, max_budget_tokens=None, max_money_microcents=limit)
    options = {"max_tokens": 100, "session_id": "s", **options}
    if "stored" in options:
        del options["session_id"]
    return QueryEngine(config, GuardedModel(purse, model, PRICE), **options), model


def purse_of(one: QueryEngine) -> Purse:
    guarded: Any = one.model
    purse: Purse = guarded.purse
    return purse


async def submit(one: QueryEngine, prompt: str = "Hi") -> TurnResult | None:
    """Return what became of a turn; None is a turn whose model failed."""
    try:
        return await one.submit(prompt)
    except ModelError:
        return None


def run(case: Callable[[ScriptedLedger], Any], budget: int = 100_000) -> None:
    with ScriptedLedger() as ledger:
        ledger.budget(budget)
        asyncio.run(case(ledger))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the other side is no event
            await asyncio.sleep(0.01)


def test_turns_that_break_off_count() -> None:
    """Each costs its bound; when the rest does not suffice the model is not asked any more."""

    async def case(ledger: ScriptedLedger) -> None:
        one, model = engine(ledger, [BROKEN] * 9, 2 * MOST + 10)
        assert [await submit(one) for _ in range(2)] == [None, None]
        assert ledger.spent() == 2 * MOST
        result = await submit(one)
        assert result is not None
        assert result.stop_reason == "max_budget_reached"
        shortest = len("Hi") + 2 * 20 + 2
        assert result.overrun == Overrun(Dimension.MONEY, 2 * MOST + 10, 2 * MOST + shortest)
        assert "10 are left of the session's budget" in result.detail
        assert (len(model.requests), ledger.spent()) == (2, 2 * MOST)
        assert one.state.spent_microcents == 0

    run(case)


@pytest.mark.parametrize("prompts", [["Hi"] * 9, ["Hi", "Ho"] * 5], ids=["same", "others"])
def test_processes_that_break_off_count(tmp_path: Path, prompts: list[str]) -> None:
    """What a process spent is beside the session for the next one."""

    async def case(ledger: ScriptedLedger) -> None:
        asked = 0
        for prompt in prompts:
            with FileCalls(tmp_path / "s.calls") as calls:
                one, model = engine(ledger, [BROKEN], 3 * MOST + 10, calls=calls)
                await submit(one, prompt)
                asked += len(model.requests)
        assert (asked, ledger.spent()) == (3, 3 * MOST)

    run(case)


def test_what_committed_counts_once(tmp_path: Path) -> None:
    """Turns that completed and turns that did not share one limit, over several processes."""
    cost, limit = 20 + 2 * 1, 1_500

    async def case(ledger: ScriptedLedger) -> None:
        completed, asked, last = 0, 0, ""
        for reply in [Reply("yes"), BROKEN] * 6:
            options: dict[str, Any] = {"save_to": tmp_path}
            if completed:
                options["stored"] = load_session("s", tmp_path)
            with FileCalls(tmp_path / "s.calls") as calls:
                one, model = engine(ledger, [reply], limit, calls=calls, **options)
                result = await submit(one)
                last = "error" if result is None else result.stop_reason
                completed += last == "completed"
                asked += len(model.requests)
                assert one.state.spent_microcents == completed * cost
                assert calls.spent("s", 0) == ledger.spent() <= limit
        assert last == "max_budget_reached"
        assert 1 < completed < asked < 12

    run(case)


def test_a_repeated_answer_counts_once(tmp_path: Path) -> None:
    """A turn that finds an answer of its first attempt does not pay for it, nor count it, twice."""
    replies = [USE, BROKEN, Reply("done")]

    async def case(ledger: ScriptedLedger) -> None:
        calls = FileCalls(tmp_path / "s.calls")
        one, model = engine(ledger, replies, 100_000, calls=calls)
        tools = GuardedTools(purse_of(one), Toolbox([tool(act, cost=30)]))
        one = QueryEngine(one.config, one.model, tools=tools, session_id="s", max_tokens=100)
        assert await submit(one) is None
        result = await submit(one)
        assert result is not None
        assert result.stop_reason == "completed"
        assert len(model.requests) == 3  # the first answer was found again
        assert calls.spent("s", 0) == ledger.spent()
        assert isinstance(one.state.spent_microcents, int)
        assert one.state.spent_microcents < ledger.spent()  # the broken one is no part of it

    run(case)


@pytest.mark.parametrize("kept", [False, True])
def test_the_sum_survives_what_is_forgotten(tmp_path: Path, kept: bool) -> None:
    """Another session and a turn after the next do not change what one has spent."""

    async def case(ledger: ScriptedLedger) -> None:
        calls = FileCalls(tmp_path / "s.calls") if kept else Calls()
        one, _ = engine(ledger, [BROKEN] * 3, 100_000, calls=calls)
        for prompt in ("one", "two", "six"):
            await submit(one, prompt)
        if isinstance(calls, FileCalls):
            calls.close()
            calls = FileCalls(tmp_path / "s.calls")
        assert calls.spent("s", 0) == ledger.spent() == 3 * (MOST + 1)
        assert calls.spent("other", 7) == 7
        calls.begin("other/t/0")
        assert (calls.spent("s", 5), calls.spent("other", 9)) == (ledger.spent(), 7)

    run(case)


def test_an_answer_is_shortened_to_what_is_left() -> None:
    """Where a shorter answer fits, it is asked for, reserved for, and charged."""

    async def case(ledger: ScriptedLedger) -> None:
        prompt = len("Hi") + 2 * 20
        one, model = engine(ledger, [Reply("a b c d e f g h")], prompt + 2 * 3 + 1)
        result = await submit(one)
        assert [request.max_tokens for request in model.requests] == [3]
        assert result is not None
        assert ledger.spent() == 20 + 2 * 3
        assert result.stop_reason == "completed"

    run(case)


def test_a_prompt_that_is_too_long_is_not_sent() -> None:
    """No word is less than a token: what cannot fit is refused before it is asked."""
    input_only: dict[str, Any] = {"max_input_tokens": 10, "max_budget_tokens": None}
    for limits in ({"max_budget_tokens": 10}, input_only):
        model = ScriptedModel([Reply("yes", input_tokens=9)])
        one = engine_of(model, config=QueryEngineConfig(**limits))
        result = one.submit_message("word " * 100_000)
        assert (result.stop_reason, model.requests) == ("max_budget_reached", [])
        dimension = Dimension.TOKENS if "max_input_tokens" not in limits else Dimension.INPUT_TOKENS
        assert result.overrun == Overrun(dimension, 10, 100_000)
        assert one.submit_message("word " * 9).stop_reason == "completed"


def test_a_prompt_that_leaves_no_room_is_not_sent() -> None:
    """An answer has at least one token."""
    model = ScriptedModel([Reply("yes", input_tokens=9)])
    one = engine_of(model, config=QueryEngineConfig(max_budget_tokens=10))
    result = one.submit_message("word " * 10)
    assert (result.overrun, model.requests) == (Overrun(Dimension.TOKENS, 10, 10), [])
    assert one.submit_message("word " * 9).stop_reason == "completed"
    assert [request.max_tokens for request in model.requests] == [1]


def act() -> str:
    return "acted"


USE = Reply(tools=[ToolUse("act", {})], input_tokens=5)


@pytest.mark.parametrize("loop", ["async", "sync", "watched", "threads"])
def test_what_an_error_has_cost_is_told(loop: str) -> None:
    """An answer, a tool and a call that broke off were paid for before the turn failed."""
    with ScriptedLedger() as ledger:
        ledger.budget(100_000)
        one, _ = engine(ledger, [USE, BROKEN], 100_000)
        tools = GuardedTools(purse_of(one), Toolbox([tool(act, cost=30)]))
        one = QueryEngine(one.config, one.model, tools=tools, session_id="s", max_tokens=100)
        options: dict[str, Any] = {"engine": one}
        if loop in ("watched", "threads"):
            options["timeout_seconds"] = 60
        if loop in ("async", "watched"):
            result = asyncio.run(arun_turn_loop("Hi", **options))
        else:
            result = run_turn_loop("Hi", **options)
        entry = result[-1]
        assert (result.loop_stop, entry.stop_reason) == ("error", "error")
        assert [charge.bound for charge in entry.charges] == [False, False, True]
        assert sum(amounts(entry.charges)) == ledger.spent()
        assert entry.turn_id.startswith("1-")


def amounts(charges: Iterable[Charge]) -> list[int]:
    return [one.amount for one in charges if isinstance(one.amount, int)]


@pytest.mark.parametrize("reason", ["timeout", "cancelled"])
def test_what_broke_off_is_told(reason: str) -> None:
    """The bound of the call that was cut off is among the charges of its turn."""

    async def case(ledger: ScriptedLedger) -> None:
        one, model = engine(ledger, [Reply("one two", stalls_after=1)], 100_000, grace_seconds=30)
        scope = CancelScope(0.3 if reason == "timeout" else None)
        flow = asyncio.create_task(arun_turn_loop("Hi", engine=one, scope=scope))
        await until(lambda: bool(model.requests))
        if reason == "cancelled":
            scope.cancel()
        result = await flow
        assert result.loop_stop == reason
        assert [(charge.amount, charge.bound) for charge in result[-1].charges] == [(MOST, True)]
        await until(lambda: ledger.spent() == MOST)  # the deadline may cut off the wait for it

    run(case)


def test_a_charge_is_known_during_its_wait_and_settled_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wait for a commit that is cancelled cuts off neither the commit nor word of it."""
    held_up = asyncio.Event()
    commit = AsyncStreamHandle.commit

    async def slowly(self: AsyncStreamHandle, *args: Any) -> Any:
        await held_up.wait()
        return await commit(self, *args)

    monkeypatch.setattr(AsyncStreamHandle, "commit", slowly)

    async def case(ledger: ScriptedLedger) -> None:
        calls = Calls()
        one, _ = engine(ledger, [Reply("yes")], 100_000, calls=calls)
        purse = purse_of(one)
        task = asyncio.create_task(submit(one))
        await until(lambda: bool(purse.charges))
        assert [charge.settled for charge in purse.charges] == [False]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [(one.amount, one.settled) for one in purse.charges] == [(22, False)]
        held_up.set()
        await until(lambda: purse.charges[0].settled)
        assert [(one.amount, one.bound) for one in purse.charges] == [(22, False)]
        assert ledger.spent() == 22
        assert calls.owed("other/t/0") == []

    run(case)
