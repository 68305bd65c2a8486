"""What a peer can do to a connection: bytes that are not HTTP, slow ones, too many, and none.

Everything that has to time out is opened at once and waited for once.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass

import pytest

import schemas
from server.world import Json, Server, Tenant, fresh, started

HEAD_BYTES_MAX = 65_536
TIMEOUT_S = 1
WITHIN_S = 10.0


@dataclass(frozen=True)
class Answer:
    """One response, as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> tuple[int, str]:
        return self.status, json.loads(self.body)["error"]


@contextmanager
def connection(server: Server) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN_S)) as peer:
        yield peer


def read_until_closed(peer: socket.socket) -> bytes:
    """Return all that comes; a server that resets the connection has closed it too."""
    received = b""
    with suppress(ConnectionError):
        while data := peer.recv(65_536):
            received += data
    return received


class _Bytes:
    """What http.client needs of a socket."""

    def __init__(self, received: bytes) -> None:
        self.file = io.BytesIO(received)

    def makefile(self, mode: str) -> io.BytesIO:
        return self.file


def parsed(received: bytes, method: str = "GET", path: str = "/nowhere") -> list[Answer]:
    """Return the responses in some bytes, each of them checked as every response is."""
    answers: list[Answer] = []
    stream = _Bytes(received)
    while stream.file.tell() < len(received):
        place = stream.file.tell()
        response = http.client.HTTPResponse(stream, method=method)  # type: ignore[arg-type]  # it asks for makefile alone
        # It closes its file at the end of the body; the next response is read from the rest.
        stream.file.close = lambda: None  # type: ignore[method-assign]  # the stream is shared
        response.begin()
        answers.append(Answer(response.status, dict(response.getheaders()), response.read()))
        assert stream.file.tell() > place
        schemas.check(method, path, answers[-1].status, answers[-1].headers, answers[-1].body)
    return answers


def exchange(
    server: Server, sent: bytes, method: str = "GET", path: str = "/nowhere"
) -> list[Answer]:
    """Send bytes after which the server has to close, and return all that it answers."""
    with connection(server) as peer:
        # A server that has refused the first half resets the rest.
        with suppress(OSError):
            peer.sendall(sent)
        return parsed(read_until_closed(peer), method, path)


def receive(peer: socket.socket) -> bytes:
    """Return one whole response from a connection that stays open."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += peer.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    [length] = re.findall(rb"(?i)content-length: (\d+)", head)
    while len(body) < int(length):
        body += peer.recv(65_536)
    return head + b"\r\n\r\n" + body


def is_closed(peer: socket.socket, within_s: float) -> bool:
    ready, _, _ = select.select([peer], [], [], within_s)
    return bool(ready) and peer.recv(1, socket.MSG_PEEK) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
        b"\x00" * 1_000,
        b"\xff" * 1_000,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1 extra\r\n\r\n",
        b"get / http/1.1\r\n\r\n",
        b"FOO /v1/balances HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: a\r\n\r\n",
        b"POST /v1/decide HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"POST /v1/decide HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/decide HTTP/1.1\r\nContent-Length: 9" + b"9" * 40 + b"\r\n\r\n",
        b"POST /v1/decide HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=lambda sent: sent[:50],
)
def test_what_is_not_http(server: Server, sent: bytes) -> None:
    """400 with the protocol's error body and both ids, and the connection is closed."""
    [answer] = exchange(server, sent)
    assert answer.error == (400, "INVALID_REQUEST")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("size", ["zz", "-5", "fffffffffffffffff", ""])
def test_a_chunk_of_no_size(tenant: Tenant, size: str) -> None:
    """A body that turns out not to be HTTP changes nothing."""
    head = (
        f"POST /v1/reservations HTTP/1.1\r\nHost: x\r\nX-Cycles-API-Key: {tenant.secret}\r\n"
        f"Transfer-Encoding: chunked\r\n\r\n{size}\r\n"
    )
    with connection(tenant.server) as peer:
        peer.sendall(head.encode())
        received = read_until_closed(peer)
    assert b" 500 " not in received
    assert parsed(received)[0].error == (400, "INVALID_REQUEST")


def test_headers_without_end(server: Server) -> None:
    """More than 64 KiB of path and headers are 431, in one header, in many, or in the path."""
    line = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    many = b"".join(b"X-H%d: %s\r\n" % (n, b"v" * 100) for n in range(1_000))
    for sent in (
        line + b"A: " + b"x" * HEAD_BYTES_MAX + b"\r\n\r\n",
        line + b"A: " + b"x" * 300_000,
        line + b"x" * 300_000,
        line + many + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * 300_000,
        b"x" * 300_000,
        line.replace(b"close", b"keep-alive") + b"\r\n" + line + many + b"\r\n",
    ):
        answers = exchange(server, sent)
        assert answers[-1].status in (400, 431), sent[:40]
        if b"HTTP" in sent:
            assert answers[-1].status == 431
            assert "65536 bytes" in json.loads(answers[-1].body)["message"]
    for sent in (
        line + b"A: " + b"x" * 60_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 60_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ):
        [answer] = exchange(server, sent)
        assert answer.error == (404, "NOT_FOUND")
        assert len(answer.body) < 1_000


