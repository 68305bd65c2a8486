"""Agents below a turn: their time, their slice, and what is told of them above."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent import models
from agent.sub_agent_kinds import ASKS, asked, child, limited, parent, told, uses, when, words
from bursar.agent import (
    CancelScope,
    QueryEngine,
    QueryEngineConfig,
    StopReason,
    SubAgent,
    TurnResult,
    UsageSummary,
    arun_turn_loop,
    run_turn_loop,
)
from bursar.agent.here import DEPTH_MAX
from bursar.agent.ports import ModelError, ModelFailure, Stop, TextDelta
from bursar.agent.tools import Permissions, Toolbox, tool
from bursar.testing.models import ScriptedModel, ScriptedSyncModel
from bursar.testing.providers import Reply, ToolUse

Flow = Callable[[], Awaitable[str]]


def running(flow: Flow, **options: Any) -> tuple[TurnResult, QueryEngine]:
    """Run a turn whose one tool is an async function, and return the result and the engine."""

    async def orchestrate(prompt: str) -> str:
        return await flow()

    engine = parent([orchestrate], uses("orchestrate"), **options)
    return asyncio.run(engine.submit("go")), engine


# As a tool.


def test_a_model_uses_an_agent_as_a_tool() -> None:
    """It is described like a tool, gets a prompt, and its output is the result."""
    helper = child(words(3), system="be brief")
    engine = parent([helper], uses("helper"))
    result = engine.submit_message("go")
    assert (result.stop_reason, told(engine)) == ("completed", [("word word word", False)])
    spec = helper.as_tool.spec
    assert (spec.name, spec.description) == ("helper", "Helps.")
    assert spec.parameters["required"] == ["prompt"]
    (request,) = asked(helper)
    assert (request.system, [one.text for one in request.messages]) == ("be brief", ["do it"])


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        (
            lambda: child(Reply("much"), config=limited(max_input_tokens=4)),
            "helper ended as max_budget_reached: input_tokens: 20 against a limit of 4; raise"
            " the limit; it had said: much",
        ),
        (
            lambda: child(words(3), timeout_seconds=1e-9),
            "helper ended as timeout",
        ),
        (
            lambda: child(Reply(status=500, text="it is broken")),
            "ModelError: it is broken",
        ),
        (
            lambda: child(words(3), config=limited(max_turns=0)),
            "helper ended as max_turns_reached",
        ),
        (
            lambda: child(words(3), config=limited(max_money_microcents=0)),
            "helper ended as max_budget_reached: money: 0 against a limit of 0",
        ),
    ],
)
def test_each_other_end_is_an_error_that_the_model_reads(
    agent: Callable[[], SubAgent], text: str
) -> None:
    """The turn above goes on, and knows why it has no answer."""
    engine = parent([agent()], uses("helper"))
    assert engine.submit_message("go").stop_reason == "completed"
    ((said, is_error),) = told(engine)
    assert is_error
    assert text in said


# What it may use.


@pytest.mark.parametrize(
    ("wanted", "limit", "calls", "granted"),
    [
        ({}, {}, 1, [10_000]),
        ({}, {"max_output_tokens": 110}, 1, [100]),
        ({}, {"max_budget_tokens": 110}, 1, [98]),  # its prompt has two words
        ({"max_output_tokens": 30}, {"max_output_tokens": 110}, 1, [30]),
        ({"max_budget_tokens": 30}, {"max_budget_tokens": 110}, 1, [28]),
        ({"max_output_tokens": 500}, {"max_output_tokens": 110}, 1, [100]),
        ({}, {"max_output_tokens": 120}, 2, [50, 50]),
        ({}, {"max_output_tokens": 131}, 3, [34, 34, 33]),
        ({"max_output_tokens": 60}, {"max_output_tokens": 120}, 2, [60, 40]),
        ({"max_output_tokens": 100}, {"max_output_tokens": 120}, 2, [100]),
        ({"max_budget_tokens": 60}, {"max_output_tokens": 120}, 2, [50, 50]),
        ({}, {"max_output_tokens": 20}, 2, []),
    ],
)
def test_what_it_may_use(
    wanted: dict[str, int], limit: dict[str, int], calls: int, granted: list[int]
) -> None:
    """Its limit, or an even share, and never more than is left at that moment."""
    helper = child(*[words(1)] * calls, config=limited(**wanted))
    engine = parent([helper], uses(*["helper"] * calls), config=limited(**limit))
    engine.submit_message("go")
    assert [one.max_tokens for one in asked(helper)] == granted
    refused = told(engine)[len(granted) :] if len(asked(engine)) > 1 else []
    assert all("nothing is left for a sub-agent" in text for text, _ in refused)


@pytest.mark.parametrize(
    ("wanted", "limit", "granted"),
    [(None, 70, 70), (30, 70, 30), (90, 70, 70), (30, None, 30), (None, None, None)],
)
def test_money_is_a_slice_too(wanted: int | None, limit: int | None, granted: int | None) -> None:
    """A model that is paid for is told how much its call may cost."""
    helper = child(words(1), config=limited(max_money_microcents=wanted))
    engine = parent([helper], uses("helper"), config=limited(max_money_microcents=limit))
    engine.submit_message("go")
    assert [one.max_money_microcents for one in asked(helper)] == [granted]


def test_what_the_session_has_used_is_not_left() -> None:
    """The turns before count, and so does what an agent below used in them."""
    helper = child(words(7), words(1))
    engine = parent(
        [helper], uses("helper"), words(3), uses("helper"), config=limited(max_output_tokens=100)
    )
    assert engine.submit_message("one").usage == UsageSummary(0, ASKS + 7 + 3)
    engine.submit_message("two")
    assert [one.max_tokens for one in asked(helper)] == [90, 100 - (ASKS + 7 + 3) - ASKS]


class Stalling(models.Steps):
    """A model that says some words and then no more; `said` counts them."""

    events = (*(TextDelta("word "),) * 9, Stop())

    def __init__(self) -> None:
        self.said = 0
        super().__init__(self._say)

    def _say(self, number: int) -> object:
        self.said = number
        return asyncio.get_running_loop().create_future() if number == 4 else None


ENDS: dict[str, tuple[Callable[[], SubAgent], str, int | None]] = {
    # how: the agent, how its turn ends, and how many tokens it used (or its model counts)
    "completed": (lambda: child(words(6)), "completed", 6),
    "cancelled": (lambda: child(model=Stalling()), "cancelled", None),
    "timeout": (lambda: child(model=Stalling(), timeout_seconds=0.05), "timeout", None),
    "provider": (lambda: child(words(6, breaks_after=2)), "ModelError", 2),
    "refused": (lambda: child(Reply(status=500)), "ModelError", 0),
    "budget": (
        lambda: child(
            uses("none"), words(9), config=limited(max_output_tokens=ASKS), tools=Toolbox([])
        ),
        "max_budget_reached",
        ASKS,
    ),
    "abandoned": (
        lambda: child(model=models.Deaf(), timeout_seconds=0.05, config=limited()),
        "timeout",
        0,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_rest_returns_however_it_ends(how: str) -> None:
    """What it used counts above at once, and all else is there for the next one."""
    make, ended, known = ENDS[how]
    first, second = make(), child(words(1), name="second")

    async def flow() -> str:
        scope = CancelScope()
        if how == "cancelled":
            asyncio.get_running_loop().call_later(0.05, scope.cancel)
        try:
            result = await first.engine().submit("do it", cancel_event=scope)
            said = str(result.stop_reason)
            assert result.abandoned == (how == "abandoned")
        except ModelError:
            said = "ModelError"
        await second.engine().submit("go on")
        if how == "abandoned":
            first.model.release.set()  # type: ignore[union-attr]  # it is a Deaf one
        return said

    result, engine = running(flow, config=limited(max_output_tokens=100))
    used = first.model.said if isinstance(first.model, Stalling) else known or 0
    assert told(engine) == [(ended, False)]
    assert [one.max_tokens for one in asked(second)] == [100 - ASKS - used]
    assert result.usage.output_tokens == ASKS + used + 1 + 1
    assert result.usage.exact == (how in ("completed", "budget", "refused"))


def test_agents_at_the_same_time_in_one_tool_share_by_their_limits() -> None:
    """The first takes what is left, so the second is told to be given a limit."""
    one, two = child(words(5), name="one"), child(words(5), name="two")
    half = limited(max_output_tokens=40)
    small = [child(words(5), name=name, config=half) for name in ("a", "b", "c")]

    async def flow() -> str:
        ended = []
        for group in ([one, two], small):
            found = await asyncio.gather(*[agent.engine().submit("x") for agent in group])
            ended += [(str(one.stop_reason), one.detail[:34]) for one in found]
        return str(ended)

    _, engine = running(flow, config=limited(max_output_tokens=100))
    done, none = ("completed", ""), ("max_budget_reached", "nothing is left for a sub-agent: o")
    third = ("completed", "")  # 100 - 10 - 5 are left, and 40 + 40 of them held
    assert told(engine)[0][0] == str([done, none, done, done, third])
    assert [one.max_tokens for agent in small for one in asked(agent)] == [40, 40, 5]


def test_below_each_other_the_smallest_limit_holds() -> None:
    """A grandchild takes from its parent's slice, and counts all the way up."""
    low = child(words(8), name="low")
    middle = child(
        *(uses("low"), words(2)),
        name="middle",
        tools=Toolbox([low]),
        config=limited(max_output_tokens=40),
    )
    engine = parent([middle], uses("middle"), config=limited(max_output_tokens=100))
    result = engine.submit_message("go")
    assert [one.max_tokens for one in asked(low)] == [40 - ASKS]
    assert [one.max_tokens for one in asked(middle)] == [40, 40 - ASKS - 8]
    assert [one.max_tokens for one in asked(engine)] == [100, 100 - 2 * ASKS - 8 - 2]
    assert result.usage == UsageSummary(0, 2 * ASKS + 8 + 2 + 1)


