"""What an action cost: a number that is known, or the estimate, marked as such.

The rule that lives here: after the action ran, nothing about its cost may raise. A cost
that cannot be computed is the estimate, and the commit says so in its metadata
(`actual_source: estimate`); metrics that do not fit are left out, and the spend is not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bursar.vocabulary import AMOUNT_MAX

ESTIMATED = {"actual_source": "estimate"}
log = logging.getLogger("bursar.client")

ActualCost = int | Callable[[Any], int] | None
"""A constant, a function of the action's result, or None for the estimate."""


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount in the plan's unit, and whether it is only the estimate."""

    amount: int
    estimated: bool = False

    @property
    def metadata(self) -> dict[str, Any]:
        """What the commit says about where the amount comes from."""
        return dict(ESTIMATED) if self.estimated else {}


def is_amount(value: object) -> bool:
    """Return whether a value is a non-negative int64, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= AMOUNT_MAX


def actual_cost(actual: ActualCost, result: object, estimate: int) -> Cost:
    """Return what the action cost; the estimate where `actual` gives nothing usable."""
    if actual is None:
        return Cost(estimate, estimated=True)
    try:
        value = actual(result) if callable(actual) else actual
    except Exception:
        log.exception("the function for the actual cost raised; the estimate is committed")
        return Cost(estimate, estimated=True)
    if not is_amount(value):
        log.error("actual cost %r is no non-negative int64; the estimate is committed", value)
        return Cost(estimate, estimated=True)
    return Cost(value)


def metrics_of(given: Any, elapsed_ms: int) -> dict[str, Any]:
    """Return the metrics to commit: what was measured, with the latency if it has none.

    Args:
        given: `CyclesMetrics`, a mapping of its fields, or nothing; anything else is left out.
        elapsed_ms: how long the action took.
    """
    measured = {} if given is None else _checked(given)
    if measured.get("latency_ms") is None:
        measured["latency_ms"] = elapsed_ms
    return measured


def _checked(given: Any) -> dict[str, Any]:
    """Return metrics that a user gave as JSON values, without what does not fit."""
    from bursar.client.models import CyclesMetrics

    try:
        fields = given.model_dump(exclude_none=True) if hasattr(given, "model_dump") else given
        metrics = CyclesMetrics.model_validate(dict(fields or {}))
    except (TypeError, ValueError) as error:  # a pydantic ValidationError is a ValueError
        log.error("metrics left out of a commit: %s", error)
        return {}
    metrics.custom = metadata_of(metrics.custom) or None
    return metadata_of(metrics.model_dump(exclude_none=True))


def metadata_of(given: Any) -> dict[str, Any]:
    """Return what an action wrote for its commit, if it can travel as JSON."""
    if not given:
        return {}
    try:
        return json_values(given)
    except ValueError as error:
        log.error("left out of a commit: %s", error)
        return {}


def json_values(given: Any, name: str = "metadata") -> dict[str, Any]:
    """Return a mapping as JSON values.

    Raises:
        ValueError: it is no mapping, or holds what JSON cannot say.
    """
    try:
        text = json.dumps(dict(given), allow_nan=False, ensure_ascii=False)
        text.encode()
        return dict(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be a mapping of JSON values: {error}") from error
