"""A model behind the `openai` package: chat completions, streamed.

The rule that lives here: what this dialect calls things. Every server that speaks it is a
provider (`OPENAI_BASE_URL`); one that reports no usage has an unknown one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import openai

from bursar.agent.models.exchange import Clients, Exchange, answered, text
from bursar.agent.ports import (
    Finish,
    Message,
    ModelEvent,
    ModelRequest,
    Role,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
)

FINISHES = {
    "stop": Finish.END,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOLS,
    "function_call": Finish.TOOLS,
    "content_filter": Finish.FILTERED,
}


class OpenAIModel:
    """A model of OpenAI, or of a server that speaks its dialect."""

    def __init__(
        self, name: str, *, client: openai.AsyncOpenAI | None = None, **options: Any
    ) -> None:
        """Prepare to ask; nothing is connected yet.

        Args:
            name: as the API names it, e.g. `gpt-4o`.
            client: whose address, key and connections to use; its own retries are turned
                off. None makes one from the environment, for each event loop.
            options: fields of the request, sent with every call, such as `temperature=0`.
        """
        self.name = name
        self._options = options
        given = client.with_options(max_retries=0) if client is not None else None
        self._clients = Clients(lambda: openai.AsyncOpenAI(max_retries=0), given)

    def prepare(self) -> None:
        """Make the client of this event loop, so that a missing key is told before a call.

        Raises:
            OpenAIError: the environment has no key.
        """
        self._clients.get()

    def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        """Ask, and yield the answer as it comes; see `Model.complete`."""

        def ask(exchange: Exchange) -> Awaitable[Any]:
            create: Any = self._clients.get().chat.completions.create
            asked: Awaitable[Any] = create(**self._body(request), timeout=exchange.timeout)
            return asked

        return answered(openai, deadline, ask, _Answer())

    async def aclose(self) -> None:
        """Let go of the connections of this event loop."""
        await self._clients.aclose()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        system = [{"role": "system", "content": request.system}] if request.system else []
        spoken = [one for message in request.messages for one in _messages(message)]
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [*system, *spoken],
            "max_completion_tokens": request.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": self._options,
        }
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": dict(tool.parameters),
                    },
                }
                for tool in request.tools
            ]
        return body


class _Answer:
    """What has come of an answer: tool calls arrive in pieces, by their index."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None

    def take(self, chunk: Any) -> list[ModelEvent]:
        """Return what a chunk says that can be passed on at once."""
        events: list[ModelEvent] = []
        if chunk.usage is not None:
            events.append(_usage(chunk.usage))
        for choice in chunk.choices[:1]:
            if choice.delta.content:
                events.append(TextDelta(text(choice.delta.content)))
            for piece in choice.delta.tool_calls or ():
                call = self._calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] = text(piece.id or call["id"])
                if piece.function is not None:
                    call["name"] += piece.function.name or ""
                    call["arguments"] += piece.function.arguments or ""
            self._finish = choice.finish_reason or self._finish
        return events

    def end(self, exchange: Exchange) -> list[ModelEvent]:
        """Return the tool calls and the end.

        Raises:
            ModelError: the stream ended without saying why.
        """
        if self._finish is None:
            raise exchange.broken("openai: the stream ended before the answer did")
        calls = [
            ToolCall(call["id"], call["name"], call["arguments"] or "{}")
            for _, call in sorted(self._calls.items())
        ]
        finish = FINISHES.get(self._finish, Finish.OTHER)
        if finish is not Finish.TOOLS and self._finish != "stop":
            calls = []  # an answer that was cut off may hold half a call
        return [*calls, Stop(Finish.TOOLS if calls else finish)]


def _usage(usage: Any) -> TokenUsage:
    details = getattr(usage, "prompt_tokens_details", None)
    return TokenUsage(
        usage.prompt_tokens,
        usage.completion_tokens,
        cache_read_tokens=(details and details.cached_tokens) or 0,
        cache_write_tokens=(details and getattr(details, "cache_write_tokens", None)) or 0,
    )


def _messages(message: Message) -> list[dict[str, Any]]:
    """Return one of our messages as theirs: each tool result is a message of its own."""
    if message.role is Role.TOOL:
        return [
            {"role": "tool", "tool_call_id": one.call_id, "content": one.text}
            for one in message.results
        ]
    if message.role is Role.USER:
        return [{"role": "user", "content": message.text}]
    said: dict[str, Any] = {"role": "assistant", "content": message.text or None}
    if message.calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.calls
        ]
    return [said]
