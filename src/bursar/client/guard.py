"""A reservation in the user's hands: settle it once, or it warns and gives itself back.

The rule that lives here: a guard that nobody settled is a mistake that must be seen and must
not cost. Leaving its block, losing the last reference to it and the end of the interpreter
all warn and release with reason `guard_dropped`; none of them waits for long.

| call | open | finalized |
|---|---|---|
| `commit` | one settlement, by every means | `CyclesError` |
| `release` | one release, best effort | `CyclesError`; the stream handle: nothing |
| `dispose` (stream handle) | the heartbeat stops, nothing is sent | nothing |
| `extend` | one extension | one extension; the server decides |

With `on_commit_failure="reset"` a commit that nobody confirmed leaves the guard open, to be
committed again. Whatever else then becomes of it, it is not released: it may be spent.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from bursar.client import ending
from bursar.client.action import Flow, GuardedAction
from bursar.client.cost import Cost, is_amount
from bursar.client.exceptions import CyclesError
from bursar.client.held import Held, Parting
from bursar.client.outcome import Verdict
from bursar.client.settler import Intent
from bursar.client.settling import unsettled
from bursar.client.shell import Supervisor
from bursar.flow import run_sync

if TYPE_CHECKING:
    from bursar.client.exceptions import CyclesProtocolError
    from bursar.client.models import (
        Caps,
        CommitResponse,
        EventCreateResponse,
        ReleaseResponse,
    )

ABORTED = "stream_aborted"
COMMIT_FAILED = "Commit failed"


class Kind(NamedTuple):
    """What a guard is called, and how it is released."""

    name: str
    reason: str
    """Why it is released, if nobody says so."""
    once: bool
    """Whether releasing it after its end is an error, as it is for a commit."""


GUARD = Kind("ReservationGuard", "released", once=True)
STREAM = Kind("StreamReservation", ABORTED, once=False)


class _Guard:
    """What a guard knows, and its flows; the shells below drive them."""

    _kind: ClassVar[Kind] = GUARD

    def __init__(self, action: GuardedAction) -> None:
        """Take over an action whose reservation was made."""
        self._action = action
        self._held = action.held
        self.settlement_error: CyclesProtocolError | None = None
        self._maker = ending.opened(self._held, self._kind.name)
        self._dropped = weakref.finalize(self, ending.dropped, self._held, self._maker)
        self._dropped.atexit = False  # the end of the interpreter has its own order: `ending`

    def __repr__(self) -> str:
        """Show what a log needs, and nothing secret."""
        return (
            f"<{type(self).__name__} {self.reservation_id} {self.decision} "
            f"finalized={self.finalized}>"
        )

    @property
    def reservation_id(self) -> str:
        """The server's id of the reservation."""
        return self._held.reservation_id

    @property
    def decision(self) -> str:
        """ALLOW or ALLOW_WITH_CAPS."""
        return str(self._held.context.decision)

    @property
    def caps(self) -> Caps | None:
        """The limits to keep within, if the decision has any."""
        return self._held.context.caps

    @property
    def is_capped(self) -> bool:
        """Whether the decision is ALLOW_WITH_CAPS."""
        return self.decision == "ALLOW_WITH_CAPS"

    @property
    def expires_at_ms(self) -> int | None:
        """The end of the lease: epoch milliseconds, the server's clock; beats move it."""
        return self._held.context.expires_at_ms

    @property
    def affected_scopes(self) -> list[str]:
        """Every scope that the reservation touches, outermost first."""
        return list(self._held.context.affected_scopes or [])

    @property
    def finalized(self) -> bool:
        """Whether a terminal call was made."""
        return self._held.finalized

    def _cost(self, actual: Any) -> tuple[Cost, Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Return cost, metrics and metadata from an amount in any form a user may hold."""
        metrics = metadata = None
        if hasattr(actual, "actual"):  # a CommitRequest
            metrics = actual.metrics.model_dump(exclude_none=True) if actual.metrics else None
            metadata = actual.metadata
            actual = actual.actual
        elif isinstance(actual, Mapping) and "actual" in actual:
            metrics, metadata = actual.get("metrics"), actual.get("metadata")
            actual = actual["actual"]
        unit = actual.get("unit") if isinstance(actual, Mapping) else getattr(actual, "unit", None)
        if unit is not None and str(unit) != self._held.plan.unit:
            raise ValueError(f"actual: unit must be {self._held.plan.unit}, got {unit}")
        if isinstance(actual, Mapping):
            actual = actual.get("amount")
        return self._amount(getattr(actual, "amount", actual)), metrics, metadata

    def _amount(self, amount: Any) -> Cost:
        if not is_amount(amount):
            raise ValueError(f"actual must be a non-negative int64, got {amount!r}")
        return Cost(amount)

    def _commit(
        self, actual: Any, metrics: Any, metadata: Mapping[str, Any] | None
    ) -> Flow[CommitResponse | EventCreateResponse | None]:
        """Write down what was spent, and return the flow that commits it."""
        if self.finalized:
            raise self._ended()
        cost, own_metrics, own_metadata = self._cost(actual)
        intent = self._action.intend(
            cost,
            own_metrics if metrics is None else metrics,
            {**(own_metadata or {}), **(metadata or {})},
        )
        if intent is None:
            raise self._ended()
        return self._settle(intent)

    async def _settle(self, intent: Intent) -> CommitResponse | EventCreateResponse | None:
        config = self._action.engine.config
        keep = config.on_commit_failure == "journal"
        step = await self._action.settle(intent, keep=keep)
        if step is None:
            return None
        if step.outcome.settled:
            self.settlement_error = None  # of a commit before, with `on_commit_failure="reset"`
            answer: CommitResponse | EventCreateResponse = step.outcome.answer
            return answer
        self.settlement_error = unsettled(step, COMMIT_FAILED, config)
        if self.settlement_error and (not keep or step.outcome.verdict is Verdict.REJECTED):
            raise self.settlement_error
        return None

    def _release(self, reason: str | None) -> Flow[ReleaseResponse | None]:
        """Claim the end of the guard, and return the flow that releases it."""
        parting = self._held.part(reason or self._kind.reason)
        if parting is None and self._kind.once:
            raise self._ended()
        return _released(parting)

    def _dispose(self) -> None:
        if self._held.claim():
            self._held.hand_over()

    def _ended(self) -> CyclesError:
        return CyclesError(f"{self._kind.name} already finalized")

    async def _extend(self, extend_by_ms: int) -> int | None:
        await self._held.extend(extend_by_ms)
        return self.expires_at_ms

    def _leave(self) -> Flow[None]:
        """Return the flow that ends a block, in which somebody should have settled the guard."""
        inherited = self._held.inherited
        return self._left(None if inherited else self._held.part(ending.DROPPED))

    async def _left(self, parting: Parting | None) -> None:
        if parting is None:
            return
        committed = self._held.unconfirmed
        await parting.go()
        if not committed:
            ending.warn(self._held, self._maker)  # last: a filter may turn it into an error


async def _released(parting: Parting | None) -> ReleaseResponse | None:
    outcome = None if parting is None else await parting.go()
    answer: ReleaseResponse | None = None if outcome is None else outcome.answer
    return answer


class ReservationGuard(_Guard):
    """A live reservation; commit or release it once. Also a context manager."""

    def commit(
        self, actual: Any, metrics: Any = None, metadata: Mapping[str, Any] | None = None
    ) -> CommitResponse | EventCreateResponse | None:
        """Commit what the action cost and return the server's answer.

        Args:
            actual: int64 in the reservation's unit, an `Amount`, or a `CommitRequest`.
            metrics: what the action measured (`CyclesMetrics`).
            metadata: JSON values kept with the commit.

        Returns:
            The answer, that of an event if the lease had ended. None while it is not known:
            the commit is then in the journal, is asked again in the background, and
            `settlement_error` says why.

        Raises:
            CyclesError: it was finalized before.
            CyclesProtocolError: the server rejected it for good, or, with
                `on_commit_failure="reset"`, could not confirm it.
            ValueError: `actual` is no non-negative int64, or its unit is another.
        """
        return run_sync(self._commit(actual, metrics, metadata))

    def release(self, reason: str | None = None) -> ReleaseResponse | None:
        """Give back what is held; None if the server did not confirm it (the lease then ends).

        Raises:
            CyclesError: it was finalized before.
        """
        return run_sync(self._release(reason))

    def extend(self, extend_by_ms: int) -> int | None:
        """Extend the lease by hand and return its new end (epoch ms, the server's clock).

        Raises:
            ValueError: `extend_by_ms` is not between 1 and 86400000.
            CyclesProtocolError: the server refused, or nobody knows.
        """
        return run_sync(self._extend(extend_by_ms))

    def __enter__(self) -> Self:
        """Make the reservation the current one (`get_cycles_context`)."""
        self._action.enter()
        return self

    def __exit__(self, *error: object) -> None:
        """Release with a warning if nobody settled it."""
        self._action.leave()
        run_sync(self._leave())


class AsyncReservationGuard(_Guard):
    """A live reservation; commit or release it once. Also an async context manager."""

    def __init__(self, action: GuardedAction, supervisor: Supervisor) -> None:
        """Take over an action whose reservation was made."""
        super().__init__(action)
        self._supervisor = supervisor

    async def commit(
        self, actual: Any, metrics: Any = None, metadata: Mapping[str, Any] | None = None
    ) -> CommitResponse | EventCreateResponse | None:
        """Commit what the action cost and return the server's answer.

        Args:
            actual: int64 in the reservation's unit, an `Amount`, or a `CommitRequest`.
            metrics: what the action measured (`CyclesMetrics`).
            metadata: JSON values kept with the commit.

        Returns:
            The answer, that of an event if the lease had ended. None while it is not known:
            the commit is then in the journal, is asked again in the background, and
            `settlement_error` says why.

        Raises:
            CyclesError: it was finalized before.
            CyclesProtocolError: the server rejected it for good, or, with
                `on_commit_failure="reset"`, could not confirm it.
            ValueError: `actual` is no non-negative int64, or its unit is another.
        """
        return await self._supervisor.finish(self._commit(actual, metrics, metadata))

    async def release(self, reason: str | None = None) -> ReleaseResponse | None:
        """Give back what is held; None if the server did not confirm it (the lease then ends).

        Raises:
            CyclesError: it was finalized before.
        """
        return await self._supervisor.finish(self._release(reason))

    async def extend(self, extend_by_ms: int) -> int | None:
        """Extend the lease by hand and return its new end (epoch ms, the server's clock).

        Raises:
            ValueError: `extend_by_ms` is not between 1 and 86400000.
            CyclesProtocolError: the server refused, or nobody knows.
        """
        return await self._supervisor.finish(self._extend(extend_by_ms))

    async def __aenter__(self) -> Self:
        """Make the reservation the current one (`get_cycles_context`)."""
        self._action.enter()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Release with a warning if nobody settled it."""
        self._action.leave()
        await self._supervisor.finish(self._leave())


class StreamHandle(ReservationGuard):
    """What `reserve_for_stream` returns: safe to end from several callbacks at once."""

    _kind: ClassVar[Kind] = STREAM

    def dispose(self) -> None:
        """Stop the heartbeat and send nothing: the stream never began."""
        self._dispose()

    def _amount(self, amount: Any) -> Cost:
        return _or_estimate(amount, self._held)


class AsyncStreamHandle(AsyncReservationGuard):
    """What `await reserve_for_stream` returns: safe to end from several callbacks at once."""

    _kind: ClassVar[Kind] = STREAM

    def dispose(self) -> None:
        """Stop the heartbeat and send nothing: the stream never began."""
        self._dispose()

    def _amount(self, amount: Any) -> Cost:
        return _or_estimate(amount, self._held)


def _or_estimate(amount: Any, held: Held) -> Cost:
    """Return the cost, or the estimate where a callback computed nonsense: it is spent."""
    return Cost(amount) if is_amount(amount) else Cost(held.plan.estimate, estimated=True)
