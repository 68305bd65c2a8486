"""A server that fails as it is told, remembers every request, and knows what was settled."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

WITHIN_S = 20.0
USD = "USD_MICROCENTS"


@dataclass(frozen=True)
class Request:
    """What arrived: which operation, about what, with which credential, when."""

    operation: str
    reservation_id: str
    body: dict[str, Any]
    api_key: str
    at: float

    @property
    def key(self) -> str:
        return str(self.body["idempotency_key"])


@dataclass(frozen=True)
class Answer:
    """An answer; `lost` closes the connection after the server has acted."""

    status: int = 200
    body: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False


Fault = Answer | Callable[[Request], Answer | None]
"""What happens to one request; a function may wait, and None is the usual answer."""


class Faulty:
    """The faults of each operation in order, then the usual answers."""

    def __init__(self, **faults: list[Fault]) -> None:
        """Plan faults for `create`, `commit`, `release`, `extend` and `event`."""
        self.requests: list[Request] = []
        self.settled: dict[str, str] = {}
        self.settlements = 0
        self.remaining_ttl_ms: int | None = 60_000
        self.port = 0
        self._faults = faults
        self._came = threading.Condition()
        self._over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, *operations: str) -> list[Request]:
        """Return the requests of some operations."""
        return [one for one in self.requests if one.operation in operations]

    def story(self) -> list[str]:
        """Return what was asked, but for reserving."""
        return [one.operation for one in self.requests if one.operation != "create"]

    def wait_for(self, operation: str, count: int = 1) -> Request:
        """Return the n-th request of an operation once it is here."""
        with self._came:
            came = self._came.wait_for(lambda: len(self.of(operation)) >= count, WITHIN_S)
        assert came, f"no {operation} came; only {[one.operation for one in self.requests]}"
        return self.of(operation)[count - 1]

    def hang(self, request: Request) -> Answer | None:
        """Never answer: the process is killed while it waits."""
        self._over.wait(WITHIN_S)
        return Answer(lost=True)

    def answer(self, request: Request) -> Answer:
        """Record a request, meet its fault, act, and return the answer."""
        with self._came:
            self.requests.append(request)
            faults = self._faults.get(request.operation, [])
            fault = faults.pop(0) if faults else None
            self._came.notify_all()
        if callable(fault):
            fault = fault(request)
        if fault is not None and not fault.lost:
            return fault
        usual = self._act(request)
        return Answer(lost=True) if fault is not None else usual

    def _act(self, request: Request) -> Answer:
        body, now_ms = request.body, time.time_ns() // 1_000_000
        if request.operation == "create":
            answer = {
                "decision": "ALLOW",
                "reservation_id": f"rsv/{len(self.of('create'))}",
                "affected_scopes": ["tenant:acme"],
                "scope_path": "tenant:acme",
                "reserved": body["estimate"],
                "expires_at_ms": now_ms + body["ttl_ms"],
            }
            return Answer(body=self._lease(answer))
        if request.operation == "extend":
            answer = {"status": "ACTIVE", "expires_at_ms": now_ms + body["extend_by_ms"]}
            return Answer(body=self._lease(answer))
        if request.operation == "release":
            return Answer(body={"status": "RELEASED", "released": {"unit": USD, "amount": 10}})
        self._settle(request)
        if request.operation == "event":
            return Answer(201, {"status": "APPLIED", "event_id": "evt_1"})
        return Answer(body={"status": "COMMITTED", "charged": body["actual"]})

    def _lease(self, answer: dict[str, Any]) -> dict[str, Any]:
        left = {} if self.remaining_ttl_ms is None else {"remaining_ttl_ms": self.remaining_ttl_ms}
        return answer | left

    def _settle(self, request: Request) -> None:
        """Charge once for each reservation: a repeated key is a replay."""
        rid = request.reservation_id or request.body["metadata"]["recovered_reservation_id"]
        with self._came:
            if self.settled.setdefault(rid, "") != request.key:
                self.settlements += 1
                self.settled[rid] = request.key

    def end(self) -> None:
        """Let go of requests that hang."""
        self._over.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer one request of the runtime plane."""
        faulty: Faulty = self.server.faulty  # type: ignore[attr-defined] # set in `serving`
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = self.path.strip("/").split("/")
        operation = {"v1/reservations": "create", "v1/events": "event"}.get("/".join(parts[:4]))
        about = unquote(parts[2]) if len(parts) == 4 else ""
        request = Request(
            operation or parts[-1],
            about,
            body,
            self.headers.get("X-Cycles-API-Key", ""),
            time.time(),
        )
        answer = faulty.answer(request)
        if answer.lost:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = b"" if answer.body is None else json.dumps(answer.body).encode()
        with contextlib.suppress(OSError):  # the client may have been killed
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error."""


@contextlib.contextmanager
def serving(faulty: Faulty) -> Iterator[Faulty]:
    """Serve on a free port of the loopback."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.faulty = faulty  # type: ignore[attr-defined] # read by the handler
        faulty.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield faulty
        finally:
            faulty.end()
            server.shutdown()
            thread.join(WITHIN_S)


def refusal(status: int, code: str | None = None, **headers: str) -> Answer:
    """Return an error of the protocol; with a trace id, as today's servers send."""
    body = {"error": code, "message": "m", "request_id": "r", "trace_id": "0" * 32}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body if code else None, named)
