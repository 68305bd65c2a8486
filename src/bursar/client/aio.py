"""The asynchronous client.

The rule that lives here: a method is one line, build and run; what happens is written once,
in the flows. `tests/client/test_parity.py` holds this file against `sync.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from bursar.client import calls
from bursar.client.action import GuardedAction
from bursar.client.calls import Call
from bursar.client.config import CyclesConfig
from bursar.client.engines import loop_engine
from bursar.client.guard import AsyncReservationGuard, AsyncStreamHandle
from bursar.client.opening import Plan
from bursar.client.options import held_plan
from bursar.client.plans import subject_of
from bursar.client.response import CyclesResponse
from bursar.client.shell import Supervisor
from bursar.client.transport import AsyncHttpTransport, AsyncTransport
from bursar.client.typed import AsyncTypedCalls

if TYPE_CHECKING:
    from pathlib import Path

    from bursar.client.local import AsyncEmbeddedClient
    from bursar.client.models import Action, Amount, ReservationCreateRequest, Subject
    from bursar.client.stream import AsyncStreamReservation
    from bursar.client.usage import StreamUsage


class AsyncCyclesClient:
    """A client of a Cycles server; safe to share between tasks."""

    def __init__(self, config: CyclesConfig, *, transport: AsyncTransport | None = None) -> None:
        """Connect nothing yet.

        Args:
            config: the server, the key, the default subject, how patient to be.
            transport: what answers calls, if not HTTP to `config.base_url`.
        """
        self._config = config
        self._transport = transport or AsyncHttpTransport(config)
        self._engine = loop_engine(config, self._transport)
        self._supervisor = Supervisor()

    @staticmethod
    def embedded(
        path: str | Path, *, tenant: str = "default", **config: Any
    ) -> AsyncEmbeddedClient:
        """Return a client whose ledger is a file in this process; no server, no port.

        Args:
            path: the ledger's file, created if it is new; several processes may use it, and a
                server of this machine.
                `:memory:` is a ledger that vanishes with the client.
            tenant: who spends, created if it is new; 3 to 64 of `a-z`, `0-9` and `-`.
            config: fields of `CyclesConfig`, such as `agent="bot"`.

        Raises:
            StoreUnusable: the file is foreign, corrupt, or of another schema.
            CyclesProtocolError: the tenant cannot be created.
        """
        from bursar.client.local import AsyncEmbeddedClient

        return AsyncEmbeddedClient(path, tenant, config)

    @property
    def config(self) -> CyclesConfig:
        """The configuration."""
        return self._config

    @property
    def typed(self) -> AsyncTypedCalls:
        """The same calls with typed answers, which raise instead of returning an error."""
        return AsyncTypedCalls(self._send)

    async def create_reservation(self, request: Any) -> CyclesResponse:
        """Reserve before an action (`POST /v1/reservations`)."""
        return await self._send(calls.create_reservation(request))

    async def commit_reservation(self, reservation_id: str, request: Any) -> CyclesResponse:
        """Account for what a reserved action cost (`POST …/commit`)."""
        return await self._send(calls.commit_reservation(reservation_id, request))

    async def release_reservation(self, reservation_id: str, request: Any) -> CyclesResponse:
        """Give back what a reservation holds (`POST …/release`)."""
        return await self._send(calls.release_reservation(reservation_id, request))

    async def extend_reservation(self, reservation_id: str, request: Any) -> CyclesResponse:
        """Extend a lease (`POST …/extend`)."""
        return await self._send(calls.extend_reservation(reservation_id, request))

    async def decide(self, request: Any) -> CyclesResponse:
        """Ask whether an action would be allowed (`POST /v1/decide`); nothing is held."""
        return await self._send(calls.decide(request))

    async def create_event(self, request: Any) -> CyclesResponse:
        """Account for a cost that was never reserved (`POST /v1/events`)."""
        return await self._send(calls.create_event(request))

    async def list_reservations(self, **query_params: Any) -> CyclesResponse:
        """List reservations; `from_` stands for the filter `from`."""
        return await self._send(calls.list_reservations(query_params))

    async def get_reservation(self, reservation_id: str) -> CyclesResponse:
        """Read one reservation."""
        return await self._send(calls.get_reservation(reservation_id))

    async def get_balances(self, **query_params: Any) -> CyclesResponse:
        """Read balances; at least one of the six subject filters is required."""
        return await self._send(calls.get_balances(query_params))

    async def reserve(
        self,
        request: ReservationCreateRequest | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncReservationGuard:
        """Reserve and return a guard that must be committed or released once.

        Args:
            request: a wire request, or nothing.
            options: instead of a request, the options of `with_cycles`.

        Raises:
            CyclesProtocolError: denied, refused, or not understood.
            ValueError: the request is not valid; nothing was sent.
        """
        plan = self._plan(request, options)
        return AsyncReservationGuard(await self._begin(plan), self._supervisor)

    async def reserve_for_stream(self, options: Mapping[str, Any]) -> AsyncStreamHandle:
        """Reserve and return a handle for callbacks (see `bursar.reserve_for_stream`)."""
        action = await self._begin(self._plan(None, options))
        return AsyncStreamHandle(action, self._supervisor)

    def stream_reservation(
        self,
        *,
        subject: Subject | None = None,
        action: Action,
        estimate: Amount,
        ttl_ms: int = 120_000,
        grace_period_ms: int | None = None,
        overage_policy: str = "ALLOW_IF_AVAILABLE",
        cost_fn: Callable[[StreamUsage], int] | None = None,
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
        raise_on_commit_failure: bool = False,
    ) -> AsyncStreamReservation:
        """Return a context manager around a stream; see `AsyncStreamReservation`."""
        from bursar.client.models import Subject
        from bursar.client.stream import AsyncStreamReservation

        return AsyncStreamReservation(
            self,
            subject=subject or Subject.model_validate(subject_of(self._config, {})),
            action=action,
            estimate=estimate,
            ttl_ms=ttl_ms,
            grace_period_ms=grace_period_ms,
            overage_policy=overage_policy,
            cost_fn=cost_fn,
            metadata=metadata,
            idempotency_key=idempotency_key,
            raise_on_commit_failure=raise_on_commit_failure,
        )

    async def flush(self, timeout: float | None = None) -> int:
        """Wait until every known spend is accounted for, at most `timeout` seconds.

        What an earlier process left in the journal is taken over. Only what can be asked
        within that time is waited for: a server may want to be left alone for longer.

        Args:
            timeout: seconds; None is the configuration's `retry_flush_timeout`.

        Returns:
            How many settlements are still unknown; the journal keeps them.
        """
        bound = self._config.retry_flush_timeout if timeout is None else timeout
        give_up = time.monotonic() + bound
        running = await self._supervisor.drain(bound)  # what outlived a cancelled caller
        return running + await self._engine.settler.flush(max(0.0, give_up - time.monotonic()))

    async def aclose(self) -> None:
        """Flush, stop asking, and let go of the connections; what is unknown stays journaled."""
        give_up = time.monotonic() + self._config.retry_flush_timeout
        await self._supervisor.drain(self._config.retry_flush_timeout)
        await self._engine.settler.drain(max(0.0, give_up - time.monotonic()))
        self._engine.settler.close()
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close it."""
        await self.aclose()

    async def _send(self, call: Call) -> CyclesResponse:
        return await self._transport.send(call)

    def _plan(self, request: Any, options: Mapping[str, Any]) -> Plan:
        return held_plan(request, options, self._config, self._engine.io.new_key)

    async def _begin(self, plan: Plan) -> GuardedAction:
        action = GuardedAction(self._engine, plan)
        action.begin(await self._supervisor.finish_or(action.ask(), action.abandon))
        return action
