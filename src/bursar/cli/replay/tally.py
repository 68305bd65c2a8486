"""What a replay came to, counted event by event from the ledger's own answers.

The rule that lives here: nothing is computed twice. What is held and spent is what the
ledger said after that very event; only counts, peaks and minutes are added up here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bursar.cli.replay.pricing import Request
from bursar.cli.replay.trace import TICKS_PER_MS
from bursar.core.outcomes import Committed, Refused
from bursar.core.state import Budget

MINUTE_TICKS = 60_000 * TICKS_PER_MS


@dataclass(frozen=True, slots=True)
class Denial:
    """The first request that the budget refused, and the budget's state at that moment."""

    row: int
    line: int
    ticks: int
    reason: str
    message: str
    estimate_amount: int
    spent_amount: int
    held_amount: int


@dataclass(slots=True)
class Minute:
    """One minute of the trace: what was committed in it, and how many were denied."""

    spent_amount: int = 0
    committed: int = 0
    denied: int = 0


@dataclass(slots=True)
class Tally:
    """Running totals; amounts are in the budget's unit."""

    requests: int = 0
    allowed: int = 0
    committed: int = 0
    lapsed: int = 0
    denied_by: Counter[str] = field(default_factory=Counter)
    spent_amount: int = 0
    held_amount: int = 0
    held_peak_amount: int = 0
    held_peak_ticks: int | None = None
    unlimited_amount: int = 0
    running_peak: int = 0
    over_estimate: int = 0
    uncharged_amount: int = 0
    first_denial: Denial | None = None
    minutes: dict[int, Minute] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def denied(self) -> int:
        """How many requests were refused, for whatever reason."""
        return self.denied_by.total()

    @property
    def running(self) -> int:
        """How many requests were admitted and have neither completed nor lapsed."""
        return self.allowed - self.committed - self.lapsed

    def admit(self, ticks: int, request: Request, budget: Budget) -> None:
        """Count a reservation; `budget` is as it was left by it."""
        self._arrive(request)
        self.allowed += 1
        self.running_peak = max(self.running_peak, self.running)
        self.held_amount = budget.reserved
        if budget.reserved > self.held_peak_amount:
            self.held_peak_amount, self.held_peak_ticks = budget.reserved, ticks

    def deny(self, ticks: int, request: Request, refused: Refused) -> None:
        """Count a refusal."""
        self._arrive(request)
        self.denied_by[refused.reason_code] += 1
        self._minute(ticks).denied += 1
        if self.first_denial is None:
            self.first_denial = Denial(
                row=request.row.row,
                line=request.row.line,
                ticks=ticks,
                reason=refused.reason_code,
                message=refused.message,
                estimate_amount=request.estimate_amount,
                spent_amount=self.spent_amount,
                held_amount=self.held_amount,
            )

    def settle(self, ticks: int, request: Request, answer: Committed) -> None:
        """Count a commit; a charge below the actual cost is what the budget could not fund."""
        budget = answer.balances[0]
        self.committed += 1
        self.held_amount, self.spent_amount = budget.reserved, budget.spent
        self.over_estimate += request.actual_amount > request.estimate_amount
        self.uncharged_amount += request.actual_amount - answer.charged_amount
        minute = self._minute(ticks)
        minute.spent_amount += answer.charged_amount
        minute.committed += 1

    def lapse(self, request: Request) -> None:
        """Count a lease that ended without a commit and gave back what it held."""
        self.lapsed += 1
        self.held_amount -= request.estimate_amount

    def _arrive(self, request: Request) -> None:
        self.requests += 1
        self.unlimited_amount += request.actual_amount

    def _minute(self, ticks: int) -> Minute:
        return self.minutes.setdefault(ticks // MINUTE_TICKS, Minute())
