"""Money around a turn: one settlement for each reservation, and no unknown cost that is zero."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agent.model_kinds import ask
from agent.models import Steps
from bursar.agent import QueryEngine, load_session
from bursar.agent.calls import FileCalls
from bursar.agent.guarded import MODEL_KIND, GuardedModel, GuardedTools
from bursar.agent.money import STEPS_USED_UP, Action, Purse
from bursar.agent.ports import (
    BudgetDenied,
    Charge,
    ModelError,
    ModelFailure,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
)
from bursar.agent.pricing import FixedPrice, ListPriced, prompt_tokens_most, usage_most
from bursar.agent.session_format import decode_session, encode_session
from bursar.agent.tools import Permissions, Toolbox, tool
from bursar.client.guard import AsyncStreamHandle
from bursar.client.models import Caps
from bursar.integrations.genai_prices import UnknownModel
from bursar.money import Unpriced
from bursar.testing import ScriptedLedger
from bursar.testing.models import ScriptedModel, ScriptedSyncModel
from bursar.testing.providers import Reply, ToolUse

PRICE = FixedPrice(1_000_000, 2_000_000)  # a microcent for a token in, two for one out
Case = Callable[[ScriptedLedger, Purse], Coroutine[Any, Any, None]]


def run(case: Case, budget: int | None = 10_000, **purse: Any) -> ScriptedLedger:
    """Run a case with a purse on a fresh ledger, and return the ledger as it was at the end."""
    with ScriptedLedger() as ledger:
        if budget is not None:
            ledger.budget(budget)
        asyncio.run(case(ledger, Purse(ledger.async_client, **purse)))
        return ledger


def guarded(purse: Purse, *replies: Reply) -> tuple[GuardedModel, ScriptedModel]:
    inner = ScriptedModel(replies)
    return GuardedModel(purse, inner, PRICE), inner


async def answer(model: GuardedModel, **fields: Any) -> list[Any]:
    return [event async for event in model.complete(ask(**fields), deadline=None)]


def held(ledger: ScriptedLedger) -> int:
    (balance,) = ledger.balances()
    return balance.reserved.amount if balance.reserved else 0


def test_an_answer_is_charged_at_its_price() -> None:
    """Reserved for the most, committed for the real; the charge comes before the `Stop`."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, _ = guarded(purse, Reply("one two", input_tokens=10))
        events = await answer(model, key="s/t/0")
        assert isinstance(events[-1], Stop)
        charge = events[-2]
        assert isinstance(charge, Charge)
        assert (charge.amount, charge.bound, charge.settled) == (10 + 2 * 2, False, True)
        assert purse.charges == [charge]
        assert (ledger.spent(), held(ledger)) == (14, 0)

    run(case)


def test_a_blocking_model_is_charged_alike() -> None:
    """A guard does not mind on what its model runs."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model = GuardedModel(purse, ScriptedSyncModel([Reply("one two", input_tokens=10)]), PRICE)
        await answer(model, key="s/t/0")
        assert (ledger.spent(), held(ledger)) == (14, 0)

    run(case)


def test_a_usage_that_is_not_reported_costs_what_was_reserved() -> None:
    """It is surfaced as a bound, and it is not zero."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, _ = guarded(purse, Reply("one", reports_usage=False))
        await answer(model, max_tokens=100)
        most = PRICE.cost(usage_most(ask(max_tokens=100)))
        (charge,) = purse.charges
        assert (charge.amount, charge.bound) == (most, True)
        assert ledger.spent() == most

    run(case)


@pytest.mark.parametrize("usage", [(-5, 5), (5, "5"), (10.5, 5), (10**30, 5), (10, 5, 1_000)])
def test_a_usage_that_nobody_can_have_costs_what_was_reserved(usage: Any) -> None:
    """It is not known, whatever was reported; what is saved of it can be loaded again."""
    model_events = (TextDelta("one"), TokenUsage(*usage), Stop())

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model = GuardedModel(purse, Steps(lambda _: None, model_events), PRICE)
        engine = QueryEngine(None, model, max_tokens=100)
        result = await engine.submit("What is a ledger?")
        most = PRICE.cost(usage_most(ask(max_tokens=100)))
        assert [(one.amount, one.bound) for one in result.charges] == [(most, True)]
        assert (ledger.spent(), held(ledger)) == (most, 0)
        decode_session(encode_session(engine.state, 1), "here")

    run(case)