def test_a_turn_that_does_not_fit_because_of_an_agent_below_names_the_limit() -> None:
    """What it used counts when the turn above is finished."""
    helper = child(Reply("so much", input_tokens=500), config=limited(max_input_tokens=10))
    engine = parent([helper], uses("helper"), config=limited(max_input_tokens=400))
    result = engine.submit_message("go")
    assert result.stop_reason == "max_budget_reached"
    assert (str(result.overrun), engine.total_usage) == (
        "input_tokens: 500 against a limit of 400; raise the limit",
        UsageSummary(),
    )


def test_a_usage_that_is_not_reported_is_counted_in_words() -> None:
    """And the sum is no longer exact."""
    helper = child(words(4, reports_usage=False))
    engine = parent([helper], uses("helper"))
    assert engine.submit_message("go").usage == UsageSummary(2, ASKS + 4 + 1, exact=False)


# Its time.


def test_it_ends_no_later_than_the_turn_above() -> None:
    """The smaller deadline is what its model is told."""
    seen: list[float | None] = []

    class Noting(ScriptedModel):
        def complete(self, request: Any, *, deadline: float | None) -> Any:
            seen.append(deadline)
            return super().complete(request, deadline=deadline)

    agents = [
        child(model=Noting([words(1)]), name=f"a{number}", timeout_seconds=seconds)
        for number, seconds in enumerate((None, 5, 5_000))
    ]
    engine = parent(agents, *[uses(one.name) for one in agents])
    scope = CancelScope(100)
    assert scope.deadline is not None
    engine.submit_message("go", cancel_event=scope)
    above, own, other = seen
    assert above == other == scope.deadline
    assert own is not None
    assert own < scope.deadline - 50


