"""A model behind the `anthropic` package: messages, streamed.

The rule that lives here: what this dialect calls things. It counts cached tokens beside the
input, not in it; we count every token of the prompt as input.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import anthropic

from bursar.agent.models.exchange import Clients, Exchange, answered, text
from bursar.agent.ports import (
    UNKNOWN_USAGE,
    Finish,
    Message,
    ModelEvent,
    ModelRequest,
    Role,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
    count,
)

FINISHES = {
    "end_turn": Finish.END,
    "stop_sequence": Finish.END,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "tool_use": Finish.TOOLS,
    "refusal": Finish.FILTERED,
}


class AnthropicModel:
    """A model of Anthropic."""

    def __init__(
        self, name: str, *, client: anthropic.AsyncAnthropic | None = None, **options: Any
    ) -> None:
        """Prepare to ask; nothing is connected yet.

        Args:
            name: as the API names it, e.g. `claude-haiku-4-5`.
            client: whose address, key and connections to use; its own retries are turned
                off. None makes one from the environment, for each event loop.
            options: fields of the request, sent with every call, such as `temperature=0`.
        """
        self.name = name
        self._options = options
        given = client.with_options(max_retries=0) if client is not None else None
        self._clients = Clients(lambda: anthropic.AsyncAnthropic(max_retries=0), given)

    def prepare(self) -> None:
        """Make the client of this event loop, so that a missing key is told before a call.

        Raises:
            AnthropicError: the environment has no key.
        """
        client, given = self._clients.get(), self._clients.given
        if given is None and client.api_key is None and client.auth_token is None:
            raise anthropic.AnthropicError(
                "no key: set the ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN environment variable"
            )

    def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        """Ask, and yield the answer as it comes; see `Model.complete`."""

        def ask(exchange: Exchange) -> Awaitable[Any]:
            create: Any = self._clients.get().messages.create
            asked: Awaitable[Any] = create(**self._body(request), timeout=exchange.timeout)
            return asked

        return answered(anthropic, deadline, ask, _Answer())

    async def aclose(self) -> None:
        """Let go of the connections of this event loop."""
        await self._clients.aclose()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": request.max_tokens,
            "messages": [_message(one) for one in request.messages],
            "stream": True,
            "extra_body": self._options,
        }
        if request.system:
            body["system"] = request.system
        if request.tools:
            body["tools"] = [
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": dict(tool.parameters),
                }
                for tool in request.tools
            ]
        return body


class _Answer:
    """What has come of an answer: blocks arrive in pieces, by their index."""

    def __init__(self) -> None:
        self._calls: dict[int, list[str]] = {}
        self._usage = UNKNOWN_USAGE
        self._reason: str | None = None

    def take(self, event: Any) -> list[ModelEvent]:
        """Return what an event says that can be passed on at once."""
        match event.type:
            case "message_start" if event.message.usage is not None:
                return self._counted(event.message.usage, ended=False)
            case "content_block_start" if event.content_block.type == "tool_use":
                block = event.content_block
                self._calls[event.index] = [text(block.id), text(block.name), ""]
            case "content_block_delta" if event.delta.type == "text_delta":
                return [TextDelta(text(event.delta.text))]
            case "content_block_delta" if event.delta.type == "input_json_delta":
                self._calls[event.index][2] += event.delta.partial_json
            case "message_delta":
                self._reason = event.delta.stop_reason or self._reason
                if event.usage is not None:
                    return self._counted(event.usage, ended=True)
            case _:
                pass  # pings, ends of blocks, and what later versions add
        return []

    def end(self, exchange: Exchange) -> list[ModelEvent]:
        """Return the tool calls and the end.

        Raises:
            ModelError: the stream ended without saying why.
        """
        if self._reason is None:
            raise exchange.broken("anthropic: the stream ended before the answer did")
        finish = FINISHES.get(self._reason, Finish.OTHER)
        calls = [
            ToolCall(call_id, name, arguments or "{}")
            for _, (call_id, name, arguments) in sorted(self._calls.items())
            if finish is Finish.TOOLS  # an answer that was cut off may hold half a call
        ]
        return [*calls, Stop(finish)]

    def _counted(self, usage: Any, *, ended: bool) -> list[ModelEvent]:
        """Return the usage so far; the output is not known before the end."""
        before = self._usage
        read = _or(getattr(usage, "cache_read_input_tokens", None), before.cache_read_tokens)
        written = _or(
            getattr(usage, "cache_creation_input_tokens", None), before.cache_write_tokens
        )
        fresh = getattr(usage, "input_tokens", None)
        parts = [count(one) for one in (fresh, read, written)]
        asked = None if None in parts else sum(one or 0 for one in parts)
        asked = before.input_tokens if fresh is None else asked
        self._usage = TokenUsage(asked, usage.output_tokens if ended else None, read, written)
        return [self._usage]


def _or(value: int | None, before: int) -> int:
    return before if value is None else value


def _message(message: Message) -> dict[str, Any]:
    """Return one of our messages as theirs: tool results are blocks that the user says."""
    if message.role is Role.TOOL:
        results = [
            {
                "type": "tool_result",
                "tool_use_id": one.call_id,
                "content": one.text,
                "is_error": one.is_error,
            }
            for one in message.results
        ]
        return {"role": "user", "content": results}
    if message.role is Role.USER:
        return {"role": "user", "content": message.text}
    said: list[dict[str, Any]] = [{"type": "text", "text": message.text}] if message.text else []
    said += [
        {"type": "tool_use", "id": one.id, "name": one.name, "input": _arguments(one.arguments)}
        for one in message.calls
    ]
    return {"role": "assistant", "content": said or [{"type": "text", "text": "(no answer)"}]}


def _arguments(written: str) -> dict[str, Any]:
    """Return arguments as an object; what the model wrote wrongly is said, not lost."""
    try:
        found = json.loads(written)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"invalid_arguments": written}
