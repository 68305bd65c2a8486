"""Turns with a model: what is asked, what is kept, and what ends them."""

import asyncio
import itertools
import time
from typing import Any

import pytest

from agent import models
from bursar.agent import (
    CancelScope,
    LoopResult,
    PermissionDenial,
    QueryEngine,
    QueryEngineConfig,
    TurnResult,
    arun_turn_loop,
    run_turn_loop,
)
from bursar.agent.ports import (
    BudgetDenied,
    Charge,
    Message,
    ModelError,
    ModelFailure,
    Role,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from bursar.money import Unpriced
from bursar.testing.models import ScriptedModel
from bursar.testing.providers.script import Reply, ToolUse
from bursar.vocabulary import Unit

PAID = Charge("gpt", 70, Unit.USD_MICROCENTS, "key", "rsv")


def asking(*names: str) -> list[Reply]:
    """Return the replies of a model that asks for tools and then answers."""
    return [Reply("", tools=tuple(ToolUse(name, {}) for name in names)), Reply("it is 3")]


def test_the_model_is_told_what_was_said_before() -> None:
    """The second request has the first exchange; instructions and tools are with each."""
    model, tools = models.saying("fine"), models.Adder()
    engine = models.engine_of(model, tools=tools, system="be brief")
    engine.submit_message("one")
    engine.submit_message("two")
    said = [(message.role, message.text) for message in model.requests[1].messages]
    assert said == [
        (Role.USER, "one"),
        (Role.ASSISTANT, "fine"),
        (Role.USER, "two"),
    ]
    assert {request.system for request in model.requests} == {"be brief"}
    assert model.requests[0].tools == tools.specs


def test_a_refused_turn_is_not_told() -> None:
    """What did not commit was never said."""
    model = ScriptedModel([Reply("much", input_tokens=50), Reply("ok")])
    engine = models.engine_of(
        model, config=QueryEngineConfig(max_budget_tokens=None, max_input_tokens=40)
    )
    assert engine.submit_message("one").stop_reason == "max_budget_reached"
    engine.submit_message("two")
    assert [message.text for message in model.requests[1].messages] == ["two"]


def test_going_on_with_a_conversation(tmp_path: Any) -> None:
    """A loaded session tells the model what was said, tools included."""
    model = ScriptedModel(asking("add"))
    engine = models.engine_of(model, tools=models.Adder(), save_to=tmp_path)
    engine.submit_message("what is 1 + 2?")
    later = models.saying("bye")
    again = QueryEngine.from_saved_session(engine.session_id, tmp_path, model=later)
    again.submit_message("thanks")
    roles = [message.role for message in later.requests[0].messages]
    assert roles == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT, Role.USER]
    assert later.requests[0].messages[2].results[0].text == "3"


def test_tools_run_at_the_same_time() -> None:
    """Three calls of one answer take as long as one, and are answered in order."""
    model, tools = ScriptedModel(asking("add", "add", "add")), models.Adder(1.0)
    engine = models.engine_of(model, tools=tools)
    began = time.monotonic()
    result = engine.submit_message("add")
    assert time.monotonic() - began < 2.5
    assert result.output == "it is 3"
    results = model.requests[1].messages[-1].results
    assert [one.call_id for one in results] == [call.id for call in tools.ran]


def test_each_action_has_a_key_of_its_own() -> None:
    """Session, turn, number: the same turn id gives the same keys again."""
    keys = []
    for _ in range(2):
        model, tools = ScriptedModel(asking("add", "add")), models.Adder()
        engine = models.engine_of(model, tools=tools, session_id="s")
        engine.submit_message("add", turn_id="t")
        keys.append([*(one.key for one in model.requests), *(one.key for one in tools.ran)])
    assert keys[0] == keys[1] == ["s/t/0", "s/t/1", "s/t/0/0", "s/t/0/1"]


def test_a_turn_without_a_name_is_named_by_its_place_and_prompt() -> None:
    """The same prompt after a turn that did not commit is the same turn; the next one is not."""
    engine = models.engine_of(session_id="s")
    scope = CancelScope()
    scope.cancel()
    cut = engine.submit_message("hello", cancel_event=scope)
    first, second = engine.submit_message("hello"), engine.submit_message("hello")
    other = models.engine_of().submit_message("hi")
    assert cut.turn_id == first.turn_id == f"1-{first.turn_id[2:]}"
    assert second.turn_id == f"2-{first.turn_id[2:]}"
    assert other.turn_id != first.turn_id
    assert engine.state.turns_committed == 2


@pytest.mark.parametrize("turn_id", ["", "a/b", "x" * 129])
def test_bad_turn_ids_are_refused(turn_id: str) -> None:
    """An id is part of the keys of everything that a turn pays for."""
    with pytest.raises(ValueError, match="turn_id"):
        models.engine_of().submit_message("hello", turn_id=turn_id)


