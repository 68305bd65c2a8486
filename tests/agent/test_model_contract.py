"""Whatever stands behind a model, its answer is the same events and its failures the same words.

Every case runs against the adapters of two packages, over HTTP on a scripted provider, and
against the scripted model of this process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import pytest

from agent.model_kinds import KINDS, Stage, ask
from bursar.agent.ports import (
    Finish,
    Message,
    ModelError,
    ModelFailure,
    ModelRequest,
    Role,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from bursar.testing.providers import Reply, ToolUse

Open = Callable[[Iterable[Reply]], AbstractAsyncContextManager[Stage]]


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest) -> Open:
    opened: Open = KINDS[request.param]
    return opened


def text_of(events: Iterable[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def last_usage(events: Iterable[Any]) -> TokenUsage | None:
    found = None
    for event in events:
        found = event if isinstance(event, TokenUsage) else found
    return found


def run(case: Any) -> Any:
    return asyncio.run(case)


def test_an_answer_streams_and_stops(stage: Open) -> None:
    """Text comes in pieces, the usage is the provider's, and one `Stop` is last."""

    async def case() -> None:
        async with stage([Reply("A book of debts.", input_tokens=7)]) as one:
            events = await one.answer(ask())
        assert text_of(events) == "A book of debts."
        assert len([event for event in events if isinstance(event, TextDelta)]) == 4
        assert last_usage(events) == TokenUsage(7, 4)
        assert [event for event in events if isinstance(event, Stop)] == [Stop(Finish.END)]
        assert events[-1] == Stop(Finish.END)

    run(case())


def test_tool_calls_are_whole(stage: Open) -> None:
    """Several calls of one answer come complete, in order, with their arguments as JSON."""

    async def case() -> None:
        uses = [ToolUse("search", {"text": "a"}), ToolUse("count", {"of": [1, 2]})]
        async with stage([Reply("Let me see.", uses, input_tokens=3)]) as one:
            events = await one.answer(ask())
        calls = [event for event in events if isinstance(event, ToolCall)]
        assert [(call.name, call.arguments) for call in calls] == [
            ("search", '{"text": "a"}'),
            ("count", '{"of": [1, 2]}'),
        ]
        assert len({call.id for call in calls}) == 2
        assert events[-1] == Stop(Finish.TOOLS)

    run(case())


def test_arguments_that_are_no_json_are_passed_on(stage: Open) -> None:
    """What a model wrote wrongly is for whoever runs the tool to refuse."""

    async def case() -> None:
        async with stage([Reply(tools=[ToolUse("search", '{"text": ')])]) as one:
            events = await one.answer(ask())
        (call,) = [event for event in events if isinstance(event, ToolCall)]
        assert call.arguments == '{"text": '

    run(case())


def test_a_limit_cuts_the_answer(stage: Open) -> None:
    """`max_tokens` reaches the provider, and half a tool call is no call."""

    async def case() -> None:
        reply = Reply("one two three four", [ToolUse("search")])
        async with stage([reply]) as one:
            events = await one.answer(ask(max_tokens=2))
        assert text_of(events) == "one two"
        assert [event for event in events if isinstance(event, ToolCall)] == []
        assert events[-1] == Stop(Finish.LENGTH)

    run(case())


def test_cached_tokens_are_counted_once(stage: Open) -> None:
    """The input counts every token of the prompt, and says how many came from a cache."""

    async def case() -> None:
        async with stage([Reply("Yes.", input_tokens=100, cached_tokens=80)]) as one:
            events = await one.answer(ask())
        assert last_usage(events) == TokenUsage(100, 1, cache_read_tokens=80)

    run(case())


def test_a_usage_that_is_not_reported_is_unknown(stage: Open) -> None:
    """No usage is not a usage of zero."""

    async def case() -> None:
        async with stage([Reply("Yes.", reports_usage=False)]) as one:
            events = await one.answer(ask())
        found = last_usage(events)
        assert found is None or found.output_tokens is None
        assert events[-1] == Stop(Finish.END)

    run(case())


