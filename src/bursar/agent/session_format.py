"""What a session's file says, and back.

The rule that lives here: a file is JSON with a schema version. A version that is not known is
refused, never guessed at, and an error names the file and the field.
"""

from __future__ import annotations

import json
from typing import Any

from bursar.agent.ports import Message, Role, ToolCall, ToolResult
from bursar.agent.results import PermissionDenial, UsageSummary
from bursar.agent.session_fields import Fields, Wrong
from bursar.agent.state import SessionState, TurnRecord
from bursar.money import Unpriced

SCHEMA = 1
WHAT_TO_DO = "restore it from a copy, or name another session"
Json = dict[str, Any]


class SessionFormatError(ValueError):
    """A file that is no session, that cannot be read, or that a later version wrote."""


def encode_session(state: SessionState, revision: int) -> bytes:
    """Return the file of a session."""
    usage = state.usage
    document = {
        "schema": SCHEMA,
        "session_id": state.session_id,
        "revision": revision,
        "turns_committed": state.turns_committed,
        "usage": {"input": usage.input_tokens, "output": usage.output_tokens, "exact": usage.exact},
        "spent": _money_out(state.spent_microcents),
        "wall_ms": state.wall_ms,
        "messages": state.messages,
        "transcript": state.transcript,
        "denials": [[one.tool_name, one.reason] for one in state.denials],
        "turns": [_turn_out(one) for one in state.turns],
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    # Half of a surrogate pair, as a file's name may have one, becomes the escape that JSON has.
    return text.encode("utf-8", "backslashreplace")


def decode_session(data: bytes, place: str) -> tuple[SessionState, int]:
    """Return the session of a file, and its revision.

    Raises:
        SessionFormatError: it is none; `place` is named, and what to do.
    """
    try:
        document = Fields(json.loads(data))
        schema = document.value("schema")
        if schema != SCHEMA:
            raise SessionFormatError(
                f"{place} has schema {schema!r}, and this version reads {SCHEMA}: use the version"
                " of Bursar that wrote it"
            )
        return _state(document), document.count("revision")
    except Wrong as wrong:
        raise SessionFormatError(f"{place}: {wrong}; {WHAT_TO_DO}") from wrong
    except (ValueError, RecursionError) as wrong:
        if isinstance(wrong, SessionFormatError):
            raise
        why = f"not JSON ({wrong})" if data else "empty"
        raise SessionFormatError(f"{place} is not a session: it is {why}; {WHAT_TO_DO}") from wrong


def _state(document: Fields) -> SessionState:
    usage = document.fields("usage")
    return SessionState(
        session_id=document.text("session_id"),
        messages=document.texts("messages"),
        transcript=document.texts("transcript"),
        denials=document.rows("denials", PermissionDenial, "tool_name", "reason"),
        usage=UsageSummary(usage.count("input"), usage.count("output"), usage.flag("exact")),
        turns_committed=document.count("turns_committed"),
        turns=tuple(_turn_in(one) for one in document.each("turns")),
        spent_microcents=_money_in(document),
        wall_ms=document.count("wall_ms"),
        flushed=True,
    )


def _turn_out(turn: TurnRecord) -> Json:
    return {
        "id": turn.turn_id,
        "output": turn.output,
        "input": turn.input_tokens,
        "tokens": turn.output_tokens,
        "spent": _money_out(turn.spent_microcents),
        "messages": [_message_out(one) for one in turn.messages],
        "asked": turn.asked,
    }


def _turn_in(turn: Fields) -> TurnRecord:
    return TurnRecord(
        turn.text("id"),
        turn.text("output"),
        turn.count("input"),
        turn.count("tokens"),
        _money_in(turn),
        tuple(_message_in(one) for one in turn.each("messages")),
        turn.text("asked") if turn.has("asked") else "",
    )


def _message_out(message: Message) -> Json:
    return {
        "role": message.role.value,
        "text": message.text,
        "calls": [[one.id, one.name, one.arguments, one.key] for one in message.calls],
        # A charge is part of its turn's sum; the model is never told of it.
        "results": [
            [one.call_id, one.name, one.text, one.is_error, one.denial] for one in message.results
        ],
    }


def _message_in(message: Fields) -> Message:
    return Message(
        Role(message.text("role", among=[one.value for one in Role])),
        message.text("text"),
        message.rows("calls", ToolCall, "id", "name", "arguments", "key?"),
        message.rows("results", ToolResult, "call_id", "name", "text", "is_error!", "denial?"),
    )


def _money_out(money: int | Unpriced) -> int | str:
    return money.why if isinstance(money, Unpriced) else money


def _money_in(document: Fields) -> int | Unpriced:
    """Return an amount, or why nobody knows it, as text."""
    if isinstance(document.value("spent"), str):
        return Unpriced(document.text("spent"))
    return document.count("spent")
