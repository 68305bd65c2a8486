"""Which budgets are due for a new period, and which period that is.

The rule that lives here: however long a budget was left alone, one roll takes it straight to
the period of now. A rolling period is followed by one of the same length, a calendar's by the
one that the wall shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from bursar.core.commands import Roll, unasked
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Period
from bursar.invariant import require
from bursar.ledger import calendar
from bursar.ledger.ports import Reader
from bursar.vocabulary import Every

ROLLS_MAX = 1_000


def ended(snapshot: Snapshot, now_ms: int, trace_id: str) -> Sequence[Roll]:
    """Return the rolls that are due among the budgets of a batch, as one trace.

    A budget whose time zone this machine does not know stays in its period.
    """
    renewing = [row for row in snapshot.budgets.values() if row.renewal is not None]
    return list(_rolls(renewing, snapshot, now_ms, trace_id)) if renewing else ()


def plan(
    reader: Reader,
    now_ms: int,
    trace_id: str,
    tenant: str | None = None,
    limit: int = ROLLS_MAX,
) -> Sequence[Roll]:
    """Return the rolls that are due in a ledger, or for one tenant, earliest first."""
    rolls: list[Roll] = []
    for budget in reader.ended(now_ms, limit, tenant):
        with suppress(calendar.UnknownZone):
            rolls.append(roll(budget, now_ms, trace_id))
    return rolls


def roll(budget: Budget, now_ms: int, trace_id: str) -> Roll:
    """Return the command that takes a budget, whose period is over, to that of now.

    Raises:
        UnknownZone: this machine does not know the budget's time zone.
    """
    renewal, began_ms, end_ms = budget.renewal, budget.period_start_ms, budget.period_end_ms
    if renewal is None or began_ms is None or end_ms is None:
        raise ValueError(f"budget {budget.scope} does not renew itself")
    if renewal.every is Every.ROLLING:
        length_ms = end_ms - began_ms
        periods = (now_ms - end_ms) // length_ms + 1
        start_ms = end_ms + (periods - 1) * length_ms
        next_ms = start_ms + length_ms
    else:
        where = calendar.zone(renewal.time_zone or "UTC")
        start_ms, next_ms = calendar.around(renewal.every, where, now_ms)
        # Zones change by law: what was stored as an end may lie within the period of now.
        start_ms = max(start_ms, end_ms)
        periods = 1 + calendar.count(renewal.every, where, end_ms, start_ms)
    require(periods >= 1, "a roll crosses a boundary")
    return Roll(
        tenant=budget.tenant,
        origin=unasked(trace_id),
        scope=budget.scope,
        unit=budget.unit,
        ended_ms=began_ms,
        start_ms=start_ms,
        end_ms=next_ms,
        periods=periods,
    )


def rolling(start_ms: int, end_ms: int, now_ms: int) -> Period:
    """Return the rolling period of now, given any of its predecessors, or one to come."""
    ahead = max(0, (now_ms - start_ms) // (end_ms - start_ms)) * (end_ms - start_ms)
    return Period(Every.ROLLING, None, start_ms + ahead, end_ms + ahead)


def on_calendar(every: Every, time_zone: str, now_ms: int) -> Period:
    """Return the period of now on a calendar.

    Raises:
        UnknownZone: this machine does not know the time zone.
    """
    return Period(every, time_zone, *calendar.around(every, calendar.zone(time_zone), now_ms))


def _rolls(
    budgets: Sequence[Budget], snapshot: Snapshot, now_ms: int, trace_id: str
) -> Iterator[Roll]:
    for budget in budgets:
        # A log's time never runs backwards, and the roll will be of that time.
        at_ms = max(now_ms, snapshot.head(budget.tenant).at_ms)
        if budget.ended_at(at_ms):
            with suppress(calendar.UnknownZone):
                yield roll(budget, at_ms, trace_id)
