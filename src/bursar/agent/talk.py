"""A turn's talk with a model, as a pure function of what was said.

The rule that lives here: what to do next. A turn asks, uses the tools that were asked for,
and asks again, until an answer asks for none; before each question the budget is looked at, so
that a turn that has used it up, or whose prompt alone does not fit, asks no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bursar.agent.budget import (
    Limits,
    Used,
    exhausted,
    money_left,
    overrun,
    reason_of,
    tokens_left,
)
from bursar.agent.ports import (
    MAX_TOKENS,
    NO_USAGE,
    UNKNOWN_USAGE,
    Charge,
    Message,
    ModelError,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    Role,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from bursar.agent.pricing import prompt_tokens_least
from bursar.agent.results import Dimension, Overrun, PermissionDenial, UsageSummary
from bursar.agent.state import SessionState
from bursar.agent.step import Answer, Attempt, Refused, at_least, spent, used
from bursar.money import total

CALLS_MAX = 64
"""How many times one turn may ask a model: tools that lead nowhere end there."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What every question of a session says beside the conversation."""

    system: str = ""
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int = MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Talk:
    """What was said in a turn so far; `said` begins with the prompt.

    `charges` and `denials` are those of sub-agents as well, whose tokens are `below`.
    """

    said: tuple[Message, ...]
    asked: int = 0
    usage: TokenUsage = NO_USAGE
    charges: tuple[Charge, ...] = ()
    denials: tuple[PermissionDenial, ...] = ()
    below: UsageSummary = field(default_factory=UsageSummary)


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the model."""

    request: ModelRequest


@dataclass(frozen=True, slots=True)
class Use:
    """Use tools; they may run at the same time."""

    calls: tuple[ToolCall, ...]


Next = Ask | Use | Answer | Refused


def begin(attempt: Attempt) -> Talk:
    """Return the talk of a turn that begins."""
    return Talk((Message(Role.USER, attempt.prompt),))


def heard(talk: Talk, attempt: Attempt, state: SessionState, events: Iterable[ModelEvent]) -> Talk:
    """Return the talk with one more answer of the model.

    Raises:
        ModelError: the answer has no end.
    """
    texts: list[str] = []
    calls: list[ToolCall] = []
    usage, stop = UNKNOWN_USAGE, None
    for event in events:
        match event:
            case TextDelta():
                texts.append(event.text)
            case ToolCall():
                key = event.key or f"{_key(state, attempt, talk)}/{len(calls)}"
                calls.append(replace(event, key=key, arguments=whole(event.arguments)))
            case TokenUsage():
                usage = event
            case Stop():
                stop = event
            case Charge():
                pass  # the turn's account has it
    if stop is None:
        raise ModelError(
            "the model's answer has no end", ModelFailure.ANSWER_BROKEN, maybe_billed=True
        )
    answer = Message(Role.ASSISTANT, whole("".join(texts)), tuple(calls))
    return replace(
        talk,
        said=(*talk.said, answer),
        asked=talk.asked + 1,
        usage=talk.usage + usage,
    )


def used_tools(talk: Talk, results: tuple[ToolResult, ...]) -> Talk:
    """Return the talk with what came of the tools."""
    sayable = tuple(replace(one, text=whole(one.text)) for one in results)
    return replace(talk, said=(*talk.said, Message(Role.TOOL, results=sayable)))


def follow(talk: Talk, attempt: Attempt, state: SessionState, limits: Limits, terms: Terms) -> Next:
    """Return what to do next."""
    last = talk.said[-1]
    if last.role is Role.ASSISTANT:
        return Use(last.calls) if last.calls else answer(talk)
    so_far = used_in(talk, attempt, state)
    if (found := exhausted(limits, so_far)) is not None:
        return Refused(reason_of(found), found)
    if talk.asked >= CALLS_MAX:
        found = Overrun(Dimension.MODEL_CALLS, CALLS_MAX, talk.asked)
        return Refused(reason_of(found), found)
    request = ModelRequest(
        (*state.conversation(), *talk.said),
        terms.system,
        terms.tools,
        terms.max_tokens,
        _key(state, attempt, talk),
        money_left(limits, so_far),
    )
    return _within(request, limits, so_far)


def _within(request: ModelRequest, limits: Limits, so_far: Used) -> Ask | Refused:
    """Return a question whose answer ends at the limits, unless its prompt alone is too long."""
    least = so_far.input_tokens
    if limits.tokens is not None or limits.input_tokens is not None:  # else nobody need count
        least += prompt_tokens_least(request)
    asked = replace(so_far, input_tokens=least)
    if (found := overrun(limits, asked)) is not None:
        return Refused(reason_of(found), found)
    left = tokens_left(limits, asked)
    if left is None:
        return Ask(request)
    if left == 0:  # the prompt is all that there is room for
        found = Overrun(Dimension.TOKENS, limits.tokens or 0, least + so_far.output_tokens)
        return Refused(reason_of(found), found)
    return Ask(replace(request, max_tokens=min(request.max_tokens, left)))


def whole(text: str) -> str:
    """Return text that can be sent: half of a surrogate pair becomes the sign for "unreadable".

    A file's name may have one, and so may an answer that was cut between two characters.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def answer(talk: Talk) -> Answer:
    """Return what a talk came to: all that the assistant said."""
    texts = [one.text for one in talk.said if one.role is Role.ASSISTANT and one.text]
    told = (talk.denials, talk.charges)
    return Answer("\n".join(texts), talk.usage, talk.said, *told, below=talk.below)


def used_in(talk: Talk, attempt: Attempt, state: SessionState) -> Used:
    """Return what the session has used, with this talk."""
    before, usage = used(state), UsageSummary().add(talk.usage, "", "") + talk.below
    return replace(
        before,
        input_tokens=before.input_tokens + usage.input_tokens,
        output_tokens=before.output_tokens + usage.output_tokens,
        money_microcents=at_least(
            total((before.money_microcents, spent(talk.charges))), attempt.spent
        ),
    )


def _key(state: SessionState, attempt: Attempt, talk: Talk) -> str:
    return f"{attempt.origin or state.session_id}/{attempt.turn_id}/{talk.asked}"
