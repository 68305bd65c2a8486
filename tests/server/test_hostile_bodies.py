"""Bodies, queries and headers that nobody would send in good faith: refused, never a 500."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bursar.server.settings import SETTINGS
from server.world import Json, Response, Tenant, error, fresh

BAD = (400, "INVALID_REQUEST")
[BODY_BYTES_MAX] = [setting.default for setting in SETTINGS if setting.name == "body_bytes_max"]
POSTS = [
    *("/v1/reservations", "/v1/decide", "/v1/events", "/v1/reservations/x/commit"),
    *("/v1/reservations/x/release", "/v1/reservations/x/extend", "/v1/admin/budgets"),
]


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


GOOD = '{"idempotency_key":"k","subject":{"tenant":"@"},"action":{"kind":"a","name":"b"},'
AMOUNT = '"estimate":{"unit":"TOKENS","amount":%s}}'

# What is sent -> what the message says.
BODIES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "the body is empty; send a JSON object"),
    "blank": (" \r\n\t", "the body is empty; send a JSON object"),
    "half": ('{"idempotency_key":', "the body is not valid JSON"),
    "comma": ('{"a":1,}', "the body is not valid JSON"),
    "single quotes": ("{'a':1}", "the body is not valid JSON"),
    "comment": ('{"a":1} // no', "the body is not valid JSON"),
    "two objects": ("{}{}", "the body is not valid JSON"),
    "array": ("[]", "the body must be a JSON object"),
    "array of objects": ("[{}]", "the body must be a JSON object"),
    "text": ('"reserve"', "the body must be a JSON object"),
    "number": ("5", "the body must be a JSON object"),
    "null": ("null", "the body must be a JSON object"),
    "form": ("idempotency_key=k", "the body is not valid JSON"),
    "xml": ("<reserve/>", "the body is not valid JSON"),
    "byte order mark": ("\ufeff{}".encode(), "the body starts with a byte order mark"),
    "utf-16": ('{"a":1}'.encode("utf-16"), "the body is not valid"),
    "latin-1": ('{"a":"é"}'.encode("latin-1"), "the body is not valid UTF-8 (byte 7)"),
    "overlong": (b'{"a":"\xc0\xaf"}', "the body is not valid UTF-8"),
    "raw NUL": (b'{"a":"\x00"}', "the body is not valid JSON"),
    "control character": (b'{"a":"\x01"}', "the body is not valid JSON"),
    "lone surrogate": ('{"idempotency_key":"\\ud800"}', "surrogate"),
    "deep arrays": (deep(100_000), "the body is nested too deeply"),
    "deep objects": ('{"a":' * 30_000 + "1" + "}" * 30_000, "the body is nested too deeply"),
    "deep metadata": (GOOD + f'"metadata":{{"a":{deep(150)}}},' + AMOUNT % "1", "metadata"),
    "deeper metadata": (GOOD + f'"metadata":{{"a":{deep(300)}}},' + AMOUNT % "1", "nested"),
    "NaN": (GOOD + AMOUNT % "NaN", ""),
    "infinity": (GOOD + AMOUNT % "Infinity", ""),
    "minus infinity": (GOOD + AMOUNT % "-Infinity", ""),
    "NaN in metadata": (GOOD + '"metadata":{"a":NaN},' + AMOUNT % "1", "metadata.a"),
    "1e400 in metadata": (GOOD + '"metadata":{"a":1e400},' + AMOUNT % "1", "metadata.a"),
    "exponent": (GOOD + AMOUNT % "1e2", "estimate.amount: must be an integer"),
    "huge exponent": (GOOD + AMOUNT % "1e999999999", "estimate.amount"),
    "huge integer": (GOOD + AMOUNT % ("9" * 5_000), ""),
    "huge integer in metadata": (GOOD + f'"metadata":{{"a":{"9" * 5_000}}},' + AMOUNT % "1", ""),
    "leading zero": (GOOD + AMOUNT % "01", "the body is not valid JSON"),
    "plus": (GOOD + AMOUNT % "+1", "the body is not valid JSON"),
    "hex": (GOOD + AMOUNT % "0x10", "the body is not valid JSON"),
    "amount twice": (
        GOOD + '"estimate":{"unit":"TOKENS","amount":1,"amount":9}}',
        "amount: appears more than once",
    ),
    "key twice": ('{"idempotency_key":"a",' + GOOD[1:] + AMOUNT % "1", "idempotency_key: appears"),
    "twice in metadata": (
        GOOD + '"metadata":{"x":[{"y":1,"y":2}]},' + AMOUNT % "1",
        "y: appears more than once",
    ),
    "escaped twice": (
        GOOD + '"ttl_ms":1000,"ttl\\u005fms":2000,' + AMOUNT % "1",
        "ttl_ms: appears",
    ),
    "a thousand fields": (json.dumps({f"f{n}": n for n in range(1_000)}), "; and 99"),
    "a long name": (json.dumps({"x" * 100_000: 1}), "unknown field"),
    "a name with a line break": ('{"a\\nb":1}', "a\\nb: unknown field"),
}


@pytest.fixture(scope="module")
def funded(server: Any) -> Tenant:
    tenant: Tenant = server.tenant()
    return tenant.budget(1_000)


@pytest.fixture
def unchanged(funded: Tenant) -> Iterator[Tenant]:
    """Fail if the tenant's money, or its list of reservations, is not what it was."""
    before = funded.state(), funded.listed()
    yield funded
    assert (funded.state(), funded.listed()) == before


