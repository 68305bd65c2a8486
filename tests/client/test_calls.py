"""Requests as data: paths, bodies, headers and filters, and what can be none of these."""

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from bursar.client import calls, models
from bursar.client.calls import Call

AMOUNT = {"unit": "TOKENS", "amount": 7}
KEYED = {"idempotency_key": "k"}
KNOT: dict[str, Any] = {}
KNOT["self"] = KNOT
DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"a": DEEP}

BUILT: list[tuple[Call, str, str, str, str | None]] = [
    (calls.create_reservation(KEYED), "createReservation", "POST", "/v1/reservations", None),
    (calls.decide(KEYED), "decide", "POST", "/v1/decide", None),
    (calls.create_event(KEYED), "createEvent", "POST", "/v1/events", None),
    (
        calls.commit_reservation("a/b?c#d", KEYED),
        "commitReservation",
        "POST",
        "/v1/reservations/a%2Fb%3Fc%23d/commit",
        "a/b?c#d",
    ),
    (
        calls.release_reservation("é🚀", KEYED),
        "releaseReservation",
        "POST",
        "/v1/reservations/%C3%A9%F0%9F%9A%80/release",
        "é🚀",
    ),
    (
        calls.extend_reservation("../x", KEYED),
        "extendReservation",
        "POST",
        "/v1/reservations/..%2Fx/extend",
        "../x",
    ),
    (calls.get_reservation("r 1"), "getReservation", "GET", "/v1/reservations/r%201", "r 1"),
    (calls.list_reservations({}), "listReservations", "GET", "/v1/reservations", None),
    (calls.get_balances({"tenant": ""}), "getBalances", "GET", "/v1/balances", None),
]


@pytest.mark.parametrize(
    ("call", "operation", "method", "path", "rid"), BUILT, ids=[row[1] for row in BUILT]
)
def test_a_call_says_where_it_goes(
    call: Call, operation: str, method: str, path: str, rid: str | None
) -> None:
    """One path for each operation, with the id as one segment; reads have no body."""
    assert (call.operation, call.method, call.path) == (operation, method, path)
    assert call.reservation_id == rid
    assert (call.content is None) == (method == "GET")


def test_the_body_is_encoded_once_as_utf_8() -> None:
    """What travels is compact JSON, and nobody's escapes."""
    call = calls.decide({"idempotency_key": "ключ", "n": [1, None, True, 1.5], "t": (1, 2)})
    assert call.content == '{"idempotency_key":"ключ","n":[1,null,true,1.5],"t":[1,2]}'.encode()


def test_a_model_is_sent_without_what_is_not_set() -> None:
    """Absent fields are absent, not null; a mapping is copied."""
    request = models.CommitRequest(idempotency_key="k", actual=models.Amount.tokens(7))
    assert calls.body_of(request) == {"idempotency_key": "k", "actual": AMOUNT}
    given = MappingProxyType({"idempotency_key": "k"})
    assert calls.body_of(given) == {"idempotency_key": "k"}


@pytest.mark.parametrize("request_", [None, 5, "text", [("a", 1)], object()])
@pytest.mark.parametrize("build", [calls.create_reservation, calls.decide, calls.create_event])
def test_a_request_is_a_model_or_a_mapping(
    build: Callable[[object], Call], request_: object
) -> None:
    """Anything else is a TypeError, in the words of the official client, and the fix."""
    with pytest.raises(TypeError, match=r"^Unsupported body type: .*; pass a request model or"):
        build(request_)


UNFIT: list[tuple[Any, type[Exception], str]] = [
    ({"a": {"b": [1, math.nan]}}, ValueError, r"request\.a\.b\[1\] must be a finite number"),
    ({"a": math.inf}, ValueError, r"request\.a must be a finite number"),
    ({"a": "half \ud83d"}, ValueError, r"request\.a must not contain a lone surrogate.*replace"),
    ({"\ud83d": 1}, ValueError, r"request: a key must not contain a lone surrogate"),
    ({"a": [object()]}, TypeError, r"request\.a\[0\] must be a JSON value, got a object"),
    ({"a": {1, 2}}, TypeError, r"request\.a must be a JSON value, got a set"),
    ({"a": b"x"}, TypeError, r"request\.a must be a JSON value, got a bytes"),
    (
        {"subject": models.Subject(tenant="acme")},
        TypeError,
        r"request\.subject must be a JSON value, got a Subject; .*model_dump\(mode='json'\)",
    ),
    ({"a": {(1, 2): 3}}, TypeError, r"request\.a must have text as keys, got \(1, 2\)"),
    (KNOT, ValueError, r"holds itself; remove the cycle"),
]


@pytest.mark.parametrize(("body", "kind", "said"), UNFIT, ids=[row[2][:24] for row in UNFIT])
def test_what_json_cannot_say_is_refused_by_name(
    body: dict[str, Any], kind: type[Exception], said: str
) -> None:
    """The message says where in the request it stands and what to do instead."""
    with pytest.raises(kind, match=said):
        calls.decide(body)
    with pytest.raises(kind, match=said):
        calls.commit_reservation("r", body)


def test_depth_alone_is_no_reason() -> None:
    """What the encoder can say is sent; the server has its own limit."""
    assert calls.decide(DEEP).content == b'{"a":' * 300 + b"{}" + b"}" * 300


@pytest.mark.parametrize(
    ("key", "header"),
    [
        ("k-1 ~", "k-1 ~"),
        ("", None),
        (None, None),
        (5, None),
        ("a\r\nX-Evil: 1", None),
        ("a\nb", None),
        ("a\x00b", None),
        ("a\tb", None),
        (" a", None),
        ("a ", None),
        ("é", None),
    ],
)
def test_the_key_is_a_header_only_where_it_can_be_nothing_else(
    key: object, header: str | None
) -> None:
    """The body's key decides; a key that a header cannot carry travels in the body alone."""
    call = calls.decide({"idempotency_key": key})
    assert call.headers == ({} if header is None else {"X-Idempotency-Key": header})
    assert (call.body or {})["idempotency_key"] == key


def test_filters_are_text() -> None:
    """`from_` stands for the keyword, None is not sent, everything else is its text."""
    asked = {"from_": 5, "to": "9", "limit": 10, "cursor": None, "status": "ACTIVE"}
    assert calls.list_reservations(asked).query == {
        "from": "5",
        "to": "9",
        "limit": "10",
        "status": "ACTIVE",
    }
    with pytest.raises(ValueError, match="agent must not contain a lone surrogate"):
        calls.list_reservations({"agent": "\ud83d"})


@pytest.mark.parametrize("level", calls.SUBJECT_FILTERS)
def test_one_subject_filter_is_enough(level: str) -> None:
    """Its presence counts, not its value, as for the official client."""
    assert calls.get_balances({level: ""}).query == {level: ""}


@pytest.mark.parametrize("query", [{}, {"limit": "10"}, {"scope": "tenant:acme"}])
def test_balances_of_nobody_are_not_asked_for(query: dict[str, object]) -> None:
    """The message names the six filters."""
    with pytest.raises(ValueError, match=r"^get_balances requires at least one subject filter \("):
        calls.get_balances(query)


@pytest.mark.parametrize("rid", ["", " ", ".", "..", "a\r\nb", "a\x00", "\ud83d", None, 5])
@pytest.mark.parametrize("build", [calls.commit_reservation, calls.release_reservation])
def test_an_id_that_is_no_segment_is_refused(build: Callable[..., Call], rid: object) -> None:
    """Before anything is built, let alone sent."""
    with pytest.raises(ValueError, match=r"^reservation_id "):
        build(rid, KEYED)
