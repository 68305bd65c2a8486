"""The transports on real sockets: whatever a server does, there is an answer, and in time."""

import asyncio
import contextlib
import gzip
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from bursar import CyclesConfig
from bursar.client import calls
from bursar.client.response import CyclesResponse
from bursar.client.transport import BODY_BYTES_MAX, AsyncHttpTransport, HttpTransport, deadline_s

WITHIN_S = 15.0
DENIED = {"error": "BUDGET_EXCEEDED", "message": "too dear", "request_id": "q", "trace_id": "t"}
Behaviour = Callable[[socket.socket], None]


class Server:
    """A server of raw bytes: each connection meets one behaviour, and its requests are kept."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.connections = 0
        self.over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._meet, args=(connection,), daemon=True).start()

    def _meet(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.behave(connection)

    def close(self) -> None:
        """Take no more, and let go of what waits."""
        self.over.set()
        self._socket.close()


@contextlib.contextmanager
def serving(behave: Callable[[Server], Behaviour]) -> Iterator[Server]:
    server = Server(lambda connection: behave(server)(connection))
    try:
        yield server
    finally:
        server.close()


def config(server: Server, **more: Any) -> CyclesConfig:
    return CyclesConfig(f"http://127.0.0.1:{server.port}", "key", **more)


def request(connection: socket.socket) -> bytes:
    """Read one request, headers and body."""
    found = b""
    while b"\r\n\r\n" not in found:
        more = connection.recv(65_536)
        if not more:
            return b""
        found += more
    head, _, body = found.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            while len(body) < int(value):
                body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def answered(status: str, content: bytes, *headers: str) -> bytes:
    """Return an answer as it travels."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def always(reply: bytes) -> Callable[[Server], Behaviour]:
    """Answer every request of a connection with the same bytes."""

    def behave(_: Server) -> Behaviour:
        def meet(connection: socket.socket) -> None:
            while request(connection):
                connection.sendall(reply)

        return meet

    return behave


@pytest.fixture(params=["sync", "async"])
def send(request: pytest.FixtureRequest) -> Iterator[Callable[..., CyclesResponse]]:
    """Send one call with a transport of each kind."""
    runner = asyncio.Runner()

    def blocking(settings: CyclesConfig, call: calls.Call) -> CyclesResponse:
        transport = HttpTransport(settings)
        try:
            return transport.send(call)
        finally:
            transport.close()

    async def looping(settings: CyclesConfig, call: calls.Call) -> CyclesResponse:
        transport = AsyncHttpTransport(settings)
        try:
            return await transport.send(call)
        finally:
            await transport.aclose()

    if request.param == "sync":
        yield blocking
    else:
        yield lambda settings, call: runner.run(looping(settings, call))
    runner.close()


READ = calls.get_reservation("rsv_1")

ANSWERS: list[tuple[bytes, int, Any, str | None]] = [
    (answered("200 OK", b'{"status":"ACTIVE"}'), 200, {"status": "ACTIVE"}, None),
    (answered("200 OK", b"<html>"), 200, {}, None),
    (answered("200 OK", b"[1,2]"), 200, {}, None),
    (answered("200 OK", b""), 200, {}, None),
    (answered("204 No Content", b""), 204, {}, None),
    (answered("200 OK", b"[" * 100_000), 200, {}, None),
    (answered("409 Conflict", json.dumps(DENIED).encode()), 409, DENIED, "too dear"),
    (answered("409 Conflict", b'{"error":"BUDGET_EXCEEDED"}'), 409, ..., "BUDGET_EXCEEDED"),
    (answered("502 Bad Gateway", b"<html>"), 502, None, "Bad Gateway"),
    (answered("502 ", b"[]"), 502, None, "Unknown error"),
    (answered("302 Found", b"", "Location: http://elsewhere/"), 302, None, "Found"),
    (answered("599 Odd", b"{}"), 599, {}, "Odd"),
    (
        answered("200 OK", gzip.compress(b'{"a":1}', mtime=0), "Content-Encoding: gzip"),
        200,
        {"a": 1},
        None,
    ),
]


