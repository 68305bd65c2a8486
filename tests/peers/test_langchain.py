"""`langchain-runcycles`: the gates around the models and tools of a LangChain agent.

The model is a local script of answers; everything between it and the server is what users run.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import tool
from langchain_runcycles import CyclesFanOutGate, CyclesModelGate, CyclesToolGate
from langchain_runcycles.extractors import openai_cost
from runcycles import Action, Amount, AsyncCyclesClient, CyclesClient, Subject, Unit

from peers.desk import ALLOCATED, Desk

MODEL = Action(kind="llm.completion", name="m1")
SEARCH = Action(kind="tool.call", name="search")
ESTIMATE = Amount(unit=Unit.USD_MICROCENTS, amount=5_000)
USAGE = {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14}
COST = 10 * 100 + 4 * 200  # of that usage at the prices of `gate_of_model`
FINAL = AIMessage("done", usage_metadata=USAGE)


class Scripted(GenericFakeChatModel):
    """A chat model that says what it was told to say."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self


def script(*messages: AIMessage) -> Scripted:
    def endless() -> Iterator[AIMessage]:
        yield from messages
        while True:
            yield FINAL

    return Scripted(messages=endless())


def calling(number: int) -> AIMessage:
    """Return a model's wish to call the tool."""
    call = {"name": "search", "args": {"text": "x"}, "id": f"call-{number}", "type": "tool_call"}
    return AIMessage("", tool_calls=[call], usage_metadata=USAGE)


class Failing(Exception):
    """What the tool or the model raises."""


def subject(desk: Desk) -> Subject:
    return Subject(tenant=desk.tenant, agent="researcher")


def gate_of_model(desk: Desk, client: Any, **options: Any) -> CyclesModelGate:
    settings: dict[str, Any] = {
        "subject": subject(desk),
        "action": MODEL,
        "mode": "reserve",
        "estimate": ESTIMATE,
        # USD per million tokens: 100 and 200 microcents for one
        "cost_fn": openai_cost(prompt_per_million_usd=1.0, completion_per_million_usd=2.0),
    }
    return CyclesModelGate(client, **(settings | options))


def ask(agent: Any) -> list[BaseMessage]:
    messages: list[BaseMessage] = agent.invoke({"messages": [("user", "go")]})["messages"]
    return messages


def test_a_model_call_is_charged_with_what_it_used(desk: Desk, client: CyclesClient) -> None:
    """The estimate is held, the reported usage is spent."""
    agent = create_agent(script(), middleware=[gate_of_model(desk, client)])
    assert ask(agent)[-1].content == "done"
    assert desk.spent() == COST
    assert desk.calls == Counter({"POST reservations 200": 1, "POST commit 200": 1})


@pytest.mark.parametrize("mode", ["decide", "reserve", "decide+reserve"])
def test_a_model_call_that_is_denied(desk: Desk, client: CyclesClient, mode: str) -> None:
    """The model is not called; the agent ends with the reason in its last message."""
    dear = Amount(unit=Unit.USD_MICROCENTS, amount=ALLOCATED + 1)
    gate = gate_of_model(desk, client, mode=mode, estimate=dear)
    last = ask(create_agent(script(), middleware=[gate]))[-1]
    assert last.content != "done"
    assert isinstance(last, AIMessage)
    assert "denied by Cycles policy" in str(last.content)
    assert desk.spent() == 0


def test_a_model_call_that_fails_is_released(desk: Desk, client: CyclesClient) -> None:
    class Broken(Scripted):
        def _generate(self, *arguments: Any, **options: Any) -> Any:
            raise Failing

    agent = create_agent(Broken(messages=iter(())), middleware=[gate_of_model(desk, client)])
    with pytest.raises(Failing):
        ask(agent)
    assert desk.calls["POST release 200"] == 1
    assert desk.spent() == 0


def test_tool_calls_are_charged_or_denied(desk: Desk, client: CyclesClient) -> None:
    """Each call that fits runs and is charged; the one that does not fit tells the model why."""
    ran: list[str] = []

    @tool
    def search(text: str) -> str:
        """Search."""
        ran.append(text)
        return "found"

    half = Amount(unit=Unit.USD_MICROCENTS, amount=ALLOCATED // 2)
    gate = CyclesToolGate(
        client, subject=subject(desk), action={"search": SEARCH}, mode="reserve", estimate=half
    )
    model = script(calling(1), calling(2), calling(3))
    messages = ask(create_agent(model, tools=[search], middleware=[gate]))
    told = [str(message.content) for message in messages if isinstance(message, ToolMessage)]
    assert told[:2] == ["found", "found"]
    assert told[2].startswith("Tool call denied by Cycles policy")
    assert "0 USD_MICROCENTS remaining" in told[2]
    assert ran == ["x", "x"]
    assert desk.spent() == ALLOCATED


def test_a_tool_call_that_fails_is_released(desk: Desk, client: CyclesClient) -> None:
    @tool
    def search(text: str) -> str:
        """Search."""
        raise Failing(text)

    gate = CyclesToolGate(
        client, subject=subject(desk), action=SEARCH, mode="decide+reserve", estimate=ESTIMATE
    )
    with pytest.raises(Failing):
        ask(create_agent(script(calling(1)), tools=[search], middleware=[gate]))
    assert desk.calls["POST decide 200"] == 1
    assert desk.calls["POST release 200"] == 1
    assert desk.spent() == 0


def test_fan_out_asks_before_each_turn(desk: Desk, client: CyclesClient) -> None:
    """Every turn is decided by the server, and the number of turns is bounded."""

    @tool
    def search(text: str) -> str:
        """Search."""
        return "found"

    gate = CyclesFanOutGate(3, client=client, subject=subject(desk), action=MODEL)
    model = script(*(calling(number) for number in range(10)))
    last = ask(create_agent(model, tools=[search], middleware=[gate]))[-1]
    assert "Fan-out cap reached" in str(last.content)
    assert desk.calls == Counter({"POST decide 200": 3})


def test_an_asynchronous_agent(desk: Desk, run_async: Callable[..., Any]) -> None:
    """Both gates together, asynchronously: two model calls and one tool call are charged."""

    @tool
    async def search(text: str) -> str:
        """Search."""
        return "found"

    async def work(client: AsyncCyclesClient) -> None:
        tools = CyclesToolGate(
            client, subject=subject(desk), action=SEARCH, mode="reserve", estimate=ESTIMATE
        )
        agent = create_agent(
            script(calling(1)), tools=[search], middleware=[gate_of_model(desk, client), tools]
        )
        answer = await agent.ainvoke({"messages": [("user", "go")]})
        assert answer["messages"][-1].content == "done"

    run_async(work)
    assert desk.spent() == 2 * COST + ESTIMATE.amount
    assert desk.calls["POST commit 200"] == 3
