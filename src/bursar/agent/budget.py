"""The budget of a session: turns, tokens, money and time, as one vector.

The rule that lives here: dimensions are checked in the order of `Dimension`, the first one
that does not fit is named, and equal to a limit still fits. What nobody knows does not fit
any limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
