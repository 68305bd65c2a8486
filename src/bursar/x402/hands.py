"""The hands of a payer's flows: blocking, waiting, and aside on a loop of their own.

The rule that lives here: hands do one thing each and decide nothing, so that a flow is written
once. What blocks is called in threads wherever an event loop runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2

from bursar.client.aio import AsyncCyclesClient
from bursar.client.response import CyclesResponse
from bursar.client.sync import CyclesClient
from bursar.x402.buying import Request

T = TypeVar("T")


class Blocking:
    """Hands that block."""

    def __init__(self, client: CyclesClient, http: httpx2.Client) -> None:
        """Take the ledger and the way to merchants."""
        self.client, self.http = client, http

    async def send(self, request: Request) -> httpx2.Response:
        """Send a request, once."""
        return self.http.request(
            *(request.method, request.url),
            headers=dict(request.headers),
            content=request.content,
            follow_redirects=False,
        )

    async def ledger(self, method: str, *arguments: Any) -> CyclesResponse:
        """Call the ledger."""
        said: CyclesResponse = getattr(self.client, method)(*arguments)
        return said

    async def write(self, step: Callable[[], T]) -> T:
        """Make a short transaction in the payment store."""
        return step()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251 - these hands block, and only in threads


class Aside(Blocking):
    """Hands whose client blocks, for a loop: every call is made in a thread."""

    async def ledger(self, method: str, *arguments: Any) -> CyclesResponse:
        """Call the ledger."""
        said: CyclesResponse = await asyncio.to_thread(getattr(self.client, method), *arguments)
        return said

    async def write(self, step: Callable[[], T]) -> T:
        """Make a short transaction in the payment store."""
        return await asyncio.to_thread(step)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Waiting:
    """Hands that suspend; the store is written in a thread, to the end."""

    def __init__(self, client: AsyncCyclesClient, http: httpx2.AsyncClient) -> None:
        """Take the ledger and the way to merchants."""
        self.client, self.http = client, http

    async def send(self, request: Request) -> httpx2.Response:
        """Send a request, once."""
        return await self.http.request(
            *(request.method, request.url),
            headers=dict(request.headers),
            content=request.content,
            follow_redirects=False,
        )

    async def ledger(self, method: str, *arguments: Any) -> CyclesResponse:
        """Call the ledger."""
        said: CyclesResponse = await getattr(self.client, method)(*arguments)
        return said

    async def write(self, step: Callable[[], T]) -> T:
        """Make a short transaction in the payment store."""
        return await asyncio.to_thread(step)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
