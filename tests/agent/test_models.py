"""What the adapters do that a model in this process has no part in: addresses, time, retries."""

from __future__ import annotations

import asyncio
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
from bursar.agent.ports import Model, ModelError, ModelFailure
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
