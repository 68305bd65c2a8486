"""One turn on an event loop: its work, its scope, and its way through the gate.

The rule that lives here: whoever waits is told at once, and told the truth. The wait ends when
the work ends or the scope fires, whichever comes first; then the gate says what became of the
turn. A caller who is cancelled while the turn is being saved gets the saved turn, and its
cancellation is delivered right after.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any

from bursar.agent import telling
from bursar.agent.account import Slice
from bursar.agent.budget import Limits
from bursar.agent.gate import Gate, Verdict
from bursar.agent.ports import (
    SHORT,
    BudgetDenied,
    Model,
    ModelError,
    ModelFailure,
    SyncModel,
    Tools,
)
from bursar.agent.results import Dimension, Overrun, StopReason, TurnResult
from bursar.agent.scope import CancelScope, Clock
from bursar.agent.session import Session
from bursar.agent.state import SessionState
from bursar.agent.step import Answer, Attempt, Refused, Repeated, enter, finish, identified
from bursar.agent.talk import Terms
from bursar.agent.talk import answer as answer_of
from bursar.agent.work import Running, Work, abandon, known, purse_of

POLL_SECONDS = 0.005
"""How often a plain `threading.Event` is looked at; a scope tells by itself."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What an engine gives to each of its turns.

    `answer` is the deterministic answer, used where there is no model; `under` is what a
    sub-agent's turn was granted.
    """

    session: Session
    limits: Limits
    keep: int
    model: Model | SyncModel | None
    tools: Tools | None
    terms: Terms
    answer: Callable[[Attempt], str]
    grace_seconds: float
    now: Clock
    under: Slice | None = None


class Turn:
    """One attempt at a turn; `events` runs it, `result` says what became of it."""

    def __init__(self, setup: Setup, attempt: Attempt, event: threading.Event | None) -> None:
        """Prepare; nothing is opened yet."""
        self._setup, self._event = setup, event
        self._base: SessionState = setup.session.state
        origin = "" if setup.under is None else setup.under.key
        self._attempt = identified(self._base, replace(attempt, origin=origin))
        self._gate: Gate | None = None
        self._scope = CancelScope()
        self._running: Running | None = None
        self._work: Work | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._result: TurnResult | None = None
        self._began = 0.0

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Run the turn, and yield what happens in it."""
        under = None if self._setup.under is None else self._setup.under.scope
        for event in (self._event, under):
            if event is not None and event.is_set():
                scope = event if isinstance(event, CancelScope) else None
                self._refuse(Refused((scope and scope.reason) or StopReason.CANCELLED))
                return
        gate = self._open()
        stop = enter(
            self._base,
            self._setup.limits,
            self._attempt,
            cancelled=gate.decided,
            asks=self._setup.model is not None,
        )
        if isinstance(stop, Repeated):
            self._result = telling.repeated(self._attempt, stop, self._base.usage)
        elif stop is not None:
            self._refuse(stop)
        elif self._setup.model is None:
            await self._conclude(gate, Answer(self._setup.answer(self._attempt)))
            yield {"type": "message_delta", "text": self.result().output}
        else:
            running = self._start(self._setup.model)
            while (shown := await running.next()) is not None:
                yield shown
            await self._ended(gate, running)

    def result(self) -> TurnResult:
        """Return what became of the turn, once `events` is over."""
        if self._result is None:
            raise RuntimeError("the turn is not over")
        return self._result

    def failed(self, error: Exception) -> None:
        """Let an exception that ended the turn say what is known of it."""
        self._refuse(Refused(StopReason.ERROR))
        telling.failed(error, self.result())

    def leave(self) -> None:
        """Close the turn if it is still open, with all below it, and let go of its work."""
        if self._gate is not None:
            self._gate.close(StopReason.CANCELLED)
        if self._setup.under is not None:
            self._setup.under.end()
        purse = purse_of(self._setup.model, self._setup.tools)
        if self._work is not None and purse is not None:
            above = self._attempt.origin or self._base.session_id
            purse.left(f"{above}/{self._attempt.turn_id}/")
        if self._work is not None and self._work.account.slices:
            self._scope.cancel()
        if self._poll is not None:
            self._poll.cancel()
        if self._running is not None:
            self._running.forget()
            if self._running.task is not None:
                abandon(self._running.task)

    def _open(self) -> Gate:
        setup, event = self._setup, self._event
        gate = self._gate = setup.session.begin(None)
        self._base, self._began = setup.session.state, setup.now()
        self._attempt = self._known(identified(self._base, self._attempt))
        parent = event if isinstance(event, CancelScope) else None
        self._scope = CancelScope(self._wall_left_s(), parent=parent, now=setup.now)
        if setup.under is not None:
            self._scope.join(setup.under.scope)
        self._scope.enter(gate)
        if parent is None and event is not None:
            self._look(event)
        return gate

    def _known(self, attempt: Attempt) -> Attempt:
        setup = self._setup
        return known(attempt, purse_of(setup.model, setup.tools), self._base)

    def _look(self, event: threading.Event) -> None:
        if event.is_set():
            self._scope.cancel()
        else:
            loop = asyncio.get_running_loop()
            self._poll = loop.call_later(POLL_SECONDS, self._look, event)

    def _start(self, model: Model | SyncModel) -> Running:
        setup = self._setup
        self._work = Work(
            *(model, setup.tools, self._attempt, self._base, setup.limits, setup.terms),
            scope=self._scope,
            under=setup.under,
        )
        running = self._running = Running(self._scope)
        task = running.start(self._work.run(running.emit))
        if setup.under is not None:
            setup.under.task = task
        return running

    async def _ended(self, gate: Gate, running: Running) -> None:
        """Look at what ended the wait: the work, or the scope."""
        running.forget()
        if running.task is None or not running.task.done():
            reason = gate.close(self._scope.reason or StopReason.CANCELLED).reason
            below = () if self._work is None else self._work.account.running()
            ended = await running.leave(self._setup.grace_seconds, below)
            self._close(reason)
            self._result = replace(self.result(), abandoned=not ended)
            return
        try:
            answer: Answer | Refused = running.task.result()
        except BudgetDenied as error:
            self._refuse(Refused(StopReason.MAX_BUDGET_REACHED, self._overrun(error)))
            self._result = telling.denied(self.result(), error)
        except ModelError as error:
            # The adapter ends its call a little before the deadline that it was given.
            if error.failure is not ModelFailure.DEADLINE or self._scope.deadline is None:
                raise
            self._scope.cancel(StopReason.TIMEOUT)
            self._close(gate.close(StopReason.TIMEOUT).reason)
        except asyncio.CancelledError:
            raise RuntimeError("the model's answer was cancelled, and not by its turn") from None
        else:
            if isinstance(answer, Refused):
                self._refuse(answer)
            else:
                await self._conclude(gate, answer)

    async def _conclude(self, gate: Gate, answer: Answer) -> None:
        """Let the pure step decide, and the gate."""
        setup = self._setup
        answer = replace(answer, wall_ms=int((setup.now() - self._began) * 1_000))
        cancelled = self._scope.is_set()
        step = finish(
            self._base,
            setup.limits,
            self._known(self._attempt),
            answer,
            cancelled=cancelled,
            keep=setup.keep,
        )
        if isinstance(step, Refused):
            if step.reason is StopReason.CANCELLED:
                self._close(gate.close(step.reason).reason, answer.output)
            else:
                self._refuse(step, answer.output)
            return
        result = telling.completed(self._attempt, answer, step.state.usage)
        if self._work is not None:
            result = replace(result, abandoned=bool(self._work.account.running()))
        verdict = await self._commit(gate, step.state, result)
        if verdict.result is not None:
            self._result = verdict.result
        else:
            self._close(verdict.reason, answer.output)

    async def _commit(self, gate: Gate, after: SessionState, result: TurnResult) -> Verdict:
        session = self._setup.session
        if not session.saves:
            return session.commit(gate, after, result)
        saving = asyncio.ensure_future(asyncio.to_thread(session.commit, gate, after, result))
        try:
            return await asyncio.shield(saving)
        except asyncio.CancelledError:
            saving.add_done_callback(_look_at)
            verdict = gate.close(StopReason.CANCELLED)  # waits for a save that has begun
            if not verdict.committed:
                raise
            cancel_soon()
            return verdict

    def _close(self, reason: StopReason, output: str | None = None) -> None:
        """Tell of a turn that somebody closed, and of time that was the session's own."""
        if reason is StopReason.TIMEOUT and self._wall_is_over():
            limit = self._setup.limits.wall_ms or 0
            overrun = Overrun(Dimension.WALL_CLOCK, limit, self._wall_ms())
            self._refuse(Refused(StopReason.MAX_BUDGET_REACHED, overrun), output)
        else:
            self._refuse(Refused(reason), output)

    def _refuse(self, stop: Refused, output: str | None = None) -> None:
        work = self._work
        so_far = Answer("") if work is None else answer_of(work.talk)
        self._result = telling.refused(
            self._attempt,
            stop,
            self._base.usage,
            so_far.output if output is None else output,
            () if work is None else tuple(work.account.denials),
            () if work is None else tuple(work.account.charges),
        )
        under = self._setup.under
        if stop.overrun is not None and under is not None and (why := under.refusal()) is not None:
            self._result = replace(self._result, detail=why)

    def _overrun(self, error: BudgetDenied) -> Overrun | None:
        """Return which limit of ours a denial means; one of the ledger's is none of them."""
        short, limit = error.details.get(SHORT), self._setup.limits.money_microcents
        if short is None or limit is None:
            return None
        return Overrun(Dimension.MONEY, limit, limit + short)

    def _wall_left_s(self) -> float | None:
        limit = self._setup.limits.wall_ms
        return None if limit is None else (limit - self._base.wall_ms) / 1_000

    def _wall_ms(self) -> int:
        return self._base.wall_ms + int((self._setup.now() - self._began) * 1_000)

    def _wall_is_over(self) -> bool:
        """Whether the deadline that came was the budget's, and not the caller's."""
        parent, own = self._scope.parent, self._scope.deadline
        if self._setup.limits.wall_ms is None or own is None:
            return False
        under = None if self._setup.under is None else self._setup.under.scope
        return all(
            one.reason is None and (one.deadline is None or one.deadline > own)
            for one in (parent, under)
            if one is not None
        )


def cancel_soon() -> None:
    """Deliver a cancellation that came too late for a turn at the task's next wait.

    A block such as `asyncio.timeout` that has taken its request back by then gets none, and a
    task that has ended is left alone.
    """
    task = asyncio.current_task()

    def again() -> None:
        if task is not None and not task.done() and task.cancelling():
            task.uncancel()
            task.cancel()

    asyncio.get_running_loop().call_soon(again)


def _look_at(saving: asyncio.Future[Verdict]) -> None:
    if not saving.cancelled():
        saving.exception()  # whoever waited has left, and was told that nothing is committed
