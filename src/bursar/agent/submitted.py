"""What a caller submits as a turn, checked.

The rule that lives here: what can never be answered is refused before the turn is opened, as a
mistake of the caller that names the field, its limit, and what to do.
"""

from __future__ import annotations

from bursar.agent.results import PermissionDenial
from bursar.agent.step import Attempt

TURN_ID_MAX = 128
PROMPT_CHARACTERS_MAX = 10_000_000
"""More than any model takes; a larger prompt is a mistake, and would be kept with the session."""


def submitted(
    prompt: str,
    commands: tuple[str, ...],
    tools: tuple[str, ...],
    denied: tuple[PermissionDenial, ...],
    turn_id: str | None,
    *,
    asks: bool,
) -> Attempt:
    """Return what was submitted as an attempt at a turn.

    Args:
        prompt: what the user says.
        commands: handed through.
        tools: handed through.
        denied: tools that the caller denies.
        turn_id: names the turn, or None.
        asks: whether a model is asked, who takes no empty prompt.

    Raises:
        TypeError: the prompt is no text.
        ValueError: the prompt or the turn's id cannot be worked on.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be text, not {type(prompt).__name__}")
    if len(prompt) > PROMPT_CHARACTERS_MAX:
        raise ValueError(
            f"prompt has {len(prompt)} characters, and may have {PROMPT_CHARACTERS_MAX}; shorten"
            " it, or give the model a tool that reads in parts"
        )
    if asks:
        _check_sayable(prompt)
    if turn_id is not None and not _is_turn_id(turn_id):
        raise ValueError(
            f"turn_id must be 1 to {TURN_ID_MAX} printable characters without a slash, not"
            f" {turn_id!r:.200}"
        )
    named = turn_id is not None
    return Attempt(prompt, turn_id or "", tuple(commands), tuple(tools), tuple(denied), named=named)


def _is_turn_id(text: str) -> bool:
    return 0 < len(text) <= TURN_ID_MAX and text.isprintable() and "/" not in text


def _check_sayable(prompt: str) -> None:
    if not prompt.strip():
        raise ValueError("prompt is empty; say what to ask the model")
    try:
        prompt.encode()
    except UnicodeEncodeError as wrong:
        raise ValueError(
            f"prompt has half of a surrogate pair at character {wrong.start}, which no model"
            " takes; decode it as UTF-8, or with errors='replace'"
        ) from wrong
