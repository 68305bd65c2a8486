"""Reading an answer never fails and loses nothing."""

import httpx2
import pytest
import runcycles

from bursar.client.response import CyclesResponse
from bursar.client.transport import read

PROPERTIES = (
    "is_success",
    "is_client_error",
    "is_server_error",
    "is_transport_error",
    "request_id",
    "rate_limit_remaining",
    "rate_limit_reset",
    "cycles_tenant",
    "retry_after_ms_header",
    "server_date_ms",
)
TRACE = "0af7651916cd43dd8448eb211c80319c"
ERROR = {"error": "BUDGET_EXCEEDED", "message": "no", "request_id": "req_1"}


def both(status: int, headers: dict[str, str]) -> list[tuple[object, ...]]:
    made = (kind(status, headers=headers) for kind in (runcycles.CyclesResponse, CyclesResponse))
    return [tuple(getattr(response, name) for name in PROPERTIES) for response in made]


@pytest.mark.parametrize("status", [-1, 0, 199, 200, 299, 300, 399, 400, 499, 500, 599, 600])
def test_kinds_of_status(status: int) -> None:
    """The ranges are the official client's."""
    official, ours = both(status, {})
    assert official == ours


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-request-id": "r", "x-cycles-tenant": "acme"},
        {"x-ratelimit-remaining": "5", "x-ratelimit-reset": " 7 "},
        {"retry-after": " 0 "},
        {"retry-after": "3"},
        {"retry-after": "+1"},
        {"retry-after": "-1"},
        {"retry-after": "1.5"},
        {"retry-after": "1e2"},
        {"retry-after": ""},
        {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"},
        {"retry-after": str(2**63)},
        {"retry-after": str((2**63 - 1) // 1000)},
        {"retry-after": str((2**63 - 1) // 1000 + 1)},
        {"retry-after": "٣"},
        {"date": "Sun, 06 Nov 1994 08:49:37 GMT"},
        {"date": "Sun, 06 Nov 1994 08:49:37"},
        {"date": "Sun, 06 Nov 1994 09:49:37 +0100"},
        {"date": "yesterday"},
    ],
)
def test_headers_are_read_alike(headers: dict[str, str]) -> None:
    """Every header the official client can read gives the same value here."""
    official, ours = both(200, headers)
    assert official == ours


@pytest.mark.parametrize("junk", ["abc", "1.5", "", "-1", "+1", "1_0", "٣", "9" * 5000])
def test_junk_in_a_rate_limit_header_is_none(junk: str) -> None:
    """A proxy's junk must not break the handling of the answer that came with it."""
    response = CyclesResponse(
        200, headers={"x-ratelimit-remaining": junk, "x-ratelimit-reset": junk}
    )
    assert (response.rate_limit_remaining, response.rate_limit_reset) == (None, None)


def test_factories_agree() -> None:
    """The three factories fill the same fields."""
    failure = OSError("boom")
    for make in (
        lambda kind: kind.success(201, {"a": 1}),
        lambda kind: kind.success(200, {}, {"x": "y"}),
        lambda kind: kind.http_error(404, "gone", {"error": "NOT_FOUND"}, {"x": "y"}),
        lambda kind: kind.http_error(502, "Bad Gateway"),
        lambda kind: kind.transport_error(failure),
    ):
        official, ours = make(runcycles.CyclesResponse), make(CyclesResponse)
        assert vars(official) == vars(ours)
        assert repr(official) == repr(ours)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (ERROR, "BUDGET_EXCEEDED"),
        ({**ERROR, "trace_id": TRACE}, "BUDGET_EXCEEDED"),
        ({**ERROR, "trace_id": 5, "details": []}, "BUDGET_EXCEEDED"),
        ({**ERROR, "novel": {"a": [1]}}, "BUDGET_EXCEEDED"),
        ({**ERROR, "error": "SOMETHING_NEW"}, "SOMETHING_NEW"),
        ({**ERROR, "cycles_evidence": {"evidence_id": "f" * 64}}, "BUDGET_EXCEEDED"),
    ],
)
def test_an_error_is_read_whatever_else_it_holds(body: dict[str, object], code: str) -> None:
    """Fields of later revisions, and broken optional ones, never hide the code."""
    response = CyclesResponse.http_error(409, "no", body)
    error = response.get_error_response()
    assert error is not None
    assert (code, "no", "req_1") == (error.error, error.message, error.request_id)
    assert code == response.error_code


@pytest.mark.parametrize("body", [None, {}, {"error": "X"}, {**ERROR, "error": 5}, [1], "text"])
def test_what_is_no_error_is_none(body: object) -> None:
    """Without code, message and request id there is no error envelope."""
    assert CyclesResponse(409, body=body).get_error_response() is None


def test_ids_are_found_in_body_and_headers() -> None:
    """Trace and request ids come from wherever the server put them."""
    response = CyclesResponse.http_error(409, "no", {**ERROR, "trace_id": TRACE})
    assert (response.trace_id, response.request_id) == (TRACE, "req_1")
    response = CyclesResponse(200, headers={"x-cycles-trace-id": TRACE, "x-request-id": "r"})
    assert (response.trace_id, response.request_id) == (TRACE, "r")
    assert CyclesResponse(200, body=[1]).get_body_attribute("a") is None


def test_an_http_answer_keeps_the_headers_that_say_something() -> None:
    """In lower case, whatever the server wrote; a repeated one is a list; the rest is dropped."""
    sent = [("X-Request-Id", "r1"), ("DATE", "today"), ("server", "s")]
    repeated = [("x-cycles-tenant", "a"), ("X-Cycles-Tenant", "b")]
    answer = httpx2.Response(200, headers=[*sent, *repeated])
    kept = {"x-request-id": "r1", "date": "today", "x-cycles-tenant": "a, b"}
    assert read(answer, b'{"a": 1}') == CyclesResponse.success(200, {"a": 1}, kept)