@pytest.mark.parametrize(("reply", "status", "body", "message"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_is_read_as_it_is(
    send: Callable[..., CyclesResponse], reply: bytes, status: int, body: Any, message: str | None
) -> None:
    """JSON or not, with a body or none, redirected or not: it is an answer with its status."""
    with serving(always(reply)) as server:
        found = send(config(server), READ)
    assert (found.status, found.is_transport_error) == (status, False)
    if body is not ...:
        assert found.body == body
    assert found.error_message == message


def test_few_headers_are_kept(send: Callable[..., CyclesResponse]) -> None:
    """Those that mean something, in lower case; cookies and the like are nobody's business."""
    said = ("X-Request-Id: q-1", "Retry-After: 3", "X-Cycles-Tenant: acme", "Set-Cookie: a=b")
    with serving(always(answered("429 Too Many Requests", b"{}", *said))) as server:
        found = send(config(server), READ)
    assert set(found.headers) == {"x-request-id", "retry-after", "x-cycles-tenant"}
    assert (found.request_id, found.retry_after_ms_header) == ("q-1", 3_000)


def test_what_travels(send: Callable[..., CyclesResponse]) -> None:
    """Key and idempotency key as headers, the body byte by byte, the query escaped."""
    seen: list[bytes] = []

    def behave(_: Server) -> Behaviour:
        def meet(connection: socket.socket) -> None:
            while asked := request(connection):
                seen.append(asked)
                connection.sendall(answered("200 OK", b"{}"))

        return meet

    body = {"idempotency_key": "k-1", "n": "é\r\nX-Evil: 1"}
    with serving(behave) as server:
        send(config(server), calls.commit_reservation("a/../b\u2028?", body))
        send(config(server), calls.list_reservations({"agent": "a&b=c d\r\nX: y", "from_": "1"}))
    head, _, content = seen[0].partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /v1/reservations/a%2f..%2fb%e2%80%a8%3f/commit http/1.1"
    assert {"x-cycles-api-key: key", "x-idempotency-key: k-1"} <= set(lines)
    assert "content-type: application/json" in lines
    assert content == calls.commit_reservation("r", body).content
    line = seen[1].split(b"\r\n", 1)[0].decode()
    assert line == "GET /v1/reservations?agent=a%26b%3Dc+d%0D%0AX%3A+y&from=1 HTTP/1.1"
    assert not any(one.startswith(("x-evil", "x:")) for one in lines)


# Servers that never come to an end. `tick` is shorter than any timeout of a single read.
TICK_S = 0.05


def hold(server: Server) -> Behaviour:
    """Take the request and say nothing."""

    def meet(connection: socket.socket) -> None:
        request(connection)
        server.over.wait(WITHIN_S)

    return meet


def trickle(start: bytes) -> Callable[[Server], Behaviour]:
    """Say `start`, and then one byte after another."""

    def behave(server: Server) -> Behaviour:
        def meet(connection: socket.socket) -> None:
            request(connection)
            connection.sendall(start)
            while not server.over.wait(TICK_S):
                connection.sendall(b"a")

        return meet

    return behave


ENDLESS = {
    "silence": hold,
    "headers": trickle(b"HTTP/1.1 200 OK\r\nX-Slow: "),
    "body": trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "stall": trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_no_server_outlives_the_deadline(
    send: Callable[..., CyclesResponse], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a server that is silent nor one that drips, in the headers or the body."""
    monkeypatch.setattr("bursar.client.transport.WRITE_TIMEOUT_S", 0.1)
    with serving(ENDLESS[name]) as server:
        settings = config(server, connect_timeout=0.2, read_timeout=0.3)
        began = time.monotonic()
        found = send(settings, READ)
        took_s = time.monotonic() - began
    assert (found.status, found.is_transport_error) == (-1, True)
    assert took_s < deadline_s(settings) + 0.4
    if name != "silence":
        said = f"the answer took longer than 0.6 s (server {config(server).base_url})"
        assert found.error_message == said


def test_a_connection_is_used_again_after_a_deadline_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bound belongs to one attempt, not to the connection or the thread."""
    monkeypatch.setattr("bursar.client.transport.WRITE_TIMEOUT_S", 0.1)
    with serving(always(answered("200 OK", b"{}"))) as server:
        transport = HttpTransport(config(server, connect_timeout=0.2, read_timeout=0.2))
        assert transport.send(READ).status == 200
        time.sleep(0.7)
        assert transport.send(READ).status == 200
        assert server.connections == 1
        transport.close()


def test_an_answer_without_end_is_cut(
    send: Callable[..., CyclesResponse], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's memory is filled, however fast it comes."""
    monkeypatch.setattr("bursar.client.transport.BODY_BYTES_MAX", 1_000)
    assert BODY_BYTES_MAX == 16 * 1024 * 1024
    with serving(always(answered("200 OK", b" " * 2_000))) as server:
        found = send(config(server), READ)
    assert found.is_transport_error
    assert "larger than 1000 bytes" in str(found.error_message)


BROKEN = {
    "closes before the request": None,
    "closes after the request": b"",
    "no http": b"not http at all\r\n\r\n",
    "torn": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_answer_is_a_transport_error(
    send: Callable[..., CyclesResponse], what: str
) -> None:
    """Whether the server acted is unknown, and the exception is kept."""

    def behave(_: Server) -> Behaviour:
        def meet(connection: socket.socket) -> None:
            said = BROKEN[what]
            if said is not None:
                request(connection)
                connection.sendall(said)

        return meet

    with serving(behave) as server:
        found = send(config(server), READ)
    assert (found.status, found.is_transport_error) == (-1, True)
    assert isinstance(found.transport_exception, Exception)


def test_nobody_there(send: Callable[..., CyclesResponse]) -> None:
    """A refused connection is the lack of an answer too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = send(CyclesConfig(f"http://user:pass@127.0.0.1:{port}", "the-key"), READ)
    assert found.is_transport_error
    said = str(found.error_message)
    assert said.endswith(f" (server http://127.0.0.1:{port})")
    assert not any(secret in said for secret in ("user", "pass", "the-key"))


def test_a_client_of_the_users_is_left_open() -> None:
    """Who passes an HTTP client keeps it, with its hooks and proxies."""
    seen: list[str] = []
    http = httpx2.Client(
        base_url="http://scripted",
        transport=httpx2.MockTransport(lambda asked: httpx2.Response(200, json={"a": 1})),
        event_hooks={"request": [lambda asked: seen.append(asked.url.path)]},
    )
    transport = HttpTransport(CyclesConfig("http://scripted", "key"), http)
    assert transport.send(READ).body == {"a": 1}
    transport.close()
    assert not http.is_closed
    assert seen == ["/v1/reservations/rsv_1"]
    http.close()


def test_proxies_of_the_environment_are_seen(
    send: Callable[..., CyclesResponse], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline's own network layer does not hide them."""
    with serving(always(answered("200 OK", b'{"by":"proxy"}'))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        found = send(CyclesConfig("http://nowhere.invalid", "key"), READ)
    assert found.body == {"by": "proxy"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_connections_of_its_own() -> None:
    """Two processes on one connection would read each other's answers."""
    with serving(always(answered("200 OK", b"{}"))) as server:
        transport = HttpTransport(config(server))
        assert transport.send(READ).status == 200
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            status = transport.send(READ).status
            transport.close()
            os.write(write, str(status).encode())
            os._exit(0)
        assert os.read(read, 10) == b"200"
        os.waitpid(child, 0)
        assert server.connections == 2
        assert transport.send(READ).status == 200
        assert server.connections == 2, "the child closed its parent's connection"
        transport.close()
        os.close(read), os.close(write)
