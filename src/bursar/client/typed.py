"""The same calls with typed answers.

The rule that lives here: an answer is a model, or an exception; nothing is parsed by hand.
Unknown fields of an answer are kept on the model, and unknown codes on the exception.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from bursar.client import calls
from bursar.client.calls import Call
from bursar.client.exceptions import CyclesProtocolError, error_from_response
from bursar.client.response import CyclesResponse

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bursar.client import models

Model = TypeVar("Model", bound="BaseModel")

PAGES_MAX = 100_000


def parse(model: type[Model], response: CyclesResponse, what: str) -> Model:
    """Return the model of a success.

    Raises:
        CyclesProtocolError: the server refused, or its answer does not fit the schema.
        CyclesTransportError: there was no answer.
    """
    from pydantic import ValidationError

    if not response.is_success:
        raise error_from_response(f"Failed to {what}", response)
    try:
        return model.model_validate(response.body)
    except ValidationError as error:
        raise CyclesProtocolError(
            f"Failed to {what}: the answer does not fit its schema: {error.error_count()} errors",
            status=response.status,
            request_id=response.request_id,
        ) from error


class TypedCalls:
    """Calls of a client that return models or raise."""

    def __init__(self, send: Callable[[Call], CyclesResponse]) -> None:
        """Send with the client's own transport."""
        self._send = send

    def create_reservation(self, request: Any) -> models.ReservationCreateResponse:
        """Reserve before an action; a DENY is an answer, not an exception."""
        from bursar.client.models import ReservationCreateResponse

        response = self._send(calls.create_reservation(request))
        return parse(ReservationCreateResponse, response, "create reservation")

    def commit_reservation(self, reservation_id: str, request: Any) -> models.CommitResponse:
        """Account for what a reserved action cost."""
        from bursar.client.models import CommitResponse

        response = self._send(calls.commit_reservation(reservation_id, request))
        return parse(CommitResponse, response, "commit reservation")

    def release_reservation(self, reservation_id: str, request: Any) -> models.ReleaseResponse:
        """Give back what a reservation holds."""
        from bursar.client.models import ReleaseResponse

        response = self._send(calls.release_reservation(reservation_id, request))
        return parse(ReleaseResponse, response, "release reservation")

    def extend_reservation(
        self, reservation_id: str, request: Any
    ) -> models.ReservationExtendResponse:
        """Extend a lease."""
        from bursar.client.models import ReservationExtendResponse

        response = self._send(calls.extend_reservation(reservation_id, request))
        return parse(ReservationExtendResponse, response, "extend reservation")

    def decide(self, request: Any) -> models.DecisionResponse:
        """Ask whether an action would be allowed; nothing is held."""
        from bursar.client.models import DecisionResponse

        return parse(DecisionResponse, self._send(calls.decide(request)), "decide")

    def create_event(self, request: Any) -> models.EventCreateResponse:
        """Account for a cost that was never reserved."""
        from bursar.client.models import EventCreateResponse

        response = self._send(calls.create_event(request))
        return parse(EventCreateResponse, response, "create event")

    def get_reservation(self, reservation_id: str) -> models.ReservationDetail:
        """Read one reservation."""
        from bursar.client.models import ReservationDetail

        response = self._send(calls.get_reservation(reservation_id))
        return parse(ReservationDetail, response, "get reservation")

    def iter_reservations(self, **query_params: Any) -> Iterator[models.ReservationSummary]:
        """Yield every reservation that fits, page after page."""
        from bursar.client.models import ReservationListResponse

        for _ in range(PAGES_MAX):
            response = self._send(calls.list_reservations(query_params))
            page = parse(ReservationListResponse, response, "list reservations")
            yield from page.reservations
            if not page.next_cursor:
                return
            query_params["cursor"] = page.next_cursor

    def iter_balances(self, **query_params: Any) -> Iterator[models.Balance]:
        """Yield every balance that fits, page after page."""
        from bursar.client.models import BalanceResponse

        for _ in range(PAGES_MAX):
            response = self._send(calls.get_balances(query_params))
            page = parse(BalanceResponse, response, "get balances")
            yield from page.balances
            if not page.next_cursor:
                return
            query_params["cursor"] = page.next_cursor


class AsyncTypedCalls:
    """Calls of an asynchronous client that return models or raise."""

    def __init__(self, send: Callable[[Call], Awaitable[CyclesResponse]]) -> None:
        """Send with the client's own transport."""
        self._send = send

    async def create_reservation(self, request: Any) -> models.ReservationCreateResponse:
        """Reserve before an action; a DENY is an answer, not an exception."""
        from bursar.client.models import ReservationCreateResponse

        response = await self._send(calls.create_reservation(request))
        return parse(ReservationCreateResponse, response, "create reservation")

    async def commit_reservation(self, reservation_id: str, request: Any) -> models.CommitResponse:
        """Account for what a reserved action cost."""
        from bursar.client.models import CommitResponse

        response = await self._send(calls.commit_reservation(reservation_id, request))
        return parse(CommitResponse, response, "commit reservation")

    async def release_reservation(
        self, reservation_id: str, request: Any
    ) -> models.ReleaseResponse:
        """Give back what a reservation holds."""
        from bursar.client.models import ReleaseResponse

        response = await self._send(calls.release_reservation(reservation_id, request))
        return parse(ReleaseResponse, response, "release reservation")

    async def extend_reservation(
        self, reservation_id: str, request: Any
    ) -> models.ReservationExtendResponse:
        """Extend a lease."""
        from bursar.client.models import ReservationExtendResponse

        response = await self._send(calls.extend_reservation(reservation_id, request))
        return parse(ReservationExtendResponse, response, "extend reservation")

    async def decide(self, request: Any) -> models.DecisionResponse:
        """Ask whether an action would be allowed; nothing is held."""
        from bursar.client.models import DecisionResponse

        return parse(DecisionResponse, await self._send(calls.decide(request)), "decide")

    async def create_event(self, request: Any) -> models.EventCreateResponse:
        """Account for a cost that was never reserved."""
        from bursar.client.models import EventCreateResponse

        return parse(
            EventCreateResponse, await self._send(calls.create_event(request)), "create event"
        )

    async def get_reservation(self, reservation_id: str) -> models.ReservationDetail:
        """Read one reservation."""
        from bursar.client.models import ReservationDetail

        response = await self._send(calls.get_reservation(reservation_id))
        return parse(ReservationDetail, response, "get reservation")

    async def iter_reservations(
        self, **query_params: Any
    ) -> AsyncIterator[models.ReservationSummary]:
        """Yield every reservation that fits, page after page."""
        from bursar.client.models import ReservationListResponse

        for _ in range(PAGES_MAX):
            response = await self._send(calls.list_reservations(query_params))
            page = parse(ReservationListResponse, response, "list reservations")
            for one in page.reservations:
                yield one
            if not page.next_cursor:
                return
            query_params["cursor"] = page.next_cursor

    async def iter_balances(self, **query_params: Any) -> AsyncIterator[models.Balance]:
        """Yield every balance that fits, page after page."""
        from bursar.client.models import BalanceResponse

        for _ in range(PAGES_MAX):
            page = parse(
                BalanceResponse, await self._send(calls.get_balances(query_params)), "read"
            )
            for one in page.balances:
                yield one
            if not page.next_cursor:
                return
            query_params["cursor"] = page.next_cursor
