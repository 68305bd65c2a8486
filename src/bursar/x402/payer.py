"""Pay for what answers 402, under a reservation, once.

The rule that lives here: a shell only knows how to wait. What a purchase is, is written in
`purchase`; the blocking shell runs it in one step, the asynchronous one finishes it whatever
becomes of the caller, so that what was heard of a payment is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, TypeVar

import httpx2

from bursar.client.aio import AsyncCyclesClient
from bursar.client.response import CyclesResponse
from bursar.client.shell import Supervisor
from bursar.client.sync import CyclesClient
from bursar.flow import run_sync
from bursar.payments.book import Book
from bursar.x402.allowance import Allowance
from bursar.x402.buying import Bought, Request, Terms
from bursar.x402.purchase import Purchases
from bursar.x402.signing import Signer

T = TypeVar("T")
TIMEOUT_S: Final = 60.0
NOTICES_MAX: Final = 100
CLOSE_S: Final = 10.0


class _Blocking:
    """Hands that block."""

    def __init__(self, client: CyclesClient, http: httpx2.Client) -> None:
        self.client, self.http = client, http

    async def send(self, request: Request) -> httpx2.Response:
        return self.http.request(
            request.method, request.url, headers=dict(request.headers), content=request.content
        )

    async def ledger(self, method: str, *arguments: Any) -> CyclesResponse:
        said: CyclesResponse = getattr(self.client, method)(*arguments)
        return said

    async def write(self, step: Callable[[], T]) -> T:
        return step()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - these hands block, and only in threads


class _Waiting:
    """Hands that suspend; the store is written in a thread, to the end."""

    def __init__(self, client: AsyncCyclesClient, http: httpx2.AsyncClient) -> None:
        self.client, self.http = client, http

    async def send(self, request: Request) -> httpx2.Response:
        return await self.http.request(
            request.method, request.url, headers=dict(request.headers), content=request.content
        )

    async def ledger(self, method: str, *arguments: Any) -> CyclesResponse:
        said: CyclesResponse = await getattr(self.client, method)(*arguments)
        return said

    async def write(self, step: Callable[[], T]) -> T:
        return await asyncio.to_thread(step)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class X402Payer:
    """Buys over HTTP, and pays what a 402 asks for; safe to share between threads.

    Args:
        client: the ledger that payments are reserved in.
        signer: the key, and what it may sign.
        book: where payments are put on record; not the store of a merchant who is paid here.
        terms: who buys, and how long it is tried.
        http: a client to use instead of one of its own; then `close` leaves it open. It must
            not follow redirects: a payment is for the address that asked for it.
    """

    def __init__(
        self,
        client: CyclesClient,
        signer: Signer,
        book: Book,
        terms: Terms,
        *,
        http: httpx2.Client | None = None,
    ) -> None:
        self._mine = http is None
        self._http = http or httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False)
        parts = (_Blocking(client, self._http), signer, book, terms)
        self._purchases, self._allowance = Purchases(*parts), Allowance(*parts)

    def buy(
        self,
        intent_id: str,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> Bought:
        """Return what a request brings, paid for if that is asked for.

        Args:
            intent_id: names the purchase; the same one never pays twice, in any process.
            url: of what is bought.
            method: of the request.
            headers: of the request.
            content: its body.

        Raises:
            PaymentRefused: nothing was paid: the offer is over its cap, or the ledger said no.
            PaymentUnknown: it may have been paid; the budget is held.
            AlreadyBought: this intent was paid for and delivered.
            httpx2.HTTPError: the request without a payment got no answer.
        """
        request = Request(method, url, headers or {}, content)
        return run_sync(self._purchases.buy(intent_id, request))

    def settle_up(self) -> int:
        """Commit or give back what a payment worker has proved since; return how many."""
        return run_sync(self._allowance.settle_up(NOTICES_MAX))

    def close(self) -> None:
        """Close the connections."""
        if self._mine:
            self._http.close()

    def __enter__(self) -> Self:
        """Return this payer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class AsyncX402Payer:
    """Buys over HTTP on an event loop; see `X402Payer`.

    A purchase whose caller is cancelled goes on: what was sent may pay, so what comes of it is
    kept. `aclose` waits for it.
    """

    def __init__(
        self,
        client: AsyncCyclesClient,
        signer: Signer,
        book: Book,
        terms: Terms,
        *,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self._mine = http is None
        self._http = http or httpx2.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False)
        parts = (_Waiting(client, self._http), signer, book, terms)
        self._purchases, self._allowance = Purchases(*parts), Allowance(*parts)
        self._tasks = Supervisor()

    async def buy(
        self,
        intent_id: str,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> Bought:
        """Return what a request brings, paid for if that is asked for.

        Args:
            intent_id: names the purchase; the same one never pays twice, in any process.
            url: of what is bought.
            method: of the request.
            headers: of the request.
            content: its body.

        Raises:
            PaymentRefused: nothing was paid: the offer is over its cap, or the ledger said no.
            PaymentUnknown: it may have been paid; the budget is held.
            AlreadyBought: this intent was paid for and delivered.
            httpx2.HTTPError: the request without a payment got no answer.
        """
        request = Request(method, url, headers or {}, content)
        return await self._tasks.finish(self._purchases.buy(intent_id, request))

    async def settle_up(self) -> int:
        """Commit or give back what a payment worker has proved since; return how many."""
        return await self._tasks.finish(self._allowance.settle_up(NOTICES_MAX))

    async def aclose(self) -> None:
        """Wait for purchases whose callers have left, and close the connections."""
        await self._tasks.drain(CLOSE_S)
        if self._mine:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return this payer."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()