@pytest.mark.parametrize("tools", [None, models.Adder()])
def test_denied_tools_are_recorded(tools: Any) -> None:
    """A tool that is not there, or not allowed: the model is told, the session remembers."""
    model = ScriptedModel(asking("rm"))
    engine = models.engine_of(model, tools=tools)
    given = (PermissionDenial("bash", "given"),)
    result = engine.submit_message("remove it", denied_tools=given)
    assert [one.tool_name for one in result.permission_denials] == ["bash", "rm"]
    assert engine.permission_denials == list(result.permission_denials)
    assert model.requests[1].messages[-1].results[0].is_error


def test_tools_that_lead_nowhere_end() -> None:
    """A model that asks for tools for ever is stopped, and the dimension is named."""
    model = ScriptedModel(itertools.repeat(asking("add")[0]))
    result = models.engine_of(model, tools=models.Adder()).submit_message("add")
    assert result.stop_reason == "max_budget_reached"
    assert result.overrun is not None
    assert result.overrun.dimension == "model_calls"


def test_an_answer_without_an_end_is_no_answer() -> None:
    """The session is as it was."""
    engine = models.engine_of(models.Steps(lambda _: None, (TextDelta("half"),)))
    with pytest.raises(ModelError) as caught:
        engine.submit_message("hello")
    assert caught.value.failure is ModelFailure.ANSWER_BROKEN
    assert engine.state.turns_committed == 0


@pytest.mark.parametrize(
    ("cost", "limit", "reason"),
    [
        (70, 70, "completed"),
        (70, 69, "max_budget_reached"),
        (Unpriced("?"), 70, "max_budget_reached"),
    ],
)
def test_money(cost: Any, limit: int, reason: str) -> None:
    """Charges count against the money; what nobody knows fits no limit; none is forgotten."""
    charge = Charge("gpt", cost, Unit.USD_MICROCENTS, "key", "rsv")
    model = models.Steps(lambda _: None, (TextDelta("x"), TokenUsage(1, 1), charge, Stop()))
    config = QueryEngineConfig(max_money_microcents=limit)
    engine = models.engine_of(model, config=config)
    result = engine.submit_message("hello")
    assert (result.stop_reason, result.charges) == (reason, (charge,))
    assert engine.state.spent_microcents == (70 if reason == "completed" else 0)


@pytest.mark.parametrize("loop", ["sync", "async"])
def test_cancellation_forgets_no_charge(loop: str) -> None:
    """What was charged before a turn was cancelled is told."""
    waits: list[Any] = []

    def at(number: int) -> Any:
        if number == 1:
            waits.append(asyncio.get_running_loop().create_future())
            return waits[-1]
        return None

    engine = models.engine_of(models.Steps(at, (PAID, TextDelta("never"), Stop())))
    if loop == "sync":
        result = run_turn_loop("hello", engine=engine, timeout_seconds=0.1)
    else:
        result = asyncio.run(arun_turn_loop("hello", engine=engine, timeout_seconds=0.1))
    assert (result.loop_stop, result[-1].charges) == ("timeout", (PAID,))
    assert engine.state.turns_committed == 0


def test_the_ledger_says_no() -> None:
    """A denial ends the turn as `max_budget_reached`, with the ledger's reason."""
    engine = models.engine_of(models.Raising(BudgetDenied("no money", "BUDGET_EXCEEDED")))
    result = engine.submit_message("hello")
    assert result.stop_reason == "max_budget_reached"
    assert result.detail == "BUDGET_EXCEEDED: no money"
    assert engine.state.turns_committed == 0


def test_the_earlier_deadline_holds() -> None:
    """A scope ends no later than its parent, and its model is told that instant."""
    parent = CancelScope(0.1)
    assert CancelScope(60, parent=parent).deadline == parent.deadline
    assert CancelScope(0.01, parent=CancelScope(60)).deadline < parent.deadline  # type: ignore[operator]  # there is one
    seen: list[float | None] = []

    class Asked(models.Steps):
        def complete(self, request: Any, *, deadline: float | None) -> Any:
            seen.append(deadline)
            return super().complete(request, deadline=deadline)

    engine = models.engine_of(Asked(lambda _: None))
    result = run_turn_loop("hello", engine=engine, timeout_seconds=60, scope=parent)
    assert result.loop_stop == "completed"
    assert seen == [parent.deadline]


def test_time_of_the_session_is_a_budget() -> None:
    """It is not the caller's deadline that passed."""
    engine = models.engine_of(
        models.saying(silent=True), config=QueryEngineConfig(max_wall_seconds=0.05)
    )
    result = engine.submit_message("hello", cancel_event=CancelScope(60))
    assert result.stop_reason == "max_budget_reached"
    assert result.overrun is not None
    assert result.overrun.dimension == "wall_clock"