def post(tenant: Tenant, path: str, content: Any, **headers: str) -> Response:
    sent = {"X-Cycles-API-Key": tenant.secret, "Content-Type": "application/json"} | headers
    return tenant.server.client.post(path, content=content, headers=sent)


@pytest.mark.parametrize("name", BODIES)
def test_bodies(unchanged: Tenant, name: str) -> None:
    """Case 43: what cannot be understood in exactly one way is 400, in plain words."""
    content, said = BODIES[name]
    if isinstance(content, str):
        content = content.replace("@", unchanged.id).encode("utf-8", "surrogatepass")
    for path in POSTS:
        refused = post(unchanged, path, content)
        assert error(refused) == BAD
        message = refused.json()["message"]
        assert len(message) <= 4_000
        assert message.isprintable()
        if path == "/v1/reservations":
            assert said in message


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1_024):
        yield b" " * 1_024
    yield b" " * (size % 1_024)


@pytest.mark.parametrize("path", POSTS)
def test_a_body_beyond_the_limit(unchanged: Tenant, path: str) -> None:
    """413 for one byte more, declared or in chunks; the limit itself is read and understood."""
    for content in (b" " * (BODY_BYTES_MAX + 1), chunks(BODY_BYTES_MAX + 1), chunks(3_000_000)):
        refused = post(unchanged, path, content)
        assert error(refused) == (413, "INVALID_REQUEST")
        assert f"{BODY_BYTES_MAX} bytes (setting body_bytes_max)" in refused.json()["message"]
        assert refused.headers["connection"] == "close"
    for content in (b" " * BODY_BYTES_MAX, chunks(BODY_BYTES_MAX)):
        assert error(post(unchanged, path, content)) == BAD


def test_a_good_body_of_the_largest_size(funded: Tenant) -> None:
    """As much metadata as fits is stored and given back."""
    body = funded.ask(0)
    metadata = {"a": "x" * (BODY_BYTES_MAX - len(json.dumps(body | {"metadata": {"a": ""}})))}
    content = json.dumps(body | {"metadata": metadata}).encode()
    assert len(content) == BODY_BYTES_MAX
    answer = post(funded, "/v1/reservations", content)
    assert answer.status_code == 200
    assert funded.reservation(answer.json()["reservation_id"]).json()["metadata"] == metadata


