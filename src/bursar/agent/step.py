"""A turn as a pure function: a session and what happened give a new session or a refusal.

The rule that lives here: the precedence of stop reasons. Before the work: cancelled, then a
turn that was committed before, then turns, then a budget of which nothing is left. After it:
budget, then cancelled, then completed. So a cancellation that comes during the work loses to
a budget that does not suffice, and one that comes after the commit is not seen at all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from bursar.agent.budget import Limits, Used, exhausted, overrun, reason_of
from bursar.agent.ports import Charge, Message, TokenUsage
from bursar.agent.results import Dimension, Overrun, PermissionDenial, StopReason, UsageSummary
from bursar.agent.state import TURNS_KEPT, SessionState, TurnRecord
from bursar.agent.transcript import kept
from bursar.money import Unpriced, total
from bursar.vocabulary import Unit


class TurnMismatchError(ValueError):
    """A turn of this id was committed with another prompt; nothing was done."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A prompt on its way to become a turn.

    `named` says whether the caller chose the turn's id. One that `identified` gives cannot have
    committed before, so that nobody need look for it. `origin` is what the keys of a sub-agent's
    turn begin with; a session's own turn has its id there. `spent` is what the session's purse
    knows to be spent, in turns that did not commit as well.
    """

    prompt: str
    turn_id: str = ""
    matched_commands: tuple[str, ...] = ()
    matched_tools: tuple[str, ...] = ()
    denied_tools: tuple[PermissionDenial, ...] = ()
    named: bool = True
    origin: str = ""
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of the work of a turn.

    `usage` is None without a model: words are counted then. `below` is what sub-agents used.
    """

    output: str
    usage: TokenUsage | None = None
    messages: tuple[Message, ...] = ()
    denials: tuple[PermissionDenial, ...] = ()
    charges: tuple[Charge, ...] = ()
    wall_ms: int = 0
    below: UsageSummary = field(default_factory=UsageSummary)


@dataclass(frozen=True, slots=True)
class Refused:
    """A turn that does not change the session, and why."""

    reason: StopReason
    overrun: Overrun | None = None


@dataclass(frozen=True, slots=True)
class Repeated:
    """A turn that was committed before; nothing is done again."""

    record: TurnRecord


@dataclass(frozen=True, slots=True)
class Committed:
    """The session as it will be if nobody closes the turn first."""

    state: SessionState


def identified(state: SessionState, attempt: Attempt) -> Attempt:
    """Return an attempt with an id: its own, or one of its place and its prompt.

    So a prompt that is submitted again after a crash is the same turn, and what was paid for
    it is not paid twice; and each committed turn makes a new place.
    """
    if attempt.named:
        return attempt
    return replace(attempt, turn_id=f"{state.turns_committed + 1}-{digest_of(attempt.prompt)[:16]}")


def digest_of(prompt: str) -> str:
    """Return what stands for a prompt in the record of its turn."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def enter(
    state: SessionState, limits: Limits, attempt: Attempt, *, cancelled: bool, asks: bool
) -> Refused | Repeated | None:
    """Say what keeps a turn from being worked on, or None.

    Args:
        state: the session.
        limits: its budget.
        attempt: the prompt.
        cancelled: whether somebody wants no more turns.
        asks: whether a model will be asked, who uses some of every dimension.

    Raises:
        TurnMismatchError: the turn was committed with another prompt.
    """
    if cancelled:
        return Refused(StopReason.CANCELLED)
    if attempt.named and (record := state.turn(attempt.turn_id)) is not None:
        if record.asked not in ("", digest_of(attempt.prompt)):
            raise TurnMismatchError(
                f"turn_id {attempt.turn_id!r} was committed with another prompt; give this one"
                " another turn_id"
            )
        return Repeated(record)
    found = exhausted(limits, used(state, attempt))
    if found is not None and (asks or found.dimension is Dimension.TURNS):
        return Refused(reason_of(found), found)
    return None


def finish(
    state: SessionState,
    limits: Limits,
    attempt: Attempt,
    answer: Answer,
    *,
    cancelled: bool,
    keep: int,
) -> Committed | Refused:
    """Return the session with the turn, or why there is none.

    Args:
        state: the session as it was when the turn began.
        limits: its budget.
        attempt: the prompt.
        answer: what came of the work.
        cancelled: whether somebody wants no more turns.
        keep: how many prompts and exchanges are kept.
    """
    after = _with(state, attempt, answer, keep)
    if (found := overrun(limits, used(after, attempt))) is not None:
        return Refused(reason_of(found), found)
    if cancelled:
        return Refused(StopReason.CANCELLED)
    return Committed(after)


def used(state: SessionState, attempt: Attempt | None = None) -> Used:
    """Return what a session counts against its budget: of money, also what is not part of it."""
    return Used(
        state.turns_committed,
        state.usage.input_tokens,
        state.usage.output_tokens,
        at_least(state.spent_microcents, 0 if attempt is None else attempt.spent),
        state.wall_ms,
    )


def at_least(amount: int | Unpriced, known: int) -> int | Unpriced:
    """Return an amount of which so much is known; one that nobody knows stays unknown."""
    return amount if isinstance(amount, Unpriced) else max(amount, known)


def spent(charges: tuple[Charge, ...]) -> int | Unpriced:
    """Return the money among charges; other units are not money."""
    return total(one.amount for one in charges if one.unit is Unit.USD_MICROCENTS)


def projected(usage: UsageSummary, prompt: str, answer: Answer) -> UsageSummary:
    """Return the tokens of a session with one more turn."""
    if answer.usage is None:
        return usage.add_turn(prompt, answer.output)
    return usage.add(answer.usage, prompt, answer.output) + answer.below


def _with(state: SessionState, attempt: Attempt, answer: Answer, keep: int) -> SessionState:
    usage, cost = projected(state.usage, attempt.prompt, answer), spent(answer.charges)
    record = TurnRecord(
        attempt.turn_id,
        answer.output,
        usage.input_tokens - state.usage.input_tokens,
        usage.output_tokens - state.usage.output_tokens,
        cost,
        answer.messages,
        digest_of(attempt.prompt),
    )
    return replace(
        state,
        messages=kept((*state.messages, attempt.prompt), keep),
        transcript=kept((*state.transcript, attempt.prompt), keep),
        denials=(*state.denials, *attempt.denied_tools, *answer.denials),
        usage=usage,
        turns_committed=state.turns_committed + 1,
        turns=_compacted((*state.turns, record), keep),
        spent_microcents=total((state.spent_microcents, cost)),
        wall_ms=state.wall_ms + answer.wall_ms,
        flushed=False,
    )


def _compacted(turns: tuple[TurnRecord, ...], keep: int) -> tuple[TurnRecord, ...]:
    """Drop the exchange of the one turn that just became too old, and ids beyond the limit.

    Whole turns go, so that no tool result is kept without the call that it answers.
    """
    oldest = len(turns) - keep - 1
    if oldest >= 0 and turns[oldest].messages:
        aged = replace(turns[oldest], messages=())
        turns = (*turns[:oldest], aged, *turns[oldest + 1 :])
    return turns[-TURNS_KEPT:]
