"""Turn after turn until there is no more to say, no more budget, or no more time.

The rule that lives here: the loop never reports a turn as timed out that is part of the
session. When the time is over it asks the turn's gate, and what the gate says is what the
caller is told. A worker that does not come back is left alone: it is a daemon thread.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bursar.agent.config import QueryEngineConfig
from bursar.agent.engine import QueryEngine
from bursar.agent.ports import ModelError, ModelFailure
from bursar.agent.results import (
    LoopResult,
    PermissionDenial,
    StopReason,
    TurnResult,
    UsageSummary,
)
from bursar.agent.scope import CancelScope

GRACE_SECONDS = 0.01
"""How long a loop that was stopped waits for its engine to say that it has stopped."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a loop submits, turn by turn, and what it says where there was no turn."""

    prompt: str
    continuation: str | None
    max_turns: int
    matched_commands: tuple[str, ...] = ()
    matched_tools: tuple[str, ...] = ()
    denied_tools: tuple[PermissionDenial, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            ValueError: `max_turns` is below 0.
        """
        if self.max_turns < 0:
            raise ValueError(f"max_turns must be at least 0, not {self.max_turns}")

    @property
    def prompts(self) -> list[str]:
        """What is submitted if nothing stops the loop."""
        further = [] if self.continuation is None else [self.continuation] * (self.max_turns - 1)
        return [self.prompt, *further][: self.max_turns]

    def arguments(self, prompt: str) -> tuple[Any, ...]:
        """Return what an engine is called with."""
        return (prompt, self.matched_commands, self.matched_tools, self.denied_tools)

    def ended(self, prompt: str, reason: StopReason, detail: str = "") -> TurnResult:
        """Return the entry of a turn that did not take place."""
        texts = {
            StopReason.TIMEOUT: "the time of this loop is over",
            StopReason.CANCELLED: "this loop was cancelled",
            StopReason.MAX_TURNS_REACHED: "max_turns is 0: no turn was wanted",
        }
        said = detail or texts.get(reason, "")
        commands, tools = self.matched_commands, self.matched_tools
        return TurnResult(prompt, said, commands, tools, (), UsageSummary(), reason, detail=said)

    def failed(self, prompt: str, error: Exception) -> TurnResult:
        """Return the entry of a turn whose engine raised."""
        return self.ended(prompt, reason_of(error), f"{type(error).__name__}: {error}")


def reason_of(error: Exception) -> StopReason:
    """Return the stop reason of an exception; a provider's timeout is never `timeout`."""
    provider = isinstance(error, ModelError) and error.failure is ModelFailure.PROVIDER_TIMEOUT
    if provider or isinstance(error, TimeoutError):
        return StopReason.PROVIDER_TIMEOUT
    return StopReason.ERROR


def _plain(plan: Plan, engine: SubmitsMessages) -> LoopResult:
    """Call the engine on this thread, with the four arguments that every engine takes."""
    turns: list[TurnResult] = []
    for prompt in plan.prompts:
        try:
            turns.append(engine.submit_message(*plan.arguments(prompt)))
        except Exception as error:  # noqa: BLE001 - the turns before it must not be lost
            entry = plan.failed(prompt, error)
            return LoopResult((*turns, entry), reason_of(error), error=error)
        if turns[-1].stop_reason != StopReason.COMPLETED:
            break
    return completed(plan, turns)


def completed(plan: Plan, turns: list[TurnResult]) -> LoopResult:
    """Return the result of a loop that nobody stopped."""
    entries = turns or [plan.ended(plan.prompt, StopReason.MAX_TURNS_REACHED)]
    return LoopResult(tuple(entries), named(entries[-1].stop_reason))


def named(reason: str) -> str:
    """Return a `StopReason` where it is one; an engine of one's own may have other words."""
    return StopReason(reason) if reason in StopReason.__members__.values() else reason


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
        for prompt in self._plan.prompts:
            if self._scope.is_set():
                return self._stopped(self._plan.ended(prompt, self._reason()), acknowledged=True)
            done = self._start(prompt)
            if not done.wait(self._scope):
                return self._interrupted(prompt, done)
            if done.error is not None:
                entry = self._plan.failed(prompt, done.error)
                return self._stopped(entry, reason_of(done.error), done.error)
            self._turns.append(done.taken())
            if self._turns[-1].stop_reason != StopReason.COMPLETED:
                break
        else:
            result = completed(self._plan, self._turns)
            return replace(result, cancel_requested=self._scope.reason is not None)
        last = self._turns.pop()
        if last.stop_reason == StopReason.CANCELLED and self._scope.is_set():
            return self._interrupted_result(last)
        return self._stopped(last, named(last.stop_reason), acknowledged=True)

    def _start(self, prompt: str) -> _Done:
        if self._worker is None:
            self._worker = _Worker()
        self._scope.gate = None
        engine, arguments = self._engine, (*self._plan.arguments(prompt), self._scope)
        return self._worker.do(lambda: engine.submit_message(*arguments))

    def _interrupted(self, prompt: str, done: _Done) -> LoopResult:
        """Decide what an open turn is: the gate was closed by the scope, or it committed."""
        gate = self._scope.gate
        verdict = None if gate is None else gate.close(self._reason())
        came_back = done.finished.wait(self._grace_seconds)
        result = None
        if came_back and done.result is not None:
            result = done.result
        elif verdict is not None:
            result = verdict.result
        if result is not None and result.stop_reason == StopReason.COMPLETED:
            entry = replace(result, late=True)
        else:
            entry = self._plan.ended(prompt, self._reason())
        abandoned = not came_back
        return self._stopped(entry, None, done.error, acknowledged=came_back, abandoned=abandoned)

    def _interrupted_result(self, last: TurnResult) -> LoopResult:
        """The engine itself said `cancelled`; the loop says why."""
        entry = last
        if self._reason() is StopReason.TIMEOUT:
            entry = self._plan.ended(last.prompt, StopReason.TIMEOUT)
        return self._stopped(entry, acknowledged=True)

    def _reason(self) -> StopReason:
        return self._scope.reason or StopReason.TIMEOUT

    def _stopped(
        self,
        entry: TurnResult,
        reason: str | None = None,
        error: Exception | None = None,
        *,
        acknowledged: bool = False,
        abandoned: bool = False,
    ) -> LoopResult:
        requested = self._scope.is_set()
        return LoopResult(
            (*self._turns, entry),
            reason or self._reason(),
            deadline_exceeded=self._scope.reason is StopReason.TIMEOUT,
            cancel_requested=requested,
            cancel_acknowledged=requested and acknowledged,
            worker_abandoned=abandoned,
            error=error,
        )


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
            self.result = self.work()
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

    def taken(self) -> TurnResult:
        """Return what the engine returned."""
        if self.result is None:
            raise TypeError("submit_message returned None; it must return a TurnResult")
        return self.result


class _Worker:
    """A daemon thread for one loop: the interpreter does not wait for it at its end."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[_Done | None] = queue.SimpleQueue()
        # The SDK's context (which reservation are we under?) belongs to the work, not to us.
        context = contextvars.copy_context()
        run = context.run
        threading.Thread(
            target=run, args=(self._serve,), name="bursar-turn-loop", daemon=True
        ).start()

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
