"""What the server shows beside its operations: metrics, and the description of its API.

The rule that lives here: a page is read only, made on a worker thread where making it
takes time, and never cached where it is not the same for everybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

import bursar
from bursar.server import apipage, openapi
from bursar.server.auth import Access, Authenticator
from bursar.server.failures import address_of
from bursar.server.respond import wrong_method
from bursar.server.settings import METRICS_OPEN
from bursar.wire.codec import encode

READ = ("GET", "HEAD")
Headers = Mapping[bytes, bytes]


class MetricsPage:
    """The scrape, for whoever may read it."""

    def __init__(
        self,
        scrape: Callable[[str], tuple[str, bytes]],
        authenticator: Authenticator,
        metrics_key: str,
    ) -> None:
        """Show what `scrape` returns, to the operator and to bearers of `metrics_key`."""
        self._scrape = scrape
        self._authenticator = authenticator
        self._metrics_key = metrics_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a scrape."""
        if scope["method"] not in READ:
            raise wrong_method(scope["method"], READ)
        headers: Headers = scope["bursar"]["headers"]
        if self._metrics_key != METRICS_OPEN:
            self._admit(headers, address_of(scope))
        accept = _text(headers, b"accept") or ""
        content_type, body = await asyncio.to_thread(self._scrape, accept)
        await send_page(scope, send, body, {"content-type": content_type})

    def _admit(self, headers: Headers, address: str) -> None:
        """Let the scraper in, or raise what the operator's operations raise."""
        kind, _, bearer = (_text(headers, b"authorization") or "").partition(" ")
        key = bearer.strip() if kind.lower() == "bearer" else None
        expected = self._metrics_key.encode()
        if key and expected and hmac.compare_digest(key.encode(), expected):
            return
        admin = _text(headers, b"x-admin-api-key")
        given = key if admin is None else admin
        self._authenticator.principal(Access.OPERATOR, given, None, address)


class StillPage:
    """Something that is the same for everybody until the server is another version.

    Made when it is first asked for: a server that nobody looks at does not pay for it.
    """

    def __init__(self, make: Callable[[], bytes], headers: Mapping[str, str]) -> None:
        """Show what `make` returns, with `headers`."""
        self._make = make
        self._headers = headers
        self._made: tuple[bytes, str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the page, or with nothing if the asker has it already."""
        if scope["method"] not in READ:
            raise wrong_method(scope["method"], READ)
        if self._made is None:
            body = await asyncio.to_thread(self._make)
            self._made = body, f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        body, tag = self._made
        headers = {"etag": tag, "cache-control": "no-cache", **self._headers}
        if tag in (_text(scope["bursar"]["headers"], b"if-none-match") or ""):
            await send_page(scope, send, b"", headers, status=304)
        else:
            await send_page(scope, send, body, headers)


def description() -> dict[str, ASGIApp]:
    """Return the pages that describe the API, by path: for machines and for people."""

    def document() -> dict[str, Any]:
        return openapi.document(bursar.__version__)

    return {
        "/openapi.json": StillPage(
            lambda: encode(document()), {"content-type": "application/json"}
        ),
        "/docs": StillPage(
            lambda: apipage.page(document()),
            {
                "content-type": "text/html; charset=utf-8",
                "content-security-policy": apipage.POLICY,
                "referrer-policy": "no-referrer",
            },
        ),
    }


async def send_page(
    scope: Scope, send: Send, body: bytes, headers: Mapping[str, str], status: int = 200
) -> None:
    """Send a page; to HEAD, all but its body."""
    told = {"content-length": str(len(body)), "x-content-type-options": "nosniff"} | dict(headers)
    raw = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    shown = body if scope["method"] == "GET" else b""
    await send({"type": "http.response.body", "body": shown})


def _text(headers: Headers, name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
