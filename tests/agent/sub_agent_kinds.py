"""Parents and children for tests of sub-agents: a turn whose model wants tools, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from agent.models import OPEN
from bursar.agent import QueryEngine, QueryEngineConfig, SubAgent
from bursar.agent.ports import ModelRequest
from bursar.agent.tools import Toolbox
from bursar.testing.models import ScriptedModel
from bursar.testing.providers import Reply, ToolUse

ASKS = 10
"""Tokens of an answer that wants a tool."""


def child(*replies: Reply, name: str = "helper", model: Any = None, **options: Any) -> SubAgent:
    """Return an agent that says `replies`, each of which used no input."""
    options = {"max_tokens": 10_000, **options}
    return SubAgent(name, model or ScriptedModel(replies), about="Helps.", **options)


def limited(**limits: Any) -> QueryEngineConfig:
    """Return limits, and none but those."""
    return QueryEngineConfig(**{"max_turns": 99, "max_budget_tokens": None, **limits})


def words(count: int, **options: Any) -> Reply:
    """Return an answer of so many tokens, which cost no input."""
    return Reply(" ".join(["word"] * count), input_tokens=0, **options)


def uses(*names: str) -> Reply:
    """Return an answer that wants tools at the same time."""
    return Reply(tools=[ToolUse(name, {"prompt": "do it"}) for name in names], input_tokens=0)


def parent(
    tools: Iterable[SubAgent | Callable[..., Any]],
    *replies: Reply,
    config: QueryEngineConfig = OPEN,
    **options: Any,
) -> QueryEngine:
    """Return an engine whose model says `replies`, and then one word."""
    box = options.pop("box", None) or Toolbox(list(tools))
    model = options.pop("model", None) or ScriptedModel([*replies, words(1), words(1)])
    return QueryEngine(config, model, tools=box, session_id="s", **options)


def asked(agent: SubAgent | QueryEngine) -> list[ModelRequest]:
    """Return what an agent's scripted model was asked."""
    model: Any = agent.model
    requests: list[ModelRequest] = model.requests
    return requests


async def when(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something that happens on this event loop."""
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.001)


def told(engine: QueryEngine) -> list[tuple[str, bool]]:
    """Return what the tools said, and whether it was an error, of the latest question."""
    results = asked(engine)[-1].messages[-1].results
    return [(one.text, one.is_error) for one in results]
