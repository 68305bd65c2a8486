"""The guard's way to the ledger, blocking or not: any client that has the protocol's methods.

The rule that lives here: whatever a client returns is read as an answer, also that of another
package, and reading the past never raises. Only settling through the journal needs a client of
Bursar, because the journal is its.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bursar.ap2.earlier import EarlierPayment, read_page, read_row
from bursar.client.held import Engine
from bursar.client.journal import JournalError, Record
from bursar.client.response import CyclesResponse
from bursar.client.settler import Intent
from bursar.client.settling import event_body
from bursar.vocabulary import ReservationStatus

Body = dict[str, Any]
INCLUDE = "metadata,committed_metadata"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a commit: the answer, and whether the journal goes on with it.

    `as_event` is whether the lease had ended and the spend was sent as an event instead.
    """

    response: CyclesResponse
    journaled: bool = False
    as_event: bool = False


class Committing(Protocol):
    """A commit that can be sent, once."""

    @property
    def journaled(self) -> bool:
        """Whether the journal has it, or is getting it and has not failed so far."""
        ...

    async def __call__(self) -> Attempt:
        """Send it."""
        ...


class Desk(Protocol):
    """What a flow of the guard may ask of the ledger."""

    async def create(self, body: Body) -> CyclesResponse:
        """Reserve."""
        ...

    def commit(self, rid: str, body: Body, created: Body) -> Committing:
        """Return what commits; with a journal, the spend is being written down by then.

        `created` is the body that reserved.
        """
        ...

    async def release(self, rid: str, body: Body) -> CyclesResponse:
        """Release."""
        ...

    async def extend(self, rid: str, body: Body) -> CyclesResponse:
        """Extend the lease."""
        ...

    async def find(self, key: str) -> EarlierPayment | None:
        """Return the reservation that was made with a key, or None."""
        ...

    async def look(self, rid: str) -> EarlierPayment | None:
        """Return a reservation, or None."""
        ...


class _Asks:
    """A desk whose calls may return awaitables; under the blocking shell they never do."""

    def __init__(self, client: Any, engine: Engine | None) -> None:
        """Ask through `client`; commits go through the journal of `engine`, if there is one."""
        self._client = client
        self._engine = engine

    async def _ask(self, method: str, *args: Any, **kwargs: Any) -> CyclesResponse:
        found = getattr(self._client, method)(*args, **kwargs)
        return read(await found if inspect.isawaitable(found) else found)

    async def create(self, body: Body) -> CyclesResponse:
        if self._engine is not None:
            self._engine.settler.watch()
        return await self._ask("create_reservation", body)

    async def release(self, rid: str, body: Body) -> CyclesResponse:
        return await self._ask("release_reservation", rid, body)

    async def extend(self, rid: str, body: Body) -> CyclesResponse:
        return await self._ask("extend_reservation", rid, body)

    async def find(self, key: str) -> EarlierPayment | None:
        try:
            asked = {"idempotency_key": key, "include": INCLUDE}
            return read_page((await self._ask("list_reservations", **asked)).body, key)
        except Exception:  # noqa: BLE001 - what cannot be read is not there
            return None

    async def look(self, rid: str) -> EarlierPayment | None:
        try:
            found = await self._ask("get_reservation", rid)
        except Exception:  # noqa: BLE001 - what cannot be read is not there
            return None
        if found.status == 410:
            return EarlierPayment(rid, ReservationStatus.EXPIRED)
        return read_row(found.body) if found.is_success and found.body else None

    def commit(self, rid: str, body: Body, created: Body) -> Committing:
        if self._engine is None:
            return _Sent(self._ask, rid, body)
        record = Record(
            reservation_id=rid,
            base_url=self._engine.config.base_url,
            mode="commit",
            commit_body=body,
            event_fallback_body=event_body(created["subject"], created["action"], body, rid),
            recorded_at_ms=self._engine.io.now_ms(),
        )
        # In the caller's own step: a task that is cancelled before it begins writes nothing.
        return _Settled(self._engine, self._engine.settler.intend(record))


class _Sent:
    """A commit that is sent and no more."""

    journaled = False

    def __init__(
        self, ask: Callable[..., Coroutine[Any, Any, CyclesResponse]], rid: str, body: Body
    ) -> None:
        self._ask, self._rid, self._body = ask, rid, body

    async def __call__(self) -> Attempt:
        """Send it."""
        return Attempt(await self._ask("commit_reservation", self._rid, self._body))


class _Settled:
    """A commit that is written down, and then sent until the ledger has it."""

    def __init__(self, engine: Engine, intent: Intent) -> None:
        """Watch how the writing goes: whoever is cancelled or meets an error asks."""
        self._engine, self._intent = engine, intent
        self._watched = intent.writing = _Watched(intent.writing)

    @property
    def journaled(self) -> bool:
        """Whether the record is written or on its way."""
        return not self._watched.failed

    async def __call__(self) -> Attempt:
        """Settle it."""
        step = await self._engine.settler.settle(self._intent)
        journaled = step.journaled and not step.outcome.final
        return Attempt(step.outcome.response, journaled, step.record.mode == "event")


class _Watched:
    """A record on its way to the disk, and whether it got lost there."""

    def __init__(self, writing: Awaitable[None]) -> None:
        self._writing = writing
        self.failed = False

    def __await__(self) -> Generator[Any, None, None]:
        try:
            yield from self._writing.__await__()
        except JournalError:
            self.failed = True
            raise


def desk(client: Any, *, journal: bool) -> Desk:
    """Return the way to the ledger through `client`.

    Raises:
        ValueError: `journal` is asked for and the client has none.
    """
    if not journal:
        return _Asks(client, None)
    engine = engine_of(client, "settlement='journal'")
    if not engine.config.journal_enabled:
        raise ValueError(
            "settlement='journal' needs a client of bursar with journal_enabled=True; "
            f"got {type(client).__name__} without"
        )
    return _Asks(client, engine)


def engine_of(client: Any, option: str) -> Engine:
    """Return what drives a client of Bursar.

    Raises:
        ValueError: it is another client; `option` is what needs one.
    """
    engine = getattr(client, "_engine", None)
    if not isinstance(engine, Engine):
        raise ValueError(f"{option} needs a client of bursar; got {type(client).__name__}")
    return engine


def read(answer: object) -> CyclesResponse:
    """Return an answer of any client as ours; what is none has status 0."""
    if isinstance(answer, CyclesResponse):
        return answer
    status, body = getattr(answer, "status", None), getattr(answer, "body", None)
    if not isinstance(status, int):
        return CyclesResponse(0, error_message=f"{type(answer).__name__} is not an answer")
    headers = getattr(answer, "headers", None)
    message = getattr(answer, "error_message", None)
    return CyclesResponse(
        status=status,
        body=body if isinstance(body, dict) else None,
        error_message=message if isinstance(message, str) else None,
        headers={str(k).lower(): str(v) for k, v in headers.items()}
        if isinstance(headers, Mapping)
        else {},
        _is_transport_error=getattr(answer, "is_transport_error", False) is True,
    )
