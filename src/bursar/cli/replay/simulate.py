"""The replay itself: events in virtual time, reserved and settled through a real ledger.

The rule that lives here: the order of events is a pure function of the trace and of how long
a token takes. Arrivals and completions are merged by time, completions first and then by
row, and cut into batches by that order alone, so no outcome, no pacing and no machine
changes what the ledger is asked, or when by its own clock.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from bursar.cli.replay.pricing import Request
from bursar.cli.replay.tally import Tally
from bursar.cli.replay.trace import TICKS_PER_MS
from bursar.core import scopes
from bursar.core.commands import (
    AnyCommand,
    Commit,
    CreateBudget,
    CreateTenant,
    Idempotency,
    Reserve,
)
from bursar.core.outcomes import Committed, Refused, Reserved
from bursar.core.state import Budget, Tenant
from bursar.invariant import require
from bursar.ledger.service import Accepted, Failed, Ledger
from bursar.vocabulary import TTL_MS_MAX, TTL_MS_MIN, BudgetStatus, TenantStatus, Unit

TENANT: Final = "replay"
SCOPE: Final = f"tenant:{TENANT}"
BATCH_MAX: Final = 256
BATCH_SPAN_MS: Final = 2_000
"""A batch is stamped with the time of its last event, so stamps are at most this much late."""

FIRST_TOKEN_MS: Final = 200
"""What a request takes before its first token comes."""

MS_PER_TOKEN: Final = 20.0


class VirtualClock:
    """Shows the trace's time to the ledger; it moves when the replay moves it."""

    def __init__(self) -> None:
        """Start at 1970."""
        self._at_ms = 0

    def now_ms(self) -> int:
        """Return the trace's time in epoch milliseconds."""
        return self._at_ms

    def move_to(self, ticks: int) -> None:
        """Move on to `ticks`; batches never go back."""
        self._at_ms = ticks // TICKS_PER_MS


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """How long a request runs: a constant, and something for every token it generates.

    A trace records arrivals but no durations, so this is an assumption, and the report
    says so. The longest lease is a day; what would run longer counts as done after a day.
    """

    ms_per_token: Decimal

    def ms(self, generated_tokens: int) -> int:
        """Return the duration in whole milliseconds, rounded up."""
        tokens_ms = self.ms_per_token * generated_tokens
        whole = int(tokens_ms.to_integral_value(rounding=ROUND_CEILING))
        return min(FIRST_TOKEN_MS + whole, self.longest_ms)

    @property
    def longest_ms(self) -> int:
        """The longest duration that a lease can cover, settling late by a batch included."""
        return TTL_MS_MAX - BATCH_SPAN_MS


@dataclass(frozen=True, slots=True)
class Event:
    """A request that arrives, or completes, at a time of the trace."""

    ticks: int
    request: Request
    arrives: bool
    service_ms: int


def in_order(requests: Iterable[Request], service: ServiceTime) -> Iterator[Event]:
    """Yield every arrival and completion by time; completions first, then by row."""
    running: list[tuple[int, int, Event]] = []
    for request in requests:
        row = request.row
        while running and running[0][0] <= row.ticks:
            yield heapq.heappop(running)[2]
        service_ms = service.ms(row.generated_tokens)
        yield Event(row.ticks, request, True, service_ms)
        done = row.ticks + service_ms * TICKS_PER_MS
        heapq.heappush(running, (done, row.row, Event(done, request, False, service_ms)))
    while running:
        yield heapq.heappop(running)[2]


def batches(events: Iterable[Event]) -> Iterator[Sequence[Event]]:
    """Cut events into batches of at most `BATCH_MAX` events and `BATCH_SPAN_MS` of trace time.

    A completion never shares a batch with its own arrival: whether there is anything to
    commit is known only once the arrival has been answered.
    """
    batch: list[Event] = []
    arrived: set[int] = set()
    for event in events:
        full = len(batch) == BATCH_MAX
        late = batch and event.ticks - batch[0].ticks > BATCH_SPAN_MS * TICKS_PER_MS
        if full or late or (not event.arrives and event.request.row.row in arrived):
            yield batch
            batch, arrived = [], set()
        batch.append(event)
        if event.arrives:
            arrived.add(event.request.row.row)
    if batch:
        yield batch


