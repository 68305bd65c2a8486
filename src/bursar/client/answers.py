"""From an answer to a model, and from a page to the next one.

The rule that lives here: an answer is a model, or an exception; nothing is parsed by hand.
What counts as success is the table of `outcome`, so that a page of a proxy is never taken
for an answer. Unknown fields of an answer are kept on the model, and unknown codes on the
exception. A listing ends with its last page, or with an exception: never short of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bursar.client import calls
from bursar.client.calls import Call
from bursar.client.exceptions import CyclesProtocolError, error_from_response
from bursar.client.outcome import Expected, classify
from bursar.client.response import CyclesResponse

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bursar.client import models

Model = TypeVar("Model", bound="BaseModel")
Row = TypeVar("Row")

PAGES_MAX = 100_000
"""No ledger has so many pages: a listing that goes on is a server that goes round."""

_EXPECTED: Mapping[str, Expected] = {
    "createReservation": Expected.CREATE,
    "commitReservation": Expected.COMMIT,
    "releaseReservation": Expected.RELEASE,
    "extendReservation": Expected.EXTEND,
    "createEvent": Expected.EVENT,
}
_DOES: Mapping[str, str] = {
    "createReservation": "create reservation",
    "commitReservation": "commit reservation",
    "releaseReservation": "release reservation",
    "extendReservation": "extend reservation",
    "decide": "decide",
    "createEvent": "create event",
    "getReservation": "get reservation",
    "listReservations": "list reservations",
    "getBalances": "get balances",
}


def parse(model: type[Model], response: CyclesResponse, call: Call) -> Model:
    """Return the model of a success.

    Raises:
        CyclesProtocolError: the server refused, or its answer does not fit the schema. After
            a write of which nobody knows whether it happened, `outcome_known` is False, and
            the same request with the same key is the way to find out.
        CyclesTransportError: there was no answer.
    """
    from pydantic import ValidationError

    expected = _EXPECTED.get(call.operation)
    if not response.is_success:
        key = (call.body or {}).get("idempotency_key")
        raise error_from_response(_failed(call), response, idempotency_key=key)
    try:
        answer = model.model_validate(response.body)
    except ValidationError as error:
        raise _unfit(call, response, _first_of(error)) from error
    if response.status != 200 if expected is None else not classify(response, expected).settled:
        raise _unfit(call, response, f"status {response.status} with a body that is not its own")
    return answer


def _failed(call: Call) -> str:
    return f"Failed to {_DOES[call.operation]}"


def _unfit(call: Call, response: CyclesResponse, problem: str) -> CyclesProtocolError:
    return CyclesProtocolError(
        f"{_failed(call)}: the answer does not fit its schema: {problem}",
        status=response.status,
        request_id=response.request_id,
        trace_id=response.trace_id,
        idempotency_key=(call.body or {}).get("idempotency_key"),
        outcome_known=call.operation not in _EXPECTED,
    )


def _first_of(error: Any) -> str:
    """Say what is wrong with the first field, and how many more are, without their values."""
    first, *others = error.errors(include_url=False, include_input=False)
    where = ".".join(str(part) for part in first["loc"]) or "body"
    return f"{where}: {first['msg']}" + (f" (and {len(others)} more)" if others else "")


class Listing(Generic[Row]):
    """One listing, page after page; what it needs next is data, so both shells share it."""

    def __init__(
        self,
        build: Callable[[Mapping[str, object]], Call],
        model: type[Any],
        rows: Callable[[Any], list[Row]],
        query: Mapping[str, object],
    ) -> None:
        """Begin with the first page of what fits `query`."""
        self._build, self._model, self._rows = build, model, rows
        self._query = dict(query)
        self._pages = 0
        self._seen: set[str] = set()
        self.next: Call | None = build(self._query)

    def take(self, call: Call, response: CyclesResponse) -> list[Row]:
        """Return the rows of the page that was asked for, and turn to the one after it.

        Raises:
            CyclesProtocolError: the page cannot be read, or the listing does not end.
        """
        page = parse(self._model, response, call)
        self._pages += 1
        cursor = page.next_cursor
        if bool(page.has_more) and not cursor:
            raise self._stuck(call, response, "there is more, but no cursor to ask with")
        if not cursor or page.has_more is False:
            self.next = None
            return self._rows(page)
        if cursor in self._seen or self._pages >= PAGES_MAX:
            raise self._stuck(call, response, f"it does not end: page {self._pages} leads back")
        self._seen.add(cursor)
        self._query["cursor"] = cursor
        self.next = self._build(self._query)
        return self._rows(page)

    def _stuck(self, call: Call, response: CyclesResponse, problem: str) -> CyclesProtocolError:
        return CyclesProtocolError(
            f"{_failed(call)}: {problem}; rows are missing",
            status=response.status,
            request_id=response.request_id,
            trace_id=response.trace_id,
        )


def reservations(query: Mapping[str, object]) -> Listing[models.ReservationSummary]:
    """Return the listing of reservations that fit."""
    from bursar.client.models import ReservationListResponse

    return Listing(
        calls.list_reservations, ReservationListResponse, lambda page: page.reservations, query
    )


def balances(query: Mapping[str, object]) -> Listing[models.Balance]:
    """Return the listing of balances that fit."""
    from bursar.client.models import BalanceResponse

    return Listing(calls.get_balances, BalanceResponse, lambda page: page.balances, query)