def test_the_time_of_the_session_above_is_a_deadline() -> None:
    """Its wall clock is its deadline, and it goes on while an agent below works."""
    helper = child(words(3, silent=True))
    engine = parent([helper], uses("helper"), config=limited(max_wall_seconds=0.3))
    result = engine.submit_message("go")
    assert (result.stop_reason, result.overrun and result.overrun.dimension) == (
        "max_budget_reached",
        "wall_clock",
    )


def test_a_plain_event_cancels_an_agent_below() -> None:
    """Any engine takes one, and its turn above goes on."""
    agent, event = child(words(3, silent=True)), threading.Event()

    async def flow() -> str:
        task = asyncio.ensure_future(agent.engine().submit("x", cancel_event=event))
        await when(lambda: asked(agent))
        event.set()
        return str((await task).stop_reason)

    result, engine = running(flow)
    assert (result.stop_reason, told(engine)) == ("completed", [("cancelled", False)])


def test_many_turns_in_one_tool_add_up() -> None:
    """What is over is added up once, and stays counted."""
    agent = child(model=ScriptedModel([words(1)] * 300), config=limited(max_turns=300))

    async def flow() -> str:
        engine = agent.engine()
        return str([(await engine.submit("x")).stop_reason for _ in range(300)].count("completed"))

    result, engine = running(flow, config=limited(max_output_tokens=1_000))
    assert told(engine) == [("300", False)]
    assert asked(agent)[-1].max_tokens == 1_000 - ASKS - 299
    assert result.usage.output_tokens == ASKS + 300 + 1


