"""The requests of the runtime plane, as data.

The rule that lives here: a path is built in one place, from an escaped segment; a body is
a dictionary of JSON values; its idempotency key also travels as a header. Building a call
sends nothing, and everything that can be wrong with a request is found here, before
anything leaves the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from bursar.client import validation

Body = dict[str, Any]
SUBJECT_FILTERS = ("tenant", "workspace", "app", "workflow", "agent", "toolset")
_RESERVATIONS = "/v1/reservations"


class Dumps(Protocol):
    """What a pydantic model can do, without importing pydantic."""

    def model_dump(self, *, mode: str, exclude_none: bool) -> dict[str, Any]:
        """Return the model as JSON values."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request: what it asks for and says; the credential is the transport's.

    `operation` is the published specification's name of it; `reservation_id` is what the
    path is about, as the caller gave it; `content` is the body as it travels.
    """

    operation: str
    method: str
    path: str
    body: Body | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    reservation_id: str | None = None
    content: bytes | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Encode the body, once for every transport and every retry.

        Raises:
            TypeError: the body holds what JSON has no type for.
            ValueError: it holds what no JSON text or UTF-8 can say.
        """
        if self.body is not None:
            object.__setattr__(self, "content", validation.encode_body(self.body))

    @property
    def headers(self) -> dict[str, str]:
        """The headers that follow from the body: its key, where a header can carry it.

        The body's key decides; the header is for proxies and logs.
        """
        key = (self.body or {}).get("idempotency_key")
        if isinstance(key, str) and key.isascii() and key.isprintable() and key == key.strip():
            return {"X-Idempotency-Key": key} if key else {}
        return {}


def create_reservation(request: object) -> Call:
    """Return the call that reserves."""
    return Call("createReservation", "POST", _RESERVATIONS, body_of(request))


def commit_reservation(reservation_id: str, request: object) -> Call:
    """Return the call that commits a reservation."""
    return _about(reservation_id, "commit", request)


def release_reservation(reservation_id: str, request: object) -> Call:
    """Return the call that releases a reservation."""
    return _about(reservation_id, "release", request)


def extend_reservation(reservation_id: str, request: object) -> Call:
    """Return the call that extends a lease."""
    return _about(reservation_id, "extend", request)


def decide(request: object) -> Call:
    """Return the call that asks without reserving."""
    return Call("decide", "POST", "/v1/decide", body_of(request))


def create_event(request: object) -> Call:
    """Return the call that accounts for a cost that was never reserved."""
    return Call("createEvent", "POST", "/v1/events", body_of(request))


def list_reservations(query: Mapping[str, object]) -> Call:
    """Return the call that lists reservations; `from_` may stand for the keyword `from`."""
    return Call("listReservations", "GET", _RESERVATIONS, query=_query(query))


def get_reservation(reservation_id: str) -> Call:
    """Return the call that reads one reservation."""
    path = f"{_RESERVATIONS}/{validation.path_segment(reservation_id)}"
    return Call("getReservation", "GET", path, reservation_id=reservation_id)


def get_balances(query: Mapping[str, object]) -> Call:
    """Return the call that reads balances.

    Raises:
        ValueError: none of the six subject filters is there.
    """
    if not any(name in query for name in SUBJECT_FILTERS):
        raise ValueError(
            "get_balances requires at least one subject filter "
            "(tenant, workspace, app, workflow, agent, or toolset)"
        )
    return Call("getBalances", "GET", "/v1/balances", query=_query(query))


def body_of(request: object) -> Body:
    """Return a request model or mapping as a dictionary of JSON values.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(request, Mapping):
        return dict(request)
    if hasattr(request, "model_dump"):
        return cast(Dumps, request).model_dump(mode="json", exclude_none=True)
    raise TypeError(
        f"Unsupported body type: {type(request).__name__}; pass a request model or a dict"
    )


def _about(reservation_id: str, verb: str, request: object) -> Call:
    path = f"{_RESERVATIONS}/{validation.path_segment(reservation_id)}/{verb}"
    body = body_of(request)
    return Call(f"{verb}Reservation", "POST", path, body, reservation_id=reservation_id)


def _query(query: Mapping[str, object]) -> dict[str, str]:
    named = {name.rstrip("_"): str(value) for name, value in query.items() if value is not None}
    for name, value in named.items():
        validation.validate_utf8(value, name)
    return named
