"""A replay under policies: what they would have capped, throttled and denied, each of them.

The rule that lives here: under a policy time decides, so every event is executed at its own
millisecond of the trace. A throttled commit is sent again when the ledger says so, because its
cost has happened; a throttled reservation is not, because nobody knows what its caller would
have done. A lease that is over gives its hold back at once.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from bursar.cli.replay.pricing import Request
from bursar.cli.replay.simulate import BATCH_MAX, Event, Replay, ServiceTime
from bursar.cli.replay.tally import Tally
from bursar.cli.replay.trace import TICKS_PER_MS
from bursar.core import policy as rules
from bursar.core.commands import AnyCommand, CreatePolicy, Expire
from bursar.core.outcomes import Committed, Expired, Refused, Reserved
from bursar.core.state import Policy
from bursar.core.throttle import seconds
from bursar.invariant import require
from bursar.ledger.service import Accepted, Failed, Outcome
from bursar.vocabulary import TTL_MS_DEFAULT, ErrorCode


class Kind(Enum):
    """What happens to a request; of one moment, what frees budget comes first."""

    COMPLETES = 0
    LAPSES = 1
    ARRIVES = 2


class Happening(NamedTuple):
    """One event; ordered by time, then by kind, then by row."""

    ticks: int
    kind: int
    row: int
    event: Event


@dataclass(slots=True)
class Effect:
    """What one policy did."""

    policy: Policy
    governed: int = 0
    denied: int = 0
    throttled: int = 0
    capped: int = 0
    over_cap: int = 0
    commits_throttled: int = 0


@dataclass(slots=True)
class Effects:
    """What all policies did, and what became of requests that no commit settled."""

    by_policy: dict[str, Effect] = field(default_factory=dict)
    ungoverned: int = 0
    commits_refused: Counter[str] = field(default_factory=Counter)
    unaccounted_amount: int = 0


class GovernedReplay(Replay):
    """One run of a trace against a new budget and new policies in an empty ledger."""

    def govern(self, policies: Sequence[Policy]) -> Effects:
        """Apply `policies` from the first request on; return what `run` will count."""
        self._policies = tuple(policies)
        self.effects = Effects({one.policy_id: Effect(one) for one in policies})
        self._settle_by_ms: dict[int, int] = {}
        self._refused: set[int] = set()
        self._heap: list[Happening] = []
        return self.effects

    def run(
        self,
        requests: Sequence[Request],
        service: ServiceTime,
        *,
        due: Callable[[int], bool] = lambda ticks: True,
        advance: Callable[[Tally], None] = lambda tally: None,
    ) -> Tally:
        """Replay all requests and return the totals (see `Replay.run`)."""
        self._provision(requests[0].row.ticks)
        created = self._ledger.execute(
            [CreatePolicy(tenant=self._tenant, record=one) for one in self._policies]
        )
        require(all(isinstance(one, Accepted) for one in created), "an empty ledger takes policies")
        for request in requests:
            event = Event(
                request.row.ticks, request, True, service.ms(request.row.generated_tokens)
            )
            self._push(request.row.ticks, Kind.ARRIVES, event)
        while self._heap:
            moment = self._moment()
            if not due(moment[-1].ticks):
                self.tally.interrupted = True
                break
            self._clock.move_to(moment[-1].ticks)
            asked = [one for one in moment if self._is_open(one)]
            if asked:
                commands = [self._command(one) for one in asked]
                for one, outcome in zip(asked, self._ledger.execute(commands), strict=True):
                    self._count(one, outcome)
            advance(self.tally)
        return self.tally

    def _lease_ms(self, event: Event) -> int:
        """Ask for the protocol's own lease, or longer where the request runs longer."""
        return max(TTL_MS_DEFAULT, super()._lease_ms(event))

    def _push(self, ticks: int, kind: Kind, event: Event) -> None:
        heapq.heappush(self._heap, Happening(ticks, kind.value, event.request.row.row, event))

    def _moment(self) -> list[Happening]:
        """Take everything that happens in the next millisecond, in order."""
        moment = [heapq.heappop(self._heap)]
        at_ms = moment[0].ticks // TICKS_PER_MS
        while (
            self._heap and self._heap[0].ticks // TICKS_PER_MS == at_ms and len(moment) < BATCH_MAX
        ):
            moment.append(heapq.heappop(self._heap))
        return moment

    def _is_open(self, one: Happening) -> bool:
        return one.kind == Kind.ARRIVES.value or one.row in self._settle_by_ms

    def _command(self, one: Happening) -> AnyCommand:
        match Kind(one.kind):
            case Kind.ARRIVES:
                return self._reserve(one.event)
            case Kind.COMPLETES:
                return self._commit(one.event)
            case Kind.LAPSES:
                return Expire(tenant=self._tenant, reservation_id=f"row-{one.row}")

    def _count(self, one: Happening, outcome: Outcome) -> None:
        """Count what the ledger answered, and note what follows from it."""
        if isinstance(outcome, Failed):
            raise outcome.error
        answer = outcome if isinstance(outcome, Refused) else outcome.answer
        request = one.event.request
        match answer:
            case Reserved():
                self._admit(one, answer)
            case Refused() if one.kind == Kind.ARRIVES.value:
                self._deny(one, answer)
            case Committed():
                del self._settle_by_ms[one.row]
                self.tally.settle(one.ticks, request, answer)
            case Refused() if one.kind == Kind.COMPLETES.value:
                self._unsettled(one, answer)
            case Expired():
                self._lapse(one)
            case _:
                require(False, f"row {one.row} goes on, but: {answer}")

    def _governing(self, ticks: int) -> Effect | None:
        found = rules.governing(self._policies, self._scopes[-1], ticks // TICKS_PER_MS)
        return None if found is None else self.effects.by_policy[found.policy_id]

    def _admit(self, one: Happening, answer: Reserved) -> None:
        event, row = one.event, answer.reservation
        self._settle_by_ms[one.row] = row.settle_by_ms
        done = one.ticks + event.service_ms * TICKS_PER_MS
        self._push(done, Kind.COMPLETES, event)
        if row.settle_by_ms < done // TICKS_PER_MS:
            self._push((row.settle_by_ms + 1) * TICKS_PER_MS, Kind.LAPSES, event)
        self.tally.admit(one.ticks, event.request, answer.balances[0])
        effect = self._governing(one.ticks)
        if effect is None:
            self.effects.ungoverned += 1
            return
        effect.governed += 1
        if answer.caps is not None:
            effect.capped += 1
            most = json.loads(answer.caps).get("max_tokens")
            effect.over_cap += most is not None and event.request.row.generated_tokens > most

    def _deny(self, one: Happening, refused: Refused) -> None:
        self.tally.deny(one.ticks, one.event.request, refused)
        effect = self._governing(one.ticks)
        if effect is None:
            self.effects.ungoverned += 1
            return
        effect.governed += 1
        if refused.code is ErrorCode.LIMIT_EXCEEDED:
            effect.throttled += 1
        else:
            effect.denied += 1

    def _unsettled(self, one: Happening, refused: Refused) -> None:
        """A commit that came too fast is sent again; what is refused for good is not settled."""
        settle_by_ms = self._settle_by_ms[one.row]
        if refused.code is ErrorCode.LIMIT_EXCEEDED and refused.retry_after_ms is not None:
            effect = self._governing(one.ticks)
            if effect is not None:
                effect.commits_throttled += 1
            again = one.ticks + 1_000 * seconds(refused.retry_after_ms) * TICKS_PER_MS
            self._push(again, Kind.COMPLETES, one.event)
            if settle_by_ms < again // TICKS_PER_MS:
                self._push((settle_by_ms + 1) * TICKS_PER_MS, Kind.LAPSES, one.event)
            return
        self._give_up(one, refused.reason_code)
        at_ms = max(settle_by_ms, one.ticks // TICKS_PER_MS) + 1
        self._push(at_ms * TICKS_PER_MS, Kind.LAPSES, one.event)

    def _lapse(self, one: Happening) -> None:
        """A lease that ends before its request is done leaves a cost that no commit takes."""
        del self._settle_by_ms[one.row]
        self.tally.lapse(one.event.request)
        if one.row not in self._refused:
            self._give_up(one, ErrorCode.RESERVATION_EXPIRED)

    def _give_up(self, one: Happening, reason: str) -> None:
        self._refused.add(one.row)
        self.effects.commits_refused[str(reason)] += 1
        self.effects.unaccounted_amount += one.event.request.actual_amount