class Refusing:
    """A price list that has no price for small answers."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def cost(self, usage: TokenUsage) -> Any:
        if (usage.output_tokens or 0) >= 100:
            return 500
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize("found", [ValueError("no"), ZeroDivisionError(), -1, 2**63, 1.5, None])
@pytest.mark.parametrize("breaks", [False, True])
def test_a_price_that_fails_does_not_lose_the_hold(found: Any, breaks: bool) -> None:
    """An answer was given: what was reserved for it is committed."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        events = (TokenUsage(5, 5), *([] if breaks else [Stop()]))
        model = GuardedModel(purse, Steps(lambda _: None, events), Refusing(found))
        await answer(model, max_tokens=100)
        assert [(one.amount, one.bound) for one in purse.charges] == [(500, True)]
        assert (ledger.spent(), held(ledger)) == (500, 0)

    run(case)


def test_a_broken_answer_whose_input_is_known_costs_its_longest_end() -> None:
    """The input that was reported counts as it is, and the output as its limit."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        def at(number: int) -> None:
            if number == 2:
                raise ModelError("cut", ModelFailure.ANSWER_BROKEN, maybe_billed=True)

        model = GuardedModel(purse, Steps(at, (TokenUsage(7), TextDelta("one "), Stop())), PRICE)
        with pytest.raises(ModelError):
            await answer(model, max_tokens=50)
        assert (ledger.spent(), held(ledger)) == (7 + 2 * 50, 0)
        assert [one.bound for one in purse.charges] == [True]

    run(case)


def test_a_denial_says_why_and_asks_nobody() -> None:
    """The ledger's reason reaches the turn, and the model is not asked."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, inner = guarded(purse, Reply("one"))
        with pytest.raises(BudgetDenied) as caught:
            await answer(model)
        assert caught.value.reason == "BUDGET_EXCEEDED"
        assert (inner.requests, purse.charges, ledger.spent()) == ([], [], 0)

    run(case, budget=100)


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_refusal_of_the_provider_costs_nothing(status: int) -> None:
    """What was not billed is released."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, _ = guarded(purse, Reply("no", status=status))
        with pytest.raises(ModelError):
            await answer(model)
        assert (ledger.spent(), held(ledger), purse.charges) == (0, 0, [])

    run(case)


def test_an_answer_that_broke_off_costs_the_most_that_it_can() -> None:
    """Nobody knows what a provider bills for half an answer; the budget is not given back."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, _ = guarded(purse, Reply("one two three", breaks_after=1))
        with pytest.raises(ModelError):
            await answer(model, max_tokens=50)
        most = PRICE.cost(usage_most(ask(max_tokens=50)))
        assert (ledger.spent(), held(ledger)) == (most, 0)
        assert [charge.bound for charge in purse.charges] == [True]

    run(case)


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_cancellation_does_not_lose_spend(how: str) -> None:
    """A reader who leaves in the middle has spent something, and the ledger is told."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, inner = guarded(purse, Reply("one two three", stalls_after=1))

        async def listen() -> None:
            async with aclosing(model.complete(ask(max_tokens=50), deadline=None)) as events:
                async for event in events:
                    if how == "closed" and isinstance(event, TextDelta):
                        return

        task = asyncio.create_task(listen())
        if how == "cancelled":
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await task
        assert inner.cut_off == 1
        assert ledger.spent() == PRICE.cost(usage_most(ask(max_tokens=50)))
        assert held(ledger) == 0

    run(case)


def with_caps(monkeypatch: pytest.MonkeyPatch, **caps: Any) -> None:
    """Let every reservation come with caps."""
    monkeypatch.setattr(AsyncStreamHandle, "caps", Caps(**caps))


def search(text: str) -> str:
    return f"found {text}"


def test_caps_bound_the_answer_and_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_tokens` and the tool lists of the decision reach the model."""
    with_caps(monkeypatch, max_tokens=2, tool_denylist=["shell"])

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, inner = guarded(purse, Reply("one two three"))
        box = Toolbox([search, tool(search, name="shell")])
        events = await answer(model, tools=box.specs, max_tokens=10, key="s/t/0")
        assert "".join(one.text for one in events if isinstance(one, TextDelta)) == "one two"
        assert [one.name for one in inner.requests[0].tools] == ["search"]
        tools = GuardedTools(purse, box)
        results = [
            await tools.run(ToolCall("c", name, '{"text": "x"}', f"s/t/0/{n}"), deadline=None)
            for n, name in enumerate(["search", "shell"])
        ]
        assert [one.denial is None for one in results] == [True, False]

    run(case)