class Replay:
    """One run of a trace against a new budget in an empty ledger."""

    def __init__(
        self,
        ledger: Ledger,
        clock: VirtualClock,
        unit: Unit,
        budget_amount: int,
        model: str | None,
        subject: Mapping[str, str] = MappingProxyType({"tenant": TENANT}),
    ) -> None:
        """Prepare a run.

        Args:
            ledger: an empty ledger whose clock is `clock`.
            clock: the trace's time.
            unit: the unit of the budget and of every amount.
            budget_amount: what the budget at the tenant's scope is allocated.
            model: the model's name, for the ledger's own records.
            subject: who sends the requests, by level; the tenant among them.
        """
        self.tally = Tally()
        self._ledger = ledger
        self._clock = clock
        self._unit = unit
        self._budget_amount = budget_amount
        self._tenant = subject["tenant"]
        self._scopes = scopes.derive(subject)
        self._subject = json.dumps(dict(subject), separators=(",", ":"))
        action = {"kind": "llm.completion", "name": model or "tokens"}
        self._action = json.dumps(action, separators=(",", ":"))
        self._admitted: set[int] = set()

    def run(
        self,
        requests: Sequence[Request],
        service: ServiceTime,
        *,
        due: Callable[[int], bool] = lambda ticks: True,
        advance: Callable[[Tally], None] = lambda tally: None,
    ) -> Tally:
        """Replay all requests and return the totals.

        Args:
            requests: the priced trace, in the order of its times.
            service: how long requests run.
            due: waits until a trace time has come; False stops the replay before it.
            advance: is told the totals after every batch.
        """
        self._provision(requests[0].row.ticks)
        for batch in batches(in_order(requests, service)):
            asked = [one for one in batch if one.arrives or one.request.row.row in self._admitted]
            if not asked:
                continue  # nothing but completions of requests that were denied
            if not due(batch[-1].ticks):
                self.tally.interrupted = True
                break
            self._clock.move_to(batch[-1].ticks)
            self._execute(asked)
            advance(self.tally)
        return self.tally

    def _provision(self, ticks: int) -> None:
        """Open the tenant and its budget at the time of the first request."""
        self._clock.move_to(ticks)
        tenant = Tenant(
            tenant_id=self._tenant,
            name="bursar replay",
            status=TenantStatus.ACTIVE,
            created_at_ms=0,
            ttl_max_ms=TTL_MS_MAX,
        )
        budget = Budget(
            tenant=self._tenant,
            scope=self._scopes[0],
            unit=self._unit,
            ledger_id=f"ledger-{self._tenant}",
            allocated=self._budget_amount,
            remaining=self._budget_amount,
            reserved=0,
            spent=0,
            debt=0,
            overdraft_limit=0,
            is_over_limit=False,
            status=BudgetStatus.ACTIVE,
            created_at_ms=0,
            updated_at_ms=0,
        )
        outcomes = self._ledger.execute(
            [
                CreateTenant(tenant=self._tenant, record=tenant),
                CreateBudget(tenant=self._tenant, budget=budget),
            ]
        )
        require(all(isinstance(one, Accepted) for one in outcomes), "an empty ledger can be set up")

    def _execute(self, asked: Sequence[Event]) -> None:
        """Ask the ledger for one batch, in one transaction, and count what it answers."""
        commands = [self._reserve(one) if one.arrives else self._commit(one) for one in asked]
        for event, outcome in zip(asked, self._ledger.execute(commands), strict=True):
            if isinstance(outcome, Failed):
                raise outcome.error
            answer = outcome if isinstance(outcome, Refused) else outcome.answer
            match answer:
                case Reserved():
                    self._admitted.add(event.request.row.row)
                    self.tally.admit(event.ticks, event.request, answer.balances[0])
                case Refused() if event.arrives:
                    self.tally.deny(event.ticks, event.request, answer)
                case Committed():
                    self._admitted.discard(event.request.row.row)
                    self.tally.settle(event.ticks, event.request, answer)
                case _:
                    require(False, f"row {event.request.row.row} settles, but: {answer}")

    def _reserve(self, event: Event) -> AnyCommand:
        """Hold the estimate for at least as long as the request runs."""
        request = event.request
        name = f"row-{request.row.row}"
        return Reserve(
            tenant=self._tenant,
            idempotency=self._idempotency("reserve", name, request.estimate_amount),
            reservation_id=name,
            unit=self._unit,
            estimate_amount=request.estimate_amount,
            scopes=self._scopes,
            subject=self._subject,
            action=self._action,
            grace_ms=0,
            ttl_ms=self._lease_ms(event),
        )

    def _lease_ms(self, event: Event) -> int:
        return max(TTL_MS_MIN, event.service_ms + BATCH_SPAN_MS)

    def _commit(self, event: Event) -> AnyCommand:
        request, row = event.request, event.request.row
        name = f"row-{row.row}"
        return Commit(
            tenant=self._tenant,
            idempotency=self._idempotency(f"commit:{name}", name, request.actual_amount),
            reservation_id=name,
            unit=self._unit,
            actual_amount=request.actual_amount,
            metrics=f'{{"tokens_input":{row.context_tokens},"tokens_output":'
            f"{row.generated_tokens}}}",
        )

    def _idempotency(self, endpoint: str, name: str, amount: int) -> Idempotency:
        asked = f"{endpoint} {name} {amount} {self._unit.value}"
        return Idempotency(endpoint, name, sha256(asked.encode()).hexdigest())
