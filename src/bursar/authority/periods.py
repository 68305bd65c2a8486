"""What a request says about a budget's periods, and the one that it is in.

The rule that lives here: a period is either a calendar's (`period` alone says all of it) or
rolls on by its own length (`period_start` and `period_end` say all of it). What a request
leaves open is refused where the budget is to renew itself, never guessed.

| period.every           | time_zone     | period_start, period_end                          |
|------------------------|---------------|---------------------------------------------------|
| HOUR ... YEAR          | UTC if absent | refused: they follow from the calendar            |
| ROLLING, or no `period`| refused       | both; with one or none of them and no `period` a  |
|                        |               | new budget does not renew itself, a PATCH changes |
|                        |               | no period or is refused                           |
| NEVER                  | refused       | stored as they are (creation), dropped (PATCH)    |
"""

from __future__ import annotations

import difflib

from bursar.authority import render
from bursar.authority.admin import budget_named, may
from bursar.authority.authority import Authority, require_reach
from bursar.authority.call import Answer, Call, Refusal, refuse
from bursar.core.outcomes import Refused
from bursar.core.state import Period
from bursar.ledger import calendar, periods
from bursar.vocabulary import PERIOD_MS_MIN, ErrorCode, Every, Permission
from bursar.wire import admin as wire
from bursar.wire.codec import encode
from bursar.wire.timestamps import parse_timestamp

SUGGESTIONS = 3


def at_creation(request: wire.BudgetCreateRequest, now_ms: int) -> Period:
    """Return the period that a new budget begins in; NEVER where it will not renew itself."""
    start_ms, end_ms = bounds(request)
    every = request.period.every if request.period else None
    whole = start_ms is not None and end_ms is not None
    if every is Every.NEVER or (every is None and not whole):
        _without_zone(request.period)
        return Period(Every.NEVER, None, start_ms, end_ms)
    return _renewing(request, now_ms)


def in_patch(request: wire.BudgetUpdateRequest, now_ms: int) -> Period | None:
    """Return the period that a budget is to be in from now on; None leaves it in its own."""
    if request.period is None and request.period_start is None and request.period_end is None:
        return None
    if request.period is not None and request.period.every is Every.NEVER:
        _without_zone(request.period)
        _without_bounds(request, "a budget that does not renew itself has no period")
        return Period(Every.NEVER)
    return _renewing(request, now_ms)


def bounds(
    request: wire.BudgetCreateRequest | wire.BudgetUpdateRequest,
) -> tuple[int | None, int | None]:
    """Return the start and end that a request names, in epoch milliseconds."""
    start, end = request.period_start, request.period_end
    return (
        parse_timestamp(start) if start else None,
        parse_timestamp(end) if end else None,
    )


async def get_period(authority: Authority, call: Call) -> Answer:
    """`GET /v1/admin/budgets/period?scope&unit`: how a budget renews itself, and its period."""
    may(call, Permission.BUDGETS_READ)
    tenant, scope, unit = budget_named(call)
    require_reach(call.principal, scope)
    authority.begin_periods(tenant)
    row = authority.reader.budget(tenant, scope, unit)
    if row is None:
        raise refuse(ErrorCode.BUDGET_NOT_FOUND, f"Budget not found: scope {scope}, unit {unit}")
    return Answer(200, encode(render.budget_period(row)))


def _renewing(request: wire.BudgetCreateRequest | wire.BudgetUpdateRequest, now_ms: int) -> Period:
    period = request.period
    if period is not None and period.every is not Every.ROLLING:
        _without_bounds(request, f"it follows from period.every, {period.every}")
        name = period.time_zone or "UTC"
        try:
            return periods.on_calendar(period.every, name, now_ms)
        except calendar.UnknownZone:
            raise _unknown_zone(name) from None
    _without_zone(period)
    start_ms, end_ms = bounds(request)
    if start_ms is None or end_ms is None:
        missing = "period_start" if start_ms is None else "period_end"
        raise _invalid(
            f"{missing}: required for a rolling period, which begins anew after its own length; "
            "send both, or a calendar in period.every"
        )
    if end_ms - start_ms < PERIOD_MS_MIN:
        raise _invalid(
            f"period_end: must be at least {PERIOD_MS_MIN} ms after period_start, got "
            f"{end_ms - start_ms} ms"
        )
    return periods.rolling(start_ms, end_ms, now_ms)


def _without_bounds(request: wire.BudgetCreateRequest | wire.BudgetUpdateRequest, why: str) -> None:
    for name in ("period_start", "period_end"):
        if getattr(request, name) is not None:
            raise _invalid(f"{name}: leave it out; {why}")


def _without_zone(period: wire.BudgetPeriod | None) -> None:
    if period is not None and period.time_zone is not None:
        raise _invalid(
            f"period.time_zone: leave it out; only calendars have one, and period.every is "
            f"{period.every}"
        )


def _unknown_zone(name: str) -> Refusal:
    near = difflib.get_close_matches(name, sorted(calendar.zones()), SUGGESTIONS)
    hint = f"; did you mean {' or '.join(near)}?" if near else ", such as Europe/Berlin or UTC"
    return _invalid(f"period.time_zone: must be an IANA time zone, got {name[:80]!r}{hint}")


def _invalid(message: str) -> Refusal:
    return Refusal(Refused(ErrorCode.INVALID_REQUEST, message))