@pytest.mark.parametrize("reason", [StopReason.CANCELLED, StopReason.TIMEOUT])
def test_who_ends_the_turn_above_ends_all_below(reason: StopReason) -> None:
    """The gates are closed before `cancel` returns, and nothing commits after it."""
    seen: list[Any] = []

    async def run() -> TurnResult:
        scope, began = CancelScope(), asyncio.Event()
        low = child(words(3, stalls_after=1), name="low")
        engines: list[QueryEngine] = []

        async def below(prompt: str) -> str:
            engines.append(low.engine())
            began.set()
            return str((await engines[-1].submit(prompt)).stop_reason)

        middle = child(uses("below"), name="middle", tools=Toolbox([below]))
        engine = parent([middle], uses("middle"))
        task = asyncio.ensure_future(engine.submit("go", cancel_event=scope))
        await began.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        scope.cancel(reason)
        gate = engines[0]._session._gate
        seen.append(gate is not None and gate.decided)
        result = await task
        seen.append(engines[0].state.turns_committed)
        return result

    result = asyncio.run(run())
    assert (result.stop_reason, seen, result.abandoned) == (reason, [True, 0], False)


class Settling(models.Steps):
    """A model that takes a while to end when it is cancelled; `ended` says that it has."""

    def __init__(self) -> None:
        self.began, self.ended = asyncio.Event(), False
        super().__init__(lambda _: None)

    async def complete(self, request: Any, *, deadline: float | None) -> Any:
        try:
            self.began.set()
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(0.1)  # longer than an agent's own period of grace
            self.ended = True
        yield Stop()


def test_the_turn_above_waits_a_little_for_those_below() -> None:
    """They account for themselves before it is told, and nothing cuts them off in that."""
    model = Settling()
    agent = child(model=model)

    async def run() -> TurnResult:
        scope = CancelScope()
        engine = plain(lambda agent: agent.engine().submit_message("x").output, agent,
                       grace_seconds=30)  # fmt: skip
        task = asyncio.ensure_future(engine.submit("go", cancel_event=scope))
        await model.began.wait()
        scope.cancel()
        result = await task
        assert model.ended
        return result

    result = asyncio.run(run())
    assert (result.stop_reason, result.abandoned) == ("cancelled", False)


def test_a_caller_who_is_cancelled_leaves_nothing_open_below() -> None:
    """When `CancelledError` comes out, the gates of all agents are closed."""
    model = Settling()
    agent = child(model=model)
    engines: list[QueryEngine] = []

    def work(agent: SubAgent) -> str:
        engines.append(agent.engine())
        return engines[0].submit_message("x").output

    async def caller() -> bool:
        try:
            await plain(work, agent).submit("go")
        except asyncio.CancelledError:
            gate = engines[0]._session._gate
            return gate is not None and gate.decided
        return False

    async def run() -> bool:
        task = asyncio.ensure_future(caller())
        await model.began.wait()
        task.cancel()
        return await task

    assert asyncio.run(run())


def test_an_agent_has_the_clock_of_the_turn_above() -> None:
    """Deadlines of two clocks cannot be compared."""

    def clock() -> float:
        return 10.0**9

    helper = child(words(1, silent=True), timeout_seconds=0.01)
    engine = parent([helper], uses("helper"), now=clock)
    scope = CancelScope(60, now=clock)
    assert engine.submit_message("go", cancel_event=scope).stop_reason == "completed"
    assert told(engine)[0][0].startswith("SubAgentStopped: helper ended as timeout: its time")