def request(tenant: Tenant, path: str, body: Json | None = None, **headers: str) -> bytes:
    """Return a request as bytes."""
    content = b"" if body is None else json.dumps(body).encode()
    sent = {"Host": "x", "X-Cycles-API-Key": tenant.secret} | headers
    if body is not None:
        sent["Content-Length"] = str(len(content))
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in sent.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def test_pipelined_requests(tenant: Tenant) -> None:
    """Requests that arrive together are answered in their order, each once."""
    tenant.budget(100)
    asks = [request(tenant, "/v1/reservations", tenant.ask(n)) for n in range(1, 10)]
    last = request(tenant, "/v1/reservations", tenant.ask(10), Connection="close")
    sent = b"".join([*asks, last])
    answers = exchange(tenant.server, sent, "POST", "/v1/reservations")
    amounts = [json.loads(answer.body)["reserved"]["amount"] for answer in answers]
    assert amounts == list(range(1, 11))
    assert tenant.state()["reserved"] == 55
    assert len({answer.headers["x-request-id"] for answer in answers}) == 10


def test_garbage_behind_a_good_request(tenant: Tenant) -> None:
    """What was asked properly is answered properly; then the connection ends."""
    tenant.budget(100)
    sent = request(tenant, "/v1/reservations", tenant.ask(1))
    with connection(tenant.server) as peer:
        peer.sendall(sent)
        received = receive(peer)
        peer.sendall(b"\x00garbage\r\n\r\n")
        answers = parsed(received + read_until_closed(peer), "POST", "/v1/reservations")
    assert [answer.status for answer in answers] == [200, 400]
    assert tenant.state()["reserved"] == 1


def test_a_request_in_single_bytes(tenant: Tenant) -> None:
    """However a request is cut into packets, it is one request."""
    tenant.budget(100)
    with connection(tenant.server) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(tenant, "/v1/reservations", tenant.ask(7), Connection="close"):
            peer.send(bytes([byte]))
        [answer] = parsed(read_until_closed(peer), "POST", "/v1/reservations")
    assert answer.status == 200
    assert tenant.state()["reserved"] == 7


