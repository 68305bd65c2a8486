"""Turn after turn until there is no more to say, no more budget, or no more time.

The rule that lives here: the loop never reports a turn as timed out that is part of the
session. When the time is over it asks the turn's gate, and what the gate says is what the
caller is told. A worker that does not come back is left alone: it is a daemon thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

from bursar.agent.config import QueryEngineConfig
from bursar.agent.engine import QueryEngine
from bursar.agent.plan import Plan, completed, reason_of, returned, stopped, told
from bursar.agent.results import LoopResult, PermissionDenial, StopReason, TurnResult
from bursar.agent.scope import GRACE_SECONDS, CancelScope
from bursar.agent.threads import start_thread


class SubmitsMessages(Protocol):
    """Anything that works on a turn; `QueryEngine` does."""

    @property
    def submit_message(self) -> Callable[..., TurnResult]:
        """Called with prompt, commands, tools and denials, and with an event if there is one."""
        ...


def run_turn_loop(
    prompt: str,
    *,
    engine: SubmitsMessages | None = None,
    max_turns: int = 3,
    timeout_seconds: float | None = None,
    continuation_prompt: str | None = None,
    matched_commands: tuple[str, ...] = (),
    matched_tools: tuple[str, ...] = (),
    denied_tools: tuple[PermissionDenial, ...] = (),
    scope: CancelScope | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> LoopResult:
    """Submit a prompt, and then the continuation, until something stops it.

    Without `timeout_seconds` and `scope` the engine is called on this thread and gets no
    event. With one of them it works on a daemon thread and gets one event for all turns.

    Args:
        prompt: of the first turn.
        engine: anything with `submit_message`; None is a new deterministic one.
        max_turns: the most turns of this loop.
        timeout_seconds: of the whole loop; 0 or less calls no engine, None never ends it.
        continuation_prompt: of all turns but the first; None ends the loop after the first.
        matched_commands: handed to every turn.
        matched_tools: handed to every turn.
        denied_tools: handed to every turn.
        scope: cancels the loop from outside; its deadline holds here too.
        grace_seconds: how long to wait for an engine that was told to stop.

    Returns:
        The turns, and how the loop ended. What an engine raises is `error`, with the turns
        before it kept.

    Raises:
        ValueError: `max_turns` or `timeout_seconds` is out of range.
    """
    plan = Plan(
        prompt, continuation_prompt, max_turns, matched_commands, matched_tools, denied_tools
    )
    if engine is None:
        engine = QueryEngine(QueryEngineConfig(max_turns=max_turns))
    if timeout_seconds is None and scope is None:
        return _plain(plan, engine)
    own = CancelScope(timeout_seconds, parent=scope)
    return _Watched(plan, engine, own, grace_seconds).run()


def _plain(plan: Plan, engine: SubmitsMessages) -> LoopResult:
    """Call the engine on this thread, with the four arguments that every engine takes."""
    turns: list[TurnResult] = []
    for prompt in plan.prompts:
        try:
            turns.append(returned(engine.submit_message(*plan.arguments(prompt))))
        except Exception as error:  # noqa: BLE001 - the turns before it must not be lost
            entry = plan.failed(prompt, error)
            return LoopResult((*turns, entry), reason_of(error), error=error)
        if turns[-1].stop_reason != StopReason.COMPLETED:
            break
    return completed(plan, turns)


class _Watched:
    """A loop whose engine works on a daemon thread, while this one watches the time."""

    def __init__(
        self, plan: Plan, engine: SubmitsMessages, scope: CancelScope, grace_seconds: float
    ) -> None:
        self._plan, self._engine, self._scope = plan, engine, scope
        self._grace_seconds = grace_seconds
        self._turns: list[TurnResult] = []
        self._worker: _Worker | None = None

    def run(self) -> LoopResult:
        """Work through the plan; whatever ends it, the worker gets no more to do."""
        try:
            return self._run()
        except BaseException:
            self._scope.cancel()  # an interrupted caller: nothing may commit after it
            raise
        finally:
            if self._worker is not None:
                self._worker.leave()

    def _run(self) -> LoopResult:
        plan, turns, scope = self._plan, self._turns, self._scope
        for prompt in plan.prompts:
            if scope.is_set():
                entry = plan.ended(prompt, self._reason())
                return stopped(plan, turns, scope, entry, acknowledged=True)
            done = self._start(prompt)
            if not done.wait(scope):
                return self._interrupted(prompt, done)
            if done.error is not None:
                return stopped(plan, turns, scope, plan.failed(prompt, done.error), done.error)
            last = told(returned(done.result), scope)
            if last.late or last.stop_reason != StopReason.COMPLETED:
                return stopped(plan, turns, scope, last, acknowledged=True)
            turns.append(last)
        return completed(plan, turns, scope)

    def _start(self, prompt: str) -> _Done:
        if self._worker is None:
            self._worker = _Worker()
        self._scope.next_turn()
        engine, arguments = self._engine, (*self._plan.arguments(prompt), self._scope)
        return self._worker.do(lambda: engine.submit_message(*arguments))

    def _interrupted(self, prompt: str, done: _Done) -> LoopResult:
        """Decide what an open turn is: the scope has closed its gate, or it had committed."""
        committed = self._scope.closed_turn()
        came_back = done.finished.wait(self._grace_seconds)
        last = done.result if came_back else committed
        if last is None:
            last = self._plan.ended(prompt, self._reason())
            last = self._plan.knowing(last, done.error if came_back else None)
        return stopped(
            self._plan,
            self._turns,
            self._scope,
            told(last, self._scope),
            done.error if came_back else None,
            acknowledged=came_back,
            abandoned=not came_back,
        )

    def _reason(self) -> StopReason:
        return self._scope.reason or StopReason.TIMEOUT


class _Done:
    """A piece of work: done, or not yet, or never."""

    def __init__(self, work: Callable[[], TurnResult]) -> None:
        self.work = work
        self.finished = threading.Event()
        self.wake = threading.Event()
        self.result: TurnResult | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Do it, on the worker's thread."""
        try:
            self.result = returned(self.work())
        except Exception as error:  # noqa: BLE001 - handed to the loop, which says what it was
            self.error = error
        except BaseException as ended:  # noqa: BLE001 - it ended its turn, and not this thread
            self.error = RuntimeError(f"the engine raised {type(ended).__name__}")
        finally:
            self.finished.set()
            self.wake.set()

    def wait(self, scope: CancelScope) -> bool:
        """Wait until it is done or the scope fires, its deadline included; say which."""
        stop_listening = scope.listen(self.wake.set)
        try:
            remaining = scope.remaining()
            self.wake.wait(None if remaining is None else min(remaining, threading.TIMEOUT_MAX))
        finally:
            stop_listening()
        if self.finished.is_set():
            return True
        scope.cancel(StopReason.TIMEOUT)  # the first reason stays, if there was one
        return False


class _Worker:
    """A daemon thread for one loop: the interpreter does not wait for it at its end."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[_Done | None] = queue.SimpleQueue()
        start_thread(self._serve, "bursar-turn-loop")

    def do(self, work: Callable[[], TurnResult]) -> _Done:
        """Begin a piece of work."""
        done = _Done(work)
        self._work.put(done)
        return done

    def leave(self) -> None:
        """Let the thread end when it has nothing to do."""
        self._work.put(None)

    def _serve(self) -> None:
        while (done := self._work.get()) is not None:
            done.run()