def test_what_a_call_has_begun_ends_with_the_call() -> None:
    """An agent in a task that nobody awaits changes nothing, and holds nothing."""
    tasks: list[asyncio.Task[TurnResult]] = []
    lost = child(words(5, stalls_after=1), name="lost", config=limited(max_output_tokens=90))
    engines: list[QueryEngine] = []
    after = child(words(1), name="after")

    async def begin(prompt: str) -> str:
        engines.append(lost.engine())
        tasks.append(asyncio.ensure_future(engines[0].submit("x")))
        await when(lambda: asked(lost))
        return "begun"

    async def run() -> list[Any]:
        engine = parent(
            [begin, after], uses("begin"), uses("after"), config=limited(max_output_tokens=100)
        )
        await engine.submit("go")
        late = await engines[0].submit("again")
        return [(await tasks[0]).stop_reason, late.stop_reason]

    assert asyncio.run(run()) == ["cancelled", "cancelled"]
    (request,) = asked(after)
    assert 100 - 2 * ASKS - 5 <= request.max_tokens <= 100 - 2 * ASKS


def test_a_model_that_does_not_listen_is_told_as_abandoned() -> None:
    """The turn above is told so too: something of it still runs."""
    deaf = models.Deaf()
    helper = child(model=deaf, timeout_seconds=0.02)

    async def run() -> TurnResult:
        engine = parent([helper], uses("helper"))
        result = await engine.submit("go")
        deaf.release.set()
        return result

    result = asyncio.run(run())
    assert (result.stop_reason, result.abandoned) == ("completed", True)


# From within a tool.


def plain(work: Callable[[SubAgent], str], agent: SubAgent, **options: Any) -> QueryEngine:
    """Return a parent whose tool is a plain function."""

    def orchestrate(prompt: str) -> str:
        return work(agent)

    return parent([orchestrate], uses("orchestrate"), **options)


@pytest.mark.parametrize("above", ["portal", "loop"])
@pytest.mark.parametrize("kind", [ScriptedModel, ScriptedSyncModel])
def test_a_plain_function_uses_an_engine(above: str, kind: Any) -> None:
    """It blocks its own thread only: the turn above works on its event loop, whichever it is."""
    loops = set()

    def work(agent: SubAgent) -> str:
        engine = agent.engine()
        first, second = engine.submit_message("one"), engine.submit_message("two")
        events = [one["type"] for one in engine.stream_submit_message("three")]
        return f"{first.output}, {second.output}, {events[-1]} {engine.state.turns_committed}"

    class Noting(kind):  # type: ignore[misc]  # a class that is given
        def _take(self, request: Any) -> Any:
            loops.add(asyncio.get_running_loop())
            return super()._take(request)

    agent = child(model=Noting([words(1), words(2), words(3)]))
    engine = plain(work, agent)

    async def run() -> None:
        loops.add(asyncio.get_running_loop())
        await engine.submit("go")

    if above == "portal":
        engine.submit_message("go")
    else:
        asyncio.run(run())
    assert told(engine) == [("word, word word, message_stop 3", False)]
    assert len(loops) == (kind is ScriptedModel or above == "loop")


@pytest.mark.parametrize("blocking", [False, True])
def test_an_engine_works_in_a_loop(blocking: bool) -> None:
    """A tool may hand it to a loop, with a time and turns of its own; its budget is its slice."""
    agent = child(words(2), words(3), words(4), config=limited(max_turns=9, max_output_tokens=7))
    options: dict[str, Any] = {"max_turns": 5, "continuation_prompt": "on", "timeout_seconds": 60}

    def work(agent: SubAgent) -> str:
        result = run_turn_loop("x", engine=agent.engine(), **options)
        return f"{result.loop_stop} {len(result)}"

    async def flow() -> str:
        result = await arun_turn_loop("x", engine=agent.engine(), **options)
        return f"{result.loop_stop} {len(result)}"

    if blocking:
        engine = plain(work, agent)
        result = engine.submit_message("go")
    else:
        result, engine = running(flow)
    assert told(engine) == [("max_budget_reached 4", False)]
    assert result.usage.output_tokens == ASKS + 2 + 3 + 2 + 1
    assert [one.max_tokens for one in asked(agent)] == [7, 5, 2]


