"""The synchronous client.

The rule that lives here: a method is one line, build and run; what happens is written once,
in the flows. `tests/client/test_parity.py` holds this file against `aio.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from bursar.client import calls
from bursar.client.action import GuardedAction
from bursar.client.calls import Call
from bursar.client.config import CyclesConfig
from bursar.client.engines import blocking_engine
from bursar.client.guard import ReservationGuard, StreamHandle
from bursar.client.opening import Plan
from bursar.client.options import held_plan
from bursar.client.plans import subject_of
from bursar.client.response import CyclesResponse
from bursar.client.transport import HttpTransport, Transport
from bursar.client.typed import TypedCalls
from bursar.flow import run_sync

if TYPE_CHECKING:
    from pathlib import Path

    from bursar.client.local import EmbeddedClient
    from bursar.client.models import Action, Amount, ReservationCreateRequest, Subject
    from bursar.client.stream import StreamReservation
    from bursar.client.usage import StreamUsage


class CyclesClient:
    """A client of a Cycles server; safe to share between threads."""

    def __init__(self, config: CyclesConfig, *, transport: Transport | None = None) -> None:
        """Connect nothing yet.

        Args:
            config: the server, the key, the default subject, how patient to be.
            transport: what answers calls, if not HTTP to `config.base_url`.
        """
        self._config = config
        self._transport = transport or HttpTransport(config)
        self._engine = blocking_engine(config, self._transport)

    @staticmethod
    def embedded(path: str | Path, *, tenant: str = "default", **config: Any) -> EmbeddedClient:
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
        from bursar.client.local import EmbeddedClient

        return EmbeddedClient(path, tenant, config)

    @property
    def config(self) -> CyclesConfig:
        """The configuration."""
        return self._config

    @property
    def typed(self) -> TypedCalls:
        """The same calls with typed answers, which raise instead of returning an error."""
        return TypedCalls(self._send)

    def create_reservation(self, request: Any) -> CyclesResponse:
        """Reserve before an action (`POST /v1/reservations`)."""
        return self._send(calls.create_reservation(request))

    def commit_reservation(self, reservation_id: str, request: Any) -> CyclesResponse:
        """Account for what a reserved action cost (`POST …/commit`)."""
        return self._send(calls.commit_reservation(reservation_id, request))

    def release_reservation(self, reservation_id: str, request: Any) -> CyclesResponse:
        """Give back what a reservation holds (`POST …/release`)."""
        return self._send(calls.release_reservation(reservation_id, request))

    def extend_reservation(self, reservation_id: str, request: Any) -> CyclesResponse:
        """Extend a lease (`POST …/extend`)."""
        return self._send(calls.extend_reservation(reservation_id, request))

    def decide(self, request: Any) -> CyclesResponse:
        """Ask whether an action would be allowed (`POST /v1/decide`); nothing is held."""
        return self._send(calls.decide(request))

    def create_event(self, request: Any) -> CyclesResponse:
        """Account for a cost that was never reserved (`POST /v1/events`)."""
        return self._send(calls.create_event(request))

    def list_reservations(self, **query_params: Any) -> CyclesResponse:
        """List reservations; `from_` stands for the filter `from`."""
        return self._send(calls.list_reservations(query_params))

    def get_reservation(self, reservation_id: str) -> CyclesResponse:
        """Read one reservation."""
        return self._send(calls.get_reservation(reservation_id))

    def get_balances(self, **query_params: Any) -> CyclesResponse:
        """Read balances; at least one of the six subject filters is required."""
        return self._send(calls.get_balances(query_params))

    def reserve(
        self,
        request: ReservationCreateRequest | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> ReservationGuard:
        """Reserve and return a guard that must be committed or released once.

        Args:
            request: a wire request, or nothing.
            options: instead of a request, the options of `with_cycles`.

        Raises:
            CyclesProtocolError: denied, refused, or not understood.
            ValueError: the request is not valid; nothing was sent.
        """
        plan = self._plan(request, options)
        return ReservationGuard(self._begin(plan))

    def reserve_for_stream(self, options: Mapping[str, Any]) -> StreamHandle:
        """Reserve and return a handle for callbacks (see `bursar.reserve_for_stream`)."""
        return StreamHandle(self._begin(self._plan(None, options)))

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
    ) -> StreamReservation:
        """Return a context manager around a stream; see `StreamReservation`."""
        from bursar.client.models import Subject
        from bursar.client.stream import StreamReservation

        return StreamReservation(
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

    def flush(self, timeout: float | None = None) -> int:
        """Wait until every known spend is accounted for, at most `timeout` seconds.

        What an earlier process left in the journal is taken over. Only what can be asked
        within that time is waited for: a server may want to be left alone for longer.

        Args:
            timeout: seconds; None is the configuration's `retry_flush_timeout`.

        Returns:
            How many settlements are still unknown; the journal keeps them.
        """
        bound = self._config.retry_flush_timeout if timeout is None else timeout
        return run_sync(self._engine.settler.flush(bound))

    def close(self) -> None:
        """Flush, stop asking, and let go of the connections; what is unknown stays journaled."""
        run_sync(self._engine.settler.drain(self._config.retry_flush_timeout))
        self._engine.settler.close()
        self._transport.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _send(self, call: Call) -> CyclesResponse:
        return self._transport.send(call)

    def _plan(self, request: Any, options: Mapping[str, Any]) -> Plan:
        return held_plan(request, options, self._config, self._engine.io.new_key)

    def _begin(self, plan: Plan) -> GuardedAction:
        action = GuardedAction(self._engine, plan)
        action.begin(run_sync(action.ask()))
        return action