def test_a_message_never_grows_with_the_request(unchanged: Tenant) -> None:
    """What was sent is quoted, but a quarter of a megabyte of it helps nobody."""
    long = "x" * 200_000
    admin = unchanged.server.admin
    budget = {"unit": "TOKENS", "allocated": {"unit": "TOKENS", "amount": 1}}
    for refused in (
        admin("POST", "/v1/admin/budgets", budget | {"tenant_id": unchanged.id, "scope": long}),
        admin("POST", "/v1/admin/budgets", budget | {"tenant_id": long, "scope": "tenant:a"}),
        admin("POST", "/v1/admin/api-keys", {"tenant_id": long, "name": "k"}),
        unchanged.reserve(1, below=f"agent:{long}"),
        unchanged.get("/v1/reservations", tenant=long[:50_000]),
        unchanged.get("/v1/admin/budgets/lookup", unit="TOKENS", scope=long[:50_000]),
    ):
        assert refused.status_code in (400, 403, 404)
        assert len(refused.json()["message"]) <= 4_000


def test_text_of_every_kind_comes_back_as_it_was(funded: Tenant) -> None:
    """Quotes, escapes, controls, right-to-left, emoji and code points without a name."""
    odd = '"\\/\b\f\n\r\t\x1b\x7f\u2028\u202e\u200b\ufeff\uffff\U0001f680\U0010ffff</script>'
    body = funded.ask(0, metadata={odd: [odd, {"x": odd}]}, idempotency_key=odd)
    body["action"] = {"kind": "k" + odd, "name": odd, "tags": [odd]}
    body["subject"]["dimensions"] = {odd: odd}
    held = funded.call("POST", "/v1/reservations", body).json()["reservation_id"]
    row = funded.reservation(held).json()
    for name in ("metadata", "action", "subject", "idempotency_key"):
        assert row[name] == body[name]
    assert funded.listed(idempotency_key=odd) == [held]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=latin-1", "text/plain", "", "multipart/form-data"]
)
def test_the_content_type_is_not_looked_at(funded: Tenant, kind: str) -> None:
    """A body is JSON in UTF-8, whatever it is called."""
    body = json.dumps(funded.ask(0))
    assert post(funded, "/v1/reservations", body, **{"Content-Type": kind}).status_code == 200


def test_queries(unchanged: Tenant) -> None:
    """Too many parameters are 400; the last of a repeated one counts; the rest is ignored."""
    many = [(f"p{number}", "x") for number in range(200)]
    for path in ("/v1/reservations", "/v1/balances", "/v1/admin/budgets"):
        refused = unchanged.call("GET", path, params=many)
        assert error(refused) == BAD
        assert "100 parameters" in refused.json()["message"]
    twice = [("status", "NOPE"), ("status", "ACTIVE")]
    assert unchanged.call("GET", "/v1/reservations", params=twice).status_code == 200
    reverse = unchanged.call("GET", "/v1/reservations", params=twice[::-1])
    assert error(reverse) == BAD


@pytest.mark.parametrize(
    "raw",
    [
        "tenant=%00",
        "tenant=%ff%fe",
        "agent=%00&agent=%00",
        "agent=%F0%9F%9A%80",
        "agent=' OR 1=1 --",
        "agent=%25",
        "agent=" + "x" * 20_000,
        "idempotency_key=%ED%A0%80",
        "idempotency_key=" + "k" * 20_000,
        "from=%00",
        "from=" + "9" * 5_000,
        "limit=" + "9" * 5_000,
        "limit=%00",
        "cursor=" + "A" * 20_000,
        "cursor=" + "W" * 20_000,
        "include=" + "metadata," * 2_000,
        "sort_by=created_at_ms; DROP TABLE budget",
        "&&&===&",
        "=",
        "%",
        "%zz=%zz",
        "tenant[]=a",
        ";tenant=a",
        "#",
    ],
)
def test_odd_queries(unchanged: Tenant, raw: str) -> None:
    """200, 400 or 403, whatever a query holds, on every list."""
    for path in (
        "/v1/reservations",
        "/v1/balances",
        "/v1/admin/budgets",
        "/v1/admin/budgets/lookup",
    ):
        answer = unchanged.call("GET", f"{path}?{raw}")
        assert answer.status_code in (200, 400, 403), answer.text
        answer = unchanged.server.admin("GET", f"{path}?{raw}")
        assert answer.status_code in (200, 400, 401, 403), answer.text
    assert unchanged.server.admin("GET", f"/v1/admin/tenants?{raw}").status_code in (200, 400)


