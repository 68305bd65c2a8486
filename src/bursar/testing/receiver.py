"""A receiver of webhooks on a free port of the loopback, that goes wrong when told to.

The rule that lives here: it takes down every request as it came, whatever it answers, so that a
test sees how often something was told, and checks the signature over those very bytes.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from bursar.wire import signature

STALL: Final = 0
"""In place of a status: the request is read, and never answered."""
STALL_S_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came.

    Attributes:
        path: of the request, with its query.
        headers: by name, as they were spelled.
        body: its raw bytes.
        is_signed: the signature is that of these bytes under the receiver's secret.
        status: what it was answered with.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    is_signed: bool
    status: int

    @property
    def event_id(self) -> str:
        """Return what repetitions are told by."""
        return self.headers.get(signature.EVENT_ID_HEADER, "")

    @property
    def event(self) -> dict[str, Any]:
        """Return what the body says."""
        said: dict[str, Any] = json.loads(self.body)
        return said


class WebhookReceiver:
    """A receiver for tests, in this process, to be used in a `with` block.

    ```python
    import httpx2
    from bursar.testing.receiver import WebhookReceiver
    from bursar.wire.signature import SIGNATURE_HEADER, sign

    with WebhookReceiver("a secret of both sides") as receiver:
        receiver.next(500)
        signed = {SIGNATURE_HEADER: sign("a secret of both sides", b"{}")}
        answers = [httpx2.post(receiver.url, content=b"{}", headers=signed) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [500, 204]
        assert all(one.is_signed for one in receiver.received)
    ```

    `received` is every request, in order. `on_received` is called after each, before it is
    answered.
    """

    def __init__(
        self, secret: str, *, port: int = 0, on_received: Callable[[Received], None] | None = None
    ) -> None:
        """Listen; nothing is answered before the block is entered."""
        self.received: list[Received] = []
        self.on_received = on_received
        self.headers: dict[str, str] = {}
        self._secret = secret
        self._statuses: deque[int] = deque()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        # Several senders connect at once; the default queue of five would turn some away.
        self._server.socket.listen(256)

    @property
    def port(self) -> int:
        """Return where it listens."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """Return where it answers."""
        return f"http://127.0.0.1:{self.port}/alerts"

    def next(self, *statuses: int) -> None:
        """Let the next requests be answered with these, in order; then with 204."""
        with self._lock:
            self._statuses.extend(statuses)

    def __enter__(self) -> Self:
        """Start to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Die: requests that wait for an answer never get one."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        with self._lock:
            status = self._statuses.popleft() if self._statuses else 204
            is_signed = signature.is_signed(
                self._secret, body, headers.get(signature.SIGNATURE_HEADER)
            )
            one = Received(path, headers, body, is_signed, status)
            self.received.append(one)
        if self.on_received is not None:
            self.on_received(one)
        return status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = receiver._take(self.path, dict(self.headers.items()), body)
                if status == STALL:
                    receiver._over.wait(STALL_S_MAX)
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing on standard error."""

        return Handler
