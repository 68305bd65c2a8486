"""The same calls with typed answers.

The rule that lives here: an answer is a model, or an exception; nothing is parsed by hand.
What makes it the one or the other is decided in `answers`, for both shells.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from bursar.client import answers, calls
from bursar.client.answers import Model
from bursar.client.calls import Call
from bursar.client.response import CyclesResponse

if TYPE_CHECKING:
    from bursar.client import models


class TypedCalls:
    """Calls of a client that return models or raise."""

    def __init__(self, send: Callable[[Call], CyclesResponse]) -> None:
        """Send with the client's own transport."""
        self._send = send

    def create_reservation(self, request: Any) -> models.ReservationCreateResponse:
        """Reserve before an action; a DENY is an answer, not an exception."""
        from bursar.client.models import ReservationCreateResponse

        return self._ask(ReservationCreateResponse, calls.create_reservation(request))

    def commit_reservation(self, reservation_id: str, request: Any) -> models.CommitResponse:
        """Account for what a reserved action cost."""
        from bursar.client.models import CommitResponse

        return self._ask(CommitResponse, calls.commit_reservation(reservation_id, request))

    def release_reservation(self, reservation_id: str, request: Any) -> models.ReleaseResponse:
        """Give back what a reservation holds."""
        from bursar.client.models import ReleaseResponse

        return self._ask(ReleaseResponse, calls.release_reservation(reservation_id, request))

    def extend_reservation(
        self, reservation_id: str, request: Any
    ) -> models.ReservationExtendResponse:
        """Extend a lease."""
        from bursar.client.models import ReservationExtendResponse

        return self._ask(
            ReservationExtendResponse, calls.extend_reservation(reservation_id, request)
        )

    def decide(self, request: Any) -> models.DecisionResponse:
        """Ask whether an action would be allowed; nothing is held."""
        from bursar.client.models import DecisionResponse

        return self._ask(DecisionResponse, calls.decide(request))

    def create_event(self, request: Any) -> models.EventCreateResponse:
        """Account for a cost that was never reserved."""
        from bursar.client.models import EventCreateResponse

        return self._ask(EventCreateResponse, calls.create_event(request))

    def get_reservation(self, reservation_id: str) -> models.ReservationDetail:
        """Read one reservation."""
        from bursar.client.models import ReservationDetail

        return self._ask(ReservationDetail, calls.get_reservation(reservation_id))

    def iter_reservations(self, **query_params: Any) -> Iterator[models.ReservationSummary]:
        """Yield every reservation that fits, page after page.

        Raises:
            CyclesProtocolError: a page was refused or cannot be read, or the listing does
                not end; what was yielded before is not all there is.
        """
        listing = answers.reservations(query_params)
        while (call := listing.next) is not None:
            yield from listing.take(call, self._send(call))

    def iter_balances(self, **query_params: Any) -> Iterator[models.Balance]:
        """Yield every balance that fits, page after page.

        Raises:
            CyclesProtocolError: a page was refused or cannot be read, or the listing does
                not end; what was yielded before is not all there is.
        """
        listing = answers.balances(query_params)
        while (call := listing.next) is not None:
            yield from listing.take(call, self._send(call))

    def _ask(self, model: type[Model], call: Call) -> Model:
        return answers.parse(model, self._send(call), call)


class AsyncTypedCalls:
    """Calls of an asynchronous client that return models or raise."""

    def __init__(self, send: Callable[[Call], Awaitable[CyclesResponse]]) -> None:
        """Send with the client's own transport."""
        self._send = send

    async def create_reservation(self, request: Any) -> models.ReservationCreateResponse:
        """Reserve before an action; a DENY is an answer, not an exception."""
        from bursar.client.models import ReservationCreateResponse

        return await self._ask(ReservationCreateResponse, calls.create_reservation(request))

    async def commit_reservation(self, reservation_id: str, request: Any) -> models.CommitResponse:
        """Account for what a reserved action cost."""
        from bursar.client.models import CommitResponse

        return await self._ask(CommitResponse, calls.commit_reservation(reservation_id, request))

    async def release_reservation(
        self, reservation_id: str, request: Any
    ) -> models.ReleaseResponse:
        """Give back what a reservation holds."""
        from bursar.client.models import ReleaseResponse

        return await self._ask(ReleaseResponse, calls.release_reservation(reservation_id, request))

    async def extend_reservation(
        self, reservation_id: str, request: Any
    ) -> models.ReservationExtendResponse:
        """Extend a lease."""
        from bursar.client.models import ReservationExtendResponse

        return await self._ask(
            ReservationExtendResponse, calls.extend_reservation(reservation_id, request)
        )

    async def decide(self, request: Any) -> models.DecisionResponse:
        """Ask whether an action would be allowed; nothing is held."""
        from bursar.client.models import DecisionResponse

        return await self._ask(DecisionResponse, calls.decide(request))

    async def create_event(self, request: Any) -> models.EventCreateResponse:
        """Account for a cost that was never reserved."""
        from bursar.client.models import EventCreateResponse

        return await self._ask(EventCreateResponse, calls.create_event(request))

    async def get_reservation(self, reservation_id: str) -> models.ReservationDetail:
        """Read one reservation."""
        from bursar.client.models import ReservationDetail

        return await self._ask(ReservationDetail, calls.get_reservation(reservation_id))

    async def iter_reservations(
        self, **query_params: Any
    ) -> AsyncIterator[models.ReservationSummary]:
        """Yield every reservation that fits, page after page.

        Raises:
            CyclesProtocolError: a page was refused or cannot be read, or the listing does
                not end; what was yielded before is not all there is.
        """
        listing = answers.reservations(query_params)
        while (call := listing.next) is not None:
            for row in listing.take(call, await self._send(call)):
                yield row

    async def iter_balances(self, **query_params: Any) -> AsyncIterator[models.Balance]:
        """Yield every balance that fits, page after page.

        Raises:
            CyclesProtocolError: a page was refused or cannot be read, or the listing does
                not end; what was yielded before is not all there is.
        """
        listing = answers.balances(query_params)
        while (call := listing.next) is not None:
            for row in listing.take(call, await self._send(call)):
                yield row

    async def _ask(self, model: type[Model], call: Call) -> Model:
        return answers.parse(model, await self._send(call), call)