def test_a_caller_that_leaves(tenant: Tenant) -> None:
    """Half a body changes nothing; a whole request counts, and its key tells what happened."""
    tenant.budget(100)
    whole = request(tenant, "/v1/reservations", tenant.ask(10))
    for cut in (10, whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
        with connection(tenant.server) as peer:
            peer.sendall(whole[:cut])
    body = tenant.ask(5)
    with connection(tenant.server) as peer:
        peer.sendall(request(tenant, "/v1/reservations", body))
    answer = tenant.call("POST", "/v1/reservations", body)
    assert answer.status_code == 200
    assert tenant.state()["reserved"] == 5


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_other_methods(tenant: Tenant, method: str) -> None:
    """405 with Allow; HEAD gets the same headers and no body."""
    sent = request(tenant, "/v1/balances?tenant=x", Connection="close").replace(
        b"GET", method.encode(), 1
    )
    [answer] = exchange(tenant.server, sent, method, "/v1/balances?tenant=x")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")
    assert (answer.body == b"") is (method == "HEAD")
    assert tenant.secret.encode() not in answer.body


def test_old_and_odd_http(server: Server) -> None:
    """HTTP/1.0 is answered and closed; upgrades are declined; an absolute URL is its path."""
    [answer] = exchange(server, b"GET /health/live HTTP/1.0\r\n\r\n", path="/health/live")
    assert answer.status == 200
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    for kind in (b"websocket", b"h2c"):
        sent = b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + upgrade % kind + b"\r\n"
        assert exchange(server, sent, path="/health/live")[0].status == 200
    sent = b"GET http://example.org/v1/balances HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    [answer] = exchange(server, sent, path="/v1/balances")
    assert answer.error == (401, "UNAUTHORIZED")
    sent = b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    [answer] = exchange(server, sent, "OPTIONS", "*")
    assert answer.error == (404, "NOT_FOUND")


# Slow peers, on a server that has little patience and room for few.


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(
        tmp_path_factory.mktemp("impatient"),
        BURSAR_HEADER_TIMEOUT_S=str(TIMEOUT_S),
        BURSAR_BODY_TIMEOUT_S=str(TIMEOUT_S),
        BURSAR_KEEP_ALIVE_S=str(TIMEOUT_S),
        BURSAR_CONNECTIONS_MAX="40",
        BURSAR_BODY_BYTES_MAX="2048",
        BURSAR_QUEUE_MAX="1",
    ) as running:
        yield running


def drip(peer: socket.socket, data: bytes) -> float:
    """Send a byte now and then until the peer has closed; return after how many seconds."""
    began = time.monotonic()
    for byte in data:
        if is_closed(peer, 0.05):
            break
        try:
            peer.send(bytes([byte]))
        except OSError:
            break
    return time.monotonic() - began


def test_slow_peers(impatient: Server) -> None:
    """Case by case: slow headers and silence end the connection; a slow body is 408."""
    tenant = impatient.tenant().budget(100)
    whole = request(tenant, "/v1/reservations", tenant.ask(10))
    head, body = whole[: whole.index(b"\r\n\r\n") + 4], whole[whole.index(b"\r\n\r\n") + 4 :]
    live = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    began = time.monotonic()
    with ExitStack() as stack:
        silent, headers, second, slow, chunked, idle = (
            stack.enter_context(connection(impatient)) for _ in range(6)
        )
        second.sendall(live)
        idle.sendall(live)
        assert b"200 OK" in receive(second)
        assert b"200 OK" in receive(idle)
        second.sendall(b"GET /health/li")
        slow.sendall(head)
        chunked.sendall(head.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nX: "))
        with ThreadPoolExecutor(4) as pool:
            waiting = [
                pool.submit(drip, headers, b"GET / HTTP/1.1\r\nA: " + b"x" * 500),
                pool.submit(drip, second, b"x" * 500),
                pool.submit(drip, slow, body[:-1]),
                pool.submit(drip, chunked, b"1\r\nx\r\n" * 100),
            ]
            took = [each.result() for each in waiting]
        assert all(TIMEOUT_S / 2 < seconds < TIMEOUT_S + 3 for seconds in took), took
        for peer in (silent, headers, second, idle):
            assert read_until_closed(peer) == b""
        for peer in (slow, chunked):
            [answer] = parsed(read_until_closed(peer), "POST", "/v1/reservations")
            assert answer.error == (408, "INVALID_REQUEST")
            assert "within 1 seconds" in json.loads(answer.body)["message"]
    assert time.monotonic() - began < WITHIN_S
    assert tenant.state()["reserved"] == 0


def test_a_fast_request_is_not_hurried(impatient: Server) -> None:
    """The deadlines are for sending; one connection may be used for longer than each of them."""
    tenant = impatient.tenant().budget(100)
    with connection(impatient) as peer:
        began, count = time.monotonic(), 0
        while time.monotonic() - began < 1.5 * TIMEOUT_S:
            peer.sendall(request(tenant, "/v1/reservations", tenant.ask(0)))
            assert b"200 OK" in receive(peer)
            count += 1
            time.sleep(0.2)
    assert len(tenant.listed(limit=200)) == count


def test_too_many_connections(impatient: Server) -> None:
    """One more than allowed is closed; those that were there go on, and room comes back."""
    live = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        peers = [stack.enter_context(connection(impatient)) for _ in range(60)]
        time.sleep(TIMEOUT_S / 4)
        closed = [peer for peer in peers if is_closed(peer, 0)]
        assert 20 <= len(closed) <= 25  # the client of this test has connections too
        kept = [peer for peer in peers if peer not in closed]
        kept[0].sendall(live)
        assert b"200 OK" in receive(kept[0])
    deadline = time.monotonic() + WITHIN_S
    while impatient.call("GET", "/health/live").status_code != 200:
        assert time.monotonic() < deadline
    assert impatient.tenant().budget(1).reserve(1).status_code == 200


def test_too_many_commands(impatient: Server) -> None:
    """More than may wait are 429 with Retry-After, held nothing, and pass when sent again."""
    tenant = impatient.tenant().budget(1_000_000)
    asks = [tenant.ask(1) for _ in range(300)]
    refused: list[Json] = []
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda ask: tenant.call("POST", "/v1/reservations", ask), asks)
        for ask, answer in zip(asks, answers, strict=True):
            assert answer.status_code in (200, 429)
            if answer.status_code == 429:
                assert answer.json()["error"] == "LIMIT_EXCEEDED"
                assert answer.headers["retry-after"] == "1"
                refused.append(ask)
    assert refused
    assert tenant.state()["reserved"] == len(asks) - len(refused)
    for ask in refused:
        assert tenant.call("POST", "/v1/reservations", ask).status_code == 200
    assert tenant.state()["reserved"] == len(asks)


def test_a_smaller_body_limit(impatient: Server) -> None:
    """The limit of a body is the setting's."""
    tenant = impatient.tenant().budget(1)
    refused = tenant.reserve(1, metadata={"a": "x" * 2_048}, idempotency_key=fresh("k"))
    assert refused.status_code == 413
    assert "2048 bytes" in refused.json()["message"]
