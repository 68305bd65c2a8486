"""What the adapters do that a model in this process has no part in: addresses, time, retries."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from agent.model_kinds import ask
from agent.test_model_contract import CONVERSATION, text_of
from bursar.agent.models import model
from bursar.agent.models.anthropic_model import AnthropicModel
from bursar.agent.models.openai_model import OpenAIModel
from bursar.agent.ports import (
    Finish,
    Model,
    ModelError,
    ModelFailure,
    Stop,
    TokenUsage,
    ToolCall,
)
from bursar.testing.providers import Reply, ScriptedProvider

SPECS = ["openai:gpt-4o", "anthropic:claude-haiku-4-5"]


async def answer(one: Any, deadline: float | None = None) -> list[Any]:
    try:
        return [event async for event in one.complete(ask(), deadline=deadline)]
    finally:
        await one.aclose()


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_a_model_is_one_line(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address and key come from the environment, and a model may serve several event loops."""
    with ScriptedProvider([Reply("one"), Reply("two")]) as provider:
        for name, value in provider.environment.items():
            monkeypatch.setenv(name, value)
        found = model(spec, temperature=0)
        assert found.name == spec.partition(":")[2]
        assert [text_of(asyncio.run(answer(found))) for _ in range(2)] == ["one", "two"]
        assert [request["temperature"] for request in provider.requests] == [0, 0]
        assert {request["model"] for request in provider.requests} == {found.name}


@pytest.mark.parametrize("wrong", ["gpt-4o", "openai:", "acme:x", ":x", ""])
def test_a_model_that_cannot_be_meant_is_named(wrong: str) -> None:
    """The message says how models are written."""
    with pytest.raises(ValueError, match="anthropic:NAME or openai:NAME"):
        model(wrong)


def impatient(spec: str, url: str, **options: Any) -> Model:
    """Return a model whose own client has options, such as a short timeout."""
    provider, _, name = spec.partition(":")
    if provider == "openai":
        return OpenAIModel(
            name, client=openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", **options)
        )
    return AnthropicModel(
        name, client=anthropic.AsyncAnthropic(base_url=url, api_key="any", **options)
    )


def test_a_timeout_of_the_package_is_the_providers(spec: str) -> None:
    """What ran out was the provider's time and not the turn's: it is no `deadline`."""

    async def case() -> None:
        def late(request: httpx2.Request) -> httpx2.Response:
            raise httpx2.ReadTimeout("slow", request=request)

        async with httpx2.AsyncClient(transport=httpx2.MockTransport(late)) as http:
            found = impatient(spec, "http://127.0.0.1:9", http_client=http)
            with pytest.raises(ModelError) as caught:
                await answer(found, time.monotonic() + 30)
        assert caught.value.failure is ModelFailure.PROVIDER_TIMEOUT
        assert caught.value.maybe_billed

    asyncio.run(case())


def test_a_timeout_that_the_transport_raises_is_the_providers(spec: str) -> None:
    """A `TimeoutError` from below is not mistaken for the call's own deadline."""

    async def case() -> None:
        def late(request: httpx2.Request) -> httpx2.Response:
            raise TimeoutError("of the provider")

        async with httpx2.AsyncClient(transport=httpx2.MockTransport(late)) as http:
            found = impatient(spec, "http://127.0.0.1:9", http_client=http)
            with pytest.raises(ModelError) as caught:
                await answer(found, time.monotonic() + 30)
        assert caught.value.failure in (
            ModelFailure.PROVIDER_TIMEOUT,
            ModelFailure.PROVIDER_UNREACHABLE,
        )

    asyncio.run(case())


def test_nobody_there_was_not_billed(spec: str) -> None:
    """A provider that cannot be reached is asked once and cannot have billed."""

    async def case() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
            async with httpx2.AsyncClient() as http:
                found = impatient(spec, url, http_client=http, max_retries=5)
                began = time.monotonic()
                with pytest.raises(ModelError) as caught:
                    await answer(found)
                assert time.monotonic() - began < 0.4  # a retry of the package would wait
        error = caught.value
        assert (error.failure, error.maybe_billed) == (ModelFailure.PROVIDER_UNREACHABLE, False)

    asyncio.run(case())


def test_retries_of_a_client_are_turned_off(spec: str) -> None:
    """A client with retries asks once: a second answer would be billed and not reserved for."""

    async def case() -> None:
        replies = [Reply("busy", status=500), Reply("fine")]
        with ScriptedProvider(replies) as provider:
            async with httpx2.AsyncClient() as http:
                found = impatient(spec, provider.anthropic_url, http_client=http, max_retries=5)
                with pytest.raises(ModelError):
                    await answer(found)
            assert len(provider.requests) == 1

    asyncio.run(case())


