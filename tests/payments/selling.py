"""A shop on a free loopback port: an application behind the middleware, served for real."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bursar.payments.book import Book
from bursar.payments.ports import PaymentQuery, PaymentStore
from bursar.payments.records import PaymentRecord
from bursar.testing import FakeClock
from bursar.testing.chain import Dollar
from bursar.testing.facilitator import ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.facilitators import Facilitator
from bursar.x402.merchant import X402
from bursar.x402.offers import Offer, encode
from bursar.x402.pricing import Price
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Rpc
from payments.paying import FAST_MS, PRICE, SHOP, Payer

WINDOW_S = 300


def offer(dollar: Dollar, **more: Any) -> Offer:
    return Offer(dollar.domain, more.pop("amount", PRICE), SHOP, timeout_s=600, **more)


def payload(payer: Payer, version: int = 2, *, network: str | None = None, **more: Any) -> Any:
    """Return what a client presents: a fresh authorization in either version."""
    signed, signature = payer.authorize(window_s=more.pop("window_s", WINDOW_S), **more)
    domain = payer.dollar.domain
    inner = {"signature": signature, "authorization": signed.to_wire()}
    named = network or f"eip155:{domain.chain_id}"
    if version == 1:
        return {"x402Version": 1, "scheme": "exact", "network": named, "payload": inner}
    accepted = {
        "scheme": "exact",
        "network": named,
        "asset": domain.asset,
        "amount": str(signed.value),
        "payTo": signed.pay_to,
        "maxTimeoutSeconds": 600,
        "extra": {"name": domain.name, "version": domain.version},
    }
    return {"x402Version": 2, "accepted": accepted, "payload": inner}


def paying(said: Any) -> dict[str, str]:
    name = "X-PAYMENT" if said["x402Version"] == 1 else "PAYMENT-SIGNATURE"
    return {name: encode(said)}


def receipt_of(answer: httpx2.Response) -> Any:
    raw = answer.headers.get("payment-response") or answer.headers.get("x-payment-response")
    return None if raw is None else json.loads(base64.b64decode(raw))


@dataclass
class Handlers:
    """What is sold, and how often it was done; `behave` is what a handler does next."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    behave: Callable[[Request], Any] | None = None

    async def raw(self, request: Request) -> Response:
        return JSONResponse(len(await request.body()))

    async def report(self, request: Request) -> Response:
        body = (await request.body()).decode()
        paid = request.scope.get("bursar.payment")
        self.calls.append({"paid": paid, "body": body, "method": request.method})
        if self.behave is not None:
            said = self.behave(request)
            if asyncio.iscoroutine(said):
                said = await said
            if isinstance(said, Response):
                return said
        return JSONResponse({"report": len(self.calls), "body": body})


class Shop:
    """A merchant that serves until it is stopped; `store` outlives it."""

    def __init__(
        self,
        dollar: Dollar,
        facilitator: ScriptedFacilitator | str,
        *,
        store: PaymentStore | None = None,
        app: Callable[[Handlers], Any] | None = None,
        settle_timeout_s: float = 30.0,
        book: Book | None = None,
        middleware: dict[str, Any] | None = None,
        prices: dict[str, Any] | None = None,
        rpc: tuple[str, ...] = (),
        **price: Any,
    ) -> None:
        self.dollar, self.handlers = dollar, Handlers()
        self.store = store or MemoryPayments()
        self.book = book or Book(self.store)
        self._url = facilitator if isinstance(facilitator, str) else facilitator.url
        self._settle_timeout_s = settle_timeout_s
        price = {"provisional_max": PRICE, "wait_s": 30.0} | price
        self.prices = prices or {
            "GET /report": Price((offer(dollar),), **price),
            "POST /report": Price((offer(dollar),), **price),
        }
        self._more, self._rpc = middleware or {}, rpc or (dollar.chain.url,)
        self._inner = (app or _starlette)(self.handlers)
        self.http = httpx2.Client(timeout=90.0)

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        config = uvicorn.Config(
            self._app,
            "127.0.0.1",
            port,
            log_level="warning",
            lifespan="on",
            interface="asgi3",
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        while not self.server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the shop did not open")
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":  # the clients belong to the loop that serves
            network = f"eip155:{self.dollar.chain.chain_id}"
            endpoints = {network: [Rpc(url, timeout_s=30) for url in self._rpc]}
            self.prover = ChainProver(endpoints, clock=FakeClock(FAST_MS))
            client = Facilitator(self._url, settle_timeout_s=self._settle_timeout_s)
            self.sells = X402(
                self._inner,
                routes=self.prices,
                book=self.book,
                facilitator=client,
                prover=self.prover,
                **self._more,
            )
            try:
                await self.sells(scope, receive, send)
            finally:
                await client.aclose()
                await self.prover.aclose()
            return
        await self.sells(scope, receive, send)

    def get(self, path: str = "/report", said: Any = None, **more: Any) -> httpx2.Response:
        headers = more.pop("headers", {}) | (paying(said) if said else {})
        return self.http.request(
            more.pop("method", "GET"), self.url + path, headers=headers, **more
        )

    def only(self) -> PaymentRecord:
        """Return the one payment that is on record."""
        [record] = self.store.page(PaymentQuery())
        return record


def _starlette(handlers: Handlers) -> Any:
    methods = ["GET", "POST"]
    routes = [
        Route("/report", handlers.report, methods=methods),
        Route("/raw", handlers.raw, methods=methods),
        Route("/free", handlers.report, methods=methods),
    ]
    return Starlette(routes=routes)