def test_caps_bound_the_steps_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step is left after the first; a third is denied, and the next turn begins anew."""
    with_caps(monkeypatch, max_steps_remaining=1)

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, inner = guarded(purse, *[Reply("one")] * 4)
        await answer(model, key="s/t/0")
        await answer(model, key="s/t/1")
        with pytest.raises(BudgetDenied) as caught:
            await answer(model, key="s/t/2")
        assert caught.value.reason == STEPS_USED_UP
        assert len(inner.requests) == 2
        await answer(model, key="s/u/0")

    run(case)


def test_caps_cool_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step waits for as long as the decision says."""
    with_caps(monkeypatch, cooldown_ms=700)
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, _ = guarded(purse, Reply("one"), Reply("two"))
        await answer(model, key="s/t/0")
        await answer(model, key="s/t/1")
        assert len(waited) == 1
        assert 0.0 < waited[0] <= 0.7

    run(case, sleep=sleep)


def test_a_tool_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model's call was the last step, no tool of its answer runs; the turn ends."""
    with_caps(monkeypatch, max_steps_remaining=0)
    ran: list[str] = []

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        uses = [ToolUse("act", {"text": str(number)}) for number in range(3)]
        model, inner = guarded(purse, Reply(tools=uses), Reply("done"))
        tools = GuardedTools(purse, Toolbox([tool(act, cost=5)]))
        result = await QueryEngine(None, model, tools=tools).submit("Act.")
        assert result.stop_reason == "max_budget_reached"
        assert result.detail.startswith(STEPS_USED_UP)
        assert (ran, len(inner.requests), len(result.charges)) == ([], 1, 1)
        assert held(ledger) == 0

    def act(text: str) -> None:
        ran.append(text)

    run(case)


def test_tools_at_the_same_time_share_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three uses two are allowed; what has begun ends, and then the turn."""
    with_caps(monkeypatch, max_steps_remaining=2)
    ran: list[str] = []

    def act(text: str) -> str:
        ran.append(text)
        return text

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        uses = [ToolUse("act", {"text": str(number)}) for number in range(3)]
        model, _ = guarded(purse, Reply(tools=uses), Reply("done"))
        tools = GuardedTools(purse, Toolbox([tool(act, cost=5)]))
        result = await QueryEngine(None, model, tools=tools).submit("Act.")
        assert result.detail.startswith(STEPS_USED_UP)
        assert sorted(ran) == ["0", "1"]
        assert [one.action for one in result.charges] == ["scripted", "act", "act"]

    run(case)


def test_tools_cool_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each use waits for the step before it, also where several are wanted at once."""
    with_caps(monkeypatch, cooldown_ms=700)
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        uses = [ToolUse("search", {"text": str(number)}) for number in range(3)]
        model, _ = guarded(purse, Reply(tools=uses), Reply("done"))
        tools = GuardedTools(purse, Toolbox([search]))
        assert (await QueryEngine(None, model, tools=tools).submit("Act.")).charges
        assert [round(one / 0.7 + 0.45) for one in waited] == [1, 2, 3, 4]

    run(case, sleep=sleep)