@pytest.mark.parametrize("looping", [False, True])
def test_a_plain_function_is_left_when_its_turn_ends(looping: bool) -> None:
    """Its agent is cancelled at once, so its thread goes on and comes to its end."""
    agent = child(words(3, stalls_after=1))
    ended, began = threading.Event(), threading.Event()
    said: list[str] = []

    def work(agent: SubAgent) -> str:
        engine = agent.engine()
        began.set()
        if looping:
            said.append(str(run_turn_loop("x", engine=engine, timeout_seconds=60).loop_stop))
        else:
            said.append(str(engine.submit_message("x").stop_reason))
        said.append(str(engine.submit_message("y").stop_reason))
        ended.set()
        return "late"

    engine, scope = plain(work, agent), CancelScope()
    threading.Thread(target=lambda: (began.wait(10), scope.cancel()), daemon=True).start()
    result = engine.submit_message("go", cancel_event=scope)
    assert result.stop_reason == "cancelled"
    assert ended.wait(10)
    assert said == ["cancelled", "cancelled"]


def test_many_plain_functions_at_the_same_time() -> None:
    """Each waits on its own thread, below each other as well, and none for another."""
    low = child(model=ScriptedModel([words(1)] * 40), name="low")

    def dig(prompt: str) -> str:
        return low.engine().submit_message(prompt).output

    middle = child(
        model=ScriptedModel([*[uses(*["dig"] * 4)] * 8, *[words(2)] * 8]),
        name="middle",
        tools=Toolbox([dig]),
    )

    def orchestrate(prompt: str) -> str:
        return middle.engine().submit_message(prompt).output

    engine = parent([orchestrate], uses(*["orchestrate"] * 8))
    result = engine.submit_message("go", cancel_event=CancelScope(60))
    assert result.stop_reason == "completed"
    assert len(asked(low)) == 32
    assert result.usage.output_tokens == 8 * ASKS + 8 * (4 * ASKS + 4 + 2) + 1


def test_what_cannot_be_done_from_within_a_tool_says_the_fix() -> None:
    """Blocking the event loop, and another event loop."""
    agent = child(words(1))

    async def blocks(prompt: str) -> str:
        return agent.engine().submit_message(prompt).output

    async def streams(prompt: str) -> str:
        return str(list(agent.engine().stream_submit_message(prompt)))

    def elsewhere(prompt: str) -> str:
        async def ask(engine: QueryEngine) -> str:
            return (await engine.submit(prompt)).output

        return asyncio.run(ask(agent.engine()))

    engine = parent([blocks, streams, elsewhere], uses("blocks", "streams", "elsewhere"))
    engine.submit_message("go")
    for (text, is_error), fix in zip(
        told(engine), ["await submit", "await submit", "make the tool an async"], strict=True
    ):
        assert is_error
        assert fix in text
    assert asked(agent) == []


def test_a_plain_function_that_outlives_its_event_loop_is_told() -> None:
    """It is not left waiting for a loop that does not run any more."""
    agent = child(words(1))
    go, ended = threading.Event(), threading.Event()
    said: list[str] = []

    def work(agent: SubAgent) -> str:
        engine = agent.engine()
        began.set()
        go.wait(30)
        try:
            engine.submit_message("x")
        except RuntimeError as error:
            said.append(str(error))
        ended.set()
        return ""

    began, scope, engine = threading.Event(), CancelScope(), plain(work, agent)

    async def run() -> TurnResult:
        task = asyncio.ensure_future(engine.submit("go", cancel_event=scope))
        await when(began.is_set)
        scope.cancel()
        return await task

    assert asyncio.run(run()).stop_reason == "cancelled"
    go.set()
    assert ended.wait(30)
    assert said == ["the event loop of this turn is closed: the turn is over"]


def test_outside_a_tool_there_is_no_place() -> None:
    """Neither in a program, nor in a tool that no turn runs."""
    agent = child(words(1))
    with pytest.raises(LookupError, match=r"helper: no tool is running here; call engine\(\)"):
        agent.engine()


def test_agents_are_not_below_each_other_for_ever() -> None:
    """A tool that begins its own agent ends at a depth, and the model is told."""
    deepest: list[str] = []

    async def dig(prompt: str) -> str:
        try:
            return (await digger.engine().submit(prompt)).output
        except RecursionError as error:
            deepest.append(str(error))
            raise

    replies = [uses("dig")] * DEPTH_MAX + [words(1)] * DEPTH_MAX
    digger = child(*replies, name="digger", tools=Toolbox([dig]))
    assert parent([dig], uses("dig")).submit_message("go").stop_reason == "completed"
    assert deepest == [
        f"digger: {DEPTH_MAX} agents are below each other, and no more may be; let the tools of a"
        " sub-agent begin fewer"
    ]


