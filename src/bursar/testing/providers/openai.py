"""A reply as OpenAI's chat completions spell it, whole or as a stream.

The rule that lives here: what is sent is what the `openai` package reads; fields that it does
not need are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bursar.testing.providers.script import Reply

PATH = "/v1/chat/completions"
HEAD = 1
"""How many events of a stream come before its first piece."""
Event = tuple[str | None, dict[str, Any] | str]
"""A name, where the dialect has names, and data; text data is sent as it is."""


def limit_of(request: dict[str, Any]) -> int | None:
    """Return how many tokens the request allows."""
    found = request.get("max_completion_tokens", request.get("max_tokens"))
    return found if isinstance(found, int) else None


def error(status: int, message: str) -> dict[str, Any]:
    """Return a refusal."""
    return {"error": {"message": message, "type": f"status_{status}", "code": None, "param": None}}


def failed() -> Event:
    """Return how a stream says that it cannot go on."""
    return None, error(500, "the script says that it fails here")


def whole(request: dict[str, Any], reply: Reply, cut: bool) -> dict[str, Any]:
    """Return the answer in one piece."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.tools:
        message["tool_calls"] = _tool_calls(reply)
    choice = {"index": 0, "message": message, "finish_reason": _reason(reply, cut)}
    return {
        **_head(request, "chat.completion"),
        "choices": [{**choice, "logprobs": None}],
        **({"usage": _usage(reply)} if reply.reports_usage else {}),
    }


def stream(request: dict[str, Any], reply: Reply, cut: bool) -> Iterator[Event]:
    """Yield the answer piece by piece; the usage comes last, and only if it was asked for."""
    head = _head(request, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], reason: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return None, {**head, "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in reply.pieces:
        yield chunk({"content": piece})
    for index, call in enumerate(_tool_calls(reply)):
        yield chunk({"tool_calls": [{"index": index, **call}]})
    yield chunk({}, _reason(reply, cut))
    wanted = (request.get("stream_options") or {}).get("include_usage")
    if wanted and reply.reports_usage:
        yield None, {**head, "choices": [], "usage": _usage(reply)}
    yield None, "[DONE]"


def _head(request: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": request.get("model")}


def _usage(reply: Reply) -> dict[str, Any]:
    total = reply.input_tokens + reply.output_tokens
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
    }


def _reason(reply: Reply, cut: bool) -> str:
    return "length" if cut else "tool_calls" if reply.tools else "stop"


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": tool.name, "arguments": tool.json},
        }
        for number, tool in enumerate(reply.tools)
    ]