@pytest.mark.parametrize(
    ("status", "failure", "retryable"),
    [
        (400, ModelFailure.PROVIDER_REFUSED, False),
        (401, ModelFailure.PROVIDER_REFUSED, False),
        (404, ModelFailure.PROVIDER_REFUSED, False),
        (429, ModelFailure.RATE_LIMITED, True),
        (500, ModelFailure.PROVIDER_FAILED, True),
        (529, ModelFailure.PROVIDER_FAILED, True),
    ],
)
def test_a_refusal_is_typed(
    stage: Open, status: int, failure: ModelFailure, retryable: bool
) -> None:
    """A refusal is asked once, says why, and was not billed."""

    async def case() -> None:
        async with stage([Reply("not today", status=status), Reply("again")]) as one:
            with pytest.raises(ModelError, match="not today") as caught:
                await one.answer(ask())
            assert one.asked == 1
        error = caught.value
        assert (error.failure, error.status) == (failure, status)
        assert (error.retryable, error.maybe_billed) == (retryable, False)

    run(case())


@pytest.mark.parametrize("ending", ["breaks_after", "fails_after"])
def test_an_answer_that_breaks_is_no_answer(stage: Open, ending: str) -> None:
    """What came before the break was said; then comes an error, and no `Stop`."""

    async def case() -> None:
        said: list[Any] = []
        async with stage([Reply("one two three", **{ending: 2})]) as one:
            with pytest.raises(ModelError) as caught:
                await one.answer(ask(), said=said)
            assert one.asked == 1
        assert text_of(said) == "one two"
        assert not any(isinstance(event, Stop) for event in said)
        assert caught.value.failure is ModelFailure.ANSWER_BROKEN
        assert caught.value.maybe_billed

    run(case())


@pytest.mark.parametrize(
    "reply", [Reply(silent=True), Reply("one two three", stalls_after=1)], ids=["silent", "stalls"]
)
def test_the_deadline_ends_a_provider_that_waits(stage: Open, reply: Reply) -> None:
    """A provider that never goes on is given up by the call's own deadline, and it says so."""

    async def case() -> None:
        async with stage([reply]) as one:
            began = time.monotonic()
            with pytest.raises(ModelError) as caught:
                await one.answer(ask(), deadline=began + 0.4)
            assert time.monotonic() - began < 20
        assert caught.value.failure is ModelFailure.DEADLINE
        assert caught.value.maybe_billed

    run(case())


def test_a_deadline_that_has_passed_asks_nothing_or_ends_at_once(stage: Open) -> None:
    """Nothing waits for a deadline that is over."""

    async def case() -> None:
        async with stage([Reply("late", pause_s=60.0)]) as one:
            began = time.monotonic()
            with pytest.raises(ModelError) as caught:
                await one.answer(ask(), deadline=began - 1.0)
            assert time.monotonic() - began < 20
        assert caught.value.failure is ModelFailure.DEADLINE

    run(case())


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the other side is a thread or a generator
            await asyncio.sleep(0.01)


def test_closing_an_answer_ends_it_at_the_provider(stage: Open) -> None:
    """A reader who has enough ends the provider's stream, too."""

    async def case() -> None:
        async with stage([Reply("again and " * 500, pause_s=0.01)]) as one:
            async with aclosing(one.model.complete(ask(max_tokens=9_999), deadline=None)) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        break
            await _until(lambda: one.source.cut_off == 1)

    run(case())


@pytest.mark.parametrize(
    "reply", [Reply(silent=True), Reply("one two", stalls_after=1)], ids=["silent", "stalls"]
)
def test_cancelling_the_reader_ends_it_at_the_provider(stage: Open, reply: Reply) -> None:
    """A wedged provider does not outlive the task that waits for it."""

    async def case() -> None:
        async with stage([reply]) as one:
            task = asyncio.create_task(one.answer(ask()))
            await _until(lambda: one.asked == 1)
            await asyncio.sleep(0.05)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 20
            await _until(lambda: one.source.cut_off == 1)

    run(case())


CONVERSATION = ModelRequest(
    (
        Message(Role.USER, "How many?"),
        Message(Role.ASSISTANT, "Let me count.", calls=(ToolCall("c1", "count", '{"of": 2}'),)),
        Message(Role.TOOL, results=(ToolResult("c1", "count", "2"),)),
        Message(Role.ASSISTANT, "Two."),
        Message(Role.USER, "Sure?"),
    ),
    system="Be brief.",
    tools=(ToolSpec("count", "Count things.", {"type": "object", "properties": {}}),),
)


def test_a_conversation_with_tools_is_accepted(stage: Open) -> None:
    """All that a turn may have said before can be sent again."""

    async def case() -> None:
        async with stage([Reply("Yes.")]) as one:
            assert text_of(await one.answer(CONVERSATION)) == "Yes."

    run(case())