@pytest.mark.parametrize(
    "identity",
    [
        *("%00", "a%00b", "%2e%2e", "..", "%20", "%25", "%zz", "%ff", "%F0%9F%9A%80", "é"),
        *("'; DROP TABLE reservation; --", "null", "*", "a;b", "a?b", "%0d%0aX-Evil:1", "-1"),
    ],
)
def test_odd_ids(unchanged: Tenant, identity: str) -> None:
    """An id that nobody gave out is 404, in every operation that takes one."""
    key = {"idempotency_key": fresh("k")}
    bodies: dict[str, Json] = {
        "commit": key | {"actual": {"unit": "TOKENS", "amount": 0}},
        "release": key,
        "extend": key | {"extend_by_ms": 1},
    }
    path = "/v1/reservations/" + identity.replace("?", "%3F")
    for verb, body in bodies.items():
        refused = unchanged.call("POST", f"{path}/{verb}", body)
        assert refused.status_code == 404
        assert "x-evil" not in refused.headers
    if identity not in ("..", "%2e%2e"):
        assert error(unchanged.call("GET", path)) == (404, "NOT_FOUND")


def test_escaped_slashes_are_no_slashes(funded: Tenant) -> None:
    """An escaped slash never makes a path that a proxy in front did not see."""
    held = funded.hold(0)
    for path in (
        f"/v1/reservations%2F{held}",
        f"/v1%2freservations/{held}",
        f"/v1/reservations/{held}%2Frelease",
        "/v1/admin%2Ftenants",
    ):
        for method in ("GET", "POST"):
            answer = funded.call(method, path, headers=funded.server.operator)
            assert error(answer) == (404, "NOT_FOUND")
    assert funded.release(held).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Idempotency-Key", "k" * 300),
        ("X-Idempotency-Key", ""),
        ("X-Idempotency-Key", b"\xff\xfe"),
        ("X-Cycles-API-Key", "x" * 20_000),
        ("X-Cycles-API-Key", b"\xff\x80"),
        ("X-Cycles-API-Key", "' OR 1=1 --"),
        ("X-Admin-API-Key", b"\xe2\x82\xac" * 20),
        ("traceparent", b"\xff" * 100),
        ("X-Cycles-Trace-Id", b"\xc3\xa9" * 16),
        ("Cookie", "a=b;" * 500),
        ("Accept", "text/html"),
        ("Accept-Encoding", "br;q=1.0, *;q=0"),
        ("Expect", "100-continue"),
        ("Expect", "the unexpected"),
        ("Content-Encoding", "gzip"),
        ("Range", "bytes=0-0"),
        ("X-Forwarded-For", "127.0.0.1, evil"),
        ("Authorization", "Basic Og=="),
        ("X-HTTP-Method-Override", "DELETE"),
    ],
    ids=str,
)
def test_odd_headers(funded: Tenant, name: str, value: str | bytes) -> None:
    """They are refused where they matter and ignored where they do not."""
    headers: Any = {"X-Cycles-API-Key": funded.secret} | {name: value}
    answer = funded.server.call("POST", "/v1/reservations", funded.ask(0), headers=headers)
    if name == "X-Idempotency-Key":
        assert error(answer) == BAD
    elif name == "X-Cycles-API-Key":
        assert error(answer) == (401, "UNAUTHORIZED")
    else:
        assert answer.status_code == 200
    # Where the operator may act, a header that is no admin key is 401.
    listed = funded.server.call("GET", "/v1/reservations", headers=headers)
    assert listed.status_code == (401 if name.endswith("API-Key") else 200)


def test_while_others_work(funded: Tenant) -> None:
    """Garbage beside good requests does not disturb them."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            post(funded, "/v1/reservations", b"\xff")
            post(funded, "/v1/decide", deep(1_000))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(30):
            assert funded.commit(funded.hold(1), 0).status_code == 200
    finally:
        stop.set()
        thread.join()
