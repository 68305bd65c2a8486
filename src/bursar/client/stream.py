"""A stream under a reservation: reserve, let it run, commit what it used.

The rule that lives here: a stream settles when its block ends, once, with what is known.

| the block | known cost | what happens |
|---|---|---|
| ended | set, or computed from the usage | commit |
| ended | none | commit of the estimate, marked |
| raised, cancelled | set, or computed from recorded usage | commit of what is known |
| raised, cancelled | usage was recorded, no cost follows from it | unknown: neither is sent |
| raised, cancelled | nothing was recorded | release, reason `stream_failed` |
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from typing import TYPE_CHECKING, Any, Self, TypeVar

from bursar.client.action import GuardedAction
from bursar.client.calls import body_of
from bursar.client.exceptions import CyclesError
from bursar.client.lost import TaskWatch
from bursar.client.plans import plan_of, terms_of
from bursar.client.settler import Intent
from bursar.client.settling import unsettled
from bursar.client.usage import StreamUsage, full_cost, known_cost, metrics_of
from bursar.flow import run_sync
from bursar.vocabulary import Decision

if TYPE_CHECKING:
    from bursar.client.exceptions import CyclesProtocolError
    from bursar.client.models import Action, Amount, Caps, Subject

Chunk = TypeVar("Chunk")
STREAM_TTL_MS = 120_000
FAILED = "stream_failed"


class _Stream:
    """What a stream knows, and its flows; the shells below drive them."""

    COMMIT_FAILED = "Stream commit did not settle synchronously; known spend was not released"
    RELEASE_FAILED = "Stream release failed"

    def __init__(
        self,
        client: Any,
        *,
        subject: Subject,
        action: Action,
        estimate: Amount,
        ttl_ms: int = STREAM_TTL_MS,
        grace_period_ms: int | None = None,
        overage_policy: str = "ALLOW_IF_AVAILABLE",
        cost_fn: Callable[[StreamUsage], int] | None = None,
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
        raise_on_commit_failure: bool = False,
    ) -> None:
        """Plan a stream; nothing is sent before its block is entered.

        Args:
            client: whose server it is reserved at.
            subject: who spends.
            action: what is done.
            estimate: the most it should cost.
            ttl_ms: the lease, 1000 to 86400000 ms; the heartbeat renews it.
            grace_period_ms: 0 to 60000 ms after the lease in which a commit still works.
            overage_policy: what happens if it costs more than the estimate.
            cost_fn: computes the cost from the usage, in the estimate's unit.
            metadata: kept with the commit.
            idempotency_key: 1 to 256 characters; the keys of commit and release follow from it.
            raise_on_commit_failure: whether leaving the block raises `settlement_error`.

        Raises:
            ValueError: a field is out of its range.
        """
        engine = client._engine
        asked = body_of(estimate)
        terms = terms_of(
            subject=body_of(subject),
            action=body_of(action),
            unit=asked["unit"],
            ttl_ms=ttl_ms,
            grace_period_ms=grace_period_ms,
            overage_policy=overage_policy,
        )
        plan = plan_of(
            terms,
            engine.io.new_key,
            estimate=asked["amount"],
            idempotency_key=idempotency_key,
            commit_metadata=metadata,
        )
        self.usage = StreamUsage()
        self.settlement_error: CyclesProtocolError | None = None
        self._action = GuardedAction(engine, plan, self.RELEASE_FAILED)
        self._cost_fn = cost_fn
        self._raise = raise_on_commit_failure
        self._entered = False
        self._client = client

    @property
    def reservation_id(self) -> str:
        """The server's id of the reservation.

        Raises:
            RuntimeError: the block was not entered.
        """
        return self._action.held.reservation_id

    @property
    def decision(self) -> Decision:
        """ALLOW or ALLOW_WITH_CAPS; ALLOW before the block is entered."""
        return self._action.held.context.decision if self._action.began else Decision.ALLOW

    @property
    def caps(self) -> Caps | None:
        """The limits to keep within, if the decision has any."""
        return self._action.held.context.caps if self._action.began else None

    @property
    def release_error(self) -> Exception | None:
        """Why a release was not confirmed, if one was tried."""
        return self._action.held.release_error if self._action.began else None

    def _enter_once(self) -> None:
        if self._entered:
            raise CyclesError("a stream reservation is entered once; make a new one")
        self._entered = True

    def _exit(self, failed: bool) -> Coroutine[Any, Any, None]:
        """Return the settlement of the block; its cost is computed here, in the caller's code."""
        usage, context = self.usage, self._action.held.context
        metrics = None if context.metrics else metrics_of(usage)
        if not failed:
            cost = full_cost(usage, self._cost_fn, self._action.plan.estimate)
            return self._commit(self._action.ended(cost, metrics))
        known = known_cost(usage, self._cost_fn) if usage.touched else None
        if known is not None:
            context.spent = known.amount
        return self._action.fail(FAILED, maybe_spent=usage.touched, metrics=metrics)

    async def _commit(self, intent: Intent | None) -> None:
        step = await self._action.settle(intent)
        if step is not None:
            self.settlement_error = unsettled(step, self.COMMIT_FAILED, self._action.engine.config)
        if self._raise and self.settlement_error is not None:
            raise self.settlement_error


class StreamReservation(_Stream):
    """A context manager that reserves, and settles with `usage` when its block ends."""

    def track(
        self, chunks: Iterable[Chunk], on_chunk: Callable[[Chunk, StreamUsage], None]
    ) -> Iterator[Chunk]:
        """Yield `chunks` while `on_chunk(chunk, usage)` adds up what they used."""
        for chunk in chunks:
            on_chunk(chunk, self.usage)
            yield chunk

    def __enter__(self) -> Self:
        """Reserve and keep the lease alive."""
        self._enter_once()
        self._action.begin(run_sync(self._action.ask()))
        self._action.enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Settle."""
        self._action.leave()
        run_sync(self._exit(kind is not None))


class AsyncStreamReservation(_Stream):
    """An async context manager that reserves, and settles with `usage` when its block ends."""

    COMMIT_FAILED = "Async stream commit did not settle synchronously; known spend was not released"
    RELEASE_FAILED = "Async stream release failed"

    async def track(
        self, chunks: AsyncIterable[Chunk], on_chunk: Callable[[Chunk, StreamUsage], None]
    ) -> AsyncIterator[Chunk]:
        """Yield `chunks` while `on_chunk(chunk, usage)` adds up what they used."""
        async for chunk in chunks:
            on_chunk(chunk, self.usage)
            yield chunk

    async def __aenter__(self) -> Self:
        """Reserve and keep the lease alive."""
        self._enter_once()
        opened = await self._client._supervisor.finish_or(self._action.ask(), self._action.abandon)
        self._watch = TaskWatch(self._action, self._client._supervisor)
        self._watch.attend()
        self._action.begin(opened, self._watch.lost)
        self._action.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *trace: object
    ) -> None:
        """Settle."""
        self._action.leave()
        if kind is None:
            await self._watch.finish(self._exit(failed=False))
        else:
            await self._client._supervisor.finish(self._exit(failed=True))
            self._watch.explain(error)