def test_how_long_to_wait_is_passed_on(spec: str) -> None:
    """`Retry-After` of a provider is there for whoever decides to ask again."""

    async def case() -> None:
        def busy(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(429, headers={"retry-after": "7"}, json={"error": {}})

        async with httpx2.AsyncClient(transport=httpx2.MockTransport(busy)) as http:
            with pytest.raises(ModelError) as caught:
                await answer(impatient(spec, "http://127.0.0.1:9", http_client=http))
        assert caught.value.retry_after_ms == 7_000

    asyncio.run(case())


def sent(spec: str) -> dict[str, Any]:
    """Return the body that a conversation with tools becomes."""

    async def case() -> dict[str, Any]:
        with ScriptedProvider([Reply("Yes.")]) as provider:
            async with httpx2.AsyncClient() as http:
                found = impatient(spec, provider.anthropic_url, http_client=http)
                async for _ in found.complete(CONVERSATION, deadline=None):
                    pass
            return provider.requests[0]

    return asyncio.run(case())


def test_openai_is_told_the_conversation() -> None:
    """Each result is a message of its own; arguments stay the text that the model wrote."""
    body = sent("openai:gpt-4o")
    assert [message["role"] for message in body["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant", "user")
    ]
    (call,) = body["messages"][2]["tool_calls"]
    assert call["function"] == {"name": "count", "arguments": '{"of": 2}'}
    assert body["messages"][3] == {"role": "tool", "tool_call_id": "c1", "content": "2"}
    assert [tool["function"]["name"] for tool in body["tools"]] == ["count"]


def test_anthropic_is_told_the_conversation() -> None:
    """Results are blocks of the user; arguments are an object."""
    body = sent("anthropic:claude-haiku-4-5")
    assert body["system"] == "Be brief."
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert body["messages"][1]["content"][1]["input"] == {"of": 2}
    assert body["messages"][2]["content"][0]["tool_use_id"] == "c1"
    assert body["tools"][0]["input_schema"]["type"] == "object"


def said(chunks: list[dict[str, Any]]) -> str:
    """Return chunks as a provider streams them."""
    return "".join(f"event: {one.get('type')}\ndata: {json.dumps(one)}\n\n" for one in chunks)


def chunk(**fields: Any) -> dict[str, Any]:
    """Return a chunk of OpenAI's dialect."""
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}


