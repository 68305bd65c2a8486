"""What a caller is told about a turn, from the pure decision about it.

The rule that lives here: a result is made in one place, so that the same end is told in the
same words whichever way the turn was run.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from bursar.agent.ports import BudgetDenied, Charge
from bursar.agent.results import PermissionDenial, StopReason, TurnResult, UsageSummary
from bursar.agent.step import Answer, Attempt, Refused, Repeated


def completed(attempt: Attempt, answer: Answer, usage: UsageSummary) -> TurnResult:
    """Return the result of a turn that commits; `usage` is the session's with it."""
    denials = attempt.denied_tools + answer.denials
    result = _result(attempt, StopReason.COMPLETED, answer.output, usage)
    return replace(result, permission_denials=denials, charges=answer.charges)


def repeated(attempt: Attempt, stop: Repeated, usage: UsageSummary) -> TurnResult:
    """Return the result of a turn that was committed before."""
    result = _result(attempt, StopReason.COMPLETED, stop.record.output, usage)
    return replace(result, detail="this turn was committed before; nothing was done again")


def refused(
    attempt: Attempt,
    stop: Refused,
    usage: UsageSummary,
    output: str = "",
    denials: tuple[PermissionDenial, ...] = (),
    charges: tuple[Charge, ...] = (),
) -> TurnResult:
    """Return the result of a turn that does not commit; `usage` is the session's without it."""
    if stop.reason is StopReason.MAX_TURNS_REACHED and not output:
        output = f"no turn is left; not processed: {attempt.prompt}"
    result = _result(attempt, stop.reason, output, usage)
    result = replace(result, permission_denials=attempt.denied_tools + denials, charges=charges)
    if stop.overrun is None:
        return result
    return replace(result, overrun=stop.overrun, detail=str(stop.overrun))


def denied(result: TurnResult, error: BudgetDenied) -> TurnResult:
    """Return a refused turn with what the ledger said."""
    return replace(result, detail=f"{error.reason}: {error}")


def failed(error: Exception, result: TurnResult) -> None:
    """Let an exception say what the turn that it ended has told the ledger."""
    with contextlib.suppress(AttributeError, TypeError):  # but for those with slots
        error.turn_result = result  # type: ignore[attr-defined]  # any exception has room for it


def failed_turn(error: Exception | None) -> TurnResult | None:
    """Return what a turn came to that an exception ended, if it was one of ours."""
    found = getattr(error, "turn_result", None)
    return found if isinstance(found, TurnResult) else None


def opening(session_id: str, attempt: Attempt) -> list[dict[str, Any]]:
    """Return the first events of a stream."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "session_id": session_id, "prompt": attempt.prompt}
    ]
    if attempt.matched_commands:
        events.append({"type": "command_match", "commands": attempt.matched_commands})
    if attempt.matched_tools:
        events.append({"type": "tool_match", "tools": attempt.matched_tools})
    if attempt.denied_tools:
        names = [one.tool_name for one in attempt.denied_tools]
        events.append({"type": "permission_denial", "denials": names})
    return events


def closing(result: TurnResult, transcript_size: int) -> dict[str, Any]:
    """Return the last event of a stream."""
    usage = result.usage
    return {
        "type": "message_stop",
        "usage": {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
        "stop_reason": result.stop_reason,
        "transcript_size": transcript_size,
    }


def _result(attempt: Attempt, reason: StopReason, output: str, usage: UsageSummary) -> TurnResult:
    return TurnResult(
        attempt.prompt,
        output,
        attempt.matched_commands,
        attempt.matched_tools,
        attempt.denied_tools,
        usage,
        reason,
        attempt.turn_id,
    )
