"""What a stream has used so far, and what that costs.

The rule that lives here: what is known is never thrown away. A total that was set wins, then
a function of the usage, and only a stream that ended well falls back to the estimate; one
that was cut short costs what is known of it, or is unknown and said to be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bursar.client.cost import Cost, is_amount

log = logging.getLogger("bursar.client")


@dataclass
class StreamUsage:
    """Tokens and cost of one stream, added up while it runs; cost is int64 in its unit."""

    tokens_input: int = 0
    tokens_output: int = 0
    actual_cost: int | None = None
    model_version: str | None = None
    custom: dict[str, Any] = field(default_factory=dict)

    def add_input_tokens(self, count: int) -> None:
        """Add tokens of the prompt."""
        self.tokens_input += count

    def add_output_tokens(self, count: int) -> None:
        """Add tokens of the answer."""
        self.tokens_output += count

    def set_actual_cost(self, amount: int) -> None:
        """Say what the stream cost in total, in the unit of its estimate."""
        self.actual_cost = amount

    @property
    def touched(self) -> bool:
        """Whether anything was recorded."""
        return self != StreamUsage()


CostFn = Callable[[StreamUsage], int]


def full_cost(usage: StreamUsage, cost_fn: CostFn | None, estimate: int) -> Cost:
    """Return the cost of a stream that ended well."""
    known = known_cost(usage, cost_fn)
    if known is not None:
        return known
    return Cost(estimate, estimated=True)


def known_cost(usage: StreamUsage, cost_fn: CostFn | None) -> Cost | None:
    """Return what is known of a stream's cost, or None."""
    if usage.actual_cost is not None:
        if is_amount(usage.actual_cost):
            return Cost(usage.actual_cost)
        log.error("actual_cost %r is no non-negative int64", usage.actual_cost)
        return None
    if cost_fn is None:
        return None
    try:
        value = cost_fn(usage)
    except Exception:
        log.exception("cost_fn raised")
        return None
    if not is_amount(value):
        log.error("cost_fn gave %r, which is no non-negative int64", value)
        return None
    return Cost(value)


def metrics_of(usage: StreamUsage) -> dict[str, Any]:
    """Return the usage as metrics; zeros and what does not fit are left out."""
    found: dict[str, Any] = {}
    for name in ("tokens_input", "tokens_output"):
        if is_amount(getattr(usage, name)) and getattr(usage, name):
            found[name] = getattr(usage, name)
    if isinstance(usage.model_version, str) and 0 < len(usage.model_version) <= 128:
        found["model_version"] = usage.model_version
    if isinstance(usage.custom, dict) and usage.custom:
        found["custom"] = dict(usage.custom)
    return found
