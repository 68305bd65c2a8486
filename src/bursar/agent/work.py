"""The work of a turn: the model's answers and the tools, in a task that can be left alone.

The rule that lives here: work changes nothing of the session. It gives an answer, and whoever
waits for it lets the gate decide. So it can be cancelled anywhere, and a provider that does
not listen can be abandoned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from bursar.agent.budget import Limits
from bursar.agent.ports import (
    Charge,
    Model,
    ModelEvent,
    ModelRequest,
    SyncModel,
    TextDelta,
    ToolCall,
    ToolResult,
    Tools,
)
from bursar.agent.results import StopReason
from bursar.agent.scope import CancelScope
from bursar.agent.state import SessionState
from bursar.agent.step import Answer, Attempt, Refused
from bursar.agent.talk import Ask, Talk, Terms, Use, begin, follow, heard, used_tools
from bursar.agent.threads import answering
from bursar.client.context import interruptible

Emit = Callable[[dict[str, Any]], object]


class Work:
    """One turn with a model.

    Attributes:
        talk: what was said so far; whole answers and tool results only.
        charges: what the ledger was told so far.
    """

    def __init__(
        self,
        model: Model | SyncModel,
        tools: Tools | None,
        attempt: Attempt,
        state: SessionState,
        limits: Limits,
        terms: Terms,
    ) -> None:
        """Prepare; nothing is asked yet."""
        self._model, self._tools = model, tools
        self._attempt, self._state, self._limits, self._terms = attempt, state, limits, terms
        self.talk: Talk = begin(attempt)
        self.charges: list[Charge] = []

    async def run(self, deadline: float | None, emit: Emit) -> Answer | Refused:
        """Ask and use tools until there is an answer, or no budget.

        Raises:
            ModelError: a provider did not answer.
            BudgetDenied: the ledger does not allow the next action.
        """
        while True:
            step = follow(self.talk, self._attempt, self._state, self._limits, self._terms)
            if isinstance(step, Ask):
                await self._ask(step.request, deadline, emit)
            elif isinstance(step, Use):
                await self._use(step.calls, deadline, emit)
            else:
                return step

    async def _ask(self, request: ModelRequest, deadline: float | None, emit: Emit) -> None:
        events: list[ModelEvent] = []
        async with aclosing(answering(self._model, request, deadline)) as answer:
            async for event in answer:
                events.append(event)
                if isinstance(event, TextDelta):
                    emit({"type": "message_delta", "text": event.text})
                elif isinstance(event, Charge):
                    self.charges.append(event)
        self.talk = heard(self.talk, self._attempt, self._state, events)

    async def _use(self, calls: tuple[ToolCall, ...], deadline: float | None, emit: Emit) -> None:
        for call in calls:
            shown = {"id": call.id, "name": call.name, "arguments": call.arguments}
            emit({"type": "tool_call", **shown})
        results = await together([self._run(call, deadline, emit) for call in calls])
        self.talk = used_tools(self.talk, tuple(results))

    async def _run(self, call: ToolCall, deadline: float | None, emit: Emit) -> ToolResult:
        if self._tools is None:
            why = "there are no tools"
            result = ToolResult(call.id, call.name, why, is_error=True, denial=why)
        else:
            with interruptible():  # a guard of a payment in it holds what is cancelled
                result = await self._tools.run(call, deadline=deadline)
        if result.charge is not None:
            self.charges.append(result.charge)
        shown = {"id": result.call_id, "name": result.name, "text": result.text}
        emit({"type": "tool_result", **shown, "is_error": result.is_error, "denial": result.denial})
        return result


async def together(flows: list[Coroutine[Any, Any, ToolResult]]) -> list[ToolResult]:
    """Run flows at the same time; all of them end before the first failure is raised.

    A tool that has begun may have had its effect, so a failure of one does not cancel another.
    """
    tasks = [asyncio.ensure_future(flow) for flow in flows]
    try:
        found = await asyncio.gather(*tasks, return_exceptions=True)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    results: list[ToolResult] = []
    for one in found:
        if isinstance(one, BaseException):
            raise one
        results.append(one)
    return results


class Running:
    """Work in a task of its own, and what ends the wait for it: its end, or its scope.

    `next` gives the events one by one and then None.
    """

    def __init__(self, scope: CancelScope) -> None:
        """Watch a scope; `start` begins."""
        self.scope = scope
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._stop_listening: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[Any] | None = None

    def start(self, flow: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin the work."""
        self.task = self._loop.create_task(flow)
        self.task.add_done_callback(self._end)
        self._stop_listening = self.scope.listen(self._fired)
        remaining = self.scope.remaining()
        if remaining is not None:
            self._timer = self._loop.call_later(remaining, self._time_is_over)
        return self.task

    def emit(self, event: dict[str, Any]) -> None:
        """Hand an event to whoever reads."""
        self._events.put_nowait(event)

    async def next(self) -> dict[str, Any] | None:
        """Return the next event, or None when the work has ended or the scope has fired."""
        return await self._events.get()

    async def leave(self, grace_seconds: float) -> bool:
        """Cancel the work and wait a little; return whether it ended."""
        self.forget()
        task = self.task
        if task is None or task.done():
            return True
        abandon(task)
        await asyncio.wait({task}, timeout=grace_seconds)
        return task.done()

    def forget(self) -> None:
        """Stop watching the scope."""
        if self._stop_listening is not None:
            self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, _: object) -> None:
        self._events.put_nowait(None)

    def _fired(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._end, None)
        except RuntimeError:  # the loop is closed: nobody waits
            return

    def _time_is_over(self) -> None:
        self.scope.cancel(StopReason.TIMEOUT)


_abandoned: set[asyncio.Task[Any]] = set()


def abandon(task: asyncio.Task[Any]) -> None:
    """Cancel a task that nobody waits for; it is kept alive until it ends, and then silent."""
    _abandoned.add(task)
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that it is no warning when the task is collected
