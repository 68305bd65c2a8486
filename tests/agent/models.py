"""Models and tools for tests that must stop a turn at an exact place."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from bursar.agent import QueryEngine, QueryEngineConfig
from bursar.agent.ports import (
    ModelEvent,
    ModelRequest,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from bursar.testing.models import ScriptedModel, ScriptedSyncModel
from bursar.testing.providers.script import Reply

OPEN = QueryEngineConfig(max_turns=10_000, max_budget_tokens=None)


def engine_of(model: Any = None, **options: Any) -> QueryEngine:
    """Return an engine without limits that matter."""
    return QueryEngine(options.pop("config", OPEN), model, **options)


def saying(text: str = "hello there you", **reply: Any) -> ScriptedModel:
    """Return a model that says the same again and again."""
    return ScriptedModel(itertools.repeat(Reply(text, **reply)))


def saying_sync(text: str = "hello there you", **reply: Any) -> ScriptedSyncModel:
    """Return the same as a model that blocks."""
    return ScriptedSyncModel(itertools.repeat(Reply(text, **reply)))


class Steps:
    """A model that calls `at` before each of its events, and waits if `at` returns a future."""

    name = "steps"
    events: tuple[ModelEvent, ...] = (
        *(TextDelta("one "), TextDelta("two")),
        *(TokenUsage(1, 2), Stop()),
    )

    def __init__(self, at: Callable[[int], object], events: tuple[ModelEvent, ...] = ()) -> None:
        self.at = at
        self.events = events or self.events

    async def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        for number, event in enumerate(self.events):
            found = self.at(number)
            if isinstance(found, asyncio.Future):
                await found
            yield event
        self.at(len(self.events))


class Deaf:
    """A model that never answers, and does not listen when it is cancelled."""

    name = "deaf"

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                continue
        yield Stop()


class Wedged:
    """A blocking model that never answers."""

    name = "wedged"

    def __init__(self) -> None:
        self.release = threading.Event()
        self.began = threading.Event()

    def complete_sync(
        self, request: ModelRequest, *, deadline: float | None
    ) -> Generator[ModelEvent, None, None]:
        self.began.set()
        self.release.wait(60)
        yield Stop()


class Raising:
    """A model that raises."""

    name = "raising"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        yield TextDelta("so far")
        raise self.error


class Adder:
    """A tool that adds, slowly if asked to."""

    specs = (ToolSpec("add", "Add two numbers.", {"type": "object"}),)

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.ran: list[ToolCall] = []

    async def run(self, call: ToolCall, *, deadline: float | None) -> ToolResult:
        self.ran.append(call)
        await asyncio.sleep(self.seconds)
        if call.name != "add":
            return ToolResult(call.id, call.name, "no", is_error=True, denial="not allowed")
        return ToolResult(call.id, call.name, "3")


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that a thread does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)
