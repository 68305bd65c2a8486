"""The budget of a session: turns, tokens, money and time, as one vector.

The rule that lives here: dimensions are checked in the order of `Dimension`, the first one
that does not fit is named, and equal to a limit still fits. What nobody knows does not fit
any limit. What is left of limits is a vector too, and never below 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from bursar.agent.results import Dimension, Overrun, StopReason
from bursar.money import Unpriced


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a session may use; None is no limit."""

    turns: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens: int | None = None
    money_microcents: int | None = None
    wall_ms: int | None = None


_NAMES = tuple(one.name for one in fields(Limits))


@dataclass(frozen=True, slots=True)
class Used:
    """What a session has used, or would have used."""

    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money_microcents: int | Unpriced = 0
    wall_ms: int = 0


def overrun(limits: Limits, used: Used) -> Overrun | None:
    """Return the first dimension in which `used` is above its limit."""
    for dimension, limit, amount in _rows(limits, used):
        if isinstance(amount, Unpriced):
            return Overrun(dimension, limit, None)
        if amount > limit:
            return Overrun(dimension, limit, amount)
    return None


def exhausted(limits: Limits, used: Used) -> Overrun | None:
    """Return the first dimension in which nothing is left for another call of a model."""
    for dimension, limit, amount in _rows(limits, used):
        if isinstance(amount, Unpriced):
            return Overrun(dimension, limit, None)
        if amount >= limit:
            return Overrun(dimension, limit, amount)
    return None


def tokens_left(limits: Limits, used: Used) -> int | None:
    """Return how long an answer may still be, or None if nothing bounds it."""
    left = [
        limit - amount
        for limit, amount in (
            (limits.output_tokens, used.output_tokens),
            (limits.tokens, used.input_tokens + used.output_tokens),
        )
        if limit is not None
    ]
    return max(0, min(left)) if left else None


def money_left(limits: Limits, used: Used) -> int | None:
    """Return what a call may still cost, or None if nothing bounds it."""
    limit = limits.money_microcents
    return None if limit is None else rest(limits, used).money_microcents


def rest(limits: Limits, used: Used) -> Limits:
    """Return what can be shared of limits: tokens and money, whose unknown rest is nothing.

    Turns are each session's own, and time passes for all at once.
    """
    money, known = limits.money_microcents, used.money_microcents
    return Limits(
        None,
        _less(limits.input_tokens, used.input_tokens),
        _less(limits.output_tokens, used.output_tokens),
        _less(limits.tokens, used.input_tokens + used.output_tokens),
        _less(money, money if isinstance(known, Unpriced) else known),
    )


def less(limits: Limits, held: Limits) -> Limits:
    """Return what is left of limits when somebody holds a part."""
    return _each(limits, held, _less)


def least(one: Limits, other: Limits) -> Limits:
    """Return the smaller of two limits in each dimension."""
    return _each(one, other, lambda a, b: b if a is None else a if b is None else min(a, b))


def unwanted(limits: Limits, wanted: Limits) -> Limits:
    """Return limits in those dimensions in which nothing in particular is wanted."""
    return _each(limits, wanted, lambda a, b: a if b is None else None)


def evenly(limits: Limits, among: int) -> Limits:
    """Return an even share of limits, rounded up."""
    return _each(limits, limits, lambda a, _: None if a is None else -(-a // among))


def within(limits: Limits, used: Used, granted: Limits) -> Limits:
    """Return the limits of a session that was granted so much more than it has used."""
    money = used.money_microcents
    added = Limits(
        limits.turns,
        _plus(granted.input_tokens, used.input_tokens),
        _plus(granted.output_tokens, used.output_tokens),
        _plus(granted.tokens, used.input_tokens + used.output_tokens),
        _plus(granted.money_microcents, 0 if isinstance(money, Unpriced) else money),
        limits.wall_ms,
    )
    return least(limits, added)


def reason_of(found: Overrun) -> StopReason:
    """Return the stop reason of an overrun: turns have one of their own."""
    if found.dimension is Dimension.TURNS:
        return StopReason.MAX_TURNS_REACHED
    return StopReason.MAX_BUDGET_REACHED


def _rows(limits: Limits, used: Used) -> Iterator[tuple[Dimension, int, int | Unpriced]]:
    """Yield each dimension that has a limit, in the order of `Dimension`."""
    amounts: dict[Dimension, tuple[int | None, int | Unpriced]] = {
        Dimension.TURNS: (limits.turns, used.turns),
        Dimension.INPUT_TOKENS: (limits.input_tokens, used.input_tokens),
        Dimension.OUTPUT_TOKENS: (limits.output_tokens, used.output_tokens),
        Dimension.TOKENS: (limits.tokens, used.input_tokens + used.output_tokens),
        Dimension.MONEY: (limits.money_microcents, used.money_microcents),
        Dimension.WALL_CLOCK: (limits.wall_ms, used.wall_ms),
    }
    for dimension, (limit, amount) in amounts.items():
        if limit is not None:
            yield dimension, limit, amount


def _each(
    one: Limits, other: Limits, chosen: Callable[[int | None, int | None], int | None]
) -> Limits:
    return Limits(*(chosen(getattr(one, name), getattr(other, name)) for name in _NAMES))


def _less(limit: int | None, amount: int | None) -> int | None:
    return None if limit is None else max(0, limit - (amount or 0))


def _plus(limit: int | None, amount: int) -> int | None:
    return None if limit is None else limit + amount
