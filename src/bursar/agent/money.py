"""The purse of a session: reservations, settlements and caps of its guarded actions.

The rule that lives here: reserve, act, settle, in this order, and exactly one settlement for
each reservation. What follows from how the action ended:

| the action | what the ledger is told |
|---|---|
| answered, with its usage | commit of its price |
| answered, and nobody knows its usage | commit of what was reserved, marked as a bound |
| refused by the provider, or never sent | release |
| broke off, timed out, was cancelled or abandoned | commit of the most that it can have cost |
| answered by a process that was then killed | the same commit again, under the same key |

A cost that is not known is never zero: budgets are held to what may have been spent. The one
exception is an action in whose middle the process was killed: see `calls`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from bursar.agent.account import tell
from bursar.agent.calls import Calls, Recorded, turn_of
from bursar.agent.ports import BudgetDenied, Charge
from bursar.client.aio import AsyncCyclesClient
from bursar.client.exceptions import (
    CyclesProtocolError,
    ReservationFinalizedError,
    error_from_response,
)
from bursar.client.guard import AsyncStreamHandle
from bursar.client.models import Caps
from bursar.client.plans import action_of, derived_key, subject_of
from bursar.client.settling import event_body
from bursar.money import Unpriced
from bursar.vocabulary import ErrorCode, Unit

log = logging.getLogger("bursar.agent")

ATTEMPTS_MAX = 8
STEPS_USED_UP = "MAX_STEPS_REMAINING"
DENIALS = frozenset(
    {
        *(ErrorCode.BUDGET_EXCEEDED, ErrorCode.BUDGET_FROZEN, ErrorCode.BUDGET_CLOSED),
        *(ErrorCode.OVERDRAFT_LIMIT_EXCEEDED, ErrorCode.DEBT_OUTSTANDING),
        *(ErrorCode.TENANT_CLOSED, ErrorCode.LIMIT_EXCEEDED),
    }
)
"""Refusals that mean: not now, or not for this money. Others are mistakes of the setup."""


@dataclass(slots=True)
class Leash:
    """The caps of a turn: the model's latest ones, how many steps are left, and when the next is.

    A step is a call of a model or a use of a tool. Several may begin at the same time, so each
    takes its place before it is reserved.
    """

    turn: str = ""
    caps: Caps | None = None
    steps_left: int | None = None
    cooldown_s: float = 0.0
    not_before: float = 0.0

    def enter(self, turn: str) -> None:
        """Begin with a turn, unless it is the one that runs."""
        if turn != self.turn:
            self.turn, self.caps, self.steps_left = turn, None, None

    def take(self, now: float) -> float | None:
        """Take the next step; return how long to wait for it, or None if none is left."""
        if self.steps_left == 0:
            return None
        if self.steps_left is not None:
            self.steps_left -= 1
        begins = max(now, self.not_before)
        self.not_before = begins + self.cooldown_s
        return begins - now

    def granted(self, caps: Caps | None, now: float) -> None:
        """Hear the caps of a step; what an earlier one left is not exceeded by a later one."""
        said = None if caps is None else caps.max_steps_remaining
        known = [one for one in (self.steps_left, said) if one is not None]
        self.steps_left = min(known) if known else None
        self.cooldown_s = ((caps and caps.cooldown_ms) or 0) / 1_000
        self.not_before = max(self.not_before, now + self.cooldown_s) if self.cooldown_s else now

    def allows(self, tool: str) -> bool:
        """Return whether a tool may be used."""
        return self.caps is None or self.caps.is_tool_allowed(tool)


@dataclass(slots=True)
class Action:
    """One guarded action on its way through the ledger."""

    name: str
    kind: str
    key: str
    asked: str
    estimate: int
    attempt: int = 1
    calls: str = ""
    began: float = field(default_factory=time.monotonic)
    settling: bool = False
    left: bool = False

    @property
    def ledger_key(self) -> str:
        """The idempotency key of the reservation, within 256 characters."""
        plain = f"{self.calls}{self.calls and '/'}{self.key}#{self.attempt}"
        if len(plain) <= 200:  # keys of later steps have a prefix
            return plain
        return f"sha256-{hashlib.sha256(plain.encode()).hexdigest()}"


class Purse:
    """Pays for the models and tools of one session.

    Attributes:
        charges: everything that the ledger was told, also of turns that did not commit.
    """

    def __init__(
        self,
        client: AsyncCyclesClient,
        *,
        calls: Calls | None = None,
        sleep: Callable[[float], Any] = asyncio.sleep,
        **subject: Any,
    ) -> None:
        """Pay with a client, embedded or remote.

        Args:
            client: of the ledger.
            calls: what came of the actions so far; a `FileCalls` survives the process.
            sleep: waits for a cooldown.
            subject: who spends, such as `agent="bot"`; the client's subject fills the rest.
        """
        self.charges: list[Charge] = []
        self._client = client
        self._calls = calls or Calls()
        self._sleep = sleep
        self._commits: set[asyncio.Future[Charge]] = set()
        self._open: list[tuple[Action, AsyncStreamHandle]] = []
        self._subject = subject
        self.leash = Leash()

    def spent(self, session_id: str, committed: int) -> int:
        """Return what a session has spent here, turns that did not commit included.

        What was left behind counts with all that it may cost, until that is known.
        """
        return self._calls.spent(session_id, committed) + self.behind(f"{session_id}/")

    def left(self, prefix: str) -> None:
        """Hear that a turn is over: nobody waits for its actions any more, and they may go on."""
        for action, _ in self._open:
            action.left = action.left or action.key.startswith(prefix)

    def behind(self, prefix: str) -> int:
        """Return the most that actions may still cost whose turns are over."""
        self._open = [one for one in self._open if not (one[0].settling or one[1].finalized)]
        return sum(
            action.estimate
            for action, _ in self._open
            if action.left and action.key.startswith(prefix)
        )

    # The way of one action.

    def recalled(self, action: Action) -> Recorded | None:
        """Return what came of an action before the process was killed, if anything did."""
        action.calls = self._calls.name
        found = self._calls.recall(action.key, action.asked)
        if found is not None:
            action.attempt = found.attempt
        return found

    async def step(self, action: Action) -> None:
        """Wait until the caps of the steps before allow another one.

        Raises:
            BudgetDenied: they allow no further step.
        """
        self.leash.enter(turn_of(action.key))
        wait_s = self.leash.take(time.monotonic())
        if wait_s is None:
            raise BudgetDenied(
                f"{action.name}: the ledger allowed no further step of this turn",
                STEPS_USED_UP,
                action=action.name,
            )
        if wait_s > 0:
            await self._sleep(wait_s)

    async def reserve(self, action: Action) -> AsyncStreamHandle:
        """Make a step: reserve for an action under a key that nobody has used up.

        What earlier turns owe is settled first, so that the ledger decides about what is left.

        Raises:
            BudgetDenied: the ledger says no.
            CyclesProtocolError: it could not be asked, or not like this.
        """
        await self.step(action)
        await self._settle_owed(action.key)
        handle = await self._reserved(action)
        self._open.append((action, handle))
        self.leash.granted(handle.caps, time.monotonic())
        return handle

    async def _reserved(self, action: Action) -> AsyncStreamHandle:
        for last in (False,) * (ATTEMPTS_MAX - 1) + (True,):
            action.attempt = self._calls.begin(action.key)
            try:
                return await self._client.reserve_for_stream(
                    {
                        "estimate": action.estimate,
                        "action_kind": action.kind,
                        "action_name": action.name,
                        "idempotency_key": action.ledger_key,
                        **self._subject,
                    }
                )
            except CyclesProtocolError as error:
                used_up = isinstance(error, ReservationFinalizedError)
                if (used_up or error.is_idempotency_mismatch()) and not last:
                    continue  # an earlier process has used the number, and left no record
                if not used_up and (error.status == 200 or error.error_code in DENIALS):
                    raise _denied(action, error) from error
                raise
        raise AssertionError("the last try returns or raises")

    def record(
        self,
        handle: AsyncStreamHandle,
        action: Action,
        cost: int | Unpriced,
        answer: Any,
        **metrics: Any,
    ) -> Recorded:
        """Write down what came of an action, before it is settled."""
        bound = isinstance(cost, Unpriced)
        amount = action.estimate if isinstance(cost, Unpriced) else cost
        metrics["latency_ms"] = int((time.monotonic() - action.began) * 1_000)
        rid = handle.reservation_id
        what = (action.name, action.kind, action.asked)
        found = Recorded(action.attempt, rid, *what, amount, bound, answer, metrics)
        self._calls.record(action.key, found)
        return found

    async def settle(self, handle: AsyncStreamHandle, action: Action, recorded: Recorded) -> Charge:
        """Commit what came of an action; the SDK asks until it is known, and journals it.

        A wait that is cancelled cuts nothing off: what comes of the commit is noted all the same.
        """
        charge = self._charge(action, recorded, settled=False)
        action.settling = True
        place = len(self.charges)
        self.charges.append(charge)  # before the wait
        tell(charge)
        commit = asyncio.ensure_future(self._commit(handle, action, recorded, place))
        self._commits.add(commit)
        commit.add_done_callback(self._committed)
        return await asyncio.shield(commit)

    async def _commit(
        self, handle: AsyncStreamHandle, action: Action, recorded: Recorded, place: int
    ) -> Charge:
        await handle.commit(recorded.amount, recorded.metrics, _said(recorded))
        if handle.settlement_error is None:
            self._calls.settled(action.key, action.attempt)
            self.charges[place] = replace(self.charges[place], settled=True)
            tell(self.charges[place])
        return self.charges[place]

    def _committed(self, commit: asyncio.Future[Charge]) -> None:
        self._commits.discard(commit)
        if not commit.cancelled():
            commit.exception()  # looked at: whoever waits gets it, and nobody may wait any more

    async def settle_again(self, action: Action, recorded: Recorded) -> Charge:
        """Repeat the commit of an action that an earlier process may have settled.

        Raises:
            CyclesProtocolError: the ledger could not confirm it; it can be asked again.
        """
        rid = recorded.reservation_id
        body: dict[str, Any] = {
            "idempotency_key": derived_key("commit", action.ledger_key),
            "actual": {"unit": Unit.USD_MICROCENTS.value, "amount": recorded.amount},
            "metrics": recorded.metrics,
        }
        if recorded.bound:
            body["metadata"] = _said(recorded)
        response = await self._client.commit_reservation(rid, body)
        if response.error_code == ErrorCode.RESERVATION_EXPIRED:  # the lease ended meanwhile
            subject = subject_of(self._client.config, self._subject)
            event = event_body(subject, action_of(action.kind, action.name), body, rid)
            response = await self._client.create_event(event)
        if not response.is_success:
            raise error_from_response("Failed to settle a repeated action", response)
        self._calls.settled(action.key, action.attempt)
        charge = self._charge(action, recorded, settled=True)
        for place, one in enumerate(self.charges):
            if one.key == charge.key:  # begun by this process, which did not wait for the end
                self.charges[place] = charge
                return charge
        self.charges.append(charge)
        return charge

    def knows(self, charges: Iterable[Charge]) -> None:
        """Remember charges that an earlier process has told the ledger."""
        known = {one.key for one in self.charges}
        self.charges += [one for one in charges if one.key not in known]

    async def _settle_owed(self, key: str) -> None:
        """Settle what earlier turns left; what the ledger does not confirm stays written down."""
        for owed, recorded in self._calls.owed(key):
            action = Action(
                *(recorded.name, recorded.kind, owed, recorded.asked, recorded.amount),
                attempt=recorded.attempt,
                calls=self._calls.name,
            )
            try:
                await self.settle_again(action, recorded)
            except CyclesProtocolError as error:
                log.warning(
                    "%s: %d microcents of an earlier turn are not settled yet, and stay on"
                    " record: %s",
                    *(recorded.name, recorded.amount, error),
                )
                if error.is_retryable():
                    return  # not now: the others would wait in vain as well

    def _charge(self, action: Action, recorded: Recorded, *, settled: bool) -> Charge:
        return Charge(
            action.name,
            recorded.amount,
            Unit.USD_MICROCENTS,
            action.ledger_key,
            recorded.reservation_id,
            recorded.bound,
            settled,
        )

    async def broke_off(
        self, handle: AsyncStreamHandle, action: Action, why: str, most: int | None
    ) -> None:
        """Commit the most that an action can have cost, or release what cost nothing."""
        if action.settling or handle.finalized:
            return
        if most is None:
            await handle.release(why)
            return
        elapsed_ms = int((time.monotonic() - action.began) * 1_000)
        unanswered = Recorded(
            *(action.attempt, handle.reservation_id, action.name, action.kind, action.asked),
            *(most, True, None, {"latency_ms": elapsed_ms}),
        )
        self._calls.record(action.key, unanswered)
        await self.settle(handle, action, unanswered)


def _denied(action: Action, error: CyclesProtocolError) -> BudgetDenied:
    return BudgetDenied(
        str(error),
        error.code or "DENIED",
        action=action.name,
        retry_after_ms=error.retry_after_ms,
        details=error.details,
    )


def _said(recorded: Recorded) -> dict[str, Any]:
    return {"actual_source": "bound"} if recorded.bound else {}
