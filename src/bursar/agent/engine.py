"""The engine: submits prompts to a session, one turn at a time.

The rule that lives here: whatever happens in a turn, the session is as it was before or as it
is after, and the result that is returned says which. Without a model the engine is
deterministic: its answer repeats what it was asked, and a token is a word.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self, TypeVar

from bursar.agent import telling
from bursar.agent.config import QueryEngineConfig
from bursar.agent.gate import Gate
from bursar.agent.ports import MAX_TOKENS, Model, SyncModel, Tools
from bursar.agent.results import PermissionDenial, StopReason, TurnResult, UsageSummary
from bursar.agent.scope import GRACE_SECONDS, Clock
from bursar.agent.session import Session
from bursar.agent.sessions import Folder, StoredSession, load_session
from bursar.agent.state import SessionState
from bursar.agent.step import Answer, Attempt, Refused, Repeated, enter, finish, identified
from bursar.agent.submitted import submitted
from bursar.agent.talk import Terms
from bursar.agent.threads import portal
from bursar.agent.transcript import TranscriptStore
from bursar.agent.turn import Setup, Turn
from bursar.ids import prefixed_id

T = TypeVar("T")


class QueryEngine:
    """A session, its limits, and what answers.

    >>> engine = QueryEngine(QueryEngineConfig(max_turns=1))
    >>> engine.submit_message("hello").stop_reason
    <StopReason.COMPLETED: 'completed'>
    >>> engine.submit_message("again").stop_reason
    <StopReason.MAX_TURNS_REACHED: 'max_turns_reached'>
    >>> engine.mutable_messages
    ['hello']
    """

    def __init__(
        self,
        config: QueryEngineConfig | None = None,
        model: Model | SyncModel | None = None,
        *,
        tools: Tools | None = None,
        system: str = "",
        max_tokens: int = MAX_TOKENS,
        session_id: str | None = None,
        save_to: Folder = None,
        stored: StoredSession | None = None,
        grace_seconds: float = GRACE_SECONDS,
        now: Clock = time.monotonic,
    ) -> None:
        """Begin a session, or go on with a stored one.

        Args:
            config: the limits; None is the defaults.
            model: who answers; None is the deterministic answer.
            tools: what the model may use.
            system: instructions for the model.
            max_tokens: how long one answer of the model may be.
            session_id: names the session and its file; None is a new one.
            save_to: a directory in which each committed turn is saved, durably, before it is
                returned; None saves only when `persist_session` is called.
            stored: a session that `load_session` returned; `save_to` is where it came from.
            grace_seconds: how long a cancelled turn waits for its model to end.
            now: the monotonic clock.

        Raises:
            SessionIdError: the id cannot name a session.
        """
        self.config = config or QueryEngineConfig()
        self.model = model
        self.tools = tools
        self._terms = Terms(system, tools.specs if tools else (), max_tokens)
        self._grace_seconds = grace_seconds
        self._now = now
        state = stored.state if stored else SessionState(session_id or prefixed_id(""))
        self._session = Session(state, save_to, stored.revision if stored else 0)

    @classmethod
    def from_saved_session(cls, session_id: str, directory: Folder = None, **options: Any) -> Self:
        """Go on with a saved session, and save each further turn where it came from.

        Raises:
            SessionNotFoundError: there is none of this id.
            SessionFormatError: its file cannot be read.
        """
        stored = load_session(session_id, directory)
        return cls(stored=stored, save_to=directory or stored.directory, **options)

    @property
    def session_id(self) -> str:
        """Its id."""
        return self.state.session_id

    @property
    def state(self) -> SessionState:
        """The session as it is now: a value that never changes."""
        return self._session.state

    @property
    def mutable_messages(self) -> list[str]:
        """A copy of the latest prompts; the name is older than the rule that it is a copy."""
        return list(self.state.messages)

    @property
    def transcript_store(self) -> TranscriptStore:
        """A copy of the transcript."""
        return TranscriptStore(list(self.state.transcript), self.state.flushed)

    @property
    def permission_denials(self) -> list[PermissionDenial]:
        """A copy of what was denied in committed turns."""
        return list(self.state.denials)

    @property
    def total_usage(self) -> UsageSummary:
        """The tokens of all committed turns."""
        return self.state.usage

    def submit_message(
        self,
        prompt: str,
        matched_commands: tuple[str, ...] = (),
        matched_tools: tuple[str, ...] = (),
        denied_tools: tuple[PermissionDenial, ...] = (),
        cancel_event: threading.Event | None = None,
        *,
        turn_id: str | None = None,
    ) -> TurnResult:
        """Work on one turn, and commit it or leave the session as it was.

        Args:
            prompt: what the user says.
            matched_commands: handed through.
            matched_tools: handed through.
            denied_tools: tools that the caller denies; recorded if the turn commits.
            cancel_event: ends the turn when it is set; a `CancelScope` closes it at once. An
                event that stays set ends the next call too.
            turn_id: names the turn: one that this session has committed is not done again,
                and its output is returned, if the prompt is the same. None names it by its place
                and its prompt.

        Raises:
            ValueError: the prompt is too long, or nothing that a model can be asked.
            TurnInProgressError: another turn of this session is open.
            TurnMismatchError: the turn of this id was committed with another prompt.
            SessionConflictError: somebody else saved this session; it is as it was.
            SessionSaveError: the turn could not be saved; the session is as it was.
            ModelError: the model did not answer; the session is as it was.
        """
        what = (prompt, matched_commands, matched_tools, denied_tools, turn_id)
        attempt = submitted(*what, asks=self.model is not None)
        if self.model is not None:
            return self._wait_for(self._submit(attempt, cancel_event))
        if cancel_event is not None and cancel_event.is_set():
            attempt = identified(self.state, attempt)
            return telling.refused(attempt, Refused(StopReason.CANCELLED), self.total_usage)
        gate = self._session.begin(cancel_event)
        try:
            return self._answer(attempt, gate, cancel_event)
        finally:
            gate.close(StopReason.ERROR)  # decides nothing, unless an exception is on its way

    async def submit(
        self,
        prompt: str,
        matched_commands: tuple[str, ...] = (),
        matched_tools: tuple[str, ...] = (),
        denied_tools: tuple[PermissionDenial, ...] = (),
        cancel_event: threading.Event | None = None,
        *,
        turn_id: str | None = None,
    ) -> TurnResult:
        """Do the same on an event loop; see `submit_message`.

        It returns at once when the event is set or a scope's deadline comes, whatever the
        model does, and says `cancelled` or `timeout`. When its task is cancelled, either the
        turn has committed and is returned, or it never will be part of the session.
        """
        what = (prompt, matched_commands, matched_tools, denied_tools, turn_id)
        attempt = submitted(*what, asks=self.model is not None)
        return await self._submit(attempt, cancel_event)

    def stream_submit_message(
        self,
        prompt: str,
        matched_commands: tuple[str, ...] = (),
        matched_tools: tuple[str, ...] = (),
        denied_tools: tuple[PermissionDenial, ...] = (),
        cancel_event: threading.Event | None = None,
        *,
        turn_id: str | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """Do the same, and yield what happens.

        Without a model the turn commits right before `message_delta`. With one it commits
        right before `message_stop`, after everything that the model said was yielded.
        Closing the generator before that commits nothing.
        """
        what = (prompt, matched_commands, matched_tools, denied_tools, turn_id)
        attempt = submitted(*what, asks=self.model is not None)
        if self.model is None:
            yield from telling.opening(self.session_id, attempt)
            result = self.submit_message(
                prompt, matched_commands, matched_tools, denied_tools, cancel_event, turn_id=turn_id
            )
            yield {"type": "message_delta", "text": result.output}
            yield telling.closing(result, len(self.state.transcript))
            return
        stream = self._stream(attempt, cancel_event)
        try:
            while (event := self._wait_for(_next(stream))) is not None:
                yield event
        finally:
            self._wait_for(_close(stream))

    async def stream(
        self,
        prompt: str,
        matched_commands: tuple[str, ...] = (),
        matched_tools: tuple[str, ...] = (),
        denied_tools: tuple[PermissionDenial, ...] = (),
        cancel_event: threading.Event | None = None,
        *,
        turn_id: str | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Do the same on an event loop; see `stream_submit_message`."""
        what = (prompt, matched_commands, matched_tools, denied_tools, turn_id)
        attempt = submitted(*what, asks=self.model is not None)
        async with aclosing(self._stream(attempt, cancel_event)) as events:
            async for event in events:
                yield event

    def persist_session(self, directory: Folder = None) -> str:
        """Save the session as it is now; return the path of its file.

        Raises:
            SessionConflictError: somebody else saved it meanwhile.
            SessionSaveError: the file system refused.
        """
        return str(self._session.persist(directory))

    def replay_user_messages(self) -> tuple[str, ...]:
        """Return the prompts of the transcript."""
        return self.state.transcript

    def flush_transcript(self) -> None:
        """Remember that the transcript was written."""
        self._session.flush()

    def _wait_for(self, flow: Coroutine[Any, Any, T]) -> T:
        """Run a flow for a caller who has no event loop."""
        return portal().call(flow)

    async def _submit(self, attempt: Attempt, event: threading.Event | None) -> TurnResult:
        turn = Turn(self._setup(), attempt, event)
        try:
            async for _ in turn.events():
                pass
        except Exception as error:
            turn.failed(error)
            raise
        finally:
            turn.leave()
        return turn.result()

    async def _stream(
        self, attempt: Attempt, event: threading.Event | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        for opening in telling.opening(self.session_id, attempt):
            yield opening
        turn = Turn(self._setup(), attempt, event)
        try:
            async with aclosing(turn.events()) as events:
                async for shown in events:
                    yield shown
        except Exception as error:
            turn.failed(error)
            raise
        finally:
            turn.leave()
        yield telling.closing(turn.result(), len(self.state.transcript))

    def _setup(self) -> Setup:
        return Setup(
            self._session,
            self.config.limits,
            self.config.compact_after_turns,
            self.model,
            self.tools,
            self._terms,
            lambda attempt: self._format_output(_summary(attempt)),
            self._grace_seconds,
            self._now,
        )

    def _answer(
        self, attempt: Attempt, gate: Gate, cancel_event: threading.Event | None
    ) -> TurnResult:
        """Answer without a model, and let the pure step and the gate decide."""
        base, began = self.state, self._now()
        attempt = identified(base, attempt)
        stop = enter(base, self.config.limits, attempt, cancelled=gate.decided, asks=False)
        if isinstance(stop, Repeated):
            return telling.repeated(attempt, stop, base.usage)
        if stop is not None:
            return telling.refused(attempt, stop, base.usage)
        answer = Answer(self._format_output(_summary(attempt)))
        answer = replace(answer, wall_ms=int((self._now() - began) * 1_000))
        cancelled = cancel_event is not None and cancel_event.is_set()
        step = finish(
            base,
            self.config.limits,
            attempt,
            answer,
            cancelled=cancelled,
            keep=self.config.compact_after_turns,
        )
        if not isinstance(step, Refused):
            result = telling.completed(attempt, answer, step.state.usage)
            if self._session.commit(gate, step.state, result).committed:
                return result
            step = Refused(StopReason.CANCELLED)
        return telling.refused(attempt, step, base.usage, answer.output)

    def _format_output(self, summary_lines: list[str]) -> str:
        """Return the deterministic answer."""
        if not self.config.structured_output:
            return "\n".join(summary_lines)
        lines = summary_lines
        for _ in range(self.config.structured_retry_limit):
            try:
                return json.dumps({"summary": lines, "session_id": self.session_id}, indent=2)
            except (TypeError, ValueError):
                lines = ["not shown: it is not JSON"]
        raise RuntimeError("structured output failed; structured_retry_limit is used up")


async def _close(stream: AsyncGenerator[dict[str, Any], None]) -> None:
    await stream.aclose()


async def _next(stream: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any] | None:
    return await anext(stream, None)


def _summary(attempt: Attempt) -> list[str]:
    return [
        f"Prompt: {attempt.prompt}",
        f"Matched commands: {', '.join(attempt.matched_commands) or 'none'}",
        f"Matched tools: {', '.join(attempt.matched_tools) or 'none'}",
        f"Permission denials: {len(attempt.denied_tools)}",
    ]
