"""The engine: submits prompts to a session, one turn at a time.

The rule that lives here: whatever happens in a turn, the session is as it was before or as it
is after, and the result that is returned says which. Without a model the engine is
deterministic: its answer repeats what it was asked, and a token is a word.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any, Self

from bursar.agent.config import QueryEngineConfig
from bursar.agent.gate import Gate
from bursar.agent.results import PermissionDenial, StopReason, TurnResult, UsageSummary
from bursar.agent.scope import Clock
from bursar.agent.session import Session
from bursar.agent.sessions import Folder, StoredSession, load_session
from bursar.agent.state import SessionState
from bursar.agent.step import Answer, Attempt, Committed, Refused, Repeated, enter, finish
from bursar.agent.transcript import TranscriptStore
from bursar.ids import prefixed_id


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
        *,
        session_id: str | None = None,
        save_to: Folder = None,
        stored: StoredSession | None = None,
        now: Clock = time.monotonic,
    ) -> None:
        """Begin a session, or go on with a stored one.

        Args:
            config: the limits; None is the defaults.
            session_id: names the session and its file; None is a new one.
            save_to: a directory in which each committed turn is saved, durably, before it is
                returned; None saves only when `persist_session` is called.
            stored: a session that `load_session` returned; `save_to` is where it came from.
            now: the monotonic clock.

        Raises:
            SessionIdError: the id cannot name a session.
        """
        self.config = config or QueryEngineConfig()
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
                and its output is returned.

        Raises:
            TurnInProgressError: another turn of this session is open.
            SessionConflictError: somebody else saved this session; it is as it was.
            SessionSaveError: the turn could not be saved; the session is as it was.
        """
        attempt = _attempt(prompt, matched_commands, matched_tools, denied_tools, turn_id)
        if cancel_event is not None and cancel_event.is_set():
            return self._refused(attempt, Refused(StopReason.CANCELLED), "")
        gate = self._session.begin(cancel_event)
        try:
            return self._work(attempt, gate, cancel_event)
        finally:
            gate.close(StopReason.ERROR)  # decides nothing, unless an exception is on its way

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
        """Do the same, and yield what happens: the turn commits right before `message_delta`.

        Closing the generator before that commits nothing.
        """
        yield {"type": "message_start", "session_id": self.session_id, "prompt": prompt}
        if matched_commands:
            yield {"type": "command_match", "commands": matched_commands}
        if matched_tools:
            yield {"type": "tool_match", "tools": matched_tools}
        if denied_tools:
            names = [one.tool_name for one in denied_tools]
            yield {"type": "permission_denial", "denials": names}
        result = self.submit_message(
            prompt, matched_commands, matched_tools, denied_tools, cancel_event, turn_id=turn_id
        )
        yield {"type": "message_delta", "text": result.output}
        yield self._message_stop(result)

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

    def _work(
        self, attempt: Attempt, gate: Gate, cancel_event: threading.Event | None
    ) -> TurnResult:
        base, began = self.state, self._now()
        stop = enter(base, self.config.limits, attempt, cancelled=gate.decided, asks=False)
        if stop is not None:
            return self._not_done(attempt, stop)
        answer = Answer(self._format_output(_summary(attempt)))
        answer = replace(answer, wall_ms=int((self._now() - began) * 1_000))
        cancelled = cancel_event is not None and cancel_event.is_set()
        return self._finish(attempt, base, gate, answer, cancelled=cancelled)

    def _finish(
        self, attempt: Attempt, base: SessionState, gate: Gate, answer: Answer, *, cancelled: bool
    ) -> TurnResult:
        """Let the pure step decide, and the gate."""
        keep = self.config.compact_after_turns
        step = finish(base, self.config.limits, attempt, answer, cancelled=cancelled, keep=keep)
        if isinstance(step, Refused):
            return self._refused(attempt, step, answer.output, answer)
        result = self._result(attempt, StopReason.COMPLETED, answer.output, step, answer)
        verdict = self._session.commit(gate, step.state, result)
        if verdict.committed:
            return result
        return self._refused(attempt, Refused(StopReason.CANCELLED), answer.output, answer)

    def _not_done(self, attempt: Attempt, stop: Refused | Repeated) -> TurnResult:
        if isinstance(stop, Repeated):
            result = self._result(attempt, StopReason.COMPLETED, stop.record.output)
            return replace(result, detail="this turn was committed before; nothing was done again")
        full = stop.reason is StopReason.MAX_TURNS_REACHED
        said = f"no turn is left; not processed: {attempt.prompt}" if full else ""
        return self._refused(attempt, stop, said)

    def _refused(
        self, attempt: Attempt, stop: Refused, output: str, answer: Answer | None = None
    ) -> TurnResult:
        result = self._result(attempt, stop.reason, output, answer=answer)
        if stop.overrun is None:
            return result
        return replace(result, overrun=stop.overrun, detail=str(stop.overrun))

    def _result(
        self,
        attempt: Attempt,
        reason: StopReason,
        output: str,
        step: Committed | None = None,
        answer: Answer | None = None,
    ) -> TurnResult:
        denials = attempt.denied_tools + (answer.denials if answer else ())
        return TurnResult(
            attempt.prompt,
            output,
            attempt.matched_commands,
            attempt.matched_tools,
            denials,
            step.state.usage if step else self.total_usage,
            reason,
            attempt.turn_id,
            charges=answer.charges if answer else (),
        )

    def _message_stop(self, result: TurnResult) -> dict[str, Any]:
        usage = result.usage
        return {
            "type": "message_stop",
            "usage": {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
            "stop_reason": result.stop_reason,
            "transcript_size": len(self.state.transcript),
        }

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


def _attempt(
    prompt: str,
    commands: tuple[str, ...],
    tools: tuple[str, ...],
    denied: tuple[PermissionDenial, ...],
    turn_id: str | None,
) -> Attempt:
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be text, not {type(prompt).__name__}")
    return Attempt(
        prompt, turn_id or prefixed_id("turn_"), tuple(commands), tuple(tools), tuple(denied)
    )


def _summary(attempt: Attempt) -> list[str]:
    return [
        f"Prompt: {attempt.prompt}",
        f"Matched commands: {', '.join(attempt.matched_commands) or 'none'}",
        f"Matched tools: {', '.join(attempt.matched_tools) or 'none'}",
        f"Permission denials: {len(attempt.denied_tools)}",
    ]
