"""The loop on an event loop: the same plan, the same ends, and no thread that is waited for.

The rule that lives here: cancelling the task of a loop cancels its turn and goes on; whoever
wants the turns so far cancels the loop's scope instead.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any

from bursar.agent.config import QueryEngineConfig
from bursar.agent.engine import QueryEngine
from bursar.agent.plan import Plan, completed, returned, stopped, told
from bursar.agent.results import LoopResult, PermissionDenial, StopReason, TurnResult
from bursar.agent.scope import GRACE_SECONDS, CancelScope
from bursar.agent.threads import in_thread
from bursar.agent.work import Running, abandon

Ended = tuple[TurnResult, bool, Exception | None]
"""What became of a turn, whether its engine came back, and what it raised then."""


async def arun_turn_loop(
    prompt: str,
    *,
    engine: Any = None,
    max_turns: int = 3,
    timeout_seconds: float | None = None,
    continuation_prompt: str | None = None,
    matched_commands: tuple[str, ...] = (),
    matched_tools: tuple[str, ...] = (),
    denied_tools: tuple[PermissionDenial, ...] = (),
    scope: CancelScope | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> LoopResult:
    """Do what `run_turn_loop` does, on an event loop.

    Args:
        prompt: of the first turn.
        engine: anything with `async submit`, or with `submit_message`, which is run on a
            daemon thread; None is a new deterministic one.
        max_turns: the most turns of this loop.
        timeout_seconds: of the whole loop; 0 or less calls no engine, None never ends it.
        continuation_prompt: of all turns but the first; None ends the loop after the first.
        matched_commands: handed to every turn.
        matched_tools: handed to every turn.
        denied_tools: handed to every turn.
        scope: cancels the loop from outside; its deadline holds here too.
        grace_seconds: how long to wait for an engine that was told to stop.

    Raises:
        ValueError: `max_turns` or `timeout_seconds` is out of range.
    """
    plan = Plan(
        prompt, continuation_prompt, max_turns, matched_commands, matched_tools, denied_tools
    )
    if engine is None:
        engine = QueryEngine(QueryEngineConfig(max_turns=max_turns))
    watched = timeout_seconds is not None or scope is not None
    own = CancelScope(timeout_seconds, parent=scope) if watched else None
    return await _Loop(plan, engine, own, grace_seconds).run()


class _Loop:
    """One loop; `scope` is None on the plain path."""

    def __init__(
        self, plan: Plan, engine: Any, scope: CancelScope | None, grace_seconds: float
    ) -> None:
        self._plan, self._engine, self._scope = plan, engine, scope
        self._grace_seconds = grace_seconds
        self._submit = getattr(engine, "submit", None)
        self._suspends = inspect.iscoroutinefunction(self._submit)

    async def run(self) -> LoopResult:
        """Work through the plan."""
        plan, scope = self._plan, self._scope
        turns: list[TurnResult] = []
        for prompt in plan.prompts:
            if scope is not None and scope.is_set():
                entry = plan.ended(prompt, scope.reason or StopReason.CANCELLED)
                return stopped(plan, turns, scope, entry, acknowledged=True)
            try:
                last, came_back, error = await self._turn(prompt)
            except Exception as raised:  # noqa: BLE001 - the turns before it must not be lost
                return stopped(plan, turns, scope, plan.failed(prompt, raised), raised)
            if last.late or last.stop_reason != StopReason.COMPLETED:
                gone = not came_back
                return stopped(
                    plan, turns, scope, last, error, acknowledged=came_back, abandoned=gone
                )
            turns.append(last)
        return completed(plan, turns, scope)

    async def _turn(self, prompt: str) -> Ended:
        scope, arguments = self._scope, self._plan.arguments(prompt)
        if isinstance(self._engine, QueryEngine):
            result = await self._engine.submit(*arguments, scope)
            return told(result, scope), not result.abandoned, None
        if scope is None:
            return returned(await self._call(*arguments)), True, None
        return await self._watched(prompt, scope)

    async def _watched(self, prompt: str, scope: CancelScope) -> Ended:
        """Wait for an engine that is not ours, until the scope fires."""
        scope.next_turn()
        running = Running(scope)
        task = running.start(self._call(*self._plan.arguments(prompt), scope))
        try:
            await running.next()
            if task.done():
                return told(returned(task.result()), scope), True, None
            committed = scope.closed_turn()
            if self._suspends:
                task.cancel()
            await asyncio.wait({task}, timeout=self._grace_seconds)
        finally:
            running.forget()
            if not task.done():
                abandon(task)
        came_back = task.done()
        last, error = _outcome(task) if came_back else (committed, None)
        if last is None:
            last = self._plan.ended(prompt, scope.reason or StopReason.CANCELLED)
        return told(last, scope), came_back, error

    def _call(self, *arguments: Any) -> Coroutine[Any, Any, TurnResult]:
        if self._suspends and self._submit is not None:
            flow: Coroutine[Any, Any, TurnResult] = self._submit(*arguments)
            return flow
        return in_thread(lambda: self._engine.submit_message(*arguments))


def _outcome(task: asyncio.Task[TurnResult]) -> tuple[TurnResult | None, Exception | None]:
    """Return what an engine returned, or raised, after it was told to stop."""
    if task.cancelled():
        return None, None
    error = task.exception()
    if error is not None:
        return None, error if isinstance(error, Exception) else None
    return task.result(), None
