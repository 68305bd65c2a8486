"""One guarded action: a flow before the user's code and a flow after it.

The rule that lives here: user code never runs inside a flow. `begin` asks; then the caller
runs the action in its own thread or task; then exactly one of `succeed` and `fail` is
called. What follows from how the action ended:

| the action | known spend | what happens |
|---|---|---|
| returned | its cost, or the estimate, marked | commit; never a release |
| raised, was cancelled or closed | recorded with `record_spend` | commit of what is known |
| raised, was cancelled or closed | none, but something may be spent | nothing is sent; logged |
| raised, was cancelled or closed | none | release |
| lost its lease under `cancel` | as above | then `HeartbeatLost` |
| ended in a forked child of its process | - | nothing is sent: its parent settles it |
| was left by the interpreter's end | - | the lease ends by itself; the journal has commits |
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Token
from typing import Any, TypeVar

from bursar.client import context as contexts
from bursar.client.context import CyclesContext
from bursar.client.cost import Cost, metadata_of, metrics_of
from bursar.client.held import RELEASE_FAILED, Engine, Held, Parting
from bursar.client.opening import Opened, Plan, open_reservation
from bursar.client.settler import Intent
from bursar.client.settling import Step

T = TypeVar("T")
Flow = Coroutine[Any, Any, T]
log = logging.getLogger("bursar.client")


class GuardedAction:
    """What happens around one run of a user's code."""

    def __init__(self, engine: Engine, plan: Plan, release_failed: str = RELEASE_FAILED) -> None:
        """Plan it; nothing is sent before `begin`."""
        self._release_failed = release_failed
        self.engine = engine
        self.plan = plan
        self.dry_run_answer: dict[str, Any] | None = None
        self._held: Held | None = None
        self._token: Token[CyclesContext | None] | None = None
        self._began_ms = 0.0
        self._took_ms: int | None = None

    @property
    def held(self) -> Held:
        """The reservation.

        Raises:
            RuntimeError: it was not made yet.
        """
        if self._held is None:
            raise RuntimeError("reservation_id not available outside context manager")
        return self._held

    @property
    def began(self) -> bool:
        """Whether a reservation was made."""
        return self._held is not None

    async def ask(self) -> Opened:
        """Reserve; nothing of this object changes, so an abandoned ask leaves no trace."""
        self.engine.settler.watch()
        return await open_reservation(self.engine.io, self.plan)

    def begin(self, opened: Opened, on_lost: Callable[[], None] | None = None) -> None:
        """Hold what was granted and keep it alive; the caller runs the action next."""
        if self.plan.dry_run:
            self.dry_run_answer = opened.body
            return
        self._held = Held(self.engine, self.plan, opened, self._release_failed)
        self._held.keep_alive(on_lost)
        self._began_ms = self.engine.io.monotonic_ms()

    def abandon(self, opened: Opened) -> Flow[None]:
        """Return the flow that gives back what was granted to a caller who is gone by now."""
        if not opened.reservation_id:
            return _give_back(None)
        held = Held(self.engine, self.plan, opened, self._release_failed)
        return _give_back(held.part("cancelled_before_start"))

    def enter(self) -> CyclesContext:
        """Make the reservation the current one; `leave` undoes it."""
        self._token = contexts.enter(self.held.context)
        return self.held.context

    def leave(self) -> None:
        """Give the outer context back; safe to call twice."""
        if self._token is not None:
            token, self._token = self._token, None
            contexts.leave(token)

    def within(self, step: Callable[[], T]) -> T:
        """Run one step of the action with its reservation as the current one."""
        self.enter()
        try:
            return step()
        finally:
            self.leave()

    async def within_async(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run one step of the action with its reservation as the current one."""
        self.enter()
        try:
            return await step()
        finally:
            self.leave()

    def intend(
        self, cost: Cost, metrics: Any = None, metadata: Mapping[str, Any] | None = None
    ) -> Intent | None:
        """Write down what the action cost; None if it was ended by hand before.

        This happens in the caller's own step: a task that settles may be cancelled before it
        runs at all.

        Args:
            cost: what it cost.
            metrics: what was measured; None is what the context says.
            metadata: what to keep with the commit, besides what the context says.
        """
        if not self.held.claim():
            return None
        said = {**metadata_of(self.held.context.commit_metadata), **metadata_of(metadata)}
        measured = self._measured(metrics)
        return self.held.intend(cost.amount, measured, {**said, **cost.metadata})

    def succeed(self, cost: Cost, metrics: Any = None) -> Flow[Step | None]:
        """Write down what the action cost, and return the flow that commits it."""
        return self.settle(self.ended(cost, metrics))

    def ended(self, cost: Cost, metrics: Any = None) -> Intent | None:
        """Write down what the action cost that ended here, unless here is a forked child."""
        return None if self.held.inherited else self.intend(cost, metrics)

    async def settle(
        self,
        intent: Intent | None,
        *,
        keep: bool = True,
    ) -> Step | None:
        """Commit what was intended; None if it was ended by hand before, or the background does.

        Args:
            intent: what it cost.
            keep: whether a commit that settles nothing is asked again in the background.

        Raises:
            HeartbeatLost: the lease was lost and the policy says to fail; after the commit.
        """
        if intent is None:
            return None
        step = await self.held.settle(intent, keep=keep)
        if step is not None:
            self.held.raise_if_lost()
        return step

    def fail(
        self,
        reason: str,
        *,
        maybe_spent: bool = False,
        metrics: Any = None,
    ) -> Flow[None]:
        """Write down what is known to be spent, and return the flow that commits or releases.

        Args:
            reason: why, for the server's record.
            maybe_spent: whether something may have been spent although no cost is known;
                then nothing is sent, and the hold stays until the lease ends.
            metrics: what was measured; None is what the context says.
        """
        spent = self.held.context.spent
        if self.held.inherited:
            return self._commit_known(None)
        if spent is None:
            return _give_back(self._give_up(reason, maybe_spent))
        return self._commit_known(self.intend(Cost(spent), metrics, {"action_ended": reason}))

    async def _commit_known(self, intent: Intent | None) -> None:
        if intent is not None:
            await self.held.settle(intent)

    def _give_up(self, reason: str, maybe_spent: bool) -> Parting | None:
        """End an action whose cost nobody knows; None if there is nothing to release."""
        held = self.held
        if not maybe_spent:
            return held.part(reason)
        if held.claim():
            log.error(
                "reservation %s: the action ended early (%s) and what it spent is unknown; it is "
                "neither committed nor released, and its hold stays until the lease ends",
                held.reservation_id,
                reason,
            )
        return None

    def _measured(self, metrics: Any) -> dict[str, Any]:
        """Return the metrics to commit: those given, else those of the context."""
        if self._took_ms is None:  # a commit that is repeated by hand is the same commit
            self._took_ms = int(self.engine.io.monotonic_ms() - self._began_ms)
        given = self.held.context.metrics if metrics is None else metrics
        return metrics_of(given, self._took_ms)


async def _give_back(parting: Parting | None) -> None:
    if parting is not None:
        await parting.go()
