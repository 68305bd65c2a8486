"""An HTTP library that answers from memory, for both SDKs.

The rule that lives here: everything of an SDK runs, and nothing of HTTP. What comes back are
the bytes that a ledger of two budgets really answers, to be read and checked like any others;
whatever the HTTP library would do itself (encode, send, wait, receive) takes no time.
"""

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import httpx2

from bursar import CyclesClient

ASKED = {
    "idempotency_key": "asked-once",
    "subject": {"tenant": "bench", "agent": "bot"},
    "action": {"kind": "llm.completion", "name": "bench"},
    "estimate": {"unit": "USD_MICROCENTS", "amount": 100},
    "ttl_ms": 60_000,
}
SPENT = {"idempotency_key": "spent-once", "actual": ASKED["estimate"]}
HEADERS = httpx2.Headers(
    {
        "date": "Sat, 21 Nov 2026 07:00:00 GMT",
        "server": "uvicorn",
        "content-length": "712",
        "content-type": "application/json",
        "x-request-id": "01a1fce8-6535-761c-aae9-36ba4055aeb2",
        "x-cycles-trace-id": "5b29df8d759df4fbbc53820ff117bc3e",
        "x-cycles-tenant": "bench",
    }
)


def real_answers() -> dict[str, dict[str, Any]]:
    """Return what a ledger answers to a reserve, an extend, a commit and a release."""
    with CyclesClient.embedded(":memory:", tenant="bench", journal_enabled=False) as ledger:
        ledger.create_budget("20USD")
        ledger.create_budget("10USD", scope="tenant:bench/agent:bot")
        again = {**ASKED, "idempotency_key": "asked-twice"}
        first, second = (ledger.create_reservation(asked) for asked in (ASKED, again))
        one, two = (str(found.get_body_attribute("reservation_id")) for found in (first, second))
        key = {"idempotency_key": "key"}
        answers = {
            "": first,
            "extend": ledger.extend_reservation(one, {**key, "extend_by_ms": 60_000}),
            "commit": ledger.commit_reservation(one, SPENT),
            "release": ledger.release_reservation(two, key),
        }
    return {verb: answer.body or {} for verb, answer in answers.items()}


class Server:
    """A server with plenty of budget, that knows how long each lease still was.

    Attributes:
        beats: extends for each reservation.
        late_ms: for each extend, how long after its time it came; negative is early.
    """

    def __init__(self, lease_ms: int, due_ms: float) -> None:
        """Grant leases of `lease_ms`, to be extended `due_ms` after each answer."""
        self._due_ms = due_ms
        self._bytes = {verb: _template(body, lease_ms) for verb, body in real_answers().items()}
        self._granted: dict[str, float] = {}
        self.beats: dict[str, int] = {}
        self.late_ms: list[float] = []

    def answer(self, path: str) -> "Answer":
        """Answer a POST to `path`; a reserve is `/v1/reservations`."""
        reservation_id, _, verb = path.removeprefix("/v1/reservations").strip("/").partition("/")
        if not reservation_id:
            reservation_id = f"rsv_{len(self._granted)}"
            self._granted[reservation_id] = time.monotonic() * 1_000
        elif verb == "extend":
            now_ms = time.monotonic() * 1_000
            self.late_ms.append(now_ms - self._granted[reservation_id] - self._due_ms)
            self._granted[reservation_id] = now_ms
            self.beats[reservation_id] = self.beats.get(reservation_id, 0) + 1
        return Answer(self._bytes[verb].replace(b"$id", reservation_id.encode()))


class Answer:
    """An answer as HTTP libraries show it, streamed or whole."""

    status_code = 200
    is_success = True
    headers = HEADERS

    def __init__(self, content: bytes) -> None:
        self.content = content

    def json(self) -> Any:
        return json.loads(self.content)

    def iter_bytes(self) -> Iterator[bytes]:
        yield self.content

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        yield self.content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


class Http:
    """The part of an HTTP client that the two SDKs use."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def stream(self, method: str, url: str, **rest: object) -> Answer:
        return self._server.answer(url)

    def post(self, url: str, **rest: object) -> Answer:
        return self._server.answer(url)

    def close(self) -> None:
        pass


class AsyncHttp(Http):
    """The same for an event loop."""

    async def post(self, url: str, **rest: object) -> Answer:  # type: ignore[override]  # as httpx2 has it
        return self._server.answer(url)

    async def aclose(self) -> None:
        pass


def _template(body: dict[str, Any], lease_ms: int) -> bytes:
    """Return an answer's bytes, for any reservation, with a lease that never ends."""
    changed = dict(body)
    if "reservation_id" in body:
        changed["reservation_id"] = "$id"
    if "expires_at_ms" in body:
        changed["expires_at_ms"] = int(time.time() * 1_000) + lease_ms
    if "remaining_ttl_ms" in body:
        changed["remaining_ttl_ms"] = lease_ms
    return json.dumps(changed, separators=(",", ":")).encode()