def openai_says(delta: Any = None, finish: str | None = None) -> dict[str, Any]:
    """Return a chunk with a piece of the answer."""
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def anthropic_says(usage: Any = None, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an answer of Anthropic's dialect, with events in its middle."""
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m"}
    counts = {"input_tokens": 7, "output_tokens": 1} if usage is None else usage
    return [
        {"type": "message_start", "message": {**message, "stop_reason": None, "usage": counts}},
        *events,
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": counts},
        {"type": "message_stop"},
    ]


async def streamed(spec: str, chunks: list[dict[str, Any]], status: int = 200) -> list[Any]:
    """Return what an adapter makes of a provider's stream."""

    def reply(request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(status, headers=headers, text=said(chunks))

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(reply)) as http:
        return await answer(impatient(spec, "http://127.0.0.1:9", http_client=http))


def block(**fields: Any) -> dict[str, Any]:
    """Return an event of Anthropic's dialect about the first block."""
    return {"index": 0, **fields}


BROKEN: list[tuple[str, list[dict[str, Any]]]] = [
    ("openai:m", [chunk(choices=None)]),
    ("openai:m", [openai_says(None)]),
    ("openai:m", [openai_says({"content": 5})]),
    ("openai:m", [openai_says({"tool_calls": [{"index": 0, "function": {"name": 5}}]})]),
    ("openai:m", [openai_says({"tool_calls": [{"index": 0, "id": 5}]})]),
    ("openai:m", [openai_says({"tool_calls": [{"index": [0], "id": "x"}]})]),
    (
        "anthropic:m",  # a block that never began
        anthropic_says(
            None,
            block(
                type="content_block_delta",
                delta={"type": "input_json_delta", "partial_json": "{}"},
            ),
        ),
    ),
    ("anthropic:m", anthropic_says(None, block(type="content_block_delta", delta=None))),
    ("anthropic:m", anthropic_says(None, block(type="content_block_start", content_block=None))),
    (
        "anthropic:m",
        anthropic_says(
            None, block(type="content_block_delta", delta={"type": "text_delta", "text": 5})
        ),
    ),
]


@pytest.mark.parametrize(("spec", "chunks"), BROKEN)
def test_what_does_not_fit_the_dialect_is_a_broken_answer(
    spec: str, chunks: list[dict[str, Any]]
) -> None:
    """A null, a number for a text, a block that nobody began: the provider's fault, and billed."""
    if spec.startswith("openai"):
        chunks = [*chunks, openai_says({}, "tool_calls")]
    with pytest.raises(ModelError) as caught:
        asyncio.run(streamed(spec, chunks))
    assert (caught.value.failure, caught.value.maybe_billed) == (ModelFailure.ANSWER_BROKEN, True)


def usages(spec: str, counts: dict[str, Any]) -> TokenUsage:
    """Return the last usage of an answer whose provider reports these counts."""
    if spec.startswith("openai"):
        end = [openai_says({"content": "hi"}), openai_says({}, "stop")]
        chunks = [*end, chunk(choices=[], usage=counts)]
    else:
        chunks = anthropic_says(counts)
    found = asyncio.run(streamed(spec, chunks))
    assert found[-1] == Stop(Finish.END)
    return [one for one in found if isinstance(one, TokenUsage)][-1]


@pytest.mark.parametrize("wrong", [-1, -1_000, "10", 10.5, 10**30, True, [1]])
def test_a_count_that_is_none_is_not_known(wrong: Any) -> None:
    """What a provider reports and nobody can have used is nobody's knowledge."""
    asked = usages("openai:m", {"prompt_tokens": wrong, "completion_tokens": 5})
    assert (asked.input_tokens, asked.output_tokens) == (None, 5)
    answered = usages("openai:m", {"prompt_tokens": 10, "completion_tokens": wrong})
    assert (answered.input_tokens, answered.output_tokens) == (10, None)


@pytest.mark.parametrize("wrong", [-1, -1_000, 10.5, 10**30, [1]])
def test_the_parts_of_a_count_are_looked_at_one_by_one(wrong: Any) -> None:
    """A sum hides what is below 0."""
    asked = usages("anthropic:m", {"input_tokens": wrong, "output_tokens": 5})
    assert (asked.input_tokens, asked.output_tokens) == (None, 5)
    both = {"input_tokens": wrong, "output_tokens": 5, "cache_read_input_tokens": 2_000}
    assert usages("anthropic:m", both).input_tokens is None
    cached = {"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": wrong}
    assert usages("anthropic:m", cached) == TokenUsage(None, 5)


def test_more_from_a_cache_than_there_was_is_not_known() -> None:
    """Two counts that contradict each other are no price."""
    details = {"prompt_tokens_details": {"cached_tokens": 1_000}}
    found = usages("openai:m", {"prompt_tokens": 10, "completion_tokens": 5, **details})
    assert found == TokenUsage(None, 5)


@pytest.mark.parametrize(
    ("status", "billed"), [(408, True), (502, True), (504, True), (503, False)]
)
def test_somebody_in_between_gave_up(spec: str, status: int, billed: bool) -> None:
    """A gateway that waited for the provider in vain does not know what it bills."""
    with pytest.raises(ModelError) as caught:
        asyncio.run(streamed(spec, [], status))
    error = caught.value
    assert (error.failure, error.maybe_billed) == (ModelFailure.PROVIDER_FAILED, billed)


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_half_a_tool_call_is_no_call(finish: str) -> None:
    """An answer that was cut off in the middle of a call wants no tool."""
    piece = {"index": 0, "id": "t", "function": {"name": "pay", "arguments": '{"usd": 1'}}
    chunks = [openai_says({"tool_calls": [piece]}), openai_says({}, finish)]
    found = asyncio.run(streamed("openai:m", chunks))
    assert [type(one) for one in found] == [Stop]
    whole = [openai_says({"tool_calls": [piece]}), openai_says({}, "tool_calls")]
    assert isinstance(asyncio.run(streamed("openai:m", whole))[0], ToolCall)


def test_retries_of_our_own_client_are_turned_off(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is made from the environment asks once, too."""
    with ScriptedProvider([Reply("busy", status=500), Reply("fine")]) as provider:
        for name, value in provider.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ModelError):
            asyncio.run(answer(model(spec)))
        assert len(provider.requests) == 1
