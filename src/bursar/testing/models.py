"""A model in this process that says what a script says.

The rule that lives here: to whoever asks, it is a model like those behind HTTP; it passes the
same contract suite. A word is a token, as for the scripted provider.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from dataclasses import dataclass

from bursar.agent.ports import (
    Finish,
    ModelError,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
)
from bursar.testing.providers.script import Reply

OVER = Reply(status=400, text="the script of this model has no more replies")
FAILURES = {429: ModelFailure.RATE_LIMITED}


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing happens for a while."""

    seconds: float


FOR_EVER = Pause(float(10**9))
Step = ModelEvent | ModelError | Pause
"""What happens next: an event, the end by a failure, or a pause."""


class ScriptedModel:
    """A `Model` that answers with the replies of a script, one for each request.

    `requests` holds what was asked, in order. An answer that its reader gave up counts in
    `cut_off`. A pause, a stall and a silent reply end at the deadline.
    """

    def __init__(self, replies: Iterable[Reply], *, name: str = "scripted") -> None:
        """Prepare to say `replies`; an endless iterator never ends."""
        self.name = name
        self.requests: list[ModelRequest] = []
        self.cut_off = 0
        self._replies = iter(replies)

    async def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        """Say the next reply; see `Model.complete`."""
        ended = False
        try:
            for step in _steps(self._take(request), request):
                await asyncio.sleep(0)  # as after every piece from a socket
                if isinstance(step, Pause):
                    await asyncio.sleep(_wait(step, deadline))
                    _still_in_time(deadline)
                elif isinstance(step, ModelError):
                    ended = True
                    raise step
                else:
                    ended = isinstance(step, Stop)
                    yield step
        finally:
            self.cut_off += not ended

    def _take(self, request: ModelRequest) -> Reply:
        self.requests.append(request)
        return next(self._replies, OVER)


class ScriptedSyncModel:
    """The same as a `SyncModel`: it blocks its thread."""

    def __init__(self, replies: Iterable[Reply], *, name: str = "scripted") -> None:
        """Prepare to say `replies`; an endless iterator never ends."""
        self.name = name
        self.requests: list[ModelRequest] = []
        self._replies = iter(replies)

    def complete_sync(
        self, request: ModelRequest, *, deadline: float | None
    ) -> Generator[ModelEvent, None, None]:
        """Say the next reply; see `SyncModel.complete_sync`."""
        self.requests.append(request)
        for step in _steps(next(self._replies, OVER), request):
            if isinstance(step, Pause):
                time.sleep(_wait(step, deadline))
                _still_in_time(deadline)
            elif isinstance(step, ModelError):
                raise step
            else:
                yield step


def _wait(pause: Pause, deadline: float | None) -> float:
    left = pause.seconds if deadline is None else deadline - time.monotonic()
    return max(0.0, min(pause.seconds, left))


def _still_in_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise ModelError(
            "the deadline came before the answer", ModelFailure.DEADLINE, maybe_billed=True
        )


def _steps(said: Reply, request: ModelRequest) -> Iterator[Step]:
    """Yield what a reply does, one step after the other."""
    if said.status != 200:
        failure = FAILURES.get(said.status, ModelFailure.PROVIDER_REFUSED)
        failure = ModelFailure.PROVIDER_FAILED if said.status >= 500 else failure
        yield ModelError(said.text, failure, maybe_billed=False, status=said.status)
        return
    if said.silent:
        yield FOR_EVER
    reply, cut = said.within(request.max_tokens)
    pieces = reply.pieces
    for piece in pieces if reply.ends_after is None else pieces[: reply.ends_after]:
        yield Pause(reply.pause_s)
        yield TextDelta(piece)
    if reply.stalls_after is not None:
        yield FOR_EVER
    if reply.ends_after is not None:
        yield ModelError("the answer broke off", ModelFailure.ANSWER_BROKEN, maybe_billed=True)
    if reply.reports_usage:
        yield TokenUsage(reply.input_tokens, reply.output_tokens, reply.cached_tokens)
    for number, tool in enumerate(reply.tools):
        yield ToolCall(f"call_{number}", tool.name, tool.json)
    yield Stop(Finish.LENGTH if cut else Finish.TOOLS if reply.tools else Finish.END)
