"""What a session's file says, and back.

The rule that lives here: a file is JSON with a schema version. A version that is not known is
refused, never guessed at, and an error names the file and the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from bursar.agent.ports import Message, Role, ToolCall, ToolResult
from bursar.agent.results import PermissionDenial, UsageSummary
from bursar.agent.state import SessionState, TurnRecord
from bursar.money import Unpriced

SCHEMA = 1

T = TypeVar("T")
Json = dict[str, Any]


class SessionFormatError(ValueError):
    """A file that is not a session, or one that a later version wrote."""


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
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def decode_session(data: bytes, place: str) -> tuple[SessionState, int]:
    """Return the session of a file, and its revision.

    Raises:
        SessionFormatError: it is none; `place` is named.
    """
    try:
        document = json.loads(data)
        schema = document["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as wrong:
        raise SessionFormatError(f"{place} is not a session: {wrong!r}") from wrong
    if schema != SCHEMA:
        raise SessionFormatError(
            f"{place} has schema {schema!r}, and this version reads {SCHEMA}: use the version of"
            " Bursar that wrote it"
        )
    try:
        return _state(document), _int(document, "revision")
    except (KeyError, TypeError, ValueError) as wrong:
        raise SessionFormatError(f"{place}: field {wrong} is missing or wrong") from wrong


def _state(document: Json) -> SessionState:
    usage = document["usage"]
    return SessionState(
        session_id=_text(document, "session_id"),
        messages=_texts(document, "messages"),
        transcript=_texts(document, "transcript"),
        denials=_each(document, "denials", lambda one: PermissionDenial(*one)),
        usage=UsageSummary(_int(usage, "input"), _int(usage, "output"), bool(usage["exact"])),
        turns_committed=_int(document, "turns_committed"),
        turns=_each(document, "turns", _turn_in),
        spent_microcents=_money_in(document["spent"]),
        wall_ms=_int(document, "wall_ms"),
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
    }


def _turn_in(turn: Json) -> TurnRecord:
    return TurnRecord(
        _text(turn, "id"),
        _text(turn, "output"),
        _int(turn, "input"),
        _int(turn, "tokens"),
        _money_in(turn["spent"]),
        _each(turn, "messages", _message_in),
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


def _message_in(message: Json) -> Message:
    return Message(
        Role(message["role"]),
        _text(message, "text"),
        _each(message, "calls", lambda one: ToolCall(*one)),
        _each(message, "results", lambda one: ToolResult(*one)),
    )


def _money_out(money: int | Unpriced) -> int | str:
    return money.why if isinstance(money, Unpriced) else money


def _money_in(money: int | str) -> int | Unpriced:
    return Unpriced(money) if isinstance(money, str) else int(money)


def _each(document: Json, field: str, read: Callable[[Any], T]) -> tuple[T, ...]:
    return tuple(read(one) for one in document[field])


def _texts(document: Json, field: str) -> tuple[str, ...]:
    return tuple(str(one) for one in document[field])


def _text(document: Json, field: str) -> str:
    value = document[field]
    if not isinstance(value, str):
        raise TypeError(field)
    return value


def _int(document: Json, field: str) -> int:
    value = document[field]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(field)
    return value
