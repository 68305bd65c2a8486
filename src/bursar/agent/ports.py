"""What a turn needs of the world: a model that answers and tools that act.

The rule that lives here: whatever stands behind these protocols, its answer is a stream of
the same few events, and what is not known about it is said. A provider that did not report
its usage gives None, never zero; an answer without a `Stop` is not an answer.

An answer is, in this order:

| events | how many |
|---|---|
| `TextDelta`, `ToolCall`, `TokenUsage`, `Charge`, in any order | any number |
| `Stop` | exactly one, unless an exception ends the stream |

A `TokenUsage` says what the whole call has used so far: a later one replaces an earlier one.
A `ToolCall` is complete: adapters put its pieces together. Charges add up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from bursar.money import Unpriced
from bursar.vocabulary import Unit

SHORT = "short_microcents"
"""The detail of a denial that says how much of the session's own money is missing."""
MAX_TOKENS = 1_024
"""How long an answer may be if nobody says; it bounds what a call is reserved for."""
TOKENS_MAX = 10**12
"""No call, and no session, has more."""


class Role(StrEnum):
    """Who says a message; instructions are a request's `system`, not a message."""

    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Finish(StrEnum):
    """Why a model ended its answer."""

    END = "end"
    TOOLS = "tools"
    LENGTH = "length"
    FILTERED = "filtered"
    OTHER = "other"


class ModelFailure(StrEnum):
    """Why there is no answer.

    `DEADLINE` is the caller's own: the deadline of the call was so near that the adapter ended
    it. `PROVIDER_TIMEOUT` is the provider's or its package's, with time left; it is never a
    turn's `timeout`.
    """

    DEADLINE = "deadline"
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    PROVIDER_REFUSED = "provider_refused"
    RATE_LIMITED = "rate_limited"
    PROVIDER_FAILED = "provider_failed"
    ANSWER_BROKEN = "answer_broken"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants to be used.

    `arguments` is JSON text as the model wrote it; whoever runs the tool checks it. `key`
    names this one use for good, so that a use which is repeated after a crash is charged
    once; the turn sets it.
    """

    id: str
    name: str
    arguments: str = "{}"
    key: str | None = None


def count(value: object) -> int | None:
    """Return a number of tokens, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= TOKENS_MAX else None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The tokens of one call, or of a sum of calls; None is not known.

    `input_tokens` counts every token of the prompt. How many of them were read from or
    written to a cache is said again, because their price differs. A count that no call can
    have, such as one below 0, is not known: whoever reported it may bill for anything.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def __post_init__(self) -> None:
        """Keep what can be counted with."""
        cached = [count(self.cache_read_tokens), count(self.cache_write_tokens)]
        asked, known = count(self.input_tokens), [one or 0 for one in cached]
        if None in cached or (asked is not None and sum(known) > asked):
            asked, known = None, [0, 0]
        for name, value in (
            *(("input_tokens", asked), ("output_tokens", count(self.output_tokens))),
            *(("cache_read_tokens", known[0]), ("cache_write_tokens", known[1])),
        ):
            object.__setattr__(self, name, value)

    @property
    def known(self) -> bool:
        """Whether both counts are known."""
        return self.input_tokens is not None and self.output_tokens is not None

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """Add two usages; what one of them does not know, the sum does not know."""
        return TokenUsage(
            _sum(self.input_tokens, other.input_tokens),
            _sum(self.output_tokens, other.output_tokens),
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )


NO_USAGE = TokenUsage(0, 0)
"""What a turn has used before its first call."""
UNKNOWN_USAGE = TokenUsage()


@dataclass(frozen=True, slots=True)
class Charge:
    """What the ledger was told that one guarded action cost.

    Attributes:
        action: what was done, such as `gpt-4o` or a tool's name.
        amount: int64 in `unit`, or why nobody knows.
        unit: the ledger's unit.
        key: the idempotency key of the action.
        reservation_id: of the ledger.
        bound: whether the amount is an upper bound, because the exact cost is not known.
        settled: whether the ledger has confirmed it; otherwise the journal keeps it.
    """

    action: str
    amount: int | Unpriced
    unit: Unit
    key: str
    reservation_id: str
    bound: bool = False
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Stop:
    """The end of an answer."""

    finish: Finish = Finish.END


