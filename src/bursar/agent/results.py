"""What a turn and a loop tell their caller.

The rule that lives here: how a turn ended and how a loop ended are two questions with two
answers. A turn that committed is `completed` for good, even if the loop around it ran out of
time; `cancel_requested`, `cancel_acknowledged` and `worker_abandoned` say three different
things, and none of them is derived from another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import overload

from bursar.agent.ports import Charge, TokenUsage


@unique
class StopReason(StrEnum):
    """Why a turn, or a loop, came to its end; only `COMPLETED` changes a session."""

    COMPLETED = "completed"
    MAX_BUDGET_REACHED = "max_budget_reached"
    MAX_TURNS_REACHED = "max_turns_reached"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    PROVIDER_TIMEOUT = "provider_timeout"
    ERROR = "error"


@unique
class Dimension(StrEnum):
    """What a budget counts, in the order in which it is checked; calls are of one turn."""

    TURNS = "turns"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOKENS = "tokens"
    MONEY = "money"
    WALL_CLOCK = "wall_clock"
    MODEL_CALLS = "model_calls"


@dataclass(frozen=True, slots=True)
class Overrun:
    """Which limit a turn would have exceeded; `used` is None where nobody knows."""

    dimension: Dimension
    limit: int
    used: int | None

    def __str__(self) -> str:
        """Say it in a sentence, with the fix."""
        used = "an unknown amount" if self.used is None else f"{self.used}"
        unit = " microcents" if self.dimension is Dimension.MONEY else ""
        limit = f"{self.limit}{unit}"
        return f"{self.dimension.value}: {used} against a limit of {limit}; raise the limit"


@dataclass(frozen=True, slots=True)
class PermissionDenial:
    """A tool that was not allowed, and why."""

    tool_name: str
    reason: str


@dataclass(frozen=True, slots=True)
class UsageSummary:
    """Tokens of a session; without a model, a token is a word between blanks.

    `exact` is False as soon as a provider did not report a usage: its words were counted.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    exact: bool = True

    def __add__(self, other: UsageSummary) -> UsageSummary:
        """Return the sum of two; it is exact if both are."""
        return UsageSummary(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.exact and other.exact,
        )

    def add_turn(self, prompt: str, output: str) -> UsageSummary:
        """Return the sum with the words of one turn."""
        return UsageSummary(
            self.input_tokens + len(prompt.split()),
            self.output_tokens + len(output.split()),
            self.exact,
        )

    def add(self, usage: TokenUsage, prompt: str, output: str) -> UsageSummary:
        """Return the sum with what a provider reported, or with words where it did not."""
        words = self.add_turn(prompt, output)
        asked, answered = usage.input_tokens, usage.output_tokens
        return UsageSummary(
            words.input_tokens if asked is None else self.input_tokens + asked,
            words.output_tokens if answered is None else self.output_tokens + answered,
            self.exact and usage.known,
        )


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What became of one prompt.

    Attributes:
        prompt: as it was submitted.
        output: the answer; there may be one although the turn did not commit.
        matched_commands: as they were handed in.
        matched_tools: as they were handed in.
        permission_denials: handed in, and those of this turn's tool calls.
        usage: the session's total after the turn; unchanged unless it completed.
        stop_reason: a `StopReason`; only `completed` changed the session.
        turn_id: names the turn for good; a turn that committed never commits again.
        late: whether it committed before its deadline and was known only after it.
        overrun: which limit was reached, for the two budget reasons.
        detail: why, in words, where the reason alone does not say it.
        charges: what the ledger was told, committed turn or not.
        abandoned: whether something of the turn still runs; it cannot change the session.
    """

    prompt: str
    output: str
    matched_commands: tuple[str, ...]
    matched_tools: tuple[str, ...]
    permission_denials: tuple[PermissionDenial, ...]
    usage: UsageSummary
    stop_reason: str
    turn_id: str = ""
    late: bool = False
    overrun: Overrun | None = None
    detail: str = ""
    charges: tuple[Charge, ...] = ()
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class LoopResult(Sequence[TurnResult]):
    """The turns of one loop, in order, and how the loop ended. It is never empty.

    Attributes:
        turns: one result for each turn, and a last one that did not complete if the loop
            was stopped: a timeout, a limit, a cancellation, an error.
        loop_stop: why there is no further turn: a `StopReason`, or what an engine of one's own
            said.
        deadline_exceeded: whether the deadline passed before the loop was done.
        cancel_requested: whether the loop's scope was cancelled, by anybody.
        cancel_acknowledged: whether the engine came back after that, within the grace period.
        worker_abandoned: whether something still runs that nobody waits for; it cannot
            change the session.
        error: what an engine raised, for `error` and `provider_timeout`, or when it was told to
            stop.
    """

    turns: tuple[TurnResult, ...]
    loop_stop: str
    deadline_exceeded: bool = False
    cancel_requested: bool = False
    cancel_acknowledged: bool = False
    worker_abandoned: bool = False
    error: Exception | None = None

    def __len__(self) -> int:
        """Return how many turn results there are."""
        return len(self.turns)

    def __iter__(self) -> Iterator[TurnResult]:
        """Iterate over the turn results."""
        return iter(self.turns)

    @overload
    def __getitem__(self, index: int) -> TurnResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TurnResult, ...]: ...
    def __getitem__(self, index: int | slice) -> TurnResult | tuple[TurnResult, ...]:
        """Return one turn result, or a tuple of them."""
        return self.turns[index]
