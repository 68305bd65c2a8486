"""The kinds of models that the contract is asked of: two over HTTP, and one in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai

from bursar.agent.models.anthropic_model import AnthropicModel
from bursar.agent.models.openai_model import OpenAIModel
from bursar.agent.ports import Message, Model, ModelEvent, ModelRequest, Role
from bursar.testing.models import ScriptedModel
from bursar.testing.providers import Reply, ScriptedProvider


class Stage:
    """A model and what its script has seen."""

    def __init__(self, model: Model, source: ScriptedProvider | ScriptedModel) -> None:
        self.model = model
        self.source = source

    @property
    def asked(self) -> int:
        return len(self.source.requests)

    async def answer(
        self, request: ModelRequest, deadline: float | None = None, said: list[Any] | None = None
    ) -> list[Any]:
        """Return all events of one answer; `said` has them even if it breaks."""
        events = [] if said is None else said
        async for event in self.model.complete(request, deadline=deadline):
            events.append(event)
        return events


@asynccontextmanager
async def openai_stage(replies: Iterable[Reply]) -> AsyncIterator[Stage]:
    with ScriptedProvider(replies) as provider:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="any") as client:
            yield Stage(OpenAIModel("gpt-4o", client=client), provider)


@asynccontextmanager
async def anthropic_stage(replies: Iterable[Reply]) -> AsyncIterator[Stage]:
    with ScriptedProvider(replies) as provider:
        url = provider.anthropic_url
        async with anthropic.AsyncAnthropic(base_url=url, api_key="any") as client:
            yield Stage(AnthropicModel("claude-haiku-4-5", client=client), provider)


@asynccontextmanager
async def scripted_stage(replies: Iterable[Reply]) -> AsyncIterator[Stage]:
    model = ScriptedModel(replies)
    yield Stage(model, model)


KINDS: dict[str, Callable[[Iterable[Reply]], Any]] = {
    "openai": openai_stage,
    "anthropic": anthropic_stage,
    "scripted": scripted_stage,
}


def ask(text: str = "What is a ledger?", **fields: Any) -> ModelRequest:
    """Return a request with one message of the user."""
    return ModelRequest((Message(Role.USER, text),), **fields)


def kinds_of(events: list[ModelEvent]) -> list[str]:
    return [type(event).__name__ for event in events]
