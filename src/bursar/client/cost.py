"""What an action cost: a number that is known, or the estimate, marked as such.

The rule that lives here: after the action ran, nothing about its cost may raise. A cost
that cannot be computed is the estimate, and the commit says so in its metadata
(`actual_source: estimate`); metrics that do not fit are left out, and the spend is not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bursar.client.context import CyclesContext
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


def metrics_of(context: CyclesContext, elapsed_ms: int) -> dict[str, Any]:
    """Return the metrics to commit: the action's own, with its latency if it gave none."""
    from pydantic import ValidationError

    from bursar.client.models import CyclesMetrics

    given: Any = context.metrics
    try:
        fields = given.model_dump(exclude_none=True) if hasattr(given, "model_dump") else given
        metrics = CyclesMetrics.model_validate(fields or {})
    except (ValidationError, TypeError, ValueError) as error:
        log.error("metrics of reservation %s left out: %s", context.reservation_id, error)
        metrics = CyclesMetrics()
    if metrics.latency_ms is None:
        metrics = metrics.model_copy(update={"latency_ms": elapsed_ms})
    if not metrics.custom:
        metrics = metrics.model_copy(update={"custom": None})
    return metrics.model_dump(mode="json", exclude_none=True)


def metadata_of(context: CyclesContext) -> dict[str, Any]:
    """Return the metadata that the action put into its context, if it can travel as JSON."""
    import json

    given: Any = context.commit_metadata
    if not given:
        return {}
    try:
        found = json.loads(json.dumps(given, allow_nan=False))
        return found if isinstance(found, dict) else {}
    except (TypeError, ValueError, RecursionError) as error:
        log.error("commit metadata of %s left out: %s", context.reservation_id, error)
        return {}