def test_an_adapter_that_ends_before_the_deadline_timed_out() -> None:
    """The deadline was ours: `timeout`, and no error."""
    error = ModelError("too near", ModelFailure.DEADLINE, maybe_billed=False)
    engine = models.engine_of(models.Raising(error))
    result = run_turn_loop("hello", engine=engine, timeout_seconds=60)
    assert (result.loop_stop, result.error) == ("timeout", None)


def test_a_model_that_does_not_listen_is_abandoned() -> None:
    """The caller leaves at once; the session is as it was and takes the next turn."""

    async def run() -> tuple[LoopResult, float, TurnResult]:
        model = models.Deaf()
        engine = models.engine_of(model)
        began = time.monotonic()
        result = await arun_turn_loop("hello", engine=engine, timeout_seconds=0.05)
        took = time.monotonic() - began
        engine.model = models.saying()
        after = await engine.submit("next")
        model.release.set()
        await asyncio.sleep(0.01)
        assert engine.mutable_messages == ["next"]
        return result, took, after

    result, took, after = asyncio.run(run())
    assert (result.loop_stop, result.worker_abandoned) == ("timeout", True)
    assert not result.cancel_acknowledged
    assert took < 20
    assert after.stop_reason == "completed"


def test_cancelling_the_task_cancels_the_turn() -> None:
    """`CancelledError` goes on, the provider's stream is closed, nothing is committed."""

    async def run() -> tuple[QueryEngine, ScriptedModel]:
        model = models.saying(silent=True)
        engine = models.engine_of(model)
        task = asyncio.ensure_future(arun_turn_loop("hello", engine=engine, max_turns=2))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.02)
        return engine, model

    engine, model = asyncio.run(run())
    assert (engine.state.turns_committed, model.cut_off) == (0, 1)


def test_a_blocking_model_does_not_block_the_loop() -> None:
    """Ten engines with blocking models work at the same time on one loop."""

    async def run() -> float:
        engines = [models.engine_of(models.saying_sync("a", pause_s=0.5)) for _ in range(10)]
        began = time.monotonic()
        await asyncio.gather(*(engine.submit("hello") for engine in engines))
        return time.monotonic() - began

    assert asyncio.run(run()) < 3.5


def test_any_async_engine_can_be_looped() -> None:
    """An object with `async submit` gets the same arguments, and is left when it hangs."""
    calls: list[tuple[Any, ...]] = []

    class Own:
        async def submit(self, *arguments: Any) -> TurnResult:
            calls.append(arguments)
            if len(calls) == 3:
                await asyncio.sleep(60)
            return await models.engine_of().submit(arguments[0])

    plain = asyncio.run(arun_turn_loop("a", engine=Own(), max_turns=1))
    assert (plain.loop_stop, len(calls[0])) == ("completed", 4)
    result = asyncio.run(
        arun_turn_loop("a", engine=Own(), continuation_prompt="b", timeout_seconds=0.1)
    )
    assert [one.stop_reason for one in result] == ["completed", "timeout"]
    assert isinstance(calls[1][4], CancelScope)
    assert (result.cancel_acknowledged, result.worker_abandoned) == (True, False)


def test_a_plain_event_ends_a_model_turn() -> None:
    """It need not be a scope."""
    import threading

    event = threading.Event()
    engine = models.engine_of(models.saying(silent=True))
    threading.Timer(0.05, event.set).start()
    began = time.monotonic()
    assert engine.submit_message("hello", cancel_event=event).stop_reason == "cancelled"
    assert time.monotonic() - began < 20


def test_messages_round_trip() -> None:
    """What the session keeps of a turn is what the model said."""
    engine = models.engine_of(ScriptedModel(asking("add")), tools=models.Adder())
    engine.submit_message("add")
    messages = engine.state.conversation()
    assert messages[0] == Message(Role.USER, "add")
    assert isinstance(messages[1].calls[0], ToolCall)
    assert messages[-1].text == "it is 3"


def test_a_tool_that_fails_waits_for_the_others() -> None:
    """Another tool may have had its effect: it ends before the failure is told."""
    ended: list[str] = []

    class Two:
        specs = (ToolSpec("a", "", {}), ToolSpec("b", "", {}))

        async def run(self, call: ToolCall, *, deadline: float | None) -> ToolResult:
            if call.name == "a":
                raise BudgetDenied("no", "BUDGET_EXCEEDED")
            await asyncio.sleep(0.05)
            ended.append(call.name)
            return ToolResult(call.id, call.name, "done")

    model = ScriptedModel([Reply(tools=[ToolUse("a"), ToolUse("b")]), Reply("done")])
    engine = QueryEngine(None, model, tools=Two())
    assert asyncio.run(engine.submit("go")).stop_reason == "max_budget_reached"
    assert ended == ["b"]