def test_a_tool_is_held_to_the_caps_of_its_own_reservation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A policy for this one action denies it: it does not run, and costs nothing."""
    with_caps(monkeypatch, tool_allowlist=["other"])

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        tools = GuardedTools(purse, Toolbox([tool(search, cost=30)]))
        result = await tools.run(ToolCall("a", "search", '{"text": "x"}'), deadline=None)
        assert result.denial == "the ledger does not allow search"
        assert (ledger.spent(), held(ledger), purse.charges) == (0, 0, [])

    run(case)


def test_caps_of_a_tool_do_not_lift_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reservation without caps says nothing about the other tools of the step."""
    with_caps(monkeypatch, tool_denylist=["shell"])

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        model, _ = guarded(purse, Reply("one"))
        await answer(model, key="s/t/0")
        monkeypatch.setattr(AsyncStreamHandle, "caps", None)
        tools = GuardedTools(purse, Toolbox([search, tool(search, name="shell")]))
        for number, (name, denied) in enumerate([("search", False), ("shell", True)]):
            call = ToolCall("c", name, '{"text": "x"}', f"s/t/0/{number}")
            assert ((await tools.run(call, deadline=None)).denial is not None) is denied

    run(case)


def test_tools_are_charged() -> None:
    """A use costs what its tool says; one that is denied costs nothing."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        box = Toolbox(
            [tool(search, cost=30), tool(search, name="shell", cost=500)],
            Permissions(deny=frozenset({"shell"})),
        )
        tools = GuardedTools(purse, box)
        found = await tools.run(ToolCall("a", "search", '{"text": "x"}'), deadline=None)
        assert (found.text, found.charge and found.charge.amount) == ("found x", 30)
        wrong = await tools.run(ToolCall("b", "shell", '{"text": "x"}'), deadline=None)
        assert (wrong.denial, wrong.charge) == ("shell is denied", None)
        assert (ledger.spent(), held(ledger)) == (30, 0)

    run(case)


def test_a_tool_that_there_is_no_money_for_does_not_run() -> None:
    """The ledger's denial ends the turn."""
    ran: list[str] = []

    def pay(text: str) -> str:
        ran.append(text)
        return text

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        tools = GuardedTools(purse, Toolbox([tool(pay, cost=20_000)]))
        with pytest.raises(BudgetDenied) as caught:
            await tools.run(ToolCall("a", "pay", '{"text": "x"}'), deadline=None)
        assert (caught.value.reason, ran) == ("BUDGET_EXCEEDED", [])

    run(case)


def test_a_repeated_action_is_charged_once(tmp_path: Path) -> None:
    """A process that died after the answer finds it again: nobody is asked or charged twice."""
    ran: list[str] = []

    def act(text: str) -> str:
        ran.append(text)
        return f"done {len(ran)}"

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        asked = 0
        said: list[Any] = []
        for _ in range(2):
            with FileCalls(tmp_path / "s.calls") as calls:
                again = Purse(ledger.async_client, calls=calls)
                model, inner = guarded(again, Reply("one", [ToolUse("act")], input_tokens=5))
                said.append(await answer(model, key="s/t/0"))
                asked += len(inner.requests)
                tools = GuardedTools(again, Toolbox([tool(act, cost=40)]))
                call = ToolCall("c", "act", '{"text": "x"}', "s/t/0/0")
                said.append(await tools.run(call, deadline=None))
        assert said[0] == said[2]
        assert said[1] == said[3]
        assert (asked, ran) == (1, ["x"])
        assert ledger.spent() == 5 + 2 * 11 + 40
        assert len(ledger.charges()) == 2

    run(case)


