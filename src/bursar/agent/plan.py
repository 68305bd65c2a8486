"""What a loop submits, and how it tells its end.

The rule that lives here: every loop has an entry that says how it ended, and a turn that did
not take place has no usage. Both loops tell the same end in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bursar.agent.ports import ModelError, ModelFailure
from bursar.agent.results import (
    LoopResult,
    PermissionDenial,
    StopReason,
    TurnResult,
    UsageSummary,
)
from bursar.agent.scope import CancelScope
from bursar.agent.telling import failed_turn

Arguments = tuple[str, tuple[str, ...], tuple[str, ...], tuple[PermissionDenial, ...]]


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

    def arguments(self, prompt: str) -> Arguments:
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

    def timed_out(self, last: TurnResult) -> TurnResult:
        """Return the entry of a turn that ran out of time; what it cost is not forgotten."""
        entry = self.ended(last.prompt, StopReason.TIMEOUT)
        return replace(entry, turn_id=last.turn_id, charges=last.charges, abandoned=last.abandoned)

    def failed(self, prompt: str, error: Exception) -> TurnResult:
        """Return the entry of a turn whose engine raised; what it cost is not forgotten."""
        entry = self.ended(prompt, reason_of(error), f"{type(error).__name__}: {error}")
        return self.knowing(entry, error)

    def knowing(self, entry: TurnResult, error: Exception | None) -> TurnResult:
        """Return an entry with what an exception says of its turn."""
        told = failed_turn(error)
        if told is None or told.prompt != entry.prompt:
            return entry
        denials = told.permission_denials
        return replace(
            entry, turn_id=told.turn_id, charges=told.charges, permission_denials=denials
        )


def returned(result: TurnResult | None) -> TurnResult:
    """Return what an engine returned.

    Raises:
        TypeError: it returned nothing.
    """
    if result is None:
        raise TypeError("submit_message returned None; it must return a TurnResult")
    return result


def told(last: TurnResult, scope: CancelScope | None) -> TurnResult:
    """Return a turn as it is told: one that completed is late if the loop is over by then."""
    over = scope is not None and scope.is_set()
    return replace(last, late=True) if over and last.stop_reason == StopReason.COMPLETED else last


def reason_of(error: Exception) -> StopReason:
    """Return the stop reason of an exception; a provider's timeout is never `timeout`."""
    provider = isinstance(error, ModelError) and error.failure is ModelFailure.PROVIDER_TIMEOUT
    if provider or isinstance(error, TimeoutError):
        return StopReason.PROVIDER_TIMEOUT
    return StopReason.ERROR


def completed(plan: Plan, turns: list[TurnResult], scope: CancelScope | None = None) -> LoopResult:
    """Return the result of a loop that did all that it was to do."""
    entries = turns or [plan.ended(plan.prompt, StopReason.MAX_TURNS_REACHED)]
    requested = scope is not None and scope.reason is not None
    return LoopResult(
        tuple(entries),
        named(entries[-1].stop_reason),
        cancel_requested=requested,
        worker_abandoned=any(one.abandoned for one in entries),
    )


def named(reason: str) -> str:
    """Return a `StopReason` where it is one; an engine of one's own may have other words."""
    return StopReason(reason) if reason in StopReason.__members__.values() else reason


def stopped(
    plan: Plan,
    turns: list[TurnResult],
    scope: CancelScope | None,
    last: TurnResult,
    error: Exception | None = None,
    *,
    acknowledged: bool = False,
    abandoned: bool = False,
) -> LoopResult:
    """Return the result of a loop that ended with a turn that did not complete, or too late.

    Where the scope fired, the loop says why it did; the engine only knew that it was told to.
    """
    requested = scope is not None and scope.is_set()
    reason = named(last.stop_reason)
    if last.late or (requested and reason in (StopReason.CANCELLED, StopReason.TIMEOUT)):
        reason = (scope.reason if scope is not None else None) or reason
    if not last.late and reason == StopReason.TIMEOUT:
        last = plan.timed_out(last)
    return LoopResult(
        (*turns, last),
        reason,
        deadline_exceeded=reason == StopReason.TIMEOUT,
        cancel_requested=requested,
        cancel_acknowledged=requested and acknowledged and not last.abandoned,
        worker_abandoned=abandoned or any(one.abandoned for one in (*turns, last)),
        error=error,
    )
