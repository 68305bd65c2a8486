"""How a budget renews itself, as options and as a sentence.

The rule that lives here: a plan is said in the server's own words, and what a plan cannot be
is the server's to refuse; so a new kind of period needs no change here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cyclopts import Group, Parameter

from bursar.cli.remote import amounts
from bursar.cli.remote.show import amount, text_of
from bursar.vocabulary import Every, RolloverPolicy

Json = dict[str, Any]
RENEWAL = Group("How the budget renews itself", sort_key=50)


@Parameter(name="*", group=RENEWAL)
@dataclass(frozen=True, kw_only=True)
class Renewal:
    """A period by the calendar, or by its own length, and what is carried over."""

    every: Every | None = None
    """HOUR, DAY, WEEK, MONTH, QUARTER or YEAR by the calendar; ROLLING with --period-start and
    --period-end; NEVER to stop."""
    time_zone: str | None = None
    """Whose clocks the calendar follows, such as Europe/Berlin; else UTC."""
    rollover: RolloverPolicy | None = None
    """What becomes of what was not used: nothing, all of it, or at most one allocation."""
    period_start: str | None = None
    """Where a rolling period begins, such as 2026-01-01T06:00:00Z."""
    period_end: str | None = None
    """Where it ends; the next one is just as long."""

    def body(self) -> Json:
        """Return the fields of the request."""
        if self.time_zone is not None and self.every is None:
            raise amounts.bad("--time-zone belongs to a calendar: add --every DAY, or another")
        period = amounts.present(every=self.every, time_zone=self.time_zone)
        return amounts.present(
            rollover_policy=self.rollover,
            period_start=self.period_start,
            period_end=self.period_end,
            period=period or None,
        )


SAME = Renewal()
"""Nothing said: a new budget does not renew itself, an old one stays as it is."""


def told(plan: Json) -> str:
    """Return a plan as a sentence; empty where the budget does not renew itself."""
    every = text_of(plan, "every")
    if every in ("", Every.NEVER):
        return ""
    clocks = f" by the clocks of {plan['time_zone']}" if plan.get("time_zone") else ""
    each = amount(plan.get("allocation"))
    return f"{every}{clocks}, {each} each, rollover {text_of(plan, 'rollover_policy')}"