def test_an_answer_whose_lease_ended_is_still_charged_once() -> None:
    """Killed before it settled, resumed after the lease: an event, under the key of the commit."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        action = Action("m", MODEL_KIND, "s/t/0", "asked", 50)
        handle = await purse.reserve(action)
        recorded = purse.record(handle, action, 14, [])
        handle.dispose()  # the process is gone: nobody extends the lease
        await asyncio.sleep(1.3)
        for _ in range(2):
            charge = await purse.settle_again(action, recorded)
            assert (charge.amount, charge.settled) == (14, True)
            assert ledger.spent() == 14
        assert len(ledger.charges()) == 1

    run(case, ttl_ms=1_000, grace_period_ms=0)


def test_a_turn_that_was_not_saved_is_repeated_from_what_is_on_disk(tmp_path: Path) -> None:
    """A conversation that was read from a file is the same question as before the kill."""
    file, before = tmp_path / "s.json", tmp_path / "before"

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        script = [Reply(tools=[ToolUse("search", {"text": "x"})]), Reply("one"), Reply("two")]
        _, inner = guarded(purse, *script)

        def engine(calls: FileCalls, **options: Any) -> QueryEngine:
            again = Purse(ledger.async_client, calls=calls)
            tools = GuardedTools(again, Toolbox([tool(search, cost=30)]))
            model = GuardedModel(again, inner, PRICE)
            return QueryEngine(model=model, tools=tools, save_to=tmp_path, **options)

        with FileCalls(tmp_path / "s.calls") as calls:
            killed = engine(calls, session_id="s")
            await killed.submit("first")
            before.write_bytes(file.read_bytes())
            told = await killed.submit("second")
        before.replace(file)
        with FileCalls(tmp_path / "s.calls") as calls:
            again = await engine(calls, stored=load_session("s", tmp_path)).submit("second")
        assert (again.output, again.charges) == (told.output, told.charges)
        assert len(inner.requests) == 3
        assert ledger.spent() == killed.state.spent_microcents

    run(case)


def test_another_question_under_the_same_key_is_another_action(tmp_path: Path) -> None:
    """A turn that is repeated with another prompt is asked, and pays for itself."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        for text in ("one", "two"):
            with FileCalls(tmp_path / "s.calls") as calls:
                model, inner = guarded(
                    Purse(ledger.async_client, calls=calls), Reply("yes", input_tokens=5)
                )
                await answer(model, text=text, key="s/t/0")
            assert len(inner.requests) == 1
        assert ledger.spent() == 2 * 7

    run(case)


def test_how_long_an_answer_may_be_is_no_part_of_the_question(tmp_path: Path) -> None:
    """What is left when a turn is repeated depends on who comes first; the answer was given."""

    async def case(ledger: ScriptedLedger, purse: Purse) -> None:
        for most, left in ((100, None), (50, 0)):
            with FileCalls(tmp_path / "s.calls") as calls:
                model, inner = guarded(
                    Purse(ledger.async_client, calls=calls), Reply("yes", input_tokens=5)
                )
                await answer(model, key="s/t/0", max_tokens=most, max_money_microcents=left)
                assert len(inner.requests) == (left is None)
        assert ledger.spent() == 7

    run(case)


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    """A process that was killed while it wrote leaves half a line, and no wrong answer."""
    file = tmp_path / "s.calls"
    with FileCalls(file) as calls:
        assert calls.begin("s/t/0") == 1
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"done": "s/t/0", "att')
    for attempt in (2, 3):
        with FileCalls(file) as again:
            assert again.recall("s/t/0", "x") is None
            assert again.begin("s/t/0") == attempt


def test_list_prices_know_of_caches() -> None:
    """Tokens from a cache cost less; an unknown count has no price; and nor has a new model."""
    listed = ListPriced("gpt-4o")
    assert listed.cost(TokenUsage(1_000, 0)) == 250_000
    assert listed.cost(TokenUsage(1_000, 0, cache_read_tokens=400)) == 200_000
    assert isinstance(listed.cost(TokenUsage(1_000, None)), Unpriced)
    with pytest.raises(UnknownModel, match="no-such-model"):
        ListPriced("no-such-model")


def test_a_prompt_is_never_more_tokens_than_bytes() -> None:
    """Everything that is sent is counted: instructions, messages and tools."""
    small = prompt_tokens_most(ask("ä"))
    assert small > 2
    assert prompt_tokens_most(ask("ä", system="xyz")) == small + 3
    assert prompt_tokens_most(ask("ä", tools=Toolbox([search]).specs)) > small + 50
