"""A reply as Anthropic's messages spell it, whole or as a stream.

The rule that lives here: what is sent is what the `anthropic` package reads; fields that it
does not need are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bursar.testing.providers.openai import Event
from bursar.testing.providers.script import Reply

PATH = "/v1/messages"
HEAD = 2
"""How many events of a stream come before its first piece."""


def limit_of(request: dict[str, Any]) -> int | None:
    """Return how many tokens the request allows."""
    found = request.get("max_tokens")
    return found if isinstance(found, int) else None


def error(status: int, message: str) -> dict[str, Any]:
    """Return a refusal."""
    return {"type": "error", "error": {"type": f"status_{status}", "message": message}}


def whole(request: dict[str, Any], reply: Reply, cut: bool) -> dict[str, Any]:
    """Return the answer in one piece."""
    text = [{"type": "text", "text": reply.text}] if reply.text else []
    return {
        **_head(request),
        "content": [*text, *_tool_uses(reply)],
        "stop_reason": _reason(reply, cut),
        **_usage(reply, reply.output_tokens),
    }


def stream(request: dict[str, Any], reply: Reply, cut: bool) -> Iterator[Event]:
    """Yield the answer piece by piece: the input's count comes first, the output's last."""
    head = {**_head(request), "content": [], "stop_reason": None}
    yield _event("message_start", message={**head, **_usage(reply, 1)})
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if reply.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in reply.pieces]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for use in _tool_uses(reply, written=True):
        said = {"type": "input_json_delta", "partial_json": use["input"]}
        blocks.append(({**use, "input": {}}, [said]))
    for index, (block, deltas) in enumerate(blocks):
        yield _event("content_block_start", index=index, content_block=block)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    yield _event(
        "message_delta",
        delta={"stop_reason": _reason(reply, cut), "stop_sequence": None},
        **({"usage": {"output_tokens": reply.output_tokens}} if reply.reports_usage else {}),
    )
    yield _event("message_stop")


def failed() -> Event:
    """Return how a stream says that it cannot go on."""
    return "error", error(500, "the script says that it fails here")


def _usage(reply: Reply, output_tokens: int) -> dict[str, Any]:
    if not reply.reports_usage:
        return {}
    counts = {
        "input_tokens": reply.input_tokens - reply.cached_tokens,  # those of no cache, here
        "cache_read_input_tokens": reply.cached_tokens,
        "output_tokens": output_tokens,
    }
    return {"usage": counts}


def _event(kind: str, **fields: Any) -> Event:
    return kind, {"type": kind, **fields}


def _head(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": request.get("model"),
        "stop_sequence": None,
    }


def _reason(reply: Reply, cut: bool) -> str:
    return "max_tokens" if cut else "tool_use" if reply.tools else "end_turn"


def _tool_uses(reply: Reply, *, written: bool = False) -> list[dict[str, Any]]:
    """Return the uses as blocks; arguments as they are written, or as they are read."""
    return [
        {
            "type": "tool_use",
            "id": f"toolu_{number}",
            "name": tool.name,
            "input": tool.json if written else json.loads(tool.json),
        }
        for number, tool in enumerate(reply.tools)
    ]