# What is told above, and what it is called.


def shell(prompt: str) -> str:
    return prompt


@pytest.mark.parametrize("ends", ["completed", "timeout"])
def test_denials_are_told_above(ends: str) -> None:
    """What an agent below was not allowed is among the denials of the turn, committed or not."""
    box = Toolbox([shell], Permissions(deny=frozenset({"shell"})))
    then = words(1) if ends == "completed" else words(1, silent=True)
    helper = child(uses("shell"), then, tools=box)
    engine, scope = parent([helper], uses("helper")), CancelScope()

    async def run() -> TurnResult:
        task = asyncio.ensure_future(engine.submit("go", cancel_event=scope))
        await when(lambda: len(asked(helper)) == 2)
        if ends == "timeout":
            scope.cancel(StopReason.TIMEOUT)
        return await task

    result = asyncio.run(run())
    assert result.stop_reason == ends
    assert [(one.tool_name, one.reason) for one in result.permission_denials] == [
        ("shell", "shell is denied")
    ]
    assert len(engine.permission_denials) == (ends == "completed")


def test_names_that_no_crash_changes() -> None:
    """Keys begin with the call's key, then name and number; sessions are named after them."""

    def run() -> tuple[list[str | None], list[str]]:
        agents = [child(*[uses("shell"), words(1)] * 2, name=name) for name in ("one", "two")]
        ids: list[str] = []
        for agent in agents:
            agent.tools = Toolbox([shell])

        async def flow() -> str:
            for agent in (*agents, agents[0]):
                engine = agent.engine()
                ids.append(engine.session_id)
                await engine.submit("do it", turn_id="t")
            return ""

        running(flow)
        return [one.key for agent in agents for one in asked(agent)], ids

    keys, ids = run()
    call = str(keys[0]).removesuffix("/one/0/t/0")
    assert re.fullmatch(r"s/1-[0-9a-f]{16}/0/0", call)
    assert keys == [
        *(f"{call}/one/0/t/0", f"{call}/one/0/t/1", f"{call}/one/1/t/0", f"{call}/one/1/t/1"),
        *(f"{call}/two/0/t/0", f"{call}/two/0/t/1"),
    ]
    assert len(set(ids)) == 3
    assert run() == (keys, ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "no spaces"}, "name 'no spaces' must be 1 to 64 letters"),
        ({"name": ""}, "must be 1 to 64"),
        ({"about": " "}, "helper: about is empty; say what"),
        ({"model": "gpt-4o"}, "helper: model must be a Model, .* not str"),
        ({"config": {"max_turns": 1}}, "helper: config must be a QueryEngineConfig, not dict"),
        ({"timeout_seconds": 0}, "helper: timeout_seconds must be above 0, not 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds must be above 0, not nan"),
    ],
)
def test_what_cannot_be_an_agent_says_why(options: dict[str, Any], message: str) -> None:
    """Before anything runs."""
    fields = {"name": "helper", "model": ScriptedModel([]), "about": "Helps.", **options}
    with pytest.raises((ValueError, TypeError), match=message):
        SubAgent(fields.pop("name"), fields.pop("model"), **fields)


def test_two_agents_of_one_name_are_refused() -> None:
    """As any two tools are."""
    with pytest.raises(ValueError, match="two tools are called 'helper'"):
        Toolbox([child(words(1)), tool(shell, name="helper")])


def test_a_failing_provider_is_the_caller_s_to_handle() -> None:
    """From within a tool it is the exception of any engine."""
    agent = child(Reply(status=429))

    async def flow() -> str:
        with pytest.raises(ModelError) as caught:
            await agent.engine().submit("x")
        return str(caught.value.failure)

    _, engine = running(flow, config=QueryEngineConfig())
    assert told(engine) == [(ModelFailure.RATE_LIMITED.value, False)]


def test_a_wish_with_wrong_arguments_begins_nothing() -> None:
    """They are checked as any tool's are."""
    helper = child(words(1))
    engine = parent([helper], Reply(tools=[ToolUse("helper", {"text": "x"})]))
    engine.submit_message("go")
    assert "prompt: Field required" in told(engine)[0][0]
    assert asked(helper) == []
