"""The work of a turn: the model's answers and the tools, in a task that can be left alone.

The rule that lives here: work changes nothing of the session. It gives an answer, and whoever
waits for it lets the gate decide. So it can be cancelled anywhere, and a provider that does
not listen can be abandoned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from bursar.agent.account import Account, Slice, beside, open_account
from bursar.agent.budget import Limits, evenly, rest
from bursar.agent.here import Here, enter
from bursar.agent.ports import (
    UNKNOWN_USAGE,
    BudgetDenied,
    Charge,
    Model,
    ModelError,
    ModelEvent,
    ModelRequest,
    SyncModel,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolResult,
    Tools,
)
from bursar.agent.results import PermissionDenial, StopReason, UsageSummary
from bursar.agent.scope import CancelScope
from bursar.agent.state import SessionState
from bursar.agent.step import Answer, Attempt, Refused, spent
from bursar.agent.talk import (
    Ask,
    Talk,
    Terms,
    Use,
    answer,
    begin,
    follow,
    heard,
    used_in,
    used_tools,
)
from bursar.agent.threads import answering, carried
from bursar.client.context import interruptible
from bursar.money import Unpriced, total

Emit = Callable[[dict[str, Any]], object]


def purse_of(model: Model | SyncModel | None, tools: Tools | None) -> Any:
    """Return who pays for a turn, if anybody does."""
    return getattr(tools, "purse", None) or getattr(model, "purse", None)


def known(
    attempt: Attempt, purse: Any, state: SessionState, charges: Iterable[Charge] = ()
) -> Attempt:
    """Return an attempt with what its session has spent until now, committed or not.

    What a sub-agent spends counts in the session above; of its own, `charges` are the turn's.
    """
    committed = state.spent_microcents
    if purse is None or isinstance(committed, Unpriced):
        return attempt
    if not attempt.origin:
        return replace(attempt, spent=purse.spent(state.session_id, committed))
    mine = total((committed, spent(tuple(charges))))
    if isinstance(mine, Unpriced):
        return attempt
    return replace(attempt, spent=mine + purse.behind(f"{attempt.origin}/"))


class Work:
    """One turn with a model.

    Attributes:
        talk: what was said so far; whole answers and tool results only.
        account: what it and the agents below it have told so far.
    """

    def __init__(
        self,
        model: Model | SyncModel,
        tools: Tools | None,
        attempt: Attempt,
        state: SessionState,
        limits: Limits,
        terms: Terms,
        *,
        scope: CancelScope,
        under: Slice | None = None,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            model: who answers.
            tools: what it may use.
            attempt: the prompt.
            state: the session as the turn begins.
            limits: of the session.
            terms: what every question says besides.
            scope: of the turn.
            under: what a sub-agent's turn was granted.
        """
        self._model, self._tools = model, tools
        self._attempt, self._state, self._limits, self._terms = attempt, state, limits, terms
        self._scope = scope
        self._purse = purse_of(model, tools)
        self._hearing: list[ModelEvent] | None = None
        self.talk: Talk = begin(attempt)
        self.account = under.account if under is not None else Account()
        if under is not None:
            under.usage = self.usage

    def usage(self) -> UsageSummary:
        """Return the tokens of this turn so far, whatever becomes of it.

        What a provider did not report is counted in words; so is an answer that broke off.
        """
        found, prompt = self.account.below(), self._attempt.prompt
        if self.talk.asked:
            found += UsageSummary().add(self.talk.usage, prompt, answer(self.talk).output)
            prompt = ""
        if self._hearing is not None:
            text = "".join(one.text for one in self._hearing if isinstance(one, TextDelta))
            reported = [one for one in self._hearing if isinstance(one, TokenUsage)]
            latest = reported[-1] if reported else UNKNOWN_USAGE
            found += replace(UsageSummary().add(latest, prompt, text), exact=False)
        return found

    def left(self) -> Limits:
        """Return what an agent below may take now."""
        used = used_in(self._now(), self._known(), self._state)
        return beside(rest(self._limits, used), self.account.slices)

    async def run(self, emit: Emit) -> Answer | Refused:
        """Ask and use tools until there is an answer, or no budget.

        Raises:
            ModelError: a provider did not answer.
            BudgetDenied: the ledger does not allow the next action.
        """
        open_account(self.account)
        while True:
            talk = self._now()
            step = follow(talk, self._known(), self._state, self._limits, self._terms)
            if isinstance(step, Ask):
                await self._ask(step.request, emit)
            elif isinstance(step, Use):
                await self._use(step.calls, emit)
            else:
                return step

    def _known(self) -> Attempt:
        return known(self._attempt, self._purse, self._state, self.account.charges)

    def _now(self) -> Talk:
        """Return the talk with what was told until now, here and below."""
        account = self.account
        if not (account.charges or account.denials or account.slices):
            return self.talk
        charges, denials = tuple(account.charges), tuple(account.denials)
        return replace(self.talk, charges=charges, denials=denials, below=account.below())

    async def _ask(self, request: ModelRequest, emit: Emit) -> None:
        events: list[ModelEvent] = []
        self._hearing = events
        try:
            async with aclosing(answering(self._model, request, self._scope.deadline)) as heard_of:
                async for event in heard_of:
                    events.append(event)
                    if isinstance(event, TextDelta):
                        emit({"type": "message_delta", "text": event.text})
                    elif isinstance(event, Charge):
                        self.account.heard(event)
            self.talk = heard(self.talk, self._attempt, self._state, events)
            self._hearing = None
        except BudgetDenied:
            self._hearing = None
            raise
        except ModelError as error:
            if not error.maybe_billed:
                self._hearing = None
            raise
        except SystemExit as error:
            raise carried(error) from None

    async def _use(self, calls: tuple[ToolCall, ...], emit: Emit) -> None:
        for call in calls:
            shown = {"id": call.id, "name": call.name, "arguments": call.arguments}
            emit({"type": "tool_call", **shown})
        share = evenly(self.left(), len(calls))
        results = await together([self._run(call, share, emit) for call in calls])
        self.talk = used_tools(self.talk, tuple(results))

    async def _run(self, call: ToolCall, share: Limits, emit: Emit) -> ToolResult:
        if self._tools is None:
            why = "there are no tools"
            result = ToolResult(call.id, call.name, why, is_error=True, denial=why)
        else:
            result = await self._use_one(self._tools, call, share)
        if result.charge is not None:
            self.account.heard(result.charge)
        if result.denial is not None:
            self.account.denied(PermissionDenial(result.name, result.denial))
        shown = {"id": result.call_id, "name": result.name, "text": result.text}
        emit({"type": "tool_result", **shown, "is_error": result.is_error, "denial": result.denial})
        return result

    async def _use_one(self, tools: Tools, call: ToolCall, share: Limits) -> ToolResult:
        place = Here(call.key or "", self.account, self.left, share, self._scope, self._purse)
        enter(place)
        try:
            with interruptible():  # a guard of a payment in it holds what is cancelled
                return await tools.run(call, deadline=self._scope.deadline)
        finally:
            place.close()


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

    async def leave(self, grace_seconds: float, below: Iterable[asyncio.Task[Any]] = ()) -> bool:
        """Cancel the work and wait a little for it and those below; return whether all ended."""
        self.forget()
        if self.task is not None and not self.task.done():
            abandon(self.task)
        running = {one for one in (self.task, *below) if one is not None and not one.done()}
        if running:
            await asyncio.wait(running, timeout=grace_seconds)
        return all(one.done() for one in running)

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
    """Cancel a task that nobody waits for; it is kept alive until it ends, and then silent.

    Once is enough: a second time would cut off how it accounts for itself.
    """
    if task in _abandoned:
        return
    if task.done():
        _forget(task)
        return
    _abandoned.add(task)
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that it is no warning when the task is collected
