"""A payment service over HTTP, on a free port of the loopback, that goes wrong when told to.

The rule that lives here: it does what it is asked. Asked twice without an idempotency key, it
charges twice, as such services do; what it charged is known to the test to the last charge.

| request | answer |
|---|---|
| `POST /charges`, `{"reference", "amount"}`, header `Idempotency-Key` if any | 201, the charge |
| the same key again | 200, the first charge |
| the same key with another body | 409 |
| `GET /charges?key=...` | 200, the charge, or 404 |
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

STALL_S_MAX = 30.0


@unique
class Mishap(StrEnum):
    """What happens to one request for a charge."""

    DECLINE = "decline"  # refuse, and charge nothing
    TIME_OUT = "time_out"  # charge, and never answer
    HANG_UP = "hang_up"  # charge, and close the connection instead of answering
    HANG_UP_FIRST = "hang_up_first"  # close the connection, and charge nothing


@dataclass(frozen=True, slots=True)
class Charged:
    """Money that moved: what for, how much, and under which key if any."""

    id: str
    reference: str
    amount: int
    key: str | None


class PaymentService:
    """A payment service for tests, in this process, to be used in a `with` block.

    ```python
    import httpx2
    from bursar.testing import Mishap, PaymentService

    with PaymentService() as service:
        service.next(Mishap.DECLINE)
        order = {"reference": "order-7", "amount": 19_900}
        for _ in range(2):
            httpx2.post(f"{service.url}/charges", json=order)
        assert len(service.charges) == 1
    ```

    `charges` is everything that was charged, in order. `on_charge` is called after each, before
    it is answered.
    """

    def __init__(self, on_charge: Callable[[Charged], None] | None = None) -> None:
        """Listen; nothing is answered before the block is entered."""
        self.charges: list[Charged] = []
        self.on_charge = on_charge
        self._mishaps: deque[Mishap] = deque()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        # Fifty workers connect at once; the default queue of five would turn some away.
        self._server.socket.listen(256)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def next(self, *mishaps: Mishap) -> None:
        """Let the next requests for a charge meet these, in order."""
        with self._lock:
            self._mishaps.extend(mishaps)

    def charged(self, reference: str) -> list[Charged]:
        """Return what was charged for one reference."""
        return [one for one in list(self.charges) if one.reference == reference]

    def __enter__(self) -> Self:
        """Start to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Die: requests that wait for an answer never get one."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _charge(self, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, Any]]:
        with self._lock:
            known = self._find(key) if key else None
            if known is None:
                known = Charged(
                    f"ch_{next(self._numbers)}", str(body["reference"]), int(body["amount"]), key
                )
                self.charges.append(known)
                status = 201
            elif (known.reference, known.amount) != (body["reference"], body["amount"]):
                return 409, {"error": "the key was used for another charge"}
            else:
                status = 200
        if self.on_charge is not None:
            self.on_charge(known)
        return status, asdict(known)

    def _find(self, key: str | None) -> Charged | None:
        return next((one for one in self.charges if one.key == key), None)

    def _mishap(self) -> Mishap | None:
        with self._lock:
            return self._mishaps.popleft() if self._mishaps else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length))
                mishap = service._mishap()
                if mishap is Mishap.DECLINE:
                    return self._say(402, {"error": "card declined"})
                if mishap is Mishap.HANG_UP_FIRST:
                    return self._hang_up()
                status, said = service._charge(body, self.headers.get("Idempotency-Key"))
                if mishap is Mishap.TIME_OUT:
                    service._over.wait(STALL_S_MAX)
                if mishap is not None:
                    return self._hang_up()
                return self._say(status, said)

            def do_GET(self) -> None:
                (key,) = parse_qs(urlsplit(self.path).query).get("key", [""])
                found = service._find(key) if key else None
                if found is None:
                    return self._say(404, {"error": "no such charge"})
                return self._say(200, asdict(found))

            def _hang_up(self) -> None:
                self.close_connection = True

            def _say(self, status: int, said: dict[str, Any]) -> None:
                body = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing on standard error."""

        return Handler
