"""A merchant for a payer's tests: it verifies and settles at a facilitator, and misbehaves.

It keeps what it sold by nonce, so that the same payment presented again gets the same thing and
is settled once. Its faults are of its answers alone.
"""

from __future__ import annotations

import json
from collections import deque
from enum import StrEnum, unique
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Self

import httpx2

from bursar.testing.chain import Dollar
from bursar.x402 import offers
from bursar.x402.offers import Offer
from bursar.x402.presented import parse
from payments.paying import PRICE, SHOP

GOODS = b'{"report": "sunny"}'


@unique
class Lapse(StrEnum):
    """What it does with one presented payment."""

    LOSE = "lose"  # settles, delivers, and closes the connection without an answer
    BUSY = "busy"  # settles, and says 503
    DROP = "drop"  # settles nothing, and closes the connection
    ASK_AGAIN = "ask_again"  # settles, and answers 402 as if it had not
    SILENT = "silent"  # settles, delivers, and says nothing of the payment
    FAIL = "fail"  # settles, says so, and delivers nothing: 500
    STALL = "stall"  # settles, and never answers
    STALL_FIRST = "stall_first"  # never answers, and settles nothing


class Shop:
    """A merchant on a loopback port that sells one thing."""

    def __init__(self, dollar: Dollar, facilitator: str, *, price: int = PRICE) -> None:
        self.offer = Offer(dollar.domain, price, SHOP, timeout_s=300)
        self.lapses: deque[Lapse] = deque()
        self.presented: list[str] = []
        self.version = 2
        self.stalled = Event()
        self._facilitator, self._lock = facilitator, Lock()
        self._sold: dict[str, dict[str, Any]] = {}
        shop = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                shop.serve(self)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/report"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        headers: Any = handler.headers  # they are found by name in any case
        payment = parse(headers)
        if payment is None:
            self._challenge(handler)
            return
        with self._lock:
            self.presented.append(payment.signature)
            lapse = self.lapses.popleft() if self.lapses else None
            if lapse not in (Lapse.DROP, Lapse.STALL_FIRST):
                told = self._settle(payment.authorization.nonce, dict(payment.payload))
        if lapse in (Lapse.STALL, Lapse.STALL_FIRST):
            self.stalled.set()
            handler.rfile.read(1)  # until whoever asked is gone
        if lapse in (Lapse.LOSE, Lapse.DROP, Lapse.STALL, Lapse.STALL_FIRST):
            handler.close_connection = True
            return
        if lapse is Lapse.BUSY:
            _answer(handler, 503, b"", {"retry-after": "0"})
        elif lapse is Lapse.ASK_AGAIN or not told["success"]:
            self._challenge(handler)
        else:
            said = {} if lapse is Lapse.SILENT else {offers.RESPONSE_HEADER: offers.encode(told)}
            _answer(handler, 500 if lapse is Lapse.FAIL else 200, GOODS, said)

    def _settle(self, nonce: str, payload: dict[str, Any]) -> dict[str, Any]:
        if nonce not in self._sold:
            wanted = self.offer.to_wire()
            body = {"x402Version": 2, "paymentPayload": payload, "paymentRequirements": wanted}
            answer = httpx2.post(f"{self._facilitator}/settle", json=body, timeout=60).json()
            if not answer["success"]:
                return dict(answer)
            self._sold[nonce] = answer
        return self._sold[nonce]

    def _challenge(self, handler: BaseHTTPRequestHandler) -> None:
        asked = offers.challenge([self.offer], "payment required")
        if self.version == 2:
            _answer(handler, 402, b"{}", {offers.REQUIRED_HEADER: offers.encode(asked)})
            return
        row = self.offer.to_wire()
        row = row | {"maxAmountRequired": row.pop("amount"), "resource": self.url}
        _answer(handler, 402, json.dumps({"x402Version": 1, "accepts": [row]}).encode(), {})


def _answer(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