ModelEvent = TextDelta | ToolCall | TokenUsage | Charge | Stop


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of one tool call, as the model is told.

    Attributes:
        call_id: which call.
        name: of the tool.
        text: the result, or the error, or why it was denied.
        is_error: whether the model is told that it failed.
        denial: why it was not run, or None.
        charge: what it cost, if it costs anything.
    """

    call_id: str
    name: str
    text: str
    is_error: bool = False
    denial: str | None = None
    charge: Charge | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    `calls` belong to what an assistant said; `results` are a tool message and answer each of
    the calls before it.
    """

    role: Role
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model is told of it; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One question to a model.

    Attributes:
        messages: the conversation, oldest first.
        system: instructions.
        tools: what the model may ask for.
        max_tokens: how long the answer may be.
        key: names this one call for good (session, turn, number), so that a call which is
            repeated after a crash is charged once; None is a call that nobody repeats.
        max_money_microcents: what the call may cost at most, where somebody pays for it; None is
            what the ledger allows.
    """

    messages: tuple[Message, ...]
    system: str = ""
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int = MAX_TOKENS
    key: str | None = None
    max_money_microcents: int | None = None


class Model(Protocol):
    """A model that answers asynchronously."""

    @property
    def name(self) -> str:
        """What it is called in prices and records, such as `gpt-4o`."""
        ...

    def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        """Ask, and yield the answer as it comes; an `async def` with `yield` fits.

        Closing the generator, or cancelling the task that reads it, ends the provider's
        stream at once.

        Args:
            request: the question.
            deadline: an instant of `time.monotonic()`, after which nobody listens; the
                provider's own timeout ends a little before it.

        Raises:
            ModelError: there is no answer, or no whole one.
            BudgetDenied: the ledger does not allow the call; nothing was asked.
        """
        ...


class SyncModel(Protocol):
    """A model whose package only blocks; it is run on a thread that nobody waits for."""

    @property
    def name(self) -> str:
        """What it is called in prices and records."""
        ...

    def complete_sync(
        self, request: ModelRequest, *, deadline: float | None
    ) -> Generator[ModelEvent, None, None]:
        """Ask, and yield the answer as it comes; see `Model.complete`."""
        ...


class Tools(Protocol):
    """What a model may use."""

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told of."""
        ...

    async def run(self, call: ToolCall, *, deadline: float | None) -> ToolResult:
        """Run one tool and return what came of it.

        What the tool raises is a result with `is_error`, and a tool that is not allowed is a
        result with a `denial`: the model is told of both. Several calls of one answer may
        run at the same time.

        Raises:
            BudgetDenied: the ledger does not allow the call; nothing was run.
        """
        ...


class ModelError(Exception):
    """A provider did not answer, or not to the end.

    Attributes:
        failure: why.
        maybe_billed: whether the provider may have billed for it although there is no answer.
        status: of its HTTP answer, if there was one.
        retry_after_ms: how long it wants to be left alone, if it said so.
    """

    def __init__(
        self,
        message: str,
        failure: ModelFailure,
        *,
        maybe_billed: bool,
        status: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.maybe_billed = maybe_billed
        self.status = status
        self.retry_after_ms = retry_after_ms

    @property
    def retryable(self) -> bool:
        """Whether the same question may be answered later."""
        return self.failure is not ModelFailure.PROVIDER_REFUSED


class BudgetDenied(Exception):
    """The ledger, or a cap that came with its answer, does not allow the next action.

    Attributes:
        reason: in one word, as the ledger says it, such as `BUDGET_EXCEEDED`.
        action: what was not done.
        retry_after_ms: when it may be allowed again, if that is known.
        details: what else the ledger said.
    """

    def __init__(
        self,
        message: str,
        reason: str,
        *,
        action: str = "",
        retry_after_ms: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.action = action
        self.retry_after_ms = retry_after_ms
        self.details = dict(details or {})


def total_usage(usages: Iterable[TokenUsage]) -> TokenUsage:
    """Add usages; one that is not known makes the sum not known."""
    return sum(usages, start=NO_USAGE)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
